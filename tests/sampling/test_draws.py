"""Exact draws against the dense posterior, and what their errors promise: coverage inside masked pixels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.optimize.find_map import find_map, solve
from invprob.optimize.solvers import ConjugateGradient, TwoGrid
from invprob.posterior import Posterior
from invprob.sampling.samplers.gaussian import (
    ConstrainedRealization,
    PerturbationOptimization,
    exact_draws,
    variance_along,
)
from invprob.testing import dense_posterior
from tests.cases import saturation
from tests.problems import largest_error, masked_problem, psf


def everything(deviation):
    """Keeps a draw as it is."""
    return deviation


PRECISE = PerturbationOptimization(ConjugateGradient(rtol=1e-8))


def flat_draws(post, number, chunk=500, key=0, sampler=PRECISE):
    parts, good = exact_draws(post, jax.random.key(key), number, everything, chunk=chunk, sampler=sampler)
    assert good
    return np.concatenate([np.asarray(p).reshape(len(p), -1) for p in parts])


def pulls(draws, covariance):
    """Worst variance of a pixel, worst whitened covariance, and the total, in Monte-Carlo standard errors."""
    n = len(draws)
    std = (draws.var(0) / np.diag(covariance) - 1) * np.sqrt(n / 2)
    z = np.linalg.solve(np.linalg.cholesky(covariance), draws.T)
    eye = np.eye(len(z))
    total = ((z**2).mean() - 1) * np.sqrt(z.size / 2)
    return np.abs(std).max(), np.abs((z @ z.T / n - eye) * np.sqrt(n / (1 + eye))).max(), np.abs(total)


def louder(post, factor):
    """The same posterior with another noise variance."""
    noise = Diagonal(factor * post.likelihood.noise.variance, post.likelihood.valid)
    return Posterior(likelihoods.Gaussian(post.likelihood.operator, post.likelihood.data, noise), post.prior)


def check_draws(post, number, sampler=PRECISE, factor=1.3):
    mean, covariance = dense_posterior(post)
    assert largest_error(find_map(post, "cg", rtol=1e-16).x, mean) < 1e-6
    draws = flat_draws(post, number, sampler=sampler)
    std, whole, total = pulls(draws, covariance)
    assert std < 5
    assert whole < 6
    assert total < 5
    *_, wrong = pulls(draws, dense_posterior(louder(post, factor))[1])
    assert wrong > 10, f"the check does not notice a noise variance that is wrong by {factor}"


def test_draws_have_the_covariance_of_the_dense_posterior():
    check_draws(masked_problem(side=8, amplitude=20.0), 4000)


@pytest.mark.slow
def test_draws_have_the_covariance_of_the_dense_posterior_at_16():
    check_draws(masked_problem(side=16, amplitude=20.0), 20000)


def test_draws_on_two_grids():
    post = masked_problem(side=8, amplitude=20.0, kernel=psf(5.0, 11))
    solver = TwoGrid.fitting(post, 1e-7)
    assert solver is not None
    check_draws(post, 4000, ConstrainedRealization(solver), factor=2)  # most of these unknowns the data do not see


def test_draws_of_an_image_and_a_sky_level():
    post = masked_problem(side=6, sky=True)
    _, covariance = dense_posterior(post)
    parts, _ = exact_draws(post, jax.random.key(0), 3000, everything, chunk=500, sampler=PRECISE)
    image = np.concatenate([np.asarray(p["image"]).reshape(len(p["sky"]), -1) for p in parts])
    sky = np.concatenate([np.asarray(p["sky"]) for p in parts])
    std, whole, total = pulls(np.column_stack([image, sky]), covariance)
    assert std < 5 and whole < 6 and total < 5


def test_a_draw_depends_on_its_number_alone():
    post = masked_problem(side=8)
    whole = flat_draws(post, 12, chunk=4)
    np.testing.assert_array_equal(flat_draws(post, 12, chunk=4), whole)
    np.testing.assert_allclose(flat_draws(post, 12, chunk=12), whole, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(flat_draws(post, 7, chunk=4), whole[:7], rtol=1e-12, atol=1e-13)
    assert np.abs(flat_draws(post, 12, chunk=4, key=1) - whole).min() > 0
    assert np.abs(np.corrcoef(whole) - np.eye(12)).max() < 0.9


def test_progress_and_a_solve_that_ends_too_early():
    post, seen = masked_problem(side=8), []
    exact_draws(post, jax.random.key(0), 5, everything, chunk=2, progress=lambda done, all_: seen.append((done, all_)))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    _, good = exact_draws(post, jax.random.key(0), 2, everything, sampler=PerturbationOptimization(max_steps=2))
    assert not good


def test_a_fold_keeps_no_draws():
    post, held = masked_problem(side=8), []

    def squares(total, values):
        return jnp.sum(values**2, axis=0) + (0 if total is None else total)

    def look(*_):
        held.append(sum(array.nbytes for array in jax.live_arrays()))

    settings = dict(chunk=2, sampler=PRECISE)
    total, _ = exact_draws(post, jax.random.key(0), 12, everything, **settings, fold=squares, progress=look)
    np.testing.assert_allclose(total.ravel(), (flat_draws(post, 12, chunk=2) ** 2).sum(0), rtol=1e-12)
    assert held[-1] <= held[1]
    held.clear()
    exact_draws(post, jax.random.key(0), 12, everything, **settings, progress=look)
    assert held[-1] > held[1]


def test_what_has_no_exact_draws():
    prior = priors.GaussianField((6, 7), priors.PowerLaw(1.0, 0.1, 3.0))
    post = Posterior(likelihoods.Gaussian(saturation(), jnp.ones((6, 7)), 0.1), prior)
    with pytest.raises(TypeError, match="linear operator"):
        exact_draws(post, jax.random.key(0), 1, everything)


# --- coverage --------------------------------------------------------------------------------------------------

SIDE = 24
HOLES = np.random.default_rng(8).random((SIDE, SIDE)) < 0.2


def scene(amplitude, blurred):
    """A posterior for a frame with a fifth of its pixels masked; its data are yet to come."""
    border = 2 if blurred else 0
    grid = (SIDE + 2 * border,) * 2
    kernel = jnp.outer(jnp.asarray([0.05, 0.25, 0.4, 0.25, 0.05]), jnp.asarray([0.05, 0.25, 0.4, 0.25, 0.05]))
    operator = operators.Convolve(kernel, grid) if blurred else operators.Identity(grid)
    prior = priors.GaussianField(grid, priors.PowerLaw(amplitude, 0.08, 3.0))
    zero = jnp.zeros((SIDE, SIDE))
    like = likelihoods.Gaussian(operator, zero, Diagonal(jnp.full((SIDE, SIDE), 0.2)), jnp.asarray(~HOLES))
    return Posterior(like, prior)


@eqx.filter_jit
def realizations(true, used, keys):
    """Errors of the solution under one posterior for truths and data drawn from another."""

    def one(key):
        truth = true.prior.sample(jax.random.fold_in(key, 0))
        data = true.likelihood.simulate(jax.random.fold_in(key, 1), truth)
        x = solve(eqx.tree_at(lambda p: p.likelihood.data, used, data), ConjugateGradient(rtol=1e-7)).x
        return x - truth

    return jax.lax.map(one, keys)


def coverage(true, used, number, draws):
    """Part of the holes whose truth lies within one standard deviation, its error, and the standard deviations."""
    size = used.structure.shape
    std = flat_draws(used, draws, chunk=100).std(0).reshape(size)
    errors = np.asarray(realizations(true, used, jax.random.split(jax.random.key(5), number)))
    inner = tuple(slice((n - SIDE) // 2, (n + SIDE) // 2) for n in size)
    inside = (np.abs(errors) < std)[:, inner[0], inner[1]][:, HOLES].mean(1)
    return inside.mean(), inside.std() / np.sqrt(number), std[inner]


@pytest.mark.parametrize("blurred", [False, True], ids=["denoised", "deconvolved"])
def test_coverage_inside_holes(blurred):
    post = scene(10.0, blurred)
    part, error, std = coverage(post, post, 200, 400)
    assert error < 0.01
    assert abs(part - 0.6827) < 4 * error + 0.005  # the standard deviations have errors of their own
    assert std[HOLES].mean() > 1.05 * std[~HOLES].mean()


def test_coverage_notices_a_wrong_amplitude():
    part, error, _ = coverage(scene(10.0, False), scene(2.5, False), 100, 200)
    assert abs(part - 0.6827) > 8 * error + 0.005


@pytest.mark.slow
@pytest.mark.parametrize("blurred", [False, True], ids=["denoised", "deconvolved"])
def test_coverage_inside_holes_closely(blurred):
    post = scene(10.0, blurred)
    part, error, _ = coverage(post, post, 3000, 4000)
    assert abs(part - 0.6827) < 4 * error + 0.0005


def test_variance_of_a_sum_is_that_of_the_dense_posterior():
    post = masked_problem(side=12, sky=True)
    covariance = dense_posterior(post)[1]
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape)), post.structure.tree)
    flat = np.concatenate([np.ravel(a) for a in jax.tree.leaves(direction)])
    variance, code = variance_along(post, direction, rtol=1e-10)
    assert int(code) == 1
    np.testing.assert_allclose(variance, flat @ covariance @ flat, rtol=1e-7)
