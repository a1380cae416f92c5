"""The pure `solve`: batches with a PSF each, and derivatives with respect to everything in the posterior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.optimize.find_map import solve, solve_many
from invprob.optimize.solvers import ConjugateGradient, Optax
from invprob.posterior import Posterior
from invprob.testing import dense_map
from tests.cases import Saturation
from tests.problems import largest_error, masked_problem, psf, relative_gap

SIDE = 8
TRUTH = jax.random.normal(jax.random.key(3), (SIDE + 4, SIDE + 4))
VALID = jax.random.uniform(jax.random.key(4), (SIDE, SIDE)) > 0.2
DATA = jax.random.normal(jax.random.key(5), (SIDE, SIDE))
VARIANCE = 0.05 * jnp.exp(jax.random.normal(jax.random.key(6), (SIDE, SIDE)))
TARGET = jax.random.normal(jax.random.key(7), (SIDE + 4, SIDE + 4))


def build(theta):
    """A posterior from hyperparameters and a PSF."""
    grid = (SIDE + 4, SIDE + 4)
    prior = priors.GaussianField(grid, priors.PowerLaw(*(jnp.exp(theta[k]) for k in ("amplitude", "scale", "slope"))))
    data = jnp.where(VALID, operators.Convolve(psf(), grid)(TRUTH) + 0.2 * DATA, jnp.nan)
    forward = operators.Convolve(theta["psf"], grid)
    return Posterior(likelihoods.Gaussian(forward, data, Diagonal(theta["noise"] * VARIANCE), VALID), prior)


THETA = {
    "amplitude": jnp.asarray(1.0),
    "scale": jnp.asarray(-2.0),
    "slope": jnp.asarray(1.0),
    "noise": jnp.asarray(1.0),
    "psf": psf(),
}


def summary(theta, solver, build=build):
    """One number that depends on every pixel of the result."""
    x = solve(build(theta), solver).x
    return jnp.sum(TARGET[: x.shape[0], : x.shape[1]] * x) + 0.1 * jnp.sum(x**2)


def directions():
    """Each hyperparameter alone, and the PSF along a fixed direction."""
    zero = jax.tree.map(jnp.zeros_like, THETA)
    for name in THETA:
        d = jax.random.normal(jax.random.key(9), THETA[name].shape) * THETA[name]
        yield name, {**zero, name: d}


def central(f, theta, d, h):
    """Central difference of fourth order."""
    ends = [float(f(jax.tree.map(lambda a, b: a + s * h * b, theta, d))) for s in (-2, -1, 1, 2)]  # noqa: B023
    return (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)


def test_derivatives_of_the_image_agree_with_finite_differences():
    solver = ConjugateGradient(rtol=1e-22)
    f = eqx.filter_jit(lambda theta: summary(theta, solver))
    reverse = eqx.filter_jit(jax.grad(lambda theta: summary(theta, solver)))(THETA)
    forward = eqx.filter_jit(lambda d: jax.jvp(lambda theta: summary(theta, solver), (THETA,), (d,))[1])
    for name, d in directions():
        difference = central(f, THETA, d, 1e-3)
        assert abs(difference) > 1e-4, name
        assert float(forward(d)) == pytest.approx(difference, rel=1e-5), name
        assert float(jnp.sum(reverse[name] * d[name])) == pytest.approx(difference, rel=1e-5), name


def test_derivatives_agree_with_those_of_the_dense_solution():
    """d(image)/d(noise) is ``-P (dP^-1 x - d(A.T N^-1 y))``; here by differences of the dense solution."""
    solver = ConjugateGradient(rtol=1e-22)
    tangent = jax.jvp(lambda n: solve(build({**THETA, "noise": n}), solver).x, (THETA["noise"],), (jnp.ones(()),))[1]
    h = 1e-3
    ends = [dense_map(build({**THETA, "noise": THETA["noise"] + s * h})) for s in (1, -1)]
    assert largest_error(tangent, (ends[0] - ends[1]) / (2 * h)) < 1e-5


def curved(theta):
    """A saturating detector behind the PSF."""
    grid = (6, 6)
    response = operators.Function(Saturation(theta["level"] * jnp.ones((4, 4))), (4, 4))
    forward = response @ operators.Convolve(theta["psf"], grid)
    prior = priors.GaussianField(grid, priors.PowerLaw(jnp.exp(theta["amplitude"]), 0.2, 3.0))
    data = 0.8 * jnp.tanh(DATA[:4, :4])
    return Posterior(likelihoods.Gaussian(forward, data, Diagonal(0.3 * jnp.ones((4, 4)))), prior)


def test_derivatives_through_a_non_linear_problem():
    theta = {"level": jnp.asarray(2.0), "amplitude": jnp.asarray(0.5), "psf": psf(size=3)}
    solver = Optax(rtol=1e-24)
    f = eqx.filter_jit(lambda t: summary(t, solver, curved))
    reverse = eqx.filter_jit(jax.grad(lambda t: summary(t, solver, curved)))(theta)
    forward = eqx.filter_jit(lambda d: jax.jvp(lambda t: summary(t, solver, curved), (theta,), (d,))[1])
    zero = jax.tree.map(jnp.zeros_like, theta)
    for name in theta:
        d = {**zero, name: jax.random.normal(jax.random.key(9), theta[name].shape) * theta[name]}
        difference = central(f, theta, d, 1e-3)
        assert abs(difference) > 1e-4, name
        assert float(forward(d)) == pytest.approx(difference, rel=1e-5), name
        assert float(jnp.sum(reverse[name] * d[name])) == pytest.approx(difference, rel=1e-5), name


def batch():
    """Posteriors with a PSF, a mask and a brightness of their own, alone and stacked."""
    posts = [
        masked_problem(seed, side=12, kernel=psf(1.5 + 0.7 * seed), amplitude=10.0**seed, masked=0.1 * seed)
        for seed in range(4)
    ]
    return posts, jax.tree.map(lambda *a: jnp.stack(a), *posts)


def test_a_batch_gives_each_its_own_solution_and_its_own_steps():
    posts, stacked = batch()
    solver = ConjugateGradient(rtol=1e-12)
    together = eqx.filter_jit(eqx.filter_vmap(lambda p: solve(p, solver)))(stacked)
    assert (together.code == 1).all()
    assert len(set(together.steps.tolist())) > 1
    for i, post in enumerate(posts):
        alone = solve(post, solver)
        assert int(alone.steps) == pytest.approx(int(together.steps[i]), abs=2)
        assert largest_error(together.x[i], alone.x) < 1e-6
        assert relative_gap(post, together.x[i], dense_map(post)) < 1e-10


def test_solve_many_is_each_alone():
    posts, stacked = batch()
    many = solve_many(stacked, rtol=1e-10)
    for i, post in enumerate(posts):
        assert int(many.code[i]) == 1
        assert relative_gap(post, many.x[i], dense_map(post)) < 1e-8


def test_derivatives_of_a_batch():
    solver = ConjugateGradient(rtol=1e-20)
    amplitudes = jnp.asarray([0.5, 1.0, 2.0])

    def one(amplitude):
        return summary({**THETA, "amplitude": amplitude}, solver)

    together = jax.jit(jax.vmap(jax.grad(one)))(amplitudes)
    np.testing.assert_allclose(together, [float(jax.grad(one)(a)) for a in amplitudes], rtol=1e-6)


def test_the_stop_of_one_does_not_touch_another():
    """A problem with a NaN beside a sound one."""
    posts, _ = batch()
    bad = eqx.tree_at(lambda p: p.likelihood.data, posts[0], posts[0].likelihood.data.at[5, 5].set(jnp.nan))
    stacked = jax.tree.map(lambda *a: jnp.stack(a), bad, posts[1])
    together = eqx.filter_vmap(lambda p: solve(p, ConjugateGradient(rtol=1e-10)))(stacked)
    assert together.code.tolist() == [3, 1]
    assert relative_gap(posts[1], together.x[1], dense_map(posts[1])) < 1e-8
