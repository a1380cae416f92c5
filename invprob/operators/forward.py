"""The forward operator of an exposure: from the latent image on its grid to noiseless data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from invprob.observation import Frame
from invprob.operators.base import AbstractLinearOperator, compose
from invprob.operators.convolve import Convolve
from invprob.operators.pointwise import Multiply
from invprob.operators.resample import PixelBin
from invprob.operators.select import Crop, Pad


def exposure_operator(frame: Frame, kernel: Any, dtype: Any, is_brightness: bool) -> AbstractLinearOperator:
    """Convolution, footprint, and sum (or mean) over the latent pixels of a data pixel.

    Parameters
    ----------
    frame
        The latent grid with its border.
    kernel
        PSF on the pixel of the latent grid, ``(ky, kx)``; None for data without one.
    dtype
        Floating point type of the data.
    is_brightness
        Whether the pixels hold a surface brightness, whose mean is observed, and not a flux.
    """
    if kernel is None:
        seen: AbstractLinearOperator = Crop(frame.shape, frame.footprint)
    else:
        seen = _convolved(frame, jnp.asarray(kernel, dtype))
    if frame.factor == 1:
        return seen
    binned = compose(PixelBin(frame.factor, seen.out_structure.shape), seen)  # type: ignore[arg-type]
    if not is_brightness:
        return binned
    return compose(Multiply(jnp.asarray(frame.factor**-2, dtype), binned.out_structure), binned)


def _convolved(frame: Frame, kernel: Any) -> AbstractLinearOperator:
    """From the latent grid to the footprint; where the PSF reaches beyond the grid, there is no light."""
    reach = [n // 2 for n in kernel.shape]
    if all(min(border) >= r for border, r in zip(frame.border, reach, strict=True)):
        return Convolve(kernel, frame.shape, frame.footprint)
    wide = frame.cropped().pad_by(*(max(*b, r) for b, r in zip(frame.border, reach, strict=True)))
    inside = tuple(
        slice(cut.start - border[0], cut.start - border[0] + n)
        for cut, border, n in zip(wide.footprint, frame.border, frame.shape, strict=True)
    )
    return compose(Convolve(kernel, wide.shape, wide.footprint), Pad(wide.shape, inside))


__all__ = ["exposure_operator"]
