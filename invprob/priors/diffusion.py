"""Draws of a denoiser's prior, and of what is clean given what is noisy, by the reverse of a diffusion.

Noise of the power spectrum ``t C`` is taken away as t goes to zero. Along the way

    dx = (x - D(x; t C)) dt / t + C^1/2 dW        (t decreasing),

and with ``D = mu + P / (P + t C) (x - mu) + r`` the part of the Wiener filter is linear and solved exactly, mode by
mode; the residual r is followed by a predictor and a corrector. Where it is zero, as under a Gaussian prior, so is the
error, whatever the number of steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob.priors.denoiser import Denoiser

STEEPNESS = 5.0  # of the noise levels: larger has more of them where there is little noise
SMALLEST = 1e-3  # last level of the noise, relative to the first: coloured noise is far above the prior in some modes


def levels(number: int, ratio: float = SMALLEST) -> np.ndarray:
    """Times from one to zero, ``number`` steps, the last from ``ratio^2`` (Karras et al. 2022, eq. 5)."""
    ramp = np.linspace(0, 1, number)
    return np.append((1 + ramp * (ratio ** (1 / STEEPNESS) - 1)) ** (2 * STEEPNESS), 0.0)


def reverse(
    denoiser: Denoiser, key, x: Float[Array, "y x"], noise: Float[Array, "ky kx"], times: Float[np.ndarray, " steps"]
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
    times
        From one to zero; see `levels`. Two calls of the network for each but the last.

    Notes
    -----
    From t to t' a mode goes to ``x (P + t' C) / (P + t C) + (1 - t' / t) r`` with noise of the power ``(t - t') C
    (P + t' C) / (P + t C)``. The residual is taken to change like ``t C / (P + t C)`` meanwhile, as that of another
    Gaussian does. The corrector takes the mean of both ends (stochastic Heun, of second weak order).
    """
    shape, dtype = x.shape, x.dtype
    power, noise = denoiser.power(shape, dtype), noise.astype(dtype)

    def residual(modes, t):
        image = denoiser.mean + jnp.fft.irfft2(modes, s=shape)
        return jnp.fft.rfft2(denoiser.residual(image, t * noise))

    def step(modes, at):
        t, after, key = at
        white = jnp.fft.rfft2(jax.random.normal(key, shape, dtype))
        shrink = (power + after * noise) / (power + t * noise)
        moved = shrink * modes + jnp.sqrt((t - after) * noise * shrink) * white
        first = residual(modes, t)
        pushed = moved + (1 - after / t) * first

        def corrected():
            # the residual at the end, as it would have been at the beginning
            grown = (t / after) * shrink
            return moved + (1 - after / t) * 0.5 * (first + grown * residual(pushed, after))

        return jax.lax.cond(after > 0, corrected, lambda: pushed), None

    at = jnp.asarray(times, dtype)
    keys = jax.random.split(key, len(times) - 1)
    modes, _ = jax.lax.scan(step, jnp.fft.rfft2(x - denoiser.mean), (at[:-1], at[1:], keys))
    return denoiser.mean + jnp.fft.irfft2(modes, s=shape)


def prior_draw(
    denoiser: Denoiser, key, shape: tuple[int, int], sigma: float, number: int, last: float, dtype=jnp.float32
) -> Float[Array, "y x"]:
    """A draw of the prior, from white noise of the standard deviation sigma down to ``last``, in ``number`` steps."""
    first, rest = jax.random.split(key)
    power = denoiser.power(shape, dtype)
    noise = jnp.full_like(power, sigma**2)
    white = jnp.fft.rfft2(jax.random.normal(first, shape, dtype))
    x = denoiser.mean + jnp.fft.irfft2(jnp.sqrt(power + noise) * white, s=shape)
    return reverse(denoiser, rest, x, noise, levels(number, last / sigma))


__all__ = ["levels", "prior_draw", "reverse"]
