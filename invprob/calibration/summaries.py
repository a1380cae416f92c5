"""What is compared between truths and draws: numbers of the latent image, and groups of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob.operators import Starlet

WINDOW = 0.25  # standard deviation of the Gaussian window, as a part of the shorter side
MOST_ELEMENTS = 1024  # of a group; of a larger image they are spread evenly


def image_summaries(image: Float[Array, "y x"]) -> dict[str, Array]:
    """Flux, size, shape, peak and starlet energies of an image as numbers; pixels and starlet scales as groups.

    Moments are those under a fixed Gaussian window w in the middle of the image, with r from its centre:
    ``size = sum(w I r^2) / sum(w |I|)`` in squared pixels, ``e1 = sum(w I (x^2 - y^2)) / sum(w |I| r^2)`` and
    ``e2 = sum(w I 2 x y) / sum(w |I| r^2)``. They are the usual weighted moments where the image is not negative, and
    are defined for an image of pure noise. A starlet energy is the mean square of the details at one scale, finest
    first.

    Parameters
    ----------
    image
        The latent image.

    Returns
    -------
    dict
        By name. A number is tested by its own ranks; a vector is a group, whose coverage is tested.
    """
    ny, nx = image.shape
    y, x = np.meshgrid(np.arange(ny) - (ny - 1) / 2, np.arange(nx) - (nx - 1) / 2, indexing="ij")
    squared = y**2 + x**2
    window = np.exp(-0.5 * squared / (WINDOW * min(ny, nx)) ** 2)
    light = jnp.sum(window * jnp.abs(image))
    spread = jnp.sum(window * squared * jnp.abs(image))
    tiny = jnp.finfo(image.dtype).tiny

    def moment(weight, scale):
        return jnp.sum(window * weight * image) / jnp.maximum(scale, tiny)

    starlet = Starlet((ny, nx))
    details = starlet(image)["details"]
    out = {
        "flux": jnp.sum(image),
        "size": moment(squared, light),
        "e1": moment(x**2 - y**2, spread),
        "e2": moment(2 * x * y, spread),
        "brightest pixel": jnp.max(image),
        "pixels": _spread(image),
    }
    for j in range(starlet.scales):
        out[f"starlet energy {j + 1}"] = jnp.mean(details[j] ** 2)
        out[f"starlet scale {j + 1}"] = _spread(details[j])
    return out


def _spread(image: Float[Array, "y x"]) -> Float[Array, " element"]:
    """Elements in reading order, at most `MOST_ELEMENTS`."""
    chosen = np.linspace(0, image.size - 1, min(image.size, MOST_ELEMENTS)).astype(int)
    return image.ravel()[chosen]
