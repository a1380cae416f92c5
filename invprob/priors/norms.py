"""Sharp densities with a simple proximal map: of numbers (Laplace, exponential) and of vectors (`GroupNorm`)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob.covariance import inexact
from invprob.operators.base import AbstractOperator, Structure
from invprob.operators.function import Function
from invprob.priors.capabilities import (
    HasConditionalGaussian,
    HasLogProb,
    HasProx,
    HasSample,
    HasSeparableProx,
    HasStrength,
    HasTransform,
)
from invprob.priors.constrained import AbstractBounded


def _require_broadcast(values: Array, shape: tuple[int, ...], what: str) -> None:
    if np.broadcast_shapes(values.shape, shape) != shape:
        raise ValueError(f"the {what} has shape {values.shape}, which does not broadcast to {shape}")


class AbstractNorm(HasLogProb, HasProx, HasConditionalGaussian, HasStrength):
    """A density whose negative logarithm is a weighted norm and a constant, ``sum_i rate_i |u_i|``."""

    @property
    @abstractmethod
    def rate(self) -> Float[Array, ...]:
        """Rate of each number, or of each vector, in the inverse unit of u; broadcasts."""

    @abstractmethod
    def rescaled(self, factor: Float[Array, ""]) -> AbstractNorm:
        """The norm times a factor."""

    @property
    def rank(self) -> Float[Array, ""] | int:
        return math.prod(self.structure.shape)

    @property
    def is_sharp(self) -> bool:
        return True

    def lengths(self, u: Float[Array, ...]) -> Float[Array, ...]:
        """Length of each number or vector."""
        return jnp.abs(u)

    def squares(self, u: Float[Array, ...]) -> Float[Array, ...]:
        """Squared length of each number or vector."""
        return u**2

    def inverse_scales(self, key, u):
        """See `inverse_gaussian_scales`."""
        lengths = self.lengths(u)
        return inverse_gaussian_scales(key, jnp.broadcast_to(self.rate, lengths.shape), lengths)

    def stiffness(self, u):
        """The Fisher information of each coefficient; where u is a stack of planes, the mean over each of them."""
        anywhere = jax.random.normal(jax.random.key(0), u.shape, u.dtype)
        squared = jnp.square(self.score(anywhere))
        # the vectors of a GroupNorm point anywhere, on average
        return (jnp.mean(squared, axis=(-2, -1), keepdims=True) if u.ndim > 2 else squared) * u

    def barrier(self, x, kappa):
        """``min_t rate t - log(t^2 - |u|^2) / kappa`` for each number or vector; it counts as two barriers."""
        squares = self.squares(x)
        rate = jnp.broadcast_to(self.rate, squares.shape)
        a = jnp.where(rate > 0, kappa * rate, 1)
        t = (1 + jnp.sqrt(1 + a**2 * squares)) / a  # where t^2 - |u|^2 = 2 t / a
        return jnp.sum(jnp.where(rate > 0, (a * t - jnp.log(2 * t / a)) / kappa, 0)), 2 * squares.size


def inverse_gaussian_scales(key, rate: Float[Array, "*n"], length: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """``1 / tau^2`` given ``|u|``: inverse Gaussian of mean ``rate / |u|`` and shape rate^2; zero where the rate is.

    The density ``exp(-rate |u|)`` of a vector of d numbers is a mixture of ``N(0, tau^2 I)`` over
    ``tau^2 ~ Gamma((d + 1) / 2, rate^2 / 2)``.

    References
    ----------
    Park & Casella 2008, J. American Statistical Association 103, 681; Kyung, Gill, Ghosh & Casella 2010, Bayesian
    Analysis 5, 369 (vectors); Michael, Schucany & Haas 1976, The American Statistician 30, 88 (the draw).
    """
    one, other = jax.random.split(key)
    shape = jnp.where(rate > 0, rate, 1) ** 2
    mean = jnp.sqrt(shape) / jnp.maximum(length, jnp.finfo(length.dtype).tiny ** 0.25)
    half = mean * jax.random.normal(one, length.shape, length.dtype) ** 2 / (2 * shape)
    small = mean / (1 + half + jnp.sqrt(half * (2 + half)))
    first = jax.random.uniform(other, length.shape, length.dtype) * (mean + small) <= mean
    return jnp.where(rate > 0, jnp.where(first, small, mean**2 / small), 0)


class Laplace(AbstractNorm, HasSeparableProx, HasTransform, HasSample):
    """Independent Laplace numbers, ``p(x) = prod_i exp(-|x_i| / b_i) / (2 b_i)``.

    Parameters
    ----------
    scale
        Scale b in the unit of x, the mean of ``|x|``; broadcasts to the shape.
    shape
        Shape of x, of any rank.
    """

    scale: Float[Array, ...]
    shape: tuple[int, ...] = eqx.field(static=True)
    normalized: ClassVar[bool] = True

    def __init__(self, scale, shape: tuple[int, ...]):
        self.scale, self.shape = inexact(scale), tuple(shape)
        _require_broadcast(self.scale, self.shape, "scale")

    @property
    def structure(self):
        return Structure(self.shape)

    @property
    def rate(self):
        return 1 / self.scale

    def cost(self, u):
        return jnp.sum(jnp.abs(u) / self.scale)

    def rescaled(self, factor):
        return Laplace(self.scale / factor, self.shape)

    def log_prob(self, x):
        return -self.cost(x) - jnp.sum(jnp.broadcast_to(jnp.log(2 * self.scale), self.shape))

    def prox(self, v, step):
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - step / self.scale, 0)

    @property
    def transform(self) -> AbstractOperator:
        return Function(_ToLaplace(self.scale), self.shape)

    @property
    def is_smooth(self):
        return False

    def sample(self, key):
        return self.scale * jax.random.laplace(key, self.shape, self.scale.dtype)


class _ToLaplace(eqx.Module):
    """Quantiles of the normal to those of the Laplace distribution, from the nearer tail."""

    scale: Float[Array, ...]

    def __call__(self, xi):
        tail = jnp.log(2.0) + jax.scipy.special.log_ndtr(jnp.where(xi < 0, xi, -xi))
        return self.scale * jnp.where(xi < 0, tail, -tail)


class Exponential(AbstractBounded, HasLogProb, HasSeparableProx, HasTransform, HasSample):
    """Independent exponential numbers, ``p(x) = prod_i exp(-x_i / b_i) / b_i`` for x >= 0: sparse and positive.

    Parameters
    ----------
    scale
        Scale b in the unit of x, the mean of x; broadcasts to the shape.
    shape
        Shape of x, of any rank.
    """

    scale: Float[Array, ...]
    shape: tuple[int, ...] = eqx.field(static=True)
    normalized: ClassVar[bool] = True

    def __init__(self, scale, shape: tuple[int, ...]):
        self.scale, self.shape = inexact(scale), tuple(shape)
        _require_broadcast(self.scale, self.shape, "scale")

    @property
    def floor(self):
        return jnp.zeros((), self.scale.dtype)

    @property
    def structure(self):
        return Structure(self.shape)

    def log_prob(self, x):
        inside = -jnp.sum(x / self.scale + jnp.log(self.scale))
        return self.restricted(inside, x)

    def prox(self, v, step):
        return jnp.maximum(v - step / self.scale, 0)

    def stiffness(self, u):
        return u / self.scale**2

    def barrier(self, x, kappa):
        value, number = self.edge(x, kappa)
        return value + jnp.sum(x / self.scale), number

    @property
    def transform(self) -> AbstractOperator:
        return Function(_ToExponential(self.scale), self.shape)

    def sample(self, key):
        return self.scale * jax.random.exponential(key, self.shape, self.scale.dtype)


class _ToExponential(eqx.Module):
    """Quantiles of the normal to those of the exponential distribution."""

    scale: Float[Array, ...]

    def __call__(self, xi):
        return -self.scale * jax.scipy.special.log_ndtr(-xi)


class L1Norm(AbstractNorm, HasSeparableProx):
    """The weighted absolute sum, ``-log p(x) = sum_i weight_i |x_i|``; a number of weight zero is free.

    Where all weights are positive it is `Laplace` without its constant, the weight being the inverse scale.

    Parameters
    ----------
    weights
        Weights in the inverse unit of x; broadcast to the shape.
    shape
        Shape of x, of any rank.
    """

    weights: Float[Array, ...]
    shape: tuple[int, ...] = eqx.field(static=True)
    normalized: ClassVar[bool] = False

    def __init__(self, weights, shape: tuple[int, ...]):
        self.weights, self.shape = inexact(weights), tuple(shape)
        _require_broadcast(self.weights, self.shape, "array of weights")

    @property
    def structure(self):
        return Structure(self.shape)

    @property
    def rate(self):
        return self.weights

    def cost(self, u):
        return jnp.sum(self.weights * jnp.abs(u))

    def rescaled(self, factor):
        return L1Norm(self.weights * factor, self.shape)

    @property
    def rank(self):
        return jnp.sum(jnp.broadcast_to(self.weights > 0, self.shape))

    def log_prob(self, x):
        return -self.cost(x)

    def prox(self, v, step):
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - step * self.weights, 0)


class GroupNorm(AbstractNorm, HasSample):
    """Vectors along the leading axis, ``p(u) = prod_i exp(-|u_i|_2 / b_i) / Z_i``, isotropic and sharp at zero.

    With d components ``Z = A b^d Gamma(d)``, A the area ``2 pi^(d/2) / Gamma(d/2)`` of the unit sphere.

    Parameters
    ----------
    scale
        Scale b in the unit of u, the mean of ``|u|_2`` over d; broadcasts to the shape without its leading axis.
    shape
        Shape of u; its leading axis counts the d components of a vector.
    """

    scale: Float[Array, ...]
    shape: tuple[int, ...] = eqx.field(static=True)
    normalized: ClassVar[bool] = True

    def __init__(self, scale, shape: tuple[int, ...]):
        self.scale, self.shape = inexact(scale), tuple(shape)
        if not self.shape:
            raise ValueError("a GroupNorm describes vectors along the leading axis; the shape () has none")
        _require_broadcast(self.scale, self.shape[1:], "scale")

    @property
    def structure(self):
        return Structure(self.shape)

    @property
    def rate(self):
        return 1 / self.scale

    def lengths(self, u):
        return jnp.sqrt(self.squares(u))

    def squares(self, u):
        return jnp.sum(u**2, axis=0)

    def cost(self, u):
        return jnp.sum(_length(u) / self.scale)

    def rescaled(self, factor):
        return GroupNorm(self.scale / factor, self.shape)

    def log_prob(self, x):
        d = self.shape[0]
        gammaln = jax.scipy.special.gammaln
        area = jnp.log(2.0) + d / 2 * jnp.log(jnp.pi) - gammaln(d / 2)
        constant = jnp.broadcast_to(d * jnp.log(self.scale), self.shape[1:]) + area + gammaln(float(d))
        return -self.cost(x) - jnp.sum(constant)

    def prox(self, v, step):
        length = _length(v)
        safe = jnp.where(length > 0, length, 1)
        return v * jnp.maximum(1 - step / (self.scale * safe), 0)

    def sample(self, key):
        one, other = jax.random.split(key)
        direction = jax.random.normal(one, self.shape, self.scale.dtype)
        length = self.scale * jax.random.gamma(other, self.shape[0], self.shape[1:], self.scale.dtype)
        return length * direction / _length(direction)


def _length(u: Float[Array, "d ..."]) -> Float[Array, ...]:
    """Length of each vector, with the gradient zero where it is zero."""
    square = jnp.sum(u**2, axis=0)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


__all__ = ["AbstractNorm", "Exponential", "GroupNorm", "L1Norm", "Laplace", "inverse_gaussian_scales"]
