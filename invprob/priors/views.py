"""The ways in which a network can see the same periodic image."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from invprob.priors.network import UNet

EXACT = jax.lax.Precision.HIGHEST  # a GPU would round what it multiplies by one


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
        image = self._transposed(image)
        return jnp.einsum("ai,bj,ij...->ab...", *self._places(image), image, precision=EXACT)

    def undone(self, seen: Float[Array, "y x *c"]) -> Float[Array, "y x *c"]:
        """The image that is seen so."""
        return self._transposed(jnp.einsum("ai,bj,ab...->ij...", *self._places(seen), seen, precision=EXACT))

    def _transposed(self, image: Array) -> Array:
        square = image.shape[0] == image.shape[1]
        return jnp.where(self.turned[2], jnp.swapaxes(image, 0, 1), image) if square else image

    def _places(self, image: Array) -> list[Array]:
        """Matrices of zeros and ones from each axis of the image to that of what is seen.

        Where each image of a batch is seen otherwise, rolls and selections of XLA take as long as the network on a
        CPU, places that are looked up a seventh of it, and products with these nothing that can be measured for images
        of up to 512 pixels on a side.
        """
        out = []
        for axis, n in enumerate(image.shape[:2]):
            at = (jnp.arange(n) - self.shift[axis]) % n
            out.append(jax.nn.one_hot(jnp.where(self.turned[axis], n - 1 - at, at), n, dtype=image.dtype))
        return out


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
