"""Orthonormal Fourier coordinates of a real image.

The coordinates of an image of shape ``(y, x)`` are its ``rfft2`` divided by ``sqrt(y x)``, with the columns that stand
for two conjugate ones multiplied by ``sqrt(2)``: then ``sum |c|^2 = sum x^2``, and plain inner products of coordinates
are those of images.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from invprob.operators.base import AbstractLinearOperator, Structure


def half_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Shape of the ``rfft2`` of an image."""
    return shape[0], shape[1] // 2 + 1


def frequencies(shape: tuple[int, ...]) -> Float[np.ndarray, "ky kx"]:
    """Radial spatial frequency on the ``rfft2`` grid, cycles per pixel."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])


def multiplicity(shape: tuple[int, ...]) -> Float[np.ndarray, " kx"]:
    """How many modes each column of the ``rfft2`` grid stands for: two where their conjugates are left out."""
    columns = np.full(shape[1] // 2 + 1, 2.0)
    columns[0] = 1.0
    if shape[1] % 2 == 0:
        columns[-1] = 1.0
    return columns


def isometry(shape: tuple[int, int], dtype) -> Float[Array, "1 kx"]:
    """Factor of each column that makes ``rfft2`` an isometry."""
    return jnp.asarray(np.sqrt(multiplicity(shape) / (shape[0] * shape[1]))[None], dtype)


class FourierSynthesis(AbstractLinearOperator):
    """An image from filtered Fourier coordinates, ``x = F^-1 (filter * c)`` with F orthonormal.

    With ``filter = sqrt(P)`` it is a square root of the stationary covariance of power spectrum P; behind it, a
    circular convolution costs nothing (its transfer function joins the filter).

    Parameters
    ----------
    filter
        Real or complex transfer function on the ``rfft2`` grid.
    shape
        Shape of the image, ``(y, x)``.
    """

    filter: Float[Array, "ky kx"] | Complex[Array, "ky kx"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __check_init__(self):
        if self.filter.shape != half_shape(self.shape):
            raise ValueError(
                f"the filter has shape {self.filter.shape}; the rfft2 of an image of {self.shape} has "
                f"{half_shape(self.shape)}"
            )

    @property
    def in_structure(self):
        return Structure(jax.ShapeDtypeStruct(half_shape(self.shape), jnp.complex64))

    @property
    def out_structure(self):
        return Structure(self.shape)

    @property
    def _scaled(self):
        return self.filter / isometry(self.shape, jnp.real(self.filter).dtype)

    def apply(self, x):
        return jnp.fft.irfft2(self._scaled * x, s=self.shape)

    def adjoint(self, u):
        scale = isometry(self.shape, jnp.real(self.filter).dtype)
        return (scale * jnp.conj(self.filter)) * jnp.fft.rfft2(u)
