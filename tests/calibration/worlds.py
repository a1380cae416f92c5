"""Small worlds whose posterior is known, and samplers of it: right ones, and wrong on purpose."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal, dense, dense_operator
from invprob.operators.base import zeros
from invprob.posterior import Posterior

FWHM, SIZE, SIDE = 2.5, 9, 16
AMPLITUDE = 100.0  # a signal of seven times the noise in the median pixel


def psf(fwhm: float = FWHM, size: int = SIZE):
    """A round Gaussian PSF of sum one."""
    axis = np.arange(size) - size // 2
    profile = np.exp(-4 * np.log(2.0) * (axis[:, None] ** 2 + axis[None] ** 2) / fwhm**2)
    return jnp.asarray(profile / profile.sum())


def world(*, side: int = SIDE, amplitude: float = AMPLITUDE, fwhm: float = FWHM, noise: float = 1.0, sky: bool = False):
    """A Gaussian field behind a PSF, with varying noise and a tenth of the pixels masked; perhaps a sky level.

    Parameters
    ----------
    side
        Side of the data.
    amplitude
        Of the prior's spectrum.
    fwhm
        Of the PSF in pixels.
    noise
        Factor on the variance of the noise.
    sky
        Whether the latent pytree has an image and a sky level.
    """
    rng = np.random.default_rng(0)
    variance = noise * 0.05 * np.exp(0.5 * rng.standard_normal((side, side)))
    valid = rng.random((side, side)) >= 0.1
    grid = (side + SIZE - 1,) * 2
    forward = operators.Convolve(psf(fwhm), grid)
    prior = priors.GaussianField(grid, priors.PowerLaw(amplitude, 0.1, 3.0))
    if sky:
        each = operators.BlockDiagonal({"image": forward, "sky": operators.Broadcast((side, side))})
        forward = operators.Sum(each.out_structure) @ each
        prior = priors.Product({"image": prior, "sky": priors.wide_gaussian(0.5, 1.0)})
    like = likelihoods.Gaussian(forward, jnp.zeros((side, side)), Diagonal(jnp.asarray(variance)), jnp.asarray(valid))
    return Posterior(like, prior)


def signal_to_noise(post: Posterior) -> float:
    """Median over the valid pixels of the standard deviation of the noiseless data over that of the noise."""
    forward = np.asarray(dense_operator(post.likelihood.operator))
    signal = np.einsum("ij,jk,ik->i", forward, np.asarray(dense(post.prior.covariance)), forward)
    variance = np.asarray(post.likelihood.noise.variance).ravel()
    return float(np.median(np.sqrt(signal / variance)[np.asarray(post.likelihood.valid).ravel()]))


class DenseDraws(eqx.Module):
    """Exact draws of a linear-Gaussian posterior by dense matrices, which do not depend on the data.

    Parameters
    ----------
    gain
        From centred data to the deviation of the posterior mean from that of the prior.
    root
        A root of the posterior covariance.
    """

    gain: jax.Array
    root: jax.Array

    @classmethod
    def of(cls, post: Posterior, width: float = 1.0) -> DenseDraws:
        """For the operator, noise and prior of a posterior; ``width`` scales the standard deviations."""
        system = post.linear_gaussian()
        forward = np.asarray(dense_operator(system.operator))
        weight = np.asarray(dense_operator(system.noise.inv))
        signal = np.asarray(dense_operator(system.covariance.operator))
        covariance = np.linalg.inv(forward.T @ weight @ forward + np.linalg.inv(signal))
        covariance = 0.5 * (covariance + covariance.T)
        root = width * np.linalg.cholesky(covariance)
        return cls(jnp.asarray(covariance @ forward.T @ weight), jnp.asarray(root))

    def __call__(self, post, key, num_draws):
        system = post.linear_gaussian()
        _, unravel = ravel_pytree(zeros(post.structure, system.data.dtype))
        mean = self.gain @ system.centred.ravel()
        noise = jax.random.normal(key, (num_draws, len(mean)), mean.dtype)
        return jax.vmap(lambda u: system.shifted(unravel(u)))(mean + noise @ self.root.T)


def prior_draws(post, key, num_draws):
    """A sampler that ignores the data."""
    return jax.vmap(post.prior.sample)(jax.random.split(key, num_draws))
