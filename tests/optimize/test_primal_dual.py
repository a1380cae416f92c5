"""Primal-dual steps: the known optimum, operators and noise that nothing else takes, units and statuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal, Stationary
from invprob.operators.base import AbstractLinearOperator, Structure
from invprob.optimize.find_map import find_map, solve
from invprob.optimize.solvers import ADMM, PrimalDual, ProximalGradient
from invprob.optimize.solvers.base import STALLED
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.testing import check_solver, dense_map, no_retrace, sparse_map
from tests.cases import positive, saturation
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
from tests.problems import largest_error, masked_problem, psf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["total variation, positive", "starlet"])
def test_contract_with_a_sparse_prior(name):
    check_solver(PrimalDual(), small(name))


@pytest.mark.parametrize("name", cases(PROBLEMS, "total variation, positive", "points and diffuse", "sky"))
def test_it_ends_at_the_optimum_of_the_barrier_method(name):
    post = PROBLEMS[name]()
    estimate = find_map(post, PrimalDual(), max_steps=20000)
    assert estimate.status.ok and estimate.solver == "pdhg"
    assert -1e-6 < objective_gap(post, estimate.x, sparse_map(post)) < 5e-3


def test_a_smaller_tolerance_is_a_smaller_error():
    post = small("starlet")
    best = sparse_map(post, 1e-9)
    runs = [find_map(post, PrimalDual(rtol), max_steps=20000) for rtol in (1e-3, 1e-5, 1e-7)]
    gaps = [objective_gap(post, run.x, best) for run in runs]
    assert all(run.status.ok for run in runs) and gaps[0] > 10 * gaps[1] and abs(gaps[2]) < 5e-6


class Exposures(AbstractLinearOperator):
    """Outputs of one shape as planes of one array."""

    stack: operators.Stack

    @property
    def in_structure(self):
        return self.stack.in_structure

    @property
    def out_structure(self):
        planes = self.stack.operators
        return Structure((len(planes), *planes[0].out_structure.shape))

    def apply(self, x):
        return jnp.stack(self.stack.apply(x))

    def adjoint(self, u):
        return self.stack.adjoint(tuple(u))


def odd_problems():
    """What ADMM refuses: correlated noise, a product before the convolution, two exposures."""
    grid, keys = (12, 12), jax.random.split(jax.random.key(2), 4)
    convolve = operators.Convolve(psf(), grid)
    truth = jnp.where(jax.random.uniform(keys[0], grid) > 0.95, 20.0, 1.0)
    flat_field = operators.Multiply(jnp.exp(0.2 * jax.random.normal(keys[1], grid)))
    power = 0.25 / (0.3 + operators.frequencies((8, 8)))
    two = Exposures(operators.stack([convolve, operators.Convolve(psf(4.0), grid)]))
    each = jnp.stack([jnp.full((8, 8), 0.2), jnp.full((8, 8), 0.4)])
    for name, forward, noise in (
        ("correlated noise", operators.compose(convolve, flat_field), Stationary(power, (8, 8))),
        ("product first", operators.compose(convolve, flat_field), Diagonal(jnp.full((8, 8), 0.2))),
        ("two exposures", two, Diagonal(each)),
    ):
        data = forward(truth) + noise.sample(keys[2])
        prior = priors.Positive(priors.TotalVariation(grid, 1.0))
        yield name, Posterior(likelihoods.Gaussian(forward, data, noise), prior)


@pytest.mark.parametrize("name", ["correlated noise", "product first", "two exposures"])
def test_any_linear_operator_and_any_noise(name):
    post = dict(odd_problems())[name]
    with pytest.raises(TypeError, match="ADMM needs"):
        find_map(post, ADMM())
    estimate = find_map(post, PrimalDual(), max_steps=20000)
    assert estimate.status.ok
    assert -1e-6 < objective_gap(post, estimate.x, sparse_map(post)) < 5e-3


def test_what_it_refuses_names_what_takes_it():
    like = likelihoods.Gaussian(saturation(), jnp.ones((6, 7)), 0.1)
    with pytest.raises(TypeError, match="linear operator and Gaussian noise; NewtonCG"):
        PrimalDual().prepare(Posterior(like, priors.Laplace(1.0, (6, 7))))
    like = likelihoods.Gaussian(operators.Identity((6, 7)), jnp.ones((6, 7)), 0.1)
    field = priors.GaussianField((6, 7), priors.PowerLaw(1.0, 0.1, 3.0))
    with pytest.raises(TypeError, match=r"a sum of terms with a proximal map \(HasTerms\); LogNormal offers"):
        PrimalDual().prepare(Posterior(like, priors.LogNormal(field)))


def test_a_gaussian_with_a_sky_level():
    post = masked_problem(side=10, sky=True)
    estimate = find_map(post, PrimalDual(1e-7), max_steps=20000)
    assert estimate.status.ok and largest_error(estimate.x, dense_map(post)) < 1e-4


def test_pixels_without_light_are_exactly_zero():
    x = find_map(small("Laplace, positive"), PrimalDual()).x
    assert float(x.min()) == 0 and 0.2 < float(jnp.mean(x == 0)) < 0.95
    both = find_map(PROBLEMS["points and diffuse"](), PrimalDual()).x
    assert float(both["points"].min()) == 0 and float(jnp.mean(both["points"] == 0)) > 0.2


def test_it_agrees_with_proximal_gradient_steps():
    assert same_optimum(small("wavelet"), PrimalDual(1e-6), ProximalGradient(1e-6)) < 1e-6


@pytest.mark.parametrize("name", ["total variation, positive", "starlet", "points and diffuse"])
def test_single_precision(name):
    post = PROBLEMS[name]()
    single = find_map(in_single_precision(post), PrimalDual())
    double = find_map(post, PrimalDual())
    assert single.status.ok and jax.tree.leaves(single.x)[0].dtype == jnp.float32
    assert largest_error(single.x, double.x) < 1e-2


@pytest.mark.parametrize("unit", [1e-12, 1e6])
def test_another_unit_takes_the_same_steps(unit):
    post = small("total variation, positive")
    here, there = find_map(post, PrimalDual()), find_map(in_units(post, unit), PrimalDual())
    assert here.steps == there.steps and here.status.ok
    np.testing.assert_allclose(there.x / unit, here.x, rtol=1e-5, atol=1e-7)


def test_it_begins_where_it_is_told_and_stalls_where_it_asks_too_much():
    post = small("total variation, positive")
    best = find_map(post, PrimalDual(1e-6)).x
    again = find_map(post, PrimalDual(), best)
    assert again.status.ok and objective_gap(post, again.x, best) < 3e-3
    too_much = find_map(in_single_precision(post), PrimalDual(1e-12), max_steps=50000)
    assert too_much.status is Status.STALLED
    assert int(solve(in_single_precision(post), PrimalDual(1e-12), max_steps=50000).code) == STALLED


def of_strength(strength):
    """Total variation of a strength, and positivity."""
    prior = priors.Positive(priors.TotalVariation(SHAPE, strength))
    return Posterior(small("starlet").likelihood, prior)


def test_a_batch_and_a_new_strength_compile_once():
    solver = PrimalDual()

    no_retrace(lambda: of_strength(positive()), lambda post: solve(post, solver).x)
    strengths = jnp.asarray([0.5, 2.0, 8.0])

    def one(strength):
        return solve(of_strength(strength), solver)

    together = eqx.filter_jit(eqx.filter_vmap(one))(strengths)
    assert (together.code == 1).all() and len(set(together.steps.tolist())) > 1
    for i, strength in enumerate(strengths):
        alone = one(strength)
        assert int(alone.steps) == int(together.steps[i])
        assert largest_error(together.x[i], alone.x) < 1e-6
