"""What is followed of every draw of a chain, to see whether the chain has mixed."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from invprob.operators import Starlet
from invprob.operators.base import Structure

PIXELS = 1000  # of each image
COEFFICIENTS = 200  # of each starlet scale


class MonitoredImage(eqx.Module):
    """Pixels, starlet coefficients and sum of one image, at places drawn once."""

    shape: tuple[int, int] = eqx.field(static=True)
    pixels: Int[Array, " p"]
    coefficients: Int[Array, "scale c"]

    def __init__(self, shape: tuple[int, int]):
        rng, size = np.random.default_rng(0), int(np.prod(shape))
        self.shape = shape
        self.pixels = jnp.asarray(np.sort(rng.choice(size, min(PIXELS, size), replace=False)))
        scales = Starlet(shape).scales + 1 if min(shape) >= 4 else 0
        number = min(COEFFICIENTS, size)
        places = [np.sort(rng.choice(size, number, replace=False)) for _ in range(scales)]
        self.coefficients = jnp.asarray(np.array(places, int).reshape(scales, number))

    def __call__(self, image: Float[Array, "y x"]) -> dict[str, Array]:
        out = {"pixels": image.ravel()[self.pixels], "sum": jnp.sum(image)}
        scales = len(self.coefficients)
        if scales:
            seen = Starlet(self.shape)(image)
            planes = [*seen["details"], seen["coarse"]]
            names = [*(f"starlet scale {j + 1}" for j in range(scales - 1)), "starlet coarse scale"]
            for name, plane, places in zip(names, planes, self.coefficients, strict=True):
                out[name] = plane.ravel()[places]
        return out


class MonitoredQuantities(eqx.Module):
    """From a latent pytree to the named quantities that are followed."""

    images: tuple[MonitoredImage | None, ...]
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, structure: Structure):
        leaves = jax.tree.leaves_with_path(structure.tree)
        self.names = tuple(jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
        self.images = tuple(MonitoredImage(leaf.shape) if len(leaf.shape) == 2 else None for _, leaf in leaves)

    def __call__(self, x: PyTree) -> dict[str, Array]:
        out = {}
        for name, image, leaf in zip(self.names, self.images, jax.tree.leaves(x), strict=True):
            before = f"{name} " if name else ""
            if image is None:
                out[name or "values"] = leaf.ravel()[:PIXELS]
            else:
                out |= {before + what: value for what, value in image(leaf).items()}
        return out


__all__ = ["MonitoredImage", "MonitoredQuantities"]
