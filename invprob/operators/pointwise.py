"""Operators that act on each element: `Multiply` and `Broadcast`."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from invprob.operators.base import AbstractLinearOperator, Structure


class Multiply(AbstractLinearOperator):
    """Multiplication of each element by a number: an exposure map, a flat field, a change of unit.

    Parameters
    ----------
    factor
        Array that broadcasts to the shape.
    structure
        Structure (or shape) of the one array it acts on; default: that of the factor.
    """

    factor: Inexact[Array, ...]
    structure: Structure

    def __init__(self, factor, structure=None):
        self.factor = jnp.asarray(factor)
        self.structure = Structure(self.factor if structure is None else structure)

    @property
    def is_pixelwise(self):
        return True

    @property
    def in_structure(self):
        return self.structure

    @property
    def out_structure(self):
        return self.structure

    def apply(self, x):
        return self.factor * x

    def adjoint(self, u):
        return jnp.conj(self.factor) * u

    def fuse(self, right):
        if isinstance(right, Multiply):
            return (Multiply(self.factor * right.factor, right.structure),)
        return None


class Broadcast(AbstractLinearOperator):
    """One number spread over all pixels: a sky level, in the data's unit per pixel."""

    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def in_structure(self):
        return Structure(())

    @property
    def out_structure(self):
        return Structure(self.shape)

    def apply(self, x):
        return jnp.broadcast_to(x, self.shape)

    def adjoint(self, u):
        return jnp.sum(u)
