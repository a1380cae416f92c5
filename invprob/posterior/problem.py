"""One inverse problem before its prior is known: latent grid, exposures, and what is fitted beside the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob import likelihoods, priors
from invprob.observation import Frame
from invprob.operators import AbstractLinearOperator, BlockDiagonal, Broadcast, Crop, Sum, compose
from invprob.operators.base import Adjoint
from invprob.posterior.posterior import Posterior

NUM_DRAWS = 8  # of the noise, for the standard deviation of the score


@dataclass(frozen=True)
class Exposure:
    """One observation as it is seen from the latent grid.

    Parameters
    ----------
    likelihood
        Of the latent image alone: its operator, the data, noise and mask.
    kernel
        The PSF on the pixel of the latent grid, None without one.
    """

    likelihood: likelihoods.Gaussian
    kernel: Float[np.ndarray, "ky kx"] | None = None


@dataclass(frozen=True)
class Problem:
    """What is to be inferred from which data, before the prior is known.

    Several exposures of one sky are a longer tuple; their joint likelihood is not written yet, and one is asked for.

    Parameters
    ----------
    frame
        The latent grid with its border.
    exposures
        The observations.
    noise_unit
        Standard deviation of the noise of a data pixel, divided among its latent pixels.
    nuisances
        Priors of what is fitted beside the image (the sky level), by name.
    """

    frame: Frame
    exposures: tuple[Exposure, ...]
    noise_unit: Float[Array, ""]
    nuisances: Mapping[str, priors.AbstractPrior] = field(default_factory=dict)

    def __post_init__(self):
        if len(self.exposures) != 1:
            raise ValueError(f"one exposure is needed, not {len(self.exposures)}")

    @property
    def exposure(self) -> Exposure:
        """The one exposure."""
        return self.exposures[0]

    @property
    def dtype(self) -> Any:
        """Floating point type of the run."""
        return self.exposure.likelihood.data.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the latent image."""
        return self.frame.shape

    @property
    def footprint(self) -> Crop:
        """From the latent grid to the part of it under the data."""
        return Crop(self.frame.shape, self.frame.footprint)

    @property
    def likelihood(self) -> likelihoods.Gaussian:
        """Likelihood of the image, or of a dictionary of the image and what is fitted beside it."""
        return self._likelihood(self.exposure.likelihood.operator)

    def _likelihood(self, operator: Any) -> likelihoods.Gaussian:
        given = self.exposure.likelihood
        if self.nuisances:
            levels = {name: Broadcast(given.data.shape) for name in self.nuisances}
            each = BlockDiagonal({"image": operator, **levels})
            operator = compose(Sum(each.out_structure), each)
        return likelihoods.Gaussian(operator, given.data, given.noise)

    def posterior(self, prior: priors.AbstractPrior) -> Posterior:
        """The posterior with a prior of the image, or of several images that add up to it."""
        operator = self.exposure.likelihood.operator
        if len(prior.structure.leaves) > 1:
            operator = compose(operator, Sum(prior.structure))
        likelihood = self._likelihood(operator)
        if self.nuisances:
            prior = priors.Product({"image": prior, **self.nuisances})
        return Posterior(likelihood, prior)

    def with_likelihood(self, likelihood: likelihoods.Gaussian) -> Problem:
        """The same with another likelihood of the image, such as that of a part of the data."""
        return replace(self, exposures=(replace(self.exposure, likelihood=likelihood),))

    def mean_image(self) -> float:
        """Mean of the image on the footprint, from the mean of the valid data."""
        like = self.exposure.likelihood
        one = jnp.ones(self.shape, self.dtype)
        weight = jnp.ones_like(like.data) if like.valid is None else like.valid
        sky = 0.0
        if self.nuisances:
            sky = priors.require(self.nuisances["sky"], priors.HasPrecision, "levels of the sky").mean
        return float(jnp.sum(weight * (like.data - sky)) / jnp.sum(weight * like.operator.apply(one)))

    def score_noise(self, W: AbstractLinearOperator) -> Float[Array, " planes"]:
        """Standard deviation over the footprint, in each plane, of ``W A.T N^-1 n`` for noise ``n ~ N(0, N)``.

        The gradient of the log-likelihood at the truth is ``A.T N^-1 n``: this is what it scatters by in the
        coefficients of W, in the inverse unit of the image. W gives images of the latent grid. From eight draws with a
        fixed key.
        """
        return _score_noise(self.exposure.likelihood, self.footprint, W)


@eqx.filter_jit
def _score_noise(like: likelihoods.Gaussian, footprint: Crop, W: AbstractLinearOperator) -> Float[Array, " planes"]:
    operator = like.operator
    assert isinstance(operator, AbstractLinearOperator)
    back, zero = Adjoint(operator), jnp.zeros_like(like.data)
    like = eqx.tree_at(lambda one: one.data, like, zero)
    inside = tuple(slice(a, b) for a, b in zip(footprint.starts, footprint.stops, strict=True))

    def squares(key):
        # the same draws in either precision
        noise = like.noise.inv(like.noise.sample(key, jnp.float32).astype(zero.dtype))
        u = W.apply(back.apply(noise))[(..., *inside)]
        return jnp.mean(u**2, axis=(-2, -1))

    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    return jnp.sqrt(jnp.mean(jax.lax.map(squares, keys), axis=0))


__all__ = ["Exposure", "Problem"]
