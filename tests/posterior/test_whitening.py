"""White coordinates: the same density, and every sampler and approximation in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.errors import CapabilityError
from invprob.optimize.find_map import find_map
from invprob.posterior import Posterior
from invprob.posterior.whitening import in_white_coordinates
from invprob.priors.generator import Generator
from invprob.sampling.sample import sample
from invprob.sampling.samplers import NUTS
from invprob.testing import small_problem
from invprob.variational.fit import fit_variational


def generated(noise=0.3):
    """The data of a generator of two numbers, so that everything can be had by quadrature."""
    made = Generator(jax.random.key(2), size=8, code=2, channels=8, couplings=0, hidden=4, softness=0.3)
    prior = priors.GeneratorPrior(made, (8, 8))
    operator = operators.PixelBin(2, (8, 8))
    clean = operator(prior.transform(jnp.array([0.7, -0.5])))
    data = clean + noise * jax.random.normal(jax.random.key(1), clean.shape)
    return Posterior(likelihoods.Gaussian(operator, data, Diagonal(jnp.full(clean.shape, noise**2))), prior)


def quadrature(post):
    """Mean and covariance of the white noise."""
    axis = jnp.linspace(-5, 5, 161)
    points = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    log = jax.lax.map(post.whiten().log_prob, points, batch_size=500)
    weight = np.exp(np.asarray(log - log.max()))
    weight /= weight.sum()
    mean = weight @ np.asarray(points)
    away = np.asarray(points) - mean
    return mean, (weight[:, None] * away).T @ away, points[int(jnp.argmax(log))]


def test_it_is_the_same_density():
    base = small_problem(side=4)
    post = Posterior(base.likelihood, priors.LogNormal(base.prior))
    white, T = in_white_coordinates(post)
    xi = [jax.random.normal(jax.random.key(i), post.structure.shape) for i in range(2)]
    difference = [float(white.log_prob(v) - post.whiten().log_prob(v)) for v in xi]
    assert difference[0] == pytest.approx(difference[1], abs=1e-8)
    np.testing.assert_allclose(T(xi[0]), post.whiten().T(xi[0]))


def test_the_best_image_and_draws_of_a_generator():
    post = generated()
    mean, covariance, best = quadrature(post)
    found = find_map(post)
    assert found.solver == "newton"
    np.testing.assert_allclose(
        found.x, post.prior.transform(best), atol=0.05 * float(jnp.max(post.prior.transform(best)))
    )
    white, _ = in_white_coordinates(post)
    draws = sample(white, jax.random.key(0), 4000, NUTS()).latents.reshape(-1, 2)
    error = np.sqrt(np.diag(covariance) / 1000)
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()
    np.testing.assert_allclose(draws.std(0), np.sqrt(np.diag(covariance)), rtol=0.12)


def test_a_flow_in_them():
    post = generated()
    mean, covariance, _ = quadrature(post)
    white, _ = in_white_coordinates(post)
    found = fit_variational(white, jax.random.key(0), "flow")
    np.testing.assert_allclose(found.x, mean, atol=0.3 * np.sqrt(np.diag(covariance)).max())
    np.testing.assert_allclose(found.latent_std, np.sqrt(np.diag(covariance)), rtol=0.25)


def test_what_it_needs():
    base = small_problem(side=4)
    with pytest.raises(CapabilityError, match="HasTransform"):
        in_white_coordinates(Posterior(base.likelihood, priors.TotalVariation(base.structure.shape, 1.0)))
