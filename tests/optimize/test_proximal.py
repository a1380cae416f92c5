"""Accelerated proximal gradient: the known optimum, parts with a prior each, curved operators, rounding."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.optimize.find_map import find_map, solve
from invprob.optimize.solvers import ProximalGradient
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.testing import check_solver, dense_map, no_retrace, sparse_map
from tests.cases import positive, saturation
from tests.optimize.sparse import SHAPE, in_single_precision, objective_gap, small
from tests.problems import largest_error, masked_problem

NAMES = ["Laplace", "Laplace, positive", "exponential", "wavelet"]


@pytest.mark.slow
def test_contract_with_a_sparse_prior():
    check_solver(ProximalGradient(), small("Laplace, positive"))


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_at_the_optimum_of_the_barrier_method(name):
    post = small(name)
    estimate = find_map(post, ProximalGradient(), max_steps=20000)
    assert estimate.status.ok and estimate.solver == "proximal"
    assert -1e-6 < objective_gap(post, estimate.x, sparse_map(post)) < 1e-4


def kkt(post, x):
    """Residual of the optimality of an exponential prior, relative to the largest gradient."""
    gradient = -np.asarray(jax.grad(post.likelihood.log_prob)(x)) + 1 / 0.5
    left = np.where(np.asarray(x) > 0, gradient, np.minimum(gradient, 0))
    return np.linalg.norm(left) / np.linalg.norm(gradient - 1 / 0.5)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_the_residual_is_honest(rtol):
    post = small("exponential")
    estimate = find_map(post, ProximalGradient(rtol), max_steps=20000)
    assert estimate.status.ok
    assert kkt(post, estimate.x) < 2.2 * estimate.report.gap <= 2.2 * rtol


def test_parts_with_a_prior_each():
    one = small("exponential")
    like = one.likelihood
    each = operators.BlockDiagonal({"image": like.operator, "sky": operators.Broadcast((8, 8))})
    forward = operators.Sum(each.out_structure) @ each
    prior = priors.Product({"image": one.prior, "sky": priors.wide_gaussian(1.0, 30.0)})
    post = Posterior(likelihoods.Gaussian(forward, like.data + 5.0, like.noise), prior)
    estimate = find_map(post, ProximalGradient(), max_steps=20000)
    assert estimate.status.ok and estimate.steps < 2000
    assert -1e-6 < objective_gap(post, estimate.x, sparse_map(post)) < 1e-4
    field = masked_problem(side=10, sky=True)
    estimate = find_map(field, ProximalGradient(1e-6), max_steps=20000)
    assert estimate.status.ok and largest_error(estimate.x, dense_map(field)) < 1e-3


def test_a_non_linear_operator():
    forward = saturation()
    truth = jnp.where(jax.random.uniform(jax.random.key(0), (6, 7)) > 0.8, 2.0, 0.0)
    data = forward(truth) + 0.1 * jax.random.normal(jax.random.key(1), (6, 7))
    post = Posterior(likelihoods.Gaussian(forward, data, 0.01), priors.Exponential(0.3, (6, 7)))
    estimate = find_map(post, ProximalGradient(1e-7))
    assert estimate.status.ok and 0.3 < float(jnp.mean(estimate.x == 0)) < 0.95
    gradient = -jax.grad(post.likelihood.log_prob)(estimate.x) + 1 / 0.3
    assert float(jnp.abs(jnp.where(estimate.x > 0, gradient, 0)).max()) < 1e-4
    assert float(gradient.min()) > -1e-4


def test_several_terms_or_none_are_a_readable_error():
    with pytest.raises(TypeError, match="terms on linear maps of the latent"):
        find_map(small("total variation, positive"), ProximalGradient())
    field = priors.GaussianField(SHAPE, priors.PowerLaw(1.0, 0.1, 3.0))
    post = Posterior(small("starlet").likelihood, priors.LogNormal(field))
    with pytest.raises(TypeError, match=r"a sum of terms with a proximal map \(HasTerms\); LogNormal offers"):
        find_map(post, ProximalGradient())


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_is_done_or_says_that_rounding_is_left(name):
    post = small(name)
    single, double = find_map(in_single_precision(post), ProximalGradient()), find_map(post, ProximalGradient())
    assert single.status.ok and single.x.dtype == jnp.float32
    assert largest_error(single.x, double.x) < 1e-2
    too_much = find_map(in_single_precision(post), ProximalGradient(1e-12), max_steps=20000)
    assert too_much.status is Status.STALLED and too_much.report.gap < 1e-3


def test_it_begins_where_it_is_told():
    post = small("exponential")
    best = find_map(post, ProximalGradient(1e-8), max_steps=20000)
    again = find_map(post, ProximalGradient(1e-4), best.x)
    assert again.status.ok and again.steps <= 3


def of_scale(scale):
    """An exponential prior of a scale."""
    return Posterior(small("exponential").likelihood, priors.Exponential(scale, SHAPE))


def test_a_batch_and_a_new_strength_compile_once():
    solver = ProximalGradient()

    no_retrace(lambda: of_scale(positive()), lambda post: solve(post, solver).x)

    def one(scale):
        return solve(of_scale(scale), solver)

    scales = jnp.asarray([0.2, 0.4, 1.0])
    together = eqx.filter_jit(eqx.filter_vmap(one))(scales)
    assert (together.code == 1).all() and len(set(together.steps.tolist())) > 1
    for i, scale in enumerate(scales):
        assert objective_gap(small("exponential"), together.x[i], one(scale).x) == pytest.approx(0, abs=1e-4)
