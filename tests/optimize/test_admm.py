"""ADMM: the optimum of other methods on every prior, masks and blocks, levels, precision, units and statuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Stationary
from invprob.optimize.find_map import find_map, solve
from invprob.optimize.solvers import ADMM, PrimalDual
from invprob.optimize.solvers.base import STALLED
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.testing import check_solver, dense_map, no_retrace, sparse_map
from tests.cases import positive
from tests.optimize.sparse import (
    PROBLEMS,
    SHAPE,
    cases,
    in_single_precision,
    in_units,
    objective_gap,
    same_optimum,
    small,
)
from tests.problems import largest_error, masked_problem


@pytest.mark.parametrize("name", cases(["total variation, positive", "starlet"], "total variation, positive"))
def test_contract_with_a_sparse_prior(name):
    check_solver(ADMM(), small(name))


@pytest.mark.parametrize(
    "name", cases(PROBLEMS, "total variation, positive", "starlet", "points and diffuse", "binned")
)
def test_it_ends_at_the_optimum_of_the_barrier_method(name):
    post = PROBLEMS[name]()
    estimate = find_map(post, ADMM(), max_steps=20000)
    assert estimate.status.ok and estimate.solver == "admm"
    assert -1e-6 < objective_gap(post, estimate.x, sparse_map(post)) < 5e-3


SAME = [
    "total variation, positive", "starlet", "starlet, periodic and positive", "wavelet", "points and diffuse", "sky",
    "binned",
]  # fmt: skip


@pytest.mark.parametrize("name", cases(SAME, "sky", "starlet, periodic and positive"))
def test_it_agrees_with_primal_dual_steps(name):
    assert same_optimum(PROBLEMS[name](), ADMM(1e-6), PrimalDual(1e-6)) < 3e-5


@pytest.mark.slow
def test_a_sky_level_is_fitted():
    post = PROBLEMS["sky"]()
    ours, theirs = (find_map(post, solver, max_steps=20000).x for solver in (ADMM(1e-7), PrimalDual(1e-7)))
    assert float(ours["sky"]) == pytest.approx(float(theirs["sky"]), rel=1e-3)
    field = masked_problem(side=10, sky=True)
    estimate = find_map(field, ADMM(1e-7), max_steps=20000)
    assert estimate.status.ok and largest_error(estimate.x, dense_map(field)) < 1e-4


def test_what_it_refuses_names_what_takes_it():
    post = small("starlet")
    like = post.likelihood
    correlated = Stationary(0.1 / (0.3 + operators.frequencies((8, 8))), (8, 8))
    with pytest.raises(TypeError, match=r"Diagonal covariance; primal-dual steps \(pdhg\)"):
        find_map(Posterior(likelihoods.Gaussian(like.operator, like.data, correlated), post.prior), ADMM())
    before = operators.compose(like.operator, operators.Multiply(jnp.ones(SHAPE)))
    with pytest.raises(TypeError, match="primal-dual steps"):
        find_map(Posterior(likelihoods.Gaussian(before, like.data, like.noise), post.prior), ADMM())
    field = priors.GaussianField(SHAPE, priors.PowerLaw(1.0, 0.1, 3.0))
    with pytest.raises(TypeError, match=r"a sum of terms with a proximal map \(HasTerms\); LogNormal offers"):
        find_map(Posterior(like, priors.LogNormal(field)), ADMM())


def test_pixels_without_light_are_exactly_zero():
    x = find_map(small("Laplace, positive"), ADMM()).x
    assert float(x.min()) == 0 and 0.2 < float(jnp.mean(x == 0)) < 0.95
    both = find_map(PROBLEMS["points and diffuse"](), ADMM()).x
    assert float(both["points"].min()) == 0 and float(jnp.mean(both["points"] == 0)) > 0.2


@pytest.mark.parametrize("name", ["total variation, positive", "starlet", "points and diffuse", "sky"])
def test_single_precision(name):
    post = PROBLEMS[name]()
    single, double = find_map(in_single_precision(post), ADMM()), find_map(post, ADMM())
    assert single.status.ok and jax.tree.leaves(single.x)[0].dtype == jnp.float32
    assert abs(single.steps - double.steps) <= 10
    assert largest_error(single.x, double.x) < 1e-2


@pytest.mark.parametrize("unit", [1e-12, 1e6])
def test_another_unit_takes_the_same_steps(unit):
    post = small("total variation, positive")
    here, there = find_map(post, ADMM()), find_map(in_units(post, unit), ADMM())
    assert here.steps == there.steps and here.status.ok
    np.testing.assert_allclose(there.x / unit, here.x, rtol=1e-5, atol=1e-7)


def test_statuses():
    post = small("total variation, positive")
    assert find_map(post, ADMM(), max_steps=10).status is Status.MAX_STEPS
    too_much = in_single_precision(post)
    assert find_map(too_much, ADMM(1e-12), max_steps=50000).status is Status.STALLED
    assert int(solve(too_much, ADMM(1e-12), max_steps=50000).code) == STALLED


def test_it_begins_where_it_is_told():
    post = small("total variation, positive")
    best = find_map(post, ADMM(1e-6)).x
    again = find_map(post, ADMM(1e-4), best)
    assert again.status.ok and abs(objective_gap(post, again.x, best)) < 3e-3


def test_penalties_are_adjusted_and_then_rest():
    post, solver = small("starlet"), ADMM(0.0)
    problem = solver.prepare(post)
    step = eqx.filter_jit(solver.step)
    states = [solver.init(problem, None)]
    for _ in range(40):
        states.append(step(problem, states[-1]))
    penalties = [np.concatenate([np.ravel(a) for a in jax.tree.leaves(s.carry.penalty)]) for s in states]
    assert (penalties[0] != penalties[20]).any()
    np.testing.assert_array_equal(penalties[25][:-1], penalties[40][:-1])


def of_strength(strength):
    """Total variation of a strength, and positivity."""
    prior = priors.Positive(priors.TotalVariation(SHAPE, strength))
    return Posterior(small("starlet").likelihood, prior)


def test_a_batch_and_a_new_strength_compile_once():
    solver = ADMM()

    no_retrace(lambda: of_strength(positive()), lambda post: solve(post, solver).x)

    def one(strength):
        return solve(of_strength(strength), solver)

    strengths = jnp.asarray([0.5, 2.0, 8.0])
    together = eqx.filter_jit(eqx.filter_vmap(one))(strengths)
    assert (together.code == 1).all()
    for i, strength in enumerate(strengths):
        alone = one(strength)
        assert int(alone.steps) == int(together.steps[i])
        assert largest_error(together.x[i], alone.x) < 1e-6
