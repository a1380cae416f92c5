"""Where arithmetic, grids or supports end: what is not known must not be called converged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.optimize.find_map import find_map
from invprob.optimize.solvers import ConjugateGradient, TwoGrid
from invprob.posterior import Posterior
from invprob.results import Status
from tests.benchmarks.gpu import problem
from tests.problems import psf


def bright(dtype):
    """A field at a signal-to-noise ratio beyond a hundred thousand, behind a PSF, with a few masked pixels."""
    shape = (64, 64)
    prior = priors.GaussianField(shape, priors.PowerLaw(*(jnp.asarray(v, dtype) for v in (1e12, 0.02, 3.0))))
    forward = operators.Convolve(jnp.asarray(psf(4.0, 13), dtype), shape)
    seen = forward.out_structure.shape
    truth = prior.sample(jax.random.key(0))
    data = forward(truth) + jax.random.normal(jax.random.key(1), seen, dtype)
    valid = np.random.default_rng(0).random(seen) > 0.05
    return Posterior(likelihoods.Gaussian(forward, data, jnp.ones(seen, dtype), valid), prior)


def test_an_objective_lost_to_rounding_is_not_converged():
    low = find_map(bright(jnp.float32), ConjugateGradient(rtol=1e-7), max_steps=3000)
    assert low.status is Status.STALLED
    assert "float64" in low.status.value
    high = find_map(bright(jnp.float64), ConjugateGradient(rtol=1e-1), max_steps=3000)
    assert high.status is Status.CONVERGED
    assert 0 <= high.report.gap <= 1e-1


def test_interrupted_after_one_solver_had_stalled(tmp_path):
    """Beyond single precision two grids stall; conjugate gradients go on, and go on again after Ctrl-C."""
    post = problem(96, 1, jax.devices("cpu")[0])
    options = {"rtol": 1e-17, "max_steps": 400}
    whole = find_map(post, **options)
    assert whole.solver == "cg" and "which stalled" in whole.reason
    steps = [0]

    def stop(progress) -> None:
        steps.append(progress.step)
        if steps[-1] <= steps[-2]:  # counted from the start again: the second solver
            raise KeyboardInterrupt

    state = tmp_path / "state"
    cut = find_map(post, progress=stop, checkpoint=state, **options)
    assert cut.status is Status.INTERRUPTED and state.exists()
    again = find_map(post, checkpoint=state, **options)
    assert (again.solver, again.reason, again.steps) == (whole.solver, whole.reason, whole.steps)
    np.testing.assert_array_equal(again.x, whole.x)
    assert not state.exists()


@pytest.mark.parametrize("tall", [False, True])
def test_a_coarse_grid_is_coarser_along_both_sides(tall):
    """A PSF that is wide along one side alone asks for nearly all frequencies along the other."""
    kernel = jnp.ones((1, 31)) / 31
    kernel = kernel.T if tall else kernel
    shape = (64, 64)
    prior = priors.GaussianField(shape, priors.PowerLaw(100.0, 0.3, 1.0))
    forward = operators.CircularConvolve.from_kernel(kernel, shape)
    valid = np.random.default_rng(0).random(shape) > 0.1
    data = forward(prior.sample(jax.random.key(0)))
    post = Posterior(likelihoods.Gaussian(forward, data, jnp.ones(shape), valid), prior)
    two = TwoGrid.fitting(post)
    assert two is None or all(c < n for c, n in zip(two.coarse, shape, strict=True))
    assert find_map(post).status is Status.CONVERGED


def test_two_grids_start_from_an_image_where_the_psf_leaves_nothing():
    shape = (64, 64)
    k = operators.frequencies(shape)
    otf = jnp.asarray(np.where(k < 0.15, 1 - (k / 0.15) ** 2, 0.0))
    prior = priors.GaussianField(shape, priors.PowerLaw(100.0, 0.05, 3.0))
    forward = operators.CircularConvolve(otf, shape)
    valid = np.random.default_rng(0).random(shape) > 0.1
    truth = prior.sample(jax.random.key(0))
    data = forward(truth) + jax.random.normal(jax.random.key(1), shape)
    post = Posterior(likelihoods.Gaussian(forward, data, jnp.ones(shape), valid), prior)
    two = TwoGrid.fitting(post, 1e-10)
    assert two is not None
    cold, warm = find_map(post, two), find_map(post, two, x0=truth)
    assert warm.status is Status.CONVERGED
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-3 * float(jnp.abs(cold.x).max()))


@pytest.mark.parametrize("name", ["LogNormal", "Gamma", "Exponential", "Uniform"])
def test_tfp_priors_of_bounded_support(name):
    """Independent pixels: the maximum against a fine grid inside the support."""
    import tensorflow_probability.substrates.jax.distributions as tfd

    kinds = {
        "LogNormal": lambda: tfd.LogNormal(jnp.asarray(0.5), jnp.asarray(0.4)),
        "Gamma": lambda: tfd.Gamma(jnp.asarray(3.0), jnp.asarray(1.5)),
        "Exponential": lambda: tfd.Exponential(jnp.asarray(0.5)),
        "Uniform": lambda: tfd.Uniform(jnp.asarray(0.0), jnp.asarray(4.0)),
    }
    data = jnp.asarray([0.8, 1.7, 2.6])
    likelihood = likelihoods.Gaussian(operators.Identity((3,)), data, jnp.full(3, 0.09))
    post = Posterior(likelihood, priors.FromTFP(kinds[name](), (3,)))
    best = find_map(post, rtol=1e-10)
    assert best.status is Status.CONVERGED
    grid = np.linspace(1e-3, 4 - 1e-3, 40001)
    each = jax.vmap(lambda v: kinds[name]().log_prob(v))(jnp.asarray(grid))
    brute = [grid[np.argmax(np.asarray(each) - (grid - y) ** 2 / 0.18)] for y in np.asarray(data)]
    np.testing.assert_allclose(best.x, brute, atol=2e-3)


def test_counts_are_data():
    counts = jnp.arange(16).reshape(4, 4)
    likelihood = likelihoods.Gaussian(operators.Identity((4, 4)), counts, jnp.ones((4, 4), int))
    post = Posterior(likelihood, priors.GaussianField((4, 4), priors.PowerLaw(10.0, 0.2, 2.0)))
    assert find_map(post).status is Status.CONVERGED
