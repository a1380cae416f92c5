"""The steps of the training of a denoiser.

Noise of every level and colour, a loss in units of what can be expected, and a moving average of the weights.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob.learn.steps import Schedule, State
from invprob.operators.fourier import frequencies
from invprob.priors.denoiser import Denoiser, Spectrum, mean_over_modes
from invprob.priors.views import View

WHITE = (-4.5, 1.0)  # log10 of the standard deviation of white noise
COLOURED = (-5.0, 0.0)  # the same of coloured noise at low frequencies
WIDTH = (4.0, 50.0)  # FWHM in pixels of the PSF that colours it
STEEPNESS = (1.2, 2.0)  # exponent of its transfer function
POWER_FLOOR = 1e-10  # of the largest power
CHUNK = 32  # validation images at once
HEAVIEST = 300.0  # most that a faint image may count for, relative to one of the mean power


@dataclass(frozen=True)
class Noise:
    """The distribution of the power spectra of the noise that a denoiser is trained on.

    Parameters
    ----------
    white
        Part of the images whose noise is white; the noise of the others rises where a PSF leaves nothing.
    depth
        Range of log10 of the power transfer of that PSF at which the noise stops to rise: far above zero it is nearly
        white. A diffusion from coloured noise passes through all of them.
    """

    white: float = 0.35
    depth: tuple[float, float] = (-5.5, 1.5)

    def draw(self, key, shape: tuple[int, int]) -> Float[Array, "ky kx"]:
        """A power spectrum on the rfft2 grid."""
        kind, first, second, third, fourth, fifth = jax.random.split(key, 6)
        k = jnp.asarray(frequencies(shape), jnp.float32)
        flat = 10 ** (2 * jax.random.uniform(first, (), minval=WHITE[0], maxval=WHITE[1]))
        low = 10 ** (2 * jax.random.uniform(second, (), minval=COLOURED[0], maxval=COLOURED[1]))
        depth = 10 ** jax.random.uniform(third, (), minval=self.depth[0], maxval=self.depth[1])
        width = jnp.exp(jax.random.uniform(fourth, (), minval=np.log(WIDTH[0]), maxval=np.log(WIDTH[1])))
        steep = jax.random.uniform(fifth, (), minval=STEEPNESS[0], maxval=STEEPNESS[1])
        transfer = jnp.exp(-2 * (k * width / 0.53) ** steep)
        is_white = jax.random.uniform(kind) < self.white
        return jnp.where(is_white, flat, low * (1 + depth) / (transfer + depth))


class Stamps(eqx.Module):
    """Images to train on, with the variance of the white noise that they have themselves.

    Parameters
    ----------
    images
        Flux per pixel.
    variance
        Of the noise of a pixel of each image; zero where there is none.
    """

    images: Float[Array, "n y x"]
    variance: Float[Array, " n"]

    def __check_init__(self):
        if self.images.ndim != 3 or self.variance.shape != self.images.shape[:1]:
            raise ValueError(
                f"stamps are images (n, y, x) with n variances, not {self.images.shape} and {self.variance.shape}"
            )


def measured_spectrum(stamps: Stamps) -> tuple[Spectrum, float]:
    """The isotropic power spectrum of images, less that of their noise, and the mean of their pixels."""
    images = np.asarray(stamps.images)
    mean, shape = float(images.mean(dtype=float)), images.shape[1:]
    k = frequencies(shape)
    power = np.zeros(k.shape)
    for image in images:
        power += np.abs(np.fft.rfft2(image - mean)) ** 2
    power = power / (len(images) * shape[0] * shape[1]) - float(np.mean(stamps.variance, dtype=float))
    low = 1 / max(shape)
    edges = np.concatenate([low * np.arange(0.5, 8, 1), np.geomspace(8 * low, np.sqrt(0.5) + 1e-6, 14)])
    at, value = [low / 2], [power[0, 0]]
    for a, b in itertools.pairwise(edges):
        ring = (k >= a) & (k < b)
        if ring.any():
            at.append(float(k[ring].mean()))
            value.append(float(power[ring].mean()))
    floor = POWER_FLOOR * max(value)
    return Spectrum(jnp.asarray(at, jnp.float32), jnp.log(jnp.maximum(jnp.asarray(value, jnp.float32), floor))), mean


def weight(denoiser: Denoiser, x: Float[Array, "y x"], noise: Float[Array, "ky kx"]) -> Float[Array, ""]:
    """How much an image counts: one over the squared error that a Wiener filter of *its* power would have.

    It depends on the noisy image alone, so that the best denoiser is the same one with any weights; without them the
    few brightest images would be all that counts.
    """
    shape = x.shape
    power = denoiser.power(shape)
    seen = jnp.abs(jnp.fft.rfft2(x - denoiser.mean)) ** 2 / (shape[0] * shape[1])
    total = power + noise
    found = mean_over_modes(power / total**2 * (seen - noise), shape)
    expected = mean_over_modes((power / total) ** 2, shape)
    scatter = jnp.sqrt(2 * mean_over_modes((power * noise / total**2) ** 2, shape) / (shape[0] * shape[1]))
    share = jnp.maximum(found, scatter) / expected
    share = jnp.clip(share, 1e-6, 1.0)

    def left(power):
        return mean_over_modes(power * noise / (power + noise) / denoiser.size(shape, noise) ** 2, shape)

    return jnp.minimum(left(power) / left(share * power), HEAVIEST)


def loss(denoiser: Denoiser, stamps: Stamps, noise: Noise, key) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean weighted squared error, each mode in units of its size c, and that of the Wiener filter.

    An image that has noise of its own, of the spectrum C0, is trained on with more of it, C in all. What is known of it
    then is ``E[image | x] = (1 - C0 / C) D(x; C) + C0 / C x``, and this is what is compared with it: so that D does not
    learn the noise.
    """
    fixed = jax.lax.stop_gradient(denoiser)

    def one(image, variance, key):
        shape = image.shape
        noise_key, draw = jax.random.split(key)
        more = noise.draw(noise_key, shape)
        white = jax.random.normal(draw, shape)
        x = image + jnp.fft.irfft2(jnp.sqrt(more) * jnp.fft.rfft2(white), s=shape)
        total = more + variance
        fresh = more / total
        left = image - jnp.fft.irfft2(variance / total * jnp.fft.rfft2(x), s=shape)
        size = fixed.size(shape, total)
        wiener = fixed.wiener(x, total)
        counts = weight(fixed, x, total)

        def squared(estimate):
            error = (jnp.fft.rfft2(left) - fresh * jnp.fft.rfft2(estimate)) / size
            return counts * mean_over_modes(jnp.abs(error) ** 2, shape) / image.size

        return squared(wiener + denoiser.residual(x, total)), squared(wiener)

    errors, wiener = jax.vmap(one)(stamps.images, stamps.variance, jax.random.split(key, len(stamps.images)))
    return jnp.mean(errors), jnp.mean(wiener)


@eqx.filter_jit(donate="all-except-first")
def advanced(
    given: tuple[Denoiser, Stamps, Noise, Any], state: State, schedule: Schedule
) -> tuple[State, Float[Array, " 2"]]:
    """One step.

    Parameters
    ----------
    given
        The denoiser (of which only the network is trained), the stamps, the noise they are given and the random key.
    state
        State before; its memory is used again.
    """
    denoiser, stamps, noise, key = given

    def objective(network, batch, key):
        return loss(eqx.tree_at(lambda d: d.network, denoiser, network), batch, noise, key)

    pick, turn, draw = jax.random.split(jax.random.fold_in(key, state.step), 3)
    chosen = jax.random.randint(pick, (schedule.batch,), 0, len(stamps.images))
    views = jax.random.split(turn, schedule.batch)
    turned = jax.vmap(lambda image, key: View.random(key, len(image)).of(image))(stamps.images[chosen], views)
    batch = Stamps(turned, stamps.variance[chosen])
    (value, wiener), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(state.network, batch, draw)
    return state.moved(gradient, schedule), jnp.stack([value, wiener])


@eqx.filter_jit
def _losses(denoiser: Denoiser, stamps: Stamps, noise: Noise, key) -> Array:
    return jnp.stack(loss(denoiser, stamps, noise, key))


def validated(denoiser: Denoiser, stamps: Stamps, noise: Noise, key) -> np.ndarray:
    """The loss on images that were not trained on, and that of the Wiener filter; the noise is the same each time."""
    found = []
    for i in range(0, len(stamps.images), CHUNK):
        part = jax.tree.map(lambda a, i=i: a[i : i + CHUNK], stamps)
        found.append(_losses(denoiser, part, noise, jax.random.fold_in(key, i)))
    return np.mean(np.asarray(found), axis=0)


__all__ = ["Noise", "Stamps", "advanced", "loss", "measured_spectrum", "validated"]
