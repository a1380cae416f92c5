"""Draws of a denoiser's prior, and of what is clean given what is noisy, by the reverse of a diffusion.

The noise, of the power spectrum C, is taken away along the family ``1 / (1 / C + 1 / s^2)`` as s falls: first where it
is loudest, until what is left is white, of the standard deviation s. So every diffusion ends on the same way, whatever
it began with, and a draw of the prior and one of what is clean agree in the smallest structure.

From c to a smaller c' of the family, with ``a = c' / c`` in each mode,

    x' = D + a (x - D) + (c' (1 - a))^1/2 W + (1 - a) V^1/2 W',      D = E[x0 | x],

which is exact if x0 given x is Gaussian of the covariance V. Its mean is exact always. V is that of the denoiser's
filters; for a Gaussian prior it is exact, and so are the draws, whatever the number of steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob.priors.denoiser import Denoiser

FIRST = 10.0  # the first cap of the noise, relative to the largest standard deviation of a mode


def reverse(
    denoiser: Denoiser,
    key,
    x: Float[Array, "y x"],
    noise: Float[Array, "ky kx"],
    last: Float[Array, ""] | float,
    steps: int,
) -> Float[Array, "y x"]:
    """A draw of the clean image given a noisy one: ``p(x0) N(x; x0, C)``.

    Parameters
    ----------
    denoiser
        The denoiser of the prior.
    key
        Random key.
    x
        Noisy image, flux per pixel.
    noise
        Power spectrum C of its noise, on the rfft2 grid.
    last
        Standard deviation of the noise that the last step takes away, flux per pixel; no structure of an image should
        be fainter.
    steps
        Steps, one call of the network each.

    References
    ----------
    Ho, Jain & Abbeel 2020, arXiv:2006.11239 (the bridge between two steps); Bao et al. 2022, arXiv:2201.06503 (the
    variance of the clean image in it).
    """
    shape, dtype = x.shape, x.dtype
    noise = noise.astype(dtype)

    def step(x, at):
        before, after, key = at
        c, left = _capped(noise, before), _capped(noise, after)
        a = left / c
        bridge, spread = jax.random.split(key)
        found = denoiser.estimate(x, c)
        modes = jnp.fft.rfft2(found.mean) + a * jnp.fft.rfft2(x - found.mean)
        modes += jnp.sqrt(left * (1 - a)) * jnp.fft.rfft2(jax.random.normal(bridge, shape, dtype))
        modes += (1 - a) * jnp.fft.rfft2(denoiser.scatter(spread, found.weights, c))
        return jnp.fft.irfft2(modes, s=shape), None

    caps = _caps(jnp.sqrt(jnp.max(noise)), jnp.asarray(last, dtype), steps)
    x, _ = jax.lax.scan(step, x, (caps[:-1], caps[1:], jax.random.split(key, steps)))
    return x


def _caps(largest: Float[Array, ""], last: Float[Array, ""], steps: int) -> Float[Array, " steps+1"]:
    """Standard deviations s: none, then evenly in the logarithm to the last, then zero."""
    from_one = jnp.asarray(np.linspace(0, 1, steps)[1:], largest.dtype)
    between = FIRST * largest * (last / (FIRST * largest)) ** from_one
    ends = jnp.asarray([jnp.inf, 0.0], largest.dtype)
    return jnp.concatenate([ends[:1], between, ends[1:]])


def _capped(noise: Float[Array, "ky kx"], s: Float[Array, ""]) -> Float[Array, "ky kx"]:
    return 1 / (1 / noise + 1 / s**2)


def prior_draw(
    denoiser: Denoiser, key, shape: tuple[int, int], sigma: float, last: float, steps: int, dtype=jnp.float32
) -> Float[Array, "y x"]:
    """A draw of the prior, from white noise of the standard deviation sigma down to ``last``."""
    first, rest = jax.random.split(key)
    power = denoiser.power(shape, dtype)
    noise = jnp.full_like(power, sigma**2)
    white = jnp.fft.rfft2(jax.random.normal(first, shape, dtype))
    x = denoiser.mean + jnp.fft.irfft2(jnp.sqrt(power + noise) * white, s=shape)
    return reverse(denoiser, rest, x, noise, last, steps)


__all__ = ["prior_draw", "reverse"]
