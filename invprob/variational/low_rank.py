"""The normal distribution whose covariance is diagonal and of low rank, as a family of approximations."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.errors import UsageError
from invprob.variational.base import AbstractDistribution
from invprob.variational.stochastic_gradient import AbstractStochasticVI, about


class LowRankNormal(AbstractDistribution):
    """A normal distribution with the covariance ``diag(s^2) + U U.T``."""

    mean: Float[Array, " n"]
    log_std: Float[Array, " n"]
    factor: Float[Array, "n rank"]

    @property
    def _tfp(self) -> Any:
        from tensorflow_probability.substrates.jax import distributions as tfd

        return tfd.MultivariateNormalDiagPlusLowRankCovariance(self.mean, jnp.exp(2 * self.log_std), self.factor)

    def log_prob(self, c):
        return self._tfp.log_prob(c)

    def draws(self, key, num):
        return about(self.mean, self._tfp.sample(num, seed=key))


class LowRank(AbstractStochasticVI):
    """A normal distribution whose covariance is diagonal and of low rank, ``diag(s^2) + U U.T``.

    Parameters
    ----------
    rank
        Columns of U: correlated directions; at most the number of coordinates.

    References
    ----------
    Ong, Nott & Smith 2018, J. Comput. Graph. Stat. 27, 465.
    """

    rank: int = 10
    name: ClassVar[str] = "low rank"

    def __check_init__(self):
        if self.rank < 1:
            raise UsageError(f"LowRank takes a rank of at least 1, not {self.rank}; for none use MeanField")

    def start(self, target, key):
        none, rank = jnp.zeros(target.size, target.dtype), min(self.rank, target.size)
        # zero would be a saddle: the factor has no gradient there
        factor = 0.1 * jax.random.normal(key, (target.size, rank), target.dtype) / jnp.sqrt(target.size)
        return LowRankNormal(none, none, factor)


__all__ = ["LowRank", "LowRankNormal"]
