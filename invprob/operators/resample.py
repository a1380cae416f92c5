"""Operators between grids of different pixel size."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from invprob.operators.base import AbstractLinearOperator, Structure


class PixelBin(AbstractLinearOperator):
    """Sum over blocks of ``factor x factor`` pixels: flux per latent pixel to flux per data pixel.

    Parameters
    ----------
    factor
        Side of a block.
    shape
        Shape of the input; both sides are multiples of the factor.
    """

    factor: int = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)

    def __check_init__(self):
        if self.factor < 1 or any(n % self.factor for n in self.shape):
            raise ValueError(f"blocks of {self.factor} x {self.factor} do not divide an image of {self.shape}")

    @property
    def in_structure(self):
        return Structure(self.shape)

    @property
    def out_structure(self):
        return Structure((self.shape[0] // self.factor, self.shape[1] // self.factor))

    @property
    def has_disjoint_rows(self):
        return True

    def apply(self, x):
        ny, nx = self.out_structure.shape
        return x.reshape(ny, self.factor, nx, self.factor).sum((1, 3))

    def adjoint(self, u):
        ny, nx = self.out_structure.shape
        spread = (ny, self.factor, nx, self.factor)
        return jnp.broadcast_to(u[:, None, :, None], spread).reshape(self.shape)
