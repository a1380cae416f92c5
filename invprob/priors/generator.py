"""A prior of few numbers: images that a network makes of a short code, which a flow makes of white noise."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from invprob.operators import Multiply, Pad
from invprob.operators.base import AbstractOperator, Structure, compose
from invprob.operators.function import Function
from invprob.priors.capabilities import HasSample, HasTransform
from invprob.priors.learned import Training
from invprob.priors.network import Conv, Linear, to_pixels

COARSE = 8  # pixels on a side of the code's first image
LARGEST_LOG = 2.0  # of the scale of a coupling


class Coupling(eqx.Module):
    """Half of the numbers shifted and scaled by the other half (Dinh et al. 2017, arXiv:1605.08803).

    Parameters
    ----------
    first, second
        Layers of the network between the halves.
    flip
        Which half is left as it is.
    """

    first: Linear
    second: Linear
    flip: bool = eqx.field(static=True)

    def __init__(self, key, size: int, hidden: int, flip: bool):
        keys = jax.random.split(key)
        half = size // 2
        given = size - half if flip else half
        self.first = Linear(keys[0], (given, hidden))
        self.second = Linear(keys[1], (hidden, 2 * (size - given)), scale=0.0)
        self.flip = flip

    def _parts(self, v: Float[Array, " n"]):
        half = len(v) // 2
        return (v[half:], v[:half]) if self.flip else (v[:half], v[half:])

    def _joined(self, kept: Array, changed: Array) -> Float[Array, " n"]:
        return jnp.concatenate([changed, kept] if self.flip else [kept, changed])

    def _map(self, kept: Array) -> tuple[Array, Array]:
        log_scale, shift = jnp.split(self.second(jnp.tanh(self.first(kept))), 2)
        return LARGEST_LOG * jnp.tanh(log_scale / LARGEST_LOG), shift

    def forward(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        kept, changed = self._parts(v)
        log_scale, shift = self._map(kept)
        return self._joined(kept, changed * jnp.exp(log_scale) + shift)

    def inverse(self, v: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """The inverse, and the logarithm of its volume."""
        kept, changed = self._parts(v)
        log_scale, shift = self._map(kept)
        return self._joined(kept, (changed - shift) * jnp.exp(-log_scale)), -jnp.sum(log_scale)


class Decoder(eqx.Module):
    """From a code to an image: ``softness sinh(softplus(net))``, never negative.

    Parameters
    ----------
    softness
        Flux per pixel below which the image is linear in what the network gives, above which exponential.
    """

    into: Linear
    grow: list[Conv]
    blend: list[Conv]
    out: Conv
    softness: float = eqx.field(static=True)

    def __init__(self, key, code: int, size: int, channels: int, softness: float):
        keys = iter(jax.random.split(key, 16))
        self.into = Linear(next(keys), (code, COARSE**2 * channels))
        self.grow, self.blend = [], []
        while COARSE * 2 ** len(self.grow) < size:
            narrow = max(channels // 2, 8)
            self.grow.append(Conv(next(keys), (channels, 4 * narrow)))
            self.blend.append(Conv(next(keys), (narrow, narrow)))
            channels = narrow
        self.out = Conv(next(keys), (channels, 1))
        self.softness = softness

    def bent(self, z: Float[Array, " code"]) -> Float[Array, "y x"]:
        """``asinh(image / softness)``."""
        h = jax.nn.silu(self.into(z)).reshape(COARSE, COARSE, -1)
        for grow, blend in zip(self.grow, self.blend, strict=True):
            h = to_pixels(grow(h), 2)
            h = h + blend(jax.nn.silu(h))
        return jax.nn.softplus(self.out(jax.nn.silu(h))[..., 0])

    def __call__(self, z: Float[Array, " code"]) -> Float[Array, "y x"]:
        return self.softness * jnp.sinh(self.bent(z))


class Generator(eqx.Module):
    """White noise to a code by a flow, and the code to an image by a decoder.

    Parameters
    ----------
    flow
        Couplings from white noise to the code.
    decoder
        From the code to the image.
    code
        Numbers of the code.
    size
        Pixels on a side of the image.
    """

    flow: list[Coupling]
    decoder: Decoder
    code: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(
        self, key, size: int = 64, code: int = 32, channels: int = 48, couplings: int = 6, hidden: int = 64,
        softness: float = 1e-3,
    ):  # fmt: skip
        if size % COARSE or size // COARSE & (size // COARSE - 1):
            raise ValueError(f"the size of a generator is {COARSE} times a power of two, not {size}")
        keys = jax.random.split(key, couplings + 1)
        self.flow = [Coupling(k, code, hidden, bool(i % 2)) for i, k in enumerate(keys[1:])]
        self.decoder = Decoder(keys[0], code, size, channels, softness)
        self.code, self.size = code, size

    def __call__(self, xi: Float[Array, " code"]) -> Float[Array, "size size"]:
        dtype = xi.dtype
        z = xi.astype(jnp.float32)
        for coupling in self.flow:
            z = coupling.forward(z)
        return self.decoder(z).astype(dtype)

    def log_code(self, z: Float[Array, " code"]) -> Float[Array, ""]:
        """Log-density of a code."""
        volume = jnp.zeros(())
        for coupling in reversed(self.flow):
            z, more = coupling.inverse(z)
            volume = volume + more
        return volume - 0.5 * jnp.sum(z**2 + jnp.log(2 * jnp.pi))


class GeneratorPrior(HasTransform, HasSample):
    """Images that a generator makes of white noise, in the middle of a dark grid.

    Its images have as many degrees of freedom as the code has numbers, so that there is no density of the image; there
    is one of the white noise, in which the best image, HMC, NUTS and flows run
    (`invprob.posterior.in_white_coordinates`).
    What the generator cannot make is not in the prior: look at the residuals.

    Parameters
    ----------
    generator
        The generator.
    shape
        Shape of the grid, at least the generator's.
    training
        What it was trained on.
    flux
        What one unit of the image is in the unit of `training`.

    References
    ----------
    Kingma & Welling 2014, arXiv:1312.6114; Bora et al. 2017, arXiv:1703.03208; Lanusse et al. 2021, MNRAS 504, 5543.
    """

    generator: Generator
    shape: tuple[int, int] = eqx.field(static=True)
    training: Training = eqx.field(static=True, default=Training())
    flux: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)

    def __check_init__(self):
        if min(self.shape) < self.generator.size:
            raise ValueError(
                f"the generator makes images of {self.generator.size} pixels on a side, the grid has {self.shape}"
            )

    @property
    def structure(self) -> Structure:
        return Structure(self.shape)

    @property
    def transform(self) -> AbstractOperator:
        n = self.generator.size
        inside = tuple(slice((side - n) // 2, (side - n) // 2 + n) for side in self.shape)
        made = Function(self.generator, Structure((self.generator.code,)))
        to_unit = Multiply(self.training.scale / self.flux, self.structure)
        return compose(to_unit, Pad(self.shape, inside), made)

    def sample(self, key: Any) -> Float[Array, "y x"]:
        """One draw of the prior, flux per pixel."""
        return self.transform(jax.random.normal(key, (self.generator.code,), self.flux.dtype))


__all__ = ["Decoder", "Generator", "GeneratorPrior"]
