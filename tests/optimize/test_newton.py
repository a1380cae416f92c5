"""Newton steps in white coordinates: dense optima, curved operators and priors, the exact density, honest gaps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.optimize.find_map import find_map, solve
from invprob.optimize.solvers import ConjugateGradient, NewtonCG
from invprob.posterior import Posterior, Whitened
from invprob.results import Status
from invprob.testing import dense_map, no_retrace
from tests.cases import fresh, saturation
from tests.optimize.sparse import in_single_precision, small
from tests.problems import largest_error, masked_problem, relative_gap

GRID = (12, 12)


def log_normal(seed=0):
    """A positive image behind a PSF."""
    post = masked_problem(seed, side=8)
    field = priors.GaussianField(GRID, priors.PowerLaw(4.0, 0.1, 3.0))
    prior = priors.LogNormal(priors.Gaussian(jnp.full(GRID, 0.5), field.covariance))
    like = post.likelihood
    data = like.operator(prior.sample(jax.random.key(seed))) + 0.2 * jax.random.normal(jax.random.key(9), (8, 8))
    return Posterior(likelihoods.Gaussian(like.operator, data, like.noise), prior)


def image_and_sky():
    """A positive image and a sky level."""
    post = log_normal()
    each = operators.BlockDiagonal({"image": post.likelihood.operator, "sky": operators.Broadcast((8, 8))})
    forward = operators.Sum(each.out_structure) @ each
    prior = priors.Product({"image": post.prior, "sky": priors.wide_gaussian(1.0, 3.0)})
    return Posterior(likelihoods.Gaussian(forward, post.likelihood.data + 2.0, post.likelihood.noise), prior)


def curved():
    """A saturating detector."""
    data = 1.0 + jnp.tanh(jax.random.normal(jax.random.key(0), (6, 7)))
    prior = priors.GaussianField((6, 7), priors.PowerLaw(9.0, 0.2, 3.0))
    return Posterior(likelihoods.Gaussian(saturation(), data, 0.1), prior)


PROBLEMS = {
    "log-normal": log_normal,
    "log-normal and sky": image_and_sky,
    "Laplace": lambda: small("Laplace"),
    "exponential": lambda: small("exponential"),
    "curved": curved,
    "field": lambda: masked_problem(side=8),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_in_white_coordinates_vanishes(name):
    post, solver = PROBLEMS[name](), NewtonCG(1e-14)
    problem = solver.prepare(post)
    assert isinstance(problem, Whitened)
    state = solver.init(problem, None)
    first = ravel_pytree(jax.grad(problem.log_prob)(state.x))[0]
    step = eqx.filter_jit(solver.step)
    while int(state.metrics.code) == 0 and int(state.metrics.step) < 200:
        state = step(problem, state)
    assert int(state.metrics.code) == 1
    left = ravel_pytree(jax.grad(problem.log_prob)(state.x))[0]
    assert float(jnp.abs(left).max()) < 1e-5 * float(jnp.abs(first).max())
    estimate = find_map(post, solver, max_steps=200)
    assert estimate.status.ok and largest_error(estimate.x, problem.T(state.x)) < 1e-6


def test_a_gaussian_posterior_in_a_few_steps():
    for post in (masked_problem(side=16), masked_problem(side=16, sky=True), masked_problem(2, side=10, refine=2)):
        estimate = find_map(post, NewtonCG(1e-9))
        assert estimate.status.ok and estimate.steps <= 8
        assert 0 <= relative_gap(post, estimate.x, dense_map(post)) < 1e-8


def test_the_gap_is_an_upper_bound_where_the_objective_is_quadratic():
    post, solver = masked_problem(side=12), NewtonCG(0.0, inner=3)
    best = dense_map(post)
    problem = solver.prepare(post)
    state = solver.init(problem, None)
    for _ in range(6):
        before = problem.T(state.x)
        state = solver.step(problem, state)
        f = 0.5 * float(post.likelihood.chi2(before) + post.prior.covariance.quadratic(before))
        f_best = 0.5 * float(post.likelihood.chi2(best) + post.prior.covariance.quadratic(best))
        assert float(state.metrics.gap) >= 0.99 * (f - f_best) / f


def test_the_density_of_white_coordinates_is_exact():
    """By the change of variables, against the density of x and the Jacobian of the transform."""
    post = log_normal()
    whitened = post.whiten()
    points = [0.3 * jax.random.normal(jax.random.key(i), GRID) for i in range(3)]

    def through_x(xi):
        jacobian = jax.jacobian(lambda a: whitened.T(a.reshape(GRID)).ravel())(xi.ravel())
        return float(post.log_prob(whitened.T(xi))) + np.linalg.slogdet(np.asarray(jacobian))[1]

    for xi in points:
        assert float(whitened.log_prob(xi)) == pytest.approx(through_x(xi), rel=1e-9)
    assert whitened.structure.shape == GRID


def test_a_transform_of_a_product_is_that_of_its_parts():
    post = image_and_sky()
    T = post.prior.find(priors.HasTransform).transform
    xi = {"image": jax.random.normal(jax.random.key(0), GRID), "sky": jnp.asarray(0.7)}
    x = T(xi)
    np.testing.assert_allclose(x["image"], post.prior.parts["image"].transform(xi["image"]))
    assert float(x["sky"]) == pytest.approx(1.0 + 3.0 * 0.7)
    mixed = priors.Product({"a": priors.wide_gaussian(0.0, 1.0), "b": priors.TotalVariation((4, 4), 1.0)})
    assert mixed.find(priors.HasTransform) is None


@pytest.mark.parametrize("name", ["log-normal", "log-normal and sky", "field"])
def test_it_begins_where_it_is_told(name):
    post = PROBLEMS[name]()
    best = find_map(post, NewtonCG(1e-12), max_steps=200)
    again = find_map(post, NewtonCG(1e-9), best.x)
    assert best.status.ok and again.status.ok and again.steps <= 2


def test_what_it_cannot_do_is_a_readable_error():
    with pytest.raises(TypeError, match="white noise pushed through a map"):
        find_map(small("starlet"), NewtonCG())
    post = small("Laplace")
    with pytest.raises(TypeError, match=r"with an inverse \(HasWhitening\); "):
        find_map(post, NewtonCG(), jnp.ones((10, 10)))


@pytest.mark.parametrize("name", ["log-normal", "field", "Laplace"])
def test_single_precision(name):
    post = PROBLEMS[name]()
    single, double = find_map(in_single_precision(post), NewtonCG(1e-6)), find_map(post, NewtonCG(1e-6))
    assert single.status.ok and single.x.dtype == jnp.float32
    assert largest_error(single.x, double.x) < 2e-2


def test_statuses():
    post = log_normal()
    assert find_map(post, NewtonCG(), max_steps=2).status is Status.MAX_STEPS
    assert find_map(in_single_precision(post), NewtonCG(1e-30), max_steps=500).status is Status.STALLED
    none = masked_problem(side=8, masked=1.1)
    estimate = find_map(none, NewtonCG())
    assert estimate.status.ok and float(jnp.abs(estimate.x).max()) == 0
    like = post.likelihood
    broken = Posterior(likelihoods.Gaussian(like.operator, like.data, Diagonal(jnp.zeros((8, 8)))), post.prior)
    assert find_map(broken, NewtonCG()).status is Status.NOT_FINITE


def test_a_batch_compiles_once_and_is_each_alone():
    solver = NewtonCG(1e-10)

    no_retrace(lambda: log_normal(abs(int(1e6 * fresh()))), lambda post: solve(post, solver).x)
    posts = [log_normal(seed) for seed in range(3)]
    together = eqx.filter_vmap(lambda p: solve(p, solver))(jax.tree.map(lambda *a: jnp.stack(a), *posts))
    assert (together.code == 1).all()
    for i, post in enumerate(posts):
        assert largest_error(together.x[i], solve(post, solver).x) < 1e-4


def test_derivatives_of_the_optimum_for_a_gaussian():
    """Where both maxima agree the implicit derivative of `solve` is that of conjugate gradients."""
    post = masked_problem(side=6)

    def total(scale, solver):
        like = post.likelihood
        scaled = Posterior(likelihoods.Gaussian(like.operator, scale * like.data, like.noise), post.prior)
        return jnp.sum(solve(scaled, solver).x ** 2)

    ours, theirs = (jax.grad(total)(1.0, s) for s in (NewtonCG(1e-14), ConjugateGradient(1e-16)))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
