"""Priors known by their denoiser: untrained, every path gives the posterior of the Gaussian prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods
from invprob.covariance import Diagonal, dense_operator
from invprob.errors import CapabilityError, UsageError
from invprob.operators import CircularConvolve, Crop
from invprob.optimize.data_augmentation import augment
from invprob.posterior import Posterior
from invprob.priors.weights_file import learned_prior, shipped_weights
from invprob.sampling.sample import as_sampler, sample
from invprob.sampling.samplers import Split
from tests.problems import learned_problem


def test_the_auxiliary_image():
    """C is below the inverse of H, and the scatter of u has the covariance C - C H C."""
    post, _ = learned_problem(side=5)
    found = augment(post, 0.95, 1e-3)
    C = np.asarray(dense_operator(found.covariance.operator))
    A = np.asarray(dense_operator(post.likelihood.operator))
    H = A.T @ np.asarray(dense_operator(post.likelihood.noise.inv)) @ A
    root = np.asarray(dense_operator(found.covariance.sqrt))
    largest = np.linalg.eigvalsh(root @ H @ root).max()
    assert 0.9 < largest < 0.96
    number = 5000
    u = np.asarray(jax.vmap(found.scatter)(jax.random.split(jax.random.key(0), number))).reshape(number, -1)
    eye = np.eye(u.shape[1])

    def off(covariance):
        z = np.linalg.solve(np.linalg.cholesky(covariance), u.T)
        return np.abs((z @ z.T / number - eye) * np.sqrt(number / (1 + eye))).max()

    assert off(C - C @ H @ C) < 6
    assert off(C) > 10


def test_it_is_chosen_and_labelled():
    post, _ = learned_problem(side=5)
    sampler, reason = as_sampler("auto", post)
    assert isinstance(sampler, Split) and "denoiser" in reason


def test_a_border_without_data_is_dark_to_begin_with():
    """A bright one hardly ever gets dark again, and the sky inside turns negative to make up for it.

    Nor may the warm-up begin so hot that the data are forgotten: the border would lose half of the galaxy's light.
    """
    side, width, sigma = 64, 5.0, jnp.float32(2e-4)
    y, x = np.indices((side, side)) - side / 2
    truth = 0.05 * np.exp(-0.5 * (x**2 / 16 + y**2 / 6))
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    blur = CircularConvolve(jnp.asarray(np.exp(-2 * (np.pi * k * width) ** 2), jnp.float32), (side, side))
    middle = slice(16, 48)
    operator = Crop((side, side), (middle, middle)) @ blur
    clean = operator(jnp.asarray(truth, jnp.float32))
    data = clean + sigma * jax.random.normal(jax.random.key(1), clean.shape, jnp.float32)
    prior = learned_prior(shipped_weights("galaxies"), (side, side))
    like = likelihoods.Gaussian(operator, data, Diagonal(jnp.full(clean.shape, sigma**2)))
    found = sample(Posterior(like, prior), jax.random.key(0), 10, Split(steps=15), num_chains=1)
    image = np.asarray(found.image)
    assert 0.8 < float(like.chi2(jnp.asarray(image))) / data.size < 1.25
    assert abs(image[middle, middle].sum() / truth.sum() - 1) < 0.04
    assert abs(image.sum() / truth.sum() - 1) < 0.25


def test_refusals():
    _, gaussian = learned_problem(side=5)
    with pytest.raises(CapabilityError, match=r"denoiser for coloured noise \(HasColouredDenoiser\); Gaussian"):
        sample(gaussian, jax.random.key(0), 100, Split())
    with pytest.raises(UsageError, match="share between 0 and 1"):
        Split(share=1.5)
