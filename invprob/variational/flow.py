"""A normalizing flow of affine couplings, as a family of approximations."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob.errors import CapabilityError, UsageError
from invprob.variational.base import AbstractDistribution, Draws
from invprob.variational.family import FitSettings
from invprob.variational.lanczos import size_of
from invprob.variational.stochastic_gradient import AbstractStochasticVI

FLOW_LIMIT = 400  # numbers; the weights of its networks grow with them, and so does the work of finding them


class Coupling(eqx.Module):
    """Shift and logarithmic scale of some coordinates as functions of the others: a network of one hidden layer."""

    first: Float[Array, "h a"]
    bias: Float[Array, " h"]
    second: Float[Array, "2b h"]

    def __call__(self, given, depth, **_):
        out = jnp.tanh(given @ self.first.T + self.bias) @ self.second.T
        shift, log_scale = jnp.split(out, 2, axis=-1)
        return shift, jnp.tanh(log_scale)  # a scale beyond e in one layer is not needed, and overflows


class RealNVP(AbstractDistribution):
    """White noise through couplings that take half of the coordinates in turn, a scale and a shift."""

    mean: Float[Array, " n"]
    log_std: Float[Array, " n"]
    couplings: tuple[Coupling, ...]

    @property
    def _bijector(self) -> Any:
        from tensorflow_probability.substrates.jax import bijectors as tfb

        size = self.mean.size
        turned = tfb.Permute(np.arange(size)[::-1].astype(np.int32))
        layers: list[Any] = [tfb.Shift(self.mean), tfb.Scale(log_scale=self.log_std)]
        for coupling in self.couplings:
            layers += [turned, tfb.RealNVP(num_masked=size - size // 2, shift_and_log_scale_fn=coupling)]
        return tfb.Chain(layers)

    def log_prob(self, c):
        bijector = self._bijector
        z = bijector.inverse(c)
        base = -0.5 * (z @ z + z.size * jnp.log(2 * jnp.pi))
        return base + bijector.inverse_log_det_jacobian(c, event_ndims=1)

    def draws(self, key, num):
        z = jax.random.normal(key, (num, self.mean.size), self.mean.dtype)
        forward = self._bijector.forward
        return Draws(forward(z), forward(-z), jnp.ones(num, bool))


class Flow(AbstractStochasticVI):
    """A normalizing flow of affine couplings (RealNVP), for latents of up to some hundred numbers.

    Parameters
    ----------
    layers
        Couplings; each moves half of the coordinates.
    width
        Width of the hidden layer of their networks.

    References
    ----------
    Dinh, Sohl-Dickstein & Bengio 2017, ICLR, arXiv:1605.08803.
    """

    layers: int = 6
    width: int = 32
    name: ClassVar[str] = "flow"
    effort: ClassVar[FitSettings] = FitSettings(3000, 32, 5e-3)

    def __check_init__(self):
        if self.layers < 1 or self.width < 1:
            raise UsageError(f"Flow takes at least one layer and width, not {self.layers} and {self.width}")

    def check(self, post):
        self._check_size(post)
        super().check(post)

    def fit(self, post, key, effort, where, watch):
        self._check_size(post)
        return super().fit(post, key, effort, where, watch)

    def _check_size(self, post):
        size = size_of(post.structure)
        if not 1 < size <= FLOW_LIMIT:
            raise CapabilityError(
                f"Flow is for latents of 2 to {FLOW_LIMIT} numbers, this one has {size}: use another family"
            )

    def start(self, target, key):
        size = target.size
        moved = size // 2
        given = size - moved

        def coupling(key):
            first = jax.random.normal(key, (self.width, given), target.dtype) / np.sqrt(given)
            return Coupling(
                first, jnp.zeros(self.width, target.dtype), jnp.zeros((2 * moved, self.width), target.dtype)
            )

        none = jnp.zeros(size, target.dtype)
        return RealNVP(none, none, tuple(coupling(k) for k in jax.random.split(key, self.layers)))


__all__ = ["Coupling", "Flow", "RealNVP"]
