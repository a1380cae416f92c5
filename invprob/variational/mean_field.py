"""Independent normal distributions of the coordinates, as a family of approximations."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.variational.base import AbstractDistribution
from invprob.variational.stochastic_gradient import AbstractStochasticVI, about


class DiagonalNormal(AbstractDistribution):
    """Independent normal coordinates."""

    mean: Float[Array, " n"]
    log_std: Float[Array, " n"]

    @property
    def _tfp(self) -> Any:
        from tensorflow_probability.substrates.jax import distributions as tfd

        return tfd.MultivariateNormalDiag(self.mean, jnp.exp(self.log_std))

    def log_prob(self, c):
        return self._tfp.log_prob(c)

    def draws(self, key, num):
        return about(self.mean, self._tfp.sample(num, seed=key))


class MeanField(AbstractStochasticVI):
    """Independent normal distributions of the coordinates.

    In coordinates that are correlated under the posterior it gives each its standard deviation with the others held
    fixed, which is too small; k-hat tells.
    """

    name: ClassVar[str] = "mean field"

    def start(self, target, key):
        none = jnp.zeros(target.size, target.dtype)
        return DiagonalNormal(none, none)


__all__ = ["DiagonalNormal", "MeanField"]
