"""Convolution with a point spread function: circular, and without wrap-around."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from invprob.operators.base import AbstractLinearOperator, Identity, LinearComposition, Structure, compose
from invprob.operators.fourier import FourierSynthesis, half_shape
from invprob.operators.select import Crop


def transfer_function(kernel: Float[Array, "ky kx"], shape: tuple[int, int]) -> Complex[Array, "y half_x"]:
    """The ``rfft2`` of a kernel laid on a grid with its centre pixel at the origin.

    Parameters
    ----------
    kernel
        Image with odd sides, centred on its middle pixel.
    shape
        Shape of the grid, at least that of the kernel.
    """
    ky, kx = kernel.shape
    if ky % 2 == 0 or kx % 2 == 0:
        raise ValueError(f"the kernel has shape {kernel.shape}; odd sides are needed, so that it has a centre pixel")
    if ky > shape[0] or kx > shape[1]:
        raise ValueError(f"the kernel {kernel.shape} is larger than the grid {shape}: pad the grid by the PSF's reach")
    laid = jnp.zeros(shape, kernel.dtype).at[:ky, :kx].set(kernel)
    return jnp.fft.rfft2(jnp.roll(laid, (-(ky // 2), -(kx // 2)), (0, 1)))


def dilated_transfer_function(
    kernel: Float[Array, "ky kx"], shape: tuple[int, int], factor: Float[Array, ""] | float
) -> Complex[Array, "y half_x"]:
    """The transfer function of a kernel made wider by a factor about its centre pixel, its sum kept.

    ``otf(k) = sum_r p(r) exp(-2 pi i factor k.r)``: the samples of p are moved apart, so that it is exact for a p that
    is band-limited after the change, and smooth in the factor, which may be traced.
    """

    def waves(n, size, frequency):
        phase = -2 * jnp.pi * factor * frequency[:, None] * (jnp.arange(size) - size // 2)
        wave = jnp.exp(1j * phase.astype(kernel.dtype))
        # The Nyquist frequency has no sign: the mean over both keeps the image real.
        return jnp.where(2 * np.abs(frequency)[:, None] == 1.0, jnp.real(wave), wave) if n % 2 == 0 else wave

    (ny, nx), (ky, kx) = shape, kernel.shape
    return waves(ny, ky, np.fft.fftfreq(ny)) @ kernel @ waves(nx, kx, np.fft.rfftfreq(nx)).T


class CircularConvolve(AbstractLinearOperator):
    """Convolution on a periodic grid: diagonal in Fourier space, one FFT pair.

    Parameters
    ----------
    otf
        Transfer function on the ``rfft2`` grid; `CircularConvolve.from_kernel` makes it from a PSF image.
    shape
        Shape of the grid, ``(y, x)``.
    """

    otf: Complex[Array, "ky kx"] | Float[Array, "ky kx"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __check_init__(self):
        if self.otf.shape != half_shape(self.shape):
            raise ValueError(
                f"the transfer function has shape {self.otf.shape}, a grid of {self.shape} needs "
                f"{half_shape(self.shape)}; for a PSF image use CircularConvolve.from_kernel"
            )

    @classmethod
    def from_kernel(cls, kernel: Float[Array, "ky kx"], shape: tuple[int, int]) -> CircularConvolve:
        """The convolution with a PSF image of odd sides, centred on its middle pixel."""
        return cls(transfer_function(jnp.asarray(kernel), shape), shape)

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure(self.shape)

    @property
    def normal_is_circulant(self):
        return True

    def apply(self, x):
        return jnp.fft.irfft2(self.otf * jnp.fft.rfft2(x), s=self.shape)

    def adjoint(self, u):
        return jnp.fft.irfft2(jnp.conj(self.otf) * jnp.fft.rfft2(u), s=self.shape)

    def fuse(self, right):
        if isinstance(right, FourierSynthesis):
            return (FourierSynthesis(self.otf * right.filter, self.shape),)
        if isinstance(right, CircularConvolve):
            return (CircularConvolve(self.otf * right.otf, self.shape),)
        return None


class Convolve(AbstractLinearOperator):
    """Linear convolution without wrap-around: latent grid in, the part that the whole PSF reaches out.

    The latent grid is larger than the output by the reach of the PSF on each side, so that light from outside the
    frame is modelled and nothing is assumed beyond the border. It costs one FFT pair of the latent grid.

    Parameters
    ----------
    kernel
        PSF image of odd sides, centred on its middle pixel; its sum is the fraction of light kept.
    shape
        Shape of the latent grid, ``(y, x)``.
    footprint
        Slices of the latent grid that are the output. Default: everything at least the PSF's reach from the border.

    Raises
    ------
    ValueError
        When the footprint is nearer to the border than the PSF's reach, where light would wrap around.
    """

    circular: CircularConvolve
    crop: Crop

    def __init__(self, kernel, shape: tuple[int, int], footprint: tuple[slice, slice] | None = None):
        self.circular = CircularConvolve.from_kernel(kernel, shape)
        reach = tuple(n // 2 for n in kernel.shape)
        if footprint is None:
            footprint = (slice(reach[0], shape[0] - reach[0]), slice(reach[1], shape[1] - reach[1]))
        for n, r, cut in zip(shape, reach, footprint, strict=True):
            if cut.start < r or n - cut.stop < r or cut.stop <= cut.start:
                raise ValueError(
                    f"the PSF reaches {r} pixels, but the footprint {cut.start}:{cut.stop} of a side of {n} is nearer "
                    "to the border: pad the latent grid (frame.pad(psf))"
                )
        self.crop = Crop(shape, footprint)

    @property
    def in_structure(self):
        return self.circular.in_structure

    @property
    def out_structure(self):
        return self.crop.out_structure

    def apply(self, x):
        return self.crop.apply(self.circular.apply(x))

    def adjoint(self, u):
        return self.circular.adjoint(self.crop.adjoint(u))

    def fuse(self, right):
        fused = self.circular.fuse(right)
        return None if fused is None else (self.crop, *fused)


class Shift(AbstractLinearOperator):
    """Translation by a fraction of a pixel, by phases in Fourier space: ``y(p) = x(p - offset)``, periodic.

    Parameters
    ----------
    offset
        Shift along ``(y, x)`` in pixels; may be traced and differentiated.
    shape
        Shape of the grid. Light that leaves one side enters at the other: pad the grid by more than the shift.
    """

    offset: Float[Array, 2]
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, offset, shape: tuple[int, int]):
        offset = jnp.asarray(offset)
        self.offset = offset if jnp.issubdtype(offset.dtype, jnp.inexact) else offset.astype(float)
        self.shape = tuple(shape)  # type: ignore[assignment]

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure(self.shape)

    @property
    def normal_is_circulant(self):
        return True

    @property
    def _circular(self):
        # The Nyquist frequency has no sign: the mean over both keeps the image real.
        def phase(n, d, frequency):
            frequency = frequency.astype(d.dtype)
            wave = jnp.exp(-2j * jnp.pi * frequency * d)
            return jnp.where(2 * np.abs(frequency) == 1.0, jnp.real(wave), wave) if n % 2 == 0 else wave

        (ny, nx), (dy, dx) = self.shape, self.offset
        otf = phase(ny, dy, np.fft.fftfreq(ny))[:, None] * phase(nx, dx, np.fft.rfftfreq(nx))[None]
        return CircularConvolve(otf, self.shape)

    def apply(self, x):
        return self._circular.apply(x)

    def adjoint(self, u):
        return self._circular.adjoint(u)

    def fuse(self, right):
        return self._circular.fuse(right)


def split_convolution(operator: AbstractLinearOperator) -> tuple[AbstractLinearOperator, CircularConvolve] | None:
    """``(R, C)`` with ``operator = R C``, R with disjoint rows and C circulant; None where it is not of that form.

    Where nothing is convolved, C is the identity on the image, so that masks and block sums alone are of that form.
    """
    *left, last = operator.operators if isinstance(operator, LinearComposition) else (operator,)
    if isinstance(last, Convolve):
        left, last = [*left, last.crop], last.circular
    if not isinstance(last, CircularConvolve):
        left, last = [*left, last], _nothing(last.in_structure)
    if last is None or not all(part.has_disjoint_rows for part in left):
        return None
    return compose(*left, Identity(last.out_structure)), last


def _nothing(structure: Structure) -> CircularConvolve | None:
    if len(structure.leaves) != 1 or len(structure.shape) != 2:
        return None
    return CircularConvolve(jnp.ones(half_shape(structure.shape)), structure.shape)  # type: ignore[arg-type]


def split_circulant(operator: AbstractLinearOperator) -> tuple[AbstractLinearOperator, CircularConvolve] | None:
    """`split_convolution` where R is pixelwise as well, and C is a convolution; None where it is not of that form."""
    found = split_convolution(operator)
    last = operator.operators[-1] if isinstance(operator, LinearComposition) else operator
    if found is None or not isinstance(last, Convolve | CircularConvolve) or not found[0].is_pixelwise:
        return None
    return found
