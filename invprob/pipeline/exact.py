"""What is kept of exact draws, and the variances of the prior that they are compared with."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from invprob.covariance import Blocks, Stationary
from invprob.operators import Crop, Starlet
from invprob.posterior import Posterior

SCALES = 5  # most detail scales in the map of evidence; each is an image


def starlet_of(shape: tuple[int, int]) -> Starlet:
    """The starlet transform of the latent grid, periodic as the Gaussian field is."""
    return Starlet(shape, max(1, min(SCALES, int(np.log2(min(shape))) - 1)), mode="wrap")


def planes(starlet: Starlet, x: Float[Array, "y x"]) -> Float[Array, "scale y x"]:
    """All coefficients of an image: details, finest first, and the smooth rest."""
    found = starlet.apply(x)
    return jnp.concatenate([found["details"], found["coarse"][None]])


class DrawSummary(eqx.Module):
    """What is kept of a draw: sky, noise-weighted prediction, the image for `Samples`, and sums of squares.

    Parameters
    ----------
    post
        Posterior.
    cut
        From the latent grid to the footprint.
    has_parts
        Whether the latent is a dictionary of image and sky.
    keep
        Whether the images are kept.
    """

    post: Posterior
    cut: Crop
    has_parts: bool = eqx.field(static=True)
    keep: bool = eqx.field(static=True)

    def __call__(self, deviation: PyTree) -> dict[str, Array]:
        """What is stacked: the deviation of the sky, the squared prediction in sigmas, the image."""
        like = self.post.likelihood
        fitted = like.noise.inv_sqrt(like.operator.apply(deviation))  # type: ignore[attr-defined]
        zero = jnp.zeros((), fitted.dtype)
        return {
            "sky": deviation["sky"] if self.has_parts else zero,
            "fit": jnp.sum(fitted**2),
            "image": self.cut.apply(self._image(deviation)) if self.keep else zero,
        }

    def squares(self, deviation: PyTree) -> dict[str, Array]:
        """What is summed over the draws: squared deviations of pixels and of starlet coefficients on the footprint.

        The coefficients are those of the whole latent grid, so that none is cut off at the border of the footprint.
        """
        x = self._image(deviation)
        rows, columns = (slice(a, b) for a, b in zip(self.cut.starts, self.cut.stops, strict=True))
        shape: Any = x.shape
        return {"pixel": self.cut.apply(x) ** 2, "starlet": planes(starlet_of(shape), x)[:, rows, columns] ** 2}

    def _image(self, deviation: PyTree) -> Float[Array, "y x"]:
        return deviation["image"] if self.has_parts else deviation


def prior_variances(post: Posterior, dtype) -> dict[str, Array]:
    """Variance of a pixel, and of a starlet coefficient of each plane, where that of the prior is stationary; else NaN.

    With the power spectrum P and the response w of a plane to a single pixel it is the mean of ``P |w|^2`` over all
    frequencies. Of a learned prior P is that of the images that it was trained on.
    """
    gaussian = post.prior.gaussian_approximation()
    covariance = None if gaussian is None else gaussian.covariance
    if isinstance(covariance, Blocks):
        covariance = covariance.parts["image"]
    if not isinstance(covariance, Stationary):
        none = jnp.full((), jnp.nan, dtype)
        return {"pixel": none, "starlet": none}
    shape = covariance.shape
    single = jnp.zeros(shape, dtype).at[0, 0].set(1)
    response = jnp.abs(jnp.fft.rfft2(planes(starlet_of(shape), single))) ** 2
    return {
        "pixel": jnp.fft.irfft2(covariance.power, s=shape)[0, 0],
        "starlet": jnp.fft.irfft2(covariance.power * response, s=shape)[:, 0, 0],
    }


__all__ = ["DrawSummary", "planes", "prior_variances", "starlet_of"]
