"""Operators that choose pixels: `Select` (valid pixels), `Crop` and `Pad`."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from invprob.operators.base import AbstractLinearOperator, Structure


class Select(AbstractLinearOperator):
    """The valid pixels of an image as a vector: inpainting fills in the others.

    Parameters
    ----------
    valid
        True where a pixel is kept.
    """

    index: Int[Array, " n"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, valid: Bool[np.ndarray, ...]):
        valid = np.asarray(valid)
        self.index = jnp.asarray(np.flatnonzero(valid))
        self.shape = valid.shape

    @property
    def is_pixelwise(self):
        return True

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure((self.index.shape[-1],))

    def apply(self, x):
        return x.reshape(-1)[self.index]

    def adjoint(self, u):
        return jnp.zeros(int(np.prod(self.shape)), u.dtype).at[self.index].set(u).reshape(self.shape)


def _bounds(shape, footprint):
    starts = tuple(cut.start for cut in footprint)
    stops = tuple(cut.stop for cut in footprint)
    for n, low, high in zip(shape, starts, stops, strict=True):
        if not 0 <= low < high <= n:
            raise ValueError(f"the footprint {low}:{high} does not lie inside a side of {n} pixels")
    return starts, stops


class Crop(AbstractLinearOperator):
    """A rectangular part of an image.

    Parameters
    ----------
    shape
        Shape of the input, ``(y, x)``.
    footprint
        One slice with start and stop for each axis.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    starts: tuple[int, ...] = eqx.field(static=True)
    stops: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, shape: tuple[int, ...], footprint: tuple[slice, ...]):
        self.shape = tuple(shape)
        self.starts, self.stops = _bounds(shape, footprint)

    @property
    def is_pixelwise(self):
        return True

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure(tuple(b - a for a, b in zip(self.starts, self.stops, strict=True)))

    def apply(self, x):
        return x[tuple(slice(a, b) for a, b in zip(self.starts, self.stops, strict=True))]

    def adjoint(self, u):
        widths = [(a, n - b) for n, a, b in zip(self.shape, self.starts, self.stops, strict=True)]
        return jnp.pad(u, widths)


class Pad(AbstractLinearOperator):
    """An image laid on a larger grid of zeros; the adjoint of `Crop`.

    Parameters
    ----------
    shape
        Shape of the output, ``(y, x)``.
    footprint
        Where the input lies in it, one slice with start and stop for each axis.
    """

    crop: Crop

    def __init__(self, shape: tuple[int, ...], footprint: tuple[slice, ...]):
        self.crop = Crop(shape, footprint)

    @property
    def is_pixelwise(self):
        return True

    @property
    def in_structure(self):
        return self.crop.out_structure

    @property
    def out_structure(self):
        return self.crop.in_structure

    def apply(self, x):
        return self.crop.adjoint(x)

    def adjoint(self, u):
        return self.crop.apply(u)
