"""The one loop: progress, stop rules, checkpoints, Ctrl-C, and how often it compiles."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from invprob import likelihoods, operators, priors
from invprob import loop as chunks
from invprob.covariance import Diagonal
from invprob.errors import InputError
from invprob.loop import after, any_of
from invprob.optimize import loop
from invprob.optimize.find_map import find_map, solve
from invprob.optimize.loop import chi2_below, iterate
from invprob.optimize.solvers import ConjugateGradient, Optax
from invprob.posterior import Posterior
from invprob.results import Status
from tests.cases import VALID
from tests.problems import masked_problem, periodic_problem

ADAM = optax.adam(1e-2)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of a few steps, whatever the speed of the machine."""
    monkeypatch.setattr(chunks, "CHUNK_SECONDS", 1e-9)


def test_progress_has_the_reduced_chi_square_in_each_line(short_chunks):
    post, lines = masked_problem(side=12), []
    estimate = find_map(post, "cg", rtol=1e-12, progress=lines.append)
    assert len(lines) > 3 and len(estimate.history) == len(lines)
    assert all("reduced chi-square" in str(line) and "relative gap" in str(line) for line in lines)
    steps = [line.step for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == estimate.steps
    assert lines[-1].reduced_chi2 == pytest.approx(estimate.reduced_chi2)
    assert estimate.history[-1]["gap"] == lines[-1].gap == estimate.report.gap


def test_a_run_that_nobody_watches_keeps_no_history():
    assert find_map(masked_problem(side=8), "cg").history == ()


def test_stop_rules(short_chunks):
    post = masked_problem(side=12)
    solver = Optax(ADAM, rtol=0.0)
    reached = iterate(solver, post, max_steps=5000, stop=chi2_below(1.5))
    assert reached.status is Status.STOPPED and not reached.status.ok
    assert reached.steps < 5000 and reached.chi2 / int(post.likelihood.num_data) <= 1.5
    at_once = iterate(solver, post, max_steps=5000, stop=any_of(after(0.0), chi2_below(0.0)))
    assert at_once.status is Status.STOPPED and at_once.steps < 20
    never = iterate(solver, post, max_steps=25, stop=any_of(after(1e9), chi2_below(0.0)))
    assert never.status is Status.MAX_STEPS and never.steps == 25


class Interrupt:
    """A progress callback that presses Ctrl-C at a line."""

    def __init__(self, line):
        self.left = line

    def __call__(self, progress):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["cg", ADAM, "lbfgs"], ids=["cg", "adam", "lbfgs"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(method, tmp_path, short_chunks):
    post, path = masked_problem(side=12), tmp_path / "state"
    options = {"rtol": 1e-13, "max_steps": 60}
    whole = find_map(post, method, **options)
    stopped = find_map(post, method, progress=Interrupt(2), checkpoint=path, **options)
    assert stopped.status is Status.INTERRUPTED and "checkpoint" in stopped.status.value
    assert path.exists() and 0 < stopped.steps < whole.steps
    assert np.isfinite(stopped.x).all()
    resumed = find_map(post, method, checkpoint=path, **options)
    assert resumed.steps == whole.steps and resumed.status is whole.status
    np.testing.assert_array_equal(resumed.x, whole.x)
    assert not path.exists() and not list(tmp_path.iterdir())


def test_ctrl_c_without_a_checkpoint_keeps_the_last_state(short_chunks):
    stopped = find_map(masked_problem(side=12), "cg", rtol=1e-13, progress=Interrupt(2))
    assert stopped.status is Status.INTERRUPTED and stopped.steps > 0 and stopped.chi2 > 0


def test_checkpoints_are_written_on_the_way(tmp_path, short_chunks):
    path, seen = tmp_path / "state", []
    iterate(
        Optax(ADAM, rtol=0.0), masked_problem(side=8), max_steps=60, progress=lambda p: seen.append(path.exists()),
        checkpoint=path, checkpoint_seconds=0.0,
    )  # fmt: skip
    assert any(seen) and not path.exists()


def checkpoint(post, path):
    find_map(post, "cg", rtol=1e-13, progress=Interrupt(1), checkpoint=path)
    return path.read_bytes()


def test_a_checkpoint_of_another_problem_is_refused(tmp_path, short_chunks):
    path = tmp_path / "state"
    checkpoint(masked_problem(0, side=8), path)
    with pytest.raises(InputError, match="another problem") as error:
        find_map(masked_problem(1, side=8), "cg", checkpoint=path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert path.exists()


def test_problems_that_differ_in_settings_alone_are_told_apart(tmp_path, short_chunks):
    """The same arrays behind another footprint."""

    def problem(first):
        pad = operators.Crop((9, 9), (slice(first, first + 8), slice(0, 8)))
        prior = priors.GaussianField((9, 9), priors.PowerLaw(1.0, 0.1, 3.0))
        return Posterior(likelihoods.Gaussian(pad, jnp.ones((8, 8)), Diagonal(jnp.full((8, 8), 0.1))), prior)

    path = tmp_path / "state"
    checkpoint(problem(0), path)
    with pytest.raises(InputError, match="another problem"):
        find_map(problem(1), "cg", checkpoint=path)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "tail", "other", "binary"])
def test_a_damaged_checkpoint_is_one_line(damage, tmp_path, short_chunks):
    path = tmp_path / "state"
    post = masked_problem(side=8)
    good = checkpoint(post, path)
    head, tail = good.split(b"\n", 1)
    path.write_bytes(
        {
            "empty": b"",
            "text": b"SIMPLE  =                    T\n",
            "cut": good[: len(head) + 1 + len(tail) // 2],
            "tail": head + b"\n" + b"\0" * 100,
            "other": json.dumps([1, 2]).encode() + b"\n" + tail,
            "binary": b"\xff\xfe\x00" * 50,
        }[damage]
    )
    with pytest.raises(InputError) as error:
        find_map(post, "cg", checkpoint=path)
    assert "\n" not in str(error.value) and "remove it" in str(error.value)


class Counting(eqx.Module):
    """A pixelwise response that counts how often it is traced."""

    scale: jax.Array
    traces = 0

    def __call__(self, x):
        Counting.traces += 1
        return self.scale * x


def counted_problem(seed):
    """A non-linear operator that counts, with other arrays for another seed."""
    scale, data, noise = jax.random.normal(jax.random.key(seed), (3, 6, 7))
    operator = operators.Function(Counting(1.0 + 0.1 * scale), (6, 7))
    prior = priors.GaussianField((6, 7), priors.PowerLaw(jnp.asarray(1.0 + seed), 0.1, 3.0))
    return Posterior(likelihoods.Gaussian(operator, data, jnp.exp(noise), VALID), prior)


def test_nothing_compiles_anew_for_later_chunks_or_new_arrays(short_chunks):
    lines = []
    find_map(counted_problem(0), "lbfgs", rtol=0.0, max_steps=40, progress=lines.append)
    traced = Counting.traces
    assert len(lines) > 4 and traced > 0
    find_map(counted_problem(1), "lbfgs", rtol=0.0, max_steps=40, progress=lines.append)
    find_map(counted_problem(2), "lbfgs", rtol=0.0, max_steps=35)
    # what looks at shapes alone (a call checks its operator once) may trace; the loop may not
    assert Counting.traces - traced <= 6


def test_the_linear_solvers_do_not_compile_anew(short_chunks):
    for method, make in (("cg", lambda seed: masked_problem(seed, side=10)), ("wiener", periodic_problem)):
        find_map(make(0), method)
        before = loop._advance._cached._cache_size()
        find_map(make(1), method, progress=lambda line: None, max_steps=17)
        assert loop._advance._cached._cache_size() == before


def test_the_pure_twin_takes_the_same_steps():
    post = masked_problem(side=12)
    solver = ConjugateGradient(rtol=1e-9)
    run, pure = iterate(solver, post), solve(post, solver)
    assert run.steps == int(pure.steps) and run.gap == pytest.approx(float(pure.gap), rel=1e-3)
    np.testing.assert_allclose(run.x, pure.x, rtol=1e-8, atol=1e-10)
