"""Gaussian priors: any mean and covariance, and the isotropic field with a broken power law."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.covariance import AbstractCovariance, Diagonal, Stationary
from invprob.operators.base import AbstractOperator, Structure, precision_of, zeros
from invprob.operators.fourier import frequencies
from invprob.operators.function import Function
from invprob.priors.capabilities import C, HasLogProb, HasPrecision, HasProx, HasSample, HasWhitening

POWER_FLOOR = 1e-10  # of the amplitude; keeps the inverse finite where the law falls below rounding


class _Affine(eqx.Module):
    """xi -> mean + sqrt(S) xi, as a pytree, so that a new mean does not compile anew."""

    mean: PyTree
    covariance: AbstractCovariance

    def __call__(self, xi):
        return jax.tree.map(jnp.add, self.mean, self.covariance.sqrt(xi))


class AbstractGaussian(HasLogProb, HasPrecision, HasProx, HasWhitening, HasSample):
    """What every Gaussian prior can do, from its mean and covariance."""

    normalized: ClassVar[bool] = True

    @property
    def structure(self) -> Structure:
        return self.covariance.structure

    def find(self, capability: type[C]) -> C | None:
        if capability is HasPrecision:  # its mean and covariance worked out once
            return cast(Any, Gaussian(self.offset, self.covariance))
        return super().find(capability)

    def log_prob(self, x):
        u = jax.tree.map(jnp.subtract, x, self.mean)
        n = sum(a.size for a in jax.tree.leaves(u))
        return -0.5 * (self.covariance.quadratic(u) + self.covariance.logdet() + n * jnp.log(2 * jnp.pi))

    def score(self, x):
        u = jax.tree.map(jnp.subtract, x, self.mean)
        return jax.tree.map(jnp.negative, self.covariance.inv(u))

    def prox(self, v, step):
        u = jax.tree.map(jnp.subtract, v, self.mean)
        ones = jax.tree.map(jnp.ones_like, u)
        # (1 + step S^-1)^-1 is the covariance after data x itself with variance step, over step
        shrunk = self.covariance.updated(_impulse(u), jax.tree.map(lambda a: a / step, ones)).operator(u)
        return jax.tree.map(lambda m, s: m + s / step, self.mean, shrunk)

    @property
    def transform(self) -> AbstractOperator:
        return Function(_Affine(self.mean, self.covariance), self.structure)

    def whitened(self, x):
        return self.covariance.inv_sqrt(jax.tree.map(jnp.subtract, x, self.mean))

    def sample(self, key):
        dtype = jnp.result_type(*jax.tree.leaves(self.mean))
        return jax.tree.map(jnp.add, self.mean, self.covariance.sample(key, dtype))


def _impulse(tree):
    return jax.tree.map(lambda a: jnp.zeros_like(a).at[(0,) * a.ndim].set(1), tree)


class Gaussian(AbstractGaussian):
    """A Gaussian prior, ``x ~ N(mean, covariance)``.

    Parameters
    ----------
    mean
        Mean, a pytree of the covariance's structure; None for zero, which saves a prediction of it.
    covariance
        Covariance of x in the squared unit of x.
    """

    given: PyTree | None
    covariance: AbstractCovariance

    def __init__(self, mean: PyTree | None, covariance: AbstractCovariance):
        self.given = None if mean is None else jax.tree.map(jnp.asarray, mean)
        self.covariance = covariance

    def __check_init__(self):
        if self.given is None:
            return
        given = Structure(self.given)
        if not self.covariance.structure.matches(given):
            raise ValueError(f"the mean is {given}, the covariance {self.covariance.structure}: they must agree")

    @property
    def mean(self) -> PyTree:
        if self.given is not None:
            return self.given
        return zeros(self.covariance.structure, precision_of(self.covariance))

    @property
    def offset(self) -> PyTree | None:
        return self.given

    def find(self, capability: type[C]) -> C | None:
        return cast(Any, self) if capability is HasPrecision else super().find(capability)


class PowerLaw(eqx.Module):
    """Isotropic power spectrum ``P(k) = amplitude (1 + (k / scale)^2)^(-slope / 2)``.

    Parameters
    ----------
    amplitude
        Power at k = 0: variance of an orthonormal Fourier coefficient, squared flux per latent pixel.
    scale
        Frequency of the break, cycles per latent pixel.
    slope
        Logarithmic slope well beyond the break.
    """

    amplitude: Float[Array, ""]
    scale: Float[Array, ""]
    slope: Float[Array, ""]

    def __init__(self, amplitude, scale, slope):
        self.amplitude, self.scale, self.slope = map(jnp.asarray, (amplitude, scale, slope))

    def __call__(self, k: Float[Array, ...]) -> Float[Array, ...]:
        law = jnp.exp(-0.5 * self.slope * jnp.log1p((k / self.scale) ** 2))
        return self.amplitude * jnp.maximum(law, POWER_FLOOR)


class GaussianField(AbstractGaussian):
    """A stationary isotropic Gaussian image with a `PowerLaw` spectrum and zero mean, on a periodic grid.

    Its three parameters need not be guessed: `invprob.evidence.marginal` finds those under which the data are most
    probable.

    Parameters
    ----------
    shape
        Shape of the latent grid, ``(y, x)``.
    power
        Power spectrum as a function of the spatial frequency in cycles per latent pixel.
    """

    shape: tuple[int, int] = eqx.field(static=True)
    power: PowerLaw

    def __init__(self, shape: tuple[int, int], power: PowerLaw):
        self.shape, self.power = (int(shape[0]), int(shape[1])), power

    @property
    def mean(self):
        return jnp.zeros(self.shape, self.power.amplitude.dtype)

    @property
    def offset(self):
        return None

    @property
    def covariance(self):
        k = jnp.asarray(frequencies(self.shape), self.power.amplitude.dtype)
        return Stationary(self.power(k), self.shape)


def wide_gaussian(value, sigma) -> Gaussian:
    """A wide Gaussian for a nuisance number such as a sky level: mean ``value``, standard deviation ``sigma``."""
    value = jnp.asarray(value)
    return Gaussian(value, Diagonal(jnp.asarray(sigma, value.dtype) ** 2))


__all__ = ["AbstractGaussian", "Gaussian", "GaussianField", "PowerLaw", "wide_gaussian"]
