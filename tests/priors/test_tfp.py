"""Priors from TFP: a spike and slab for each pixel, its most probable image against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.optimize.find_map import find_map
from invprob.posterior import Posterior
from tests.cases import mixture

GRID = np.linspace(-8, 8, 160001)


def brute_force(y, sigma, distribution):
    """Most probable value of each pixel on its own, on a fine grid."""
    log_prior = np.asarray(distribution.log_prob(GRID))
    return np.array([GRID[np.argmax(log_prior - 0.5 * ((v - GRID) / sigma) ** 2)] for v in y])


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("spike", [0.02, 0.2])
def test_map_of_a_mixture_is_that_of_brute_force(sigma, spike):
    """Also where the two components compete, and a search from zero ends in the wrong one."""
    y = jnp.asarray([-4.0, -1.3, -0.45, 0.0, 0.1, 0.33, 0.9, 2.1, 5.0])
    distribution = mixture(spike)
    post = Posterior(
        likelihoods.Gaussian(operators.Identity(y.shape), y, jnp.full(y.shape, sigma**2)),
        priors.FromTFP(distribution, y.shape),
    )
    estimate = find_map(post, rtol=1e-12)
    assert estimate.status.ok and "FromTFP" in estimate.reason
    np.testing.assert_allclose(estimate.x, brute_force(y, sigma, distribution), atol=2e-4)


def test_mixture_behind_a_psf_and_a_mask():
    """The search is local: from the truth it ends at a better image, two sources with their flux on an empty sky."""
    shape = (12, 12)
    kernel = jnp.outer(jnp.asarray([0.25, 0.5, 0.25]), jnp.asarray([0.25, 0.5, 0.25]))
    operator = operators.Convolve(kernel, shape)
    truth = jnp.zeros(shape).at[4, 4].set(3.0).at[8, 7].set(2.0)
    valid = jnp.ones((10, 10), bool).at[2, 7].set(False)
    data = operator(truth) + 0.05 * jax.random.normal(jax.random.key(0), (10, 10))
    like = likelihoods.Gaussian(operator, data, jnp.full((10, 10), 0.05**2), valid)
    post = Posterior(like, priors.FromTFP(mixture(0.02, 2.0, 0.1), shape))
    estimate = find_map(post, x0=truth, rtol=1e-8)
    assert estimate.status.ok
    assert float(post.log_prob(estimate.x)) > float(post.log_prob(truth))
    assert float(estimate.x[4, 4]) == pytest.approx(3.0, abs=0.5)
    assert float(estimate.x[8, 7]) == pytest.approx(2.0, abs=0.5)
    blind = find_map(post, rtol=1e-8)
    assert blind.status.ok and blind.reduced_chi2 < 1.5


def test_a_mixture_within_a_product():
    y = jnp.asarray([3.0, 0.1, -2.0])
    each = operators.BlockDiagonal({"image": operators.Identity((3,)), "sky": operators.Broadcast((3,))})
    operator = operators.Sum(each.out_structure) @ each
    prior = priors.Product({"image": priors.FromTFP(mixture(0.05), (3,)), "sky": priors.wide_gaussian(0.0, 1e-4)})
    estimate = find_map(Posterior(likelihoods.Gaussian(operator, y, jnp.full(3, 0.25)), prior), rtol=1e-10)
    np.testing.assert_allclose(estimate.x["image"], brute_force(y, 0.5, mixture(0.05)), atol=2e-3)


def test_a_distribution_of_the_whole_image_and_one_without_moments():
    import tensorflow_probability.substrates.jax.distributions as tfd

    y = jnp.asarray([1.0, 2.0, -1.0])
    matrix = jnp.asarray([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.0]])
    whole = priors.FromTFP(tfd.MultivariateNormalFullCovariance(jnp.zeros(3), matrix), (3,))
    like = likelihoods.Gaussian(operators.Identity((3,)), y, jnp.full(3, 0.5))
    wanted = matrix @ jnp.linalg.solve(matrix + 0.5 * jnp.eye(3), y)
    np.testing.assert_allclose(find_map(Posterior(like, whole), rtol=1e-14).x, wanted, atol=1e-6)
    cauchy = find_map(Posterior(like, priors.FromTFP(tfd.Cauchy(0.0, 1.0), (3,))), rtol=1e-10)
    assert cauchy.status.ok and bool(jnp.all(jnp.abs(cauchy.x) < jnp.abs(y)))


def test_a_distribution_that_does_not_fill_the_image():
    import tensorflow_probability.substrates.jax.distributions as tfd

    with pytest.raises(ValueError, match=r"\(4,\) does not fill an image of \(3, 3\)"):
        priors.FromTFP(tfd.Normal(jnp.zeros(4), 1.0), (3, 3))
