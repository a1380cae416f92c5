"""The learned prior: images as a denoiser has seen them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.covariance import Stationary
from invprob.operators.base import Structure
from invprob.operators.fourier import half_shape
from invprob.priors.capabilities import HasColouredDenoiser, HasSample, HasScore
from invprob.priors.denoiser import Denoiser
from invprob.priors.diffusion import prior_draw, reverse
from invprob.priors.gaussian import Gaussian

STEPS = 40  # of the reverse diffusion


@dataclass(frozen=True)
class Training:
    """What a learned prior is for: the images that it was trained on.

    Parameters
    ----------
    name
        Name of the prior.
    pixel_scales
        Smallest and largest arcsec per pixel of the images.
    target_fwhm
        FWHM in arcsec of the PSF of the images.
    unit
        Flux unit of the images, in words.
    zeropoint
        AB magnitude of one unit of flux; None where there is none.
    smallest, largest
        Standard deviations of white noise between which the denoiser was trained, in that unit.
    scale
        What one unit of the network is, in that unit: stamps of any unit are trained on in units in which their noise
        is that of an exposure of Hubble's.
    widest
        FWHM in pixels of the widest PSF that noise was coloured with.
    hash
        SHA-256 of the weights with their header; empty where they were not read from a file.
    card
        Whatever else is known: the training set, its range, scores.
    """

    name: str = "denoiser"
    pixel_scales: tuple[float, float] | None = None
    target_fwhm: float | None = None
    unit: str = ""
    zeropoint: float | None = None
    smallest: float = 1e-4
    largest: float = 10.0
    scale: float = 1.0
    widest: float = 50.0
    hash: str = ""
    card: Any = field(default=None, compare=False, hash=False)


class DenoiserPrior(HasColouredDenoiser, HasSample):
    """A prior known by its denoiser, at noise of every level and colour: ``E[x0 | x0 + n]``.

    There is no density: nothing here makes one up. What there is, are draws, of the prior and of ``p(x0 | x0 + n)``, by
    the reverse of a diffusion, which is what the split sampler needs.

    Parameters
    ----------
    denoiser
        Wiener filter and network.
    shape
        Shape of the image, ``(y, x)``; any.
    training
        What the denoiser was trained on.
    flux
        What one unit of the image is in the unit of `training`.

    References
    ----------
    Robbins 1956; Miyasawa 1961; Efron 2011, J. American Statistical Association 106, 1602 (denoiser and score); Song
    et al. 2021, arXiv:2011.13456 (the reverse diffusion).
    """

    denoiser: Denoiser
    shape: tuple[int, int] = eqx.field(static=True)
    training: Training = eqx.field(static=True, default=Training())
    flux: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)

    @property
    def structure(self) -> Structure:
        return Structure(self.shape)

    @property
    def gain(self) -> Float[Array, ""]:
        """What one unit of the image is in that of the network."""
        return self.flux / self.training.scale

    @property
    def gaussian(self) -> Gaussian:
        """The Gaussian prior of the same mean and power: this one, where the network is untrained."""
        return Gaussian(jnp.full(self.shape, self.denoiser.mean / self.gain, self._dtype), self._covariance)

    @property
    def _dtype(self):
        return jnp.result_type(self.denoiser.mean, self.flux)

    @property
    def _covariance(self) -> Stationary:
        return Stationary(self.denoiser.power(self.shape, self._dtype) / self.gain**2, self.shape)

    def gaussian_approximation(self) -> Gaussian:
        return self.gaussian

    def denoise(self, x: Float[Array, "y x"], sigma: Float[Array, ""] | float) -> Float[Array, "y x"]:
        """``E[x0 | x0 + sigma n = x]`` for white n."""
        return self.denoise_coloured(x, jnp.full(half_shape(self.shape), jnp.asarray(sigma, x.dtype) ** 2))

    def denoise_coloured(self, x: Float[Array, "y x"], noise: Float[Array, "ky kx"], key=None) -> Float[Array, "y x"]:
        """``E[x0 | x0 + n = x]`` for stationary noise of a power spectrum on the rfft2 grid; with a key in any view."""
        gain = self.gain.astype(x.dtype)
        denoiser = self.denoiser if key is None else self.denoiser.viewed(key)
        return denoiser(gain * x, gain**2 * noise) / gain

    def denoised_draw(
        self, key, x: Float[Array, "y x"], noise: Float[Array, "ky kx"], steps: int = STEPS
    ) -> Float[Array, "y x"]:
        """A draw of ``p(x0) N(x; x0, C)`` for stationary noise of the power spectrum C."""
        gain, last = self.gain.astype(x.dtype), self.training.smallest / self.training.scale
        return reverse(self.denoiser, key, gain * x, gain**2 * noise, last, steps) / gain

    def at(self, sigma: Float[Array, ""] | float) -> Blurred:
        """The prior of the image with white noise of this standard deviation, which has a score."""
        return Blurred(self, jnp.asarray(sigma, jnp.float32))

    def sample(self, key, steps: int = 2 * STEPS) -> Float[Array, "y x"]:
        """One draw of the prior, flux per pixel."""
        dtype = self.denoiser.mean.dtype
        first, last = (s / self.training.scale for s in (self.training.largest, self.training.smallest))
        return prior_draw(self.denoiser, key, self.shape, first, last, steps, dtype) / self.gain.astype(dtype)


class Blurred(HasScore):
    """A denoiser's prior with a little white noise: it has a score, ``(D(x; s) - x) / s^2``, and no density.

    Parameters
    ----------
    prior
        The prior.
    sigma
        Standard deviation s of the noise.
    """

    prior: DenoiserPrior
    sigma: Float[Array, ""]

    @property
    def structure(self) -> Structure:
        return self.prior.structure

    def score(self, x):
        return (self.prior.denoise(x, self.sigma) - x) / self.sigma.astype(x.dtype) ** 2

    def gaussian_approximation(self) -> Gaussian:
        power = self.prior._covariance.power + self.sigma**2
        return Gaussian(self.prior.gaussian.mean, Stationary(power, self.prior.shape))


__all__ = ["Blurred", "DenoiserPrior", "Training"]
