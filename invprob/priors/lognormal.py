"""The log-normal field: a positive image whose logarithm is Gaussian."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from invprob.errors import CapabilityError
from invprob.operators.base import AbstractOperator, compose
from invprob.operators.function import Function
from invprob.priors.capabilities import HasLogProb, HasSample, HasWhitening
from invprob.priors.gaussian import AbstractGaussian


class _Exp(eqx.Module):
    """exp, as a pytree, so that two priors share one compilation."""

    def __call__(self, s):
        return jnp.exp(s)


class LogNormal(HasLogProb, HasWhitening, HasSample):
    """A positive image ``x = exp(s)`` with s Gaussian: ``log p(x) = log N(log x) - sum_i log x_i``.

    Parameters
    ----------
    field
        Gaussian prior of s, the logarithm of an image in its unit; its mean is the logarithm of the median image.

    Notes
    -----
    The density is one of x, so that its mode is not the exponential of the mean of s. The log-density is minus
    infinity where a pixel is zero or negative.
    """

    field: AbstractGaussian
    normalized: ClassVar[bool] = True

    def __check_init__(self):
        if not isinstance(self.field, AbstractGaussian):
            raise CapabilityError(f"LogNormal takes a Gaussian prior of log x, not {type(self.field).__name__}")
        if len(self.field.structure.leaves) != 1:
            raise ValueError(f"LogNormal takes a Gaussian prior of one array, not of {self.field.structure}")

    @property
    def structure(self):
        return self.field.structure

    def log_prob(self, x):
        inside = x > 0
        s = jnp.log(jnp.where(inside, x, 1))
        return jnp.where(jnp.all(inside), self.field.log_prob(s) - jnp.sum(s), -jnp.inf)

    @property
    def transform(self) -> AbstractOperator:
        return compose(Function(_Exp(), self.structure), self.field.transform)

    def whitened(self, x):
        return self.field.whitened(self.unconstrain(x))

    def sample(self, key):
        return jnp.exp(self.field.sample(key))

    def constrain(self, c, unit=1.0):
        """``exp(c)``; the logarithm needs no unit."""
        return jnp.exp(c)

    def log_jacobian(self, c, unit=1.0):
        return jnp.sum(c)

    def unconstrain(self, x, unit=1.0):
        """``log x``; a pixel that is not positive becomes the median, where a search can move it."""
        return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), self.field.mean)
