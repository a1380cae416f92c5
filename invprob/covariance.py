"""Covariances: of the noise, of Gaussian priors, and as coordinates for solvers and samplers.

One abstraction serves all of them. A covariance C offers the operators ``C``, its inverse, its symmetric square root
``sqrt`` and the inverse of that, a ``root`` L with ``C = L L.T`` that is as cheap as possible, and the log-determinant.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from invprob.operators.base import AbstractLinearOperator, Structure, total, vdot, zeros
from invprob.operators.convolve import CircularConvolve
from invprob.operators.fourier import FourierSynthesis, half_shape, multiplicity
from invprob.operators.pointwise import Multiply
from invprob.operators.pytree import BlockDiagonal


def inexact(values) -> Array:
    """An array of floating point numbers; counts become the default type."""
    values = jnp.asarray(values)
    return values if jnp.issubdtype(values.dtype, jnp.inexact) else values.astype(jnp.zeros(()).dtype)


class AbstractCovariance(eqx.Module):
    """A positive definite covariance of an array or pytree."""

    @property
    @abstractmethod
    def structure(self) -> Structure:
        """Structure of the arrays it describes."""

    @property
    @abstractmethod
    def operator(self) -> AbstractLinearOperator:
        """C itself."""

    @property
    @abstractmethod
    def inv(self) -> AbstractLinearOperator:
        """The inverse of C."""

    @property
    @abstractmethod
    def sqrt(self) -> AbstractLinearOperator:
        """The symmetric square root of C."""

    @property
    @abstractmethod
    def inv_sqrt(self) -> AbstractLinearOperator:
        """The symmetric square root of the inverse."""

    @property
    @abstractmethod
    def root(self) -> AbstractLinearOperator:
        """Some L with ``C = L L.T``, from the cheapest coordinates."""

    @abstractmethod
    def logdet(self) -> Float[Array, ""]:
        """The logarithm of the determinant."""

    @abstractmethod
    def masked(self, valid: Bool[Array, ...]) -> AbstractCovariance:
        """The covariance of the valid elements alone; the others carry no weight.

        Raises
        ------
        TypeError
            When elements are correlated, so that dropping some changes the inverse of the rest.
        """

    @abstractmethod
    def pulled_back(self, T: AbstractLinearOperator) -> AbstractCovariance:
        """The covariance of c for ``x = T c``, T invertible: its inverse is ``T.T C^-1 T``.

        Raises
        ------
        TypeError
            When the two do not share a basis in which both are diagonal.
        """

    @abstractmethod
    def updated(self, row: PyTree, curvature: PyTree) -> AbstractCovariance:
        """The covariance after data, approximated within this class: ``(C^-1 + A.T W A)^-1``.

        Parameters
        ----------
        row
            Adjoint response of one typical datum, ``A.T e``.
        curvature
            ``A.T W A 1``, the curvature of the likelihood along a constant.
        """

    def mv(self, x: PyTree) -> PyTree:
        """C x."""
        return self.operator(x)

    def sample(self, key, dtype=None) -> PyTree:
        """One draw of N(0, C)."""
        return self.sqrt(white(key, self.structure, dtype))

    def quadratic(self, x: PyTree) -> Float[Array, ""]:
        """``x.T C^-1 x``."""
        return vdot(x, self.inv(x))


def white(key, structure: Structure, dtype=None) -> PyTree:
    """White noise of unit variance; one independent key for each leaf."""
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    leaves, treedef = jax.tree.flatten(structure.like(dtype))
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten([jax.random.normal(k, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=True)])


def _no_common_basis(covariance, T) -> TypeError:
    return TypeError(
        f"{type(covariance).__name__} and {type(T).__name__} share no basis in which both are diagonal; "
        "use posterior.precision in the coordinates of x instead"
    )


class Diagonal(AbstractCovariance):
    """Independent elements, each with its own variance.

    Parameters
    ----------
    variance
        Variance of each element, in the squared unit of the data; positive where valid.
    valid
        True where an element counts. The others have zero inverse variance, are drawn as zero, and are left out of
        the log-determinant. None: all count.
    """

    variance: Float[Array, ...]
    valid: Bool[Array, ...] | None = None

    def __init__(self, variance, valid=None):
        self.variance = inexact(variance)
        self.valid = None if valid is None else jnp.asarray(valid, bool)

    def _where(self, values):
        return values if self.valid is None else jnp.where(self.valid, values, 0)

    @property
    def _safe(self):
        return self.variance if self.valid is None else jnp.where(self.valid, self.variance, 1)

    @property
    def structure(self):
        return Structure(self.variance)

    @property
    def operator(self):
        return Multiply(self._where(self._safe))

    @property
    def inv(self):
        return Multiply(self._where(1 / self._safe))

    @property
    def sqrt(self):
        return Multiply(self._where(jnp.sqrt(self._safe)))

    @property
    def inv_sqrt(self):
        return Multiply(self._where(1 / jnp.sqrt(self._safe)))

    @property
    def root(self):
        return self.sqrt

    def logdet(self):
        return jnp.sum(jnp.log(self._safe))

    def masked(self, valid):
        both = jnp.asarray(valid, bool) if self.valid is None else self.valid & valid
        return Diagonal(self.variance, both)

    def pulled_back(self, T):
        if not isinstance(T, Multiply):
            raise _no_common_basis(self, T)
        return Diagonal(self.variance / jnp.abs(T.factor) ** 2, self.valid)

    def updated(self, row, curvature):
        return Diagonal(1 / (1 / self.variance + jnp.maximum(curvature, 0)), self.valid)


class Stationary(AbstractCovariance):
    """A stationary covariance on a periodic grid, diagonal in Fourier space.

    Parameters
    ----------
    power
        Power spectrum on the ``rfft2`` grid: the variance of each orthonormal Fourier coefficient, so that white noise
        of variance v has power v.
    shape
        Shape of the image, ``(y, x)``.
    """

    power: Float[Array, "ky kx"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __check_init__(self):
        if self.power.shape != half_shape(self.shape):
            raise ValueError(
                f"the power spectrum has shape {self.power.shape}; the rfft2 grid of {self.shape} is "
                f"{half_shape(self.shape)}"
            )

    @property
    def structure(self):
        return Structure(self.shape)

    @property
    def operator(self):
        return CircularConvolve(self.power, self.shape)

    @property
    def inv(self):
        return CircularConvolve(1 / self.power, self.shape)

    @property
    def sqrt(self):
        return CircularConvolve(jnp.sqrt(self.power), self.shape)

    @property
    def inv_sqrt(self):
        return CircularConvolve(1 / jnp.sqrt(self.power), self.shape)

    @property
    def root(self):
        return FourierSynthesis(jnp.sqrt(self.power), self.shape)

    def logdet(self):
        return jnp.sum(multiplicity(self.shape).astype(self.power.dtype) * jnp.log(self.power))

    def masked(self, valid):
        raise TypeError(
            "stationary noise correlates valid pixels with masked ones; give the noise as Diagonal(variance), or fill "
            "no pixels"
        )

    def pulled_back(self, T):
        if isinstance(T, FourierSynthesis):
            return Diagonal(self.power / jnp.abs(T.filter) ** 2)
        if isinstance(T, CircularConvolve):
            return Stationary(self.power / jnp.abs(T.otf) ** 2, self.shape)
        raise _no_common_basis(self, T)

    def updated(self, row, curvature):
        response = jnp.abs(jnp.fft.rfft2(row)) ** 2
        seen = jnp.maximum(curvature, 0)
        level = jnp.sum(seen**2) / jnp.maximum(jnp.sum(seen), jnp.finfo(seen.dtype).tiny)
        return Stationary(1 / (1 / self.power + level * response / response[0, 0]), self.shape)


class Blocks(AbstractCovariance):
    """Independent parts of a pytree, each with its own covariance.

    Parameters
    ----------
    parts
        Dictionary, list or tuple of covariances.
    """

    parts: Any

    def _map(self, function, *trees):
        return jax.tree.map(function, self.parts, *trees, is_leaf=lambda n: isinstance(n, AbstractCovariance))

    def _each(self, name):
        return BlockDiagonal(self._map(lambda part: getattr(part, name)))

    @property
    def structure(self):
        return Structure(self._map(lambda part: part.structure.tree))

    @property
    def operator(self):
        return self._each("operator")

    @property
    def inv(self):
        return self._each("inv")

    @property
    def sqrt(self):
        return self._each("sqrt")

    @property
    def inv_sqrt(self):
        return self._each("inv_sqrt")

    @property
    def root(self):
        return self._each("root")

    def logdet(self):
        return total(self._map(lambda part: part.logdet()))

    def masked(self, valid):
        return Blocks(self._map(lambda part, good: part.masked(good), valid))

    def pulled_back(self, T):
        if not isinstance(T, BlockDiagonal):
            raise _no_common_basis(self, T)
        return Blocks(self._map(lambda part, operator: part.pulled_back(operator), T.operators))

    def updated(self, row, curvature):
        return Blocks(self._map(lambda part, r, c: part.updated(r, c), row, curvature))


def without_constants(covariance: AbstractCovariance) -> AbstractCovariance:
    """The covariance with single numbers, such as a sky level, held fixed: their variance is zero."""
    if isinstance(covariance, Blocks):
        parts = covariance.parts
        return Blocks(jax.tree.map(without_constants, parts, is_leaf=lambda n: isinstance(n, AbstractCovariance)))
    if isinstance(covariance, Diagonal) and covariance.variance.ndim == 0:
        return Diagonal(jnp.zeros_like(covariance.variance))
    return covariance


def has_levels(covariance: AbstractCovariance) -> bool:
    """Whether part of what it describes is a single number, such as a sky level."""
    if not isinstance(covariance, Blocks):
        return isinstance(covariance, Diagonal) and covariance.variance.ndim == 0
    parts = jax.tree.leaves(covariance.parts, is_leaf=lambda n: isinstance(n, AbstractCovariance))
    return any(has_levels(part) for part in parts)


def dense(covariance: AbstractCovariance, dtype=None) -> Float[Array, "n n"]:
    """The matrix of a covariance of one array, for tests and small problems."""
    return dense_operator(covariance.operator, dtype)


def dense_operator(operator: AbstractLinearOperator, dtype=None) -> Float[Array, "m n"]:
    """The matrix of a linear operator between pytrees of real arrays, column by column."""
    from jax.flatten_util import ravel_pytree

    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    flat, unravel = ravel_pytree(zeros(operator.in_structure, dtype))
    columns = jax.lax.map(lambda e: ravel_pytree(operator(unravel(e)))[0], jnp.eye(flat.size, dtype=dtype))
    return columns.T


__all__ = [
    "AbstractCovariance",
    "Blocks",
    "Diagonal",
    "Stationary",
    "dense",
    "dense_operator",
    "has_levels",
    "inexact",
    "white",
    "without_constants",
]
