"""The network of a learned prior: a small U-net that sees the noise level, and any size of image.

Images are periodic, arrays are ``(y, x, channel)``. Nothing is normalized over an image, so that what the network does
in one place does not depend on the size of the image or on what stands far away.
"""

from __future__ import annotations

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Conv(eqx.Module):
    """A periodic convolution with a square kernel of odd size.

    Parameters
    ----------
    weight, bias
        Kernel and offset of each channel.
    """

    weight: Float[Array, "k k c_in c_out"]
    bias: Float[Array, " c_out"]

    def __init__(self, key, channels: tuple[int, int], size: int = 3, scale: float = 1.0):
        std = scale / (size * channels[0] ** 0.5)
        self.weight = std * jax.random.normal(key, (size, size, *channels), jnp.float32)
        self.bias = jnp.zeros(channels[1], jnp.float32)

    def __call__(self, x: Float[Array, "y x c_in"]) -> Float[Array, "y x c_out"]:
        return jax.lax.platform_dependent(x, self.weight, cpu=_by_products, default=_by_library) + self.bias


def _by_library(x: Float[Array, "y x c_in"], weight: Float[Array, "k k c_in c_out"]) -> Float[Array, "y x c_out"]:
    """The periodic convolution as a library has it."""
    reach = weight.shape[0] // 2
    wide = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="wrap")
    out = jax.lax.conv_general_dilated(wide[None], weight, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out[0]


def _by_products(x: Float[Array, "y x c_in"], weight: Float[Array, "k k c_in c_out"]) -> Float[Array, "y x c_out"]:
    """The same as one product of matrices: what goes in is shifted along x, what comes out along y.

    XLA's convolutions are slower on several cores of a CPU, and their derivatives in a loop many times slower.
    """
    k, _, c_in, c_out = weight.shape
    shifts = range(k // 2, -(k // 2) - 1, -1)
    seen = jnp.concatenate([jnp.roll(x, s, 1) for s in shifts], -1)
    rows = seen @ weight.transpose(1, 2, 0, 3).reshape(k * c_in, k * c_out)
    moved = [jnp.roll(row, s, 0) for row, s in zip(jnp.split(rows, k, -1), shifts, strict=True)]
    return functools.reduce(jnp.add, moved)


class Linear(eqx.Module):
    """A linear map of vectors, or of the channels of each pixel."""

    weight: Float[Array, "c_in c_out"]
    bias: Float[Array, " c_out"]

    def __init__(self, key, channels: tuple[int, int], scale: float = 1.0):
        std = scale / channels[0] ** 0.5
        self.weight = std * jax.random.normal(key, channels, jnp.float32)
        self.bias = jnp.zeros(channels[1], jnp.float32)

    def __call__(self, x: Float[Array, "*n c_in"]) -> Float[Array, "*n c_out"]:
        return x @ self.weight + self.bias


class Block(eqx.Module):
    """A residual block of two convolutions, shifted and scaled by the level of the noise."""

    first: Conv
    second: Conv
    level: Linear

    def __init__(self, key, channels: int, embedding: int):
        keys = jax.random.split(key, 3)
        self.first = Conv(keys[0], (channels, channels))
        self.second = Conv(keys[1], (channels, channels), scale=0.3)
        self.level = Linear(keys[2], (embedding, 2 * channels), scale=0.1)

    def __call__(self, x: Float[Array, "y x c"], level: Float[Array, " e"]) -> Float[Array, "y x c"]:
        gain, shift = jnp.split(self.level(level), 2)
        h = self.first(_unit(x))
        return x + self.second(jax.nn.silu(h * (1 + gain) + shift))


def _unit(x: Float[Array, "y x c"]) -> Float[Array, "y x c"]:
    """Each pixel's channels, with a mean square of one."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-4)


def to_channels(x: Float[Array, "y x c"], n: int) -> Float[Array, "v u d"]:
    """Blocks of n by n pixels as channels."""
    ny, nx, c = x.shape
    blocks = x.reshape(ny // n, n, nx // n, n, c)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(ny // n, nx // n, n * n * c)


def to_pixels(x: Float[Array, "v u d"], n: int) -> Float[Array, "y x c"]:
    """The inverse of `to_channels`."""
    ny, nx, d = x.shape
    blocks = x.reshape(ny, nx, n, n, d // n**2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(ny * n, nx * n, d // n**2)


class UNet(eqx.Module):
    """Blocks on ever coarser grids and back, with the last layer zero to begin with.

    Parameters
    ----------
    channels
        Channels on each grid, from the finest; each grid has half the pixels of the one before on a side.
    patch
        Pixels on a side of the blocks that the finest grid takes as one.
    blocks
        Blocks on each grid, on the way down and on the way up.
    """

    embed: tuple[Linear, Linear]
    into: Conv
    down: list[list[Block]]
    reduce: list[Linear]
    up: list[list[Block]]
    expand: list[Linear]
    out: Conv
    patch: int = eqx.field(static=True)

    def __init__(
        self,
        key,
        inputs: int,
        outputs: int,
        levels: int,
        channels: tuple[int, ...] = (40, 80, 112),
        patch: int = 2,
        blocks: int = 2,
        embedding: int = 64,
    ):
        keys = iter(jax.random.split(key, 64))
        self.patch = patch
        self.embed = (Linear(next(keys), (levels, embedding)), Linear(next(keys), (embedding, embedding)))
        self.into = Conv(next(keys), (inputs * patch**2, channels[0]))
        pairs = list(itertools.pairwise(channels))
        self.down = [[Block(next(keys), c, embedding) for _ in range(blocks)] for c in channels]
        self.up = [[Block(next(keys), c, embedding) for _ in range(blocks)] for c in channels[:-1]]
        self.reduce = [Linear(next(keys), (4 * a, b)) for a, b in pairs]
        self.expand = [Linear(next(keys), (b, 4 * a), scale=0.5) for a, b in pairs]
        self.out = Conv(next(keys), (channels[0], outputs * patch**2), scale=0.0)

    @property
    def multiple(self) -> int:
        """What the sides of an image have to be a multiple of."""
        return self.patch * 2 ** len(self.reduce)

    def __call__(self, x: Float[Array, "y x i"], level: Float[Array, " l"]) -> Float[Array, "y x o"]:
        first, second = self.embed
        level = jax.nn.silu(second(jax.nn.silu(first(level))))
        h = self.into(to_channels(x, self.patch))
        kept = []
        for i, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, level)
            if i < len(self.reduce):
                kept.append(h)
                h = self.reduce[i](to_channels(h, 2))
        for i in reversed(range(len(self.expand))):
            h = kept[i] + to_pixels(self.expand[i](h), 2)
            for block in self.up[i]:
                h = block(h, level)
        return to_pixels(self.out(_unit(h)), self.patch)


__all__ = ["UNet"]
