"""The ways in which a network can see the same periodic image."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from invprob.priors.network import UNet


class View(eqx.Module):
    """One of eight orientations of an image (of four where it is not square), and a periodic shift.

    Parameters
    ----------
    turned
        Whether, one or zero, the image is mirrored along y, mirrored along x, and its axes change places.
    shift
        Pixels along y and x.
    """

    turned: Int[Array, " 3"]
    shift: Int[Array, " 2"]

    @classmethod
    def random(cls, key, reach: int) -> View:
        """Any, with shifts below `reach` pixels."""
        turn, place = jax.random.split(key)
        return cls(jax.random.randint(turn, (3,), 0, 2), jax.random.randint(place, (2,), 0, reach))

    def of(self, image: Float[Array, "y x *c"]) -> Float[Array, "y x *c"]:
        """The image as it is seen."""
        return jnp.roll(self._transposed(self._mirrored(image)), self.shift, (0, 1))

    def undone(self, seen: Float[Array, "y x *c"]) -> Float[Array, "y x *c"]:
        """The image that is seen so."""
        return self._mirrored(self._transposed(jnp.roll(seen, -self.shift, (0, 1))))

    def _mirrored(self, image: Array) -> Array:
        for axis in (0, 1):
            image = jnp.where(self.turned[axis], jnp.flip(image, axis), image)
        return image

    def _transposed(self, image: Array) -> Array:
        square = image.shape[0] == image.shape[1]
        return jnp.where(self.turned[2], jnp.swapaxes(image, 0, 1), image) if square else image


class Viewed(eqx.Module):
    """A network that sees images in a view of them.

    Parameters
    ----------
    network, view
        Both.
    """

    network: UNet
    view: View

    @property
    def multiple(self) -> int:
        """As of the network."""
        return self.network.multiple

    def __call__(self, x: Float[Array, "y x i"], level: Float[Array, " l"]) -> Float[Array, "y x o"]:
        return self.view.undone(self.network(self.view.of(x), level))


__all__ = ["View", "Viewed"]
