"""A denoiser that is a Wiener filter plus a network for what is not Gaussian."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob.operators.fourier import frequencies, multiplicity
from invprob.priors.network import UNet
from invprob.priors.views import View, Viewed

SHARES = (1e2, 1e1, 1e-1, 1e-2, 1e-3, 1e-4)
"""Parts of the prior's power for which a Wiener filter is among what the network sees: bright and faint images."""
LEVELS = tuple(np.geomspace(0.01, 0.5, 12))
"""Frequencies, cycles per pixel, at which the network is told the power of the noise."""
LEAK = 0.02  # of a weight below zero, so that training can bring it back
UNSURE, WIDEST = 8.0, 0.007  # how little a network is believed in the widest modes; their frequency, cycles per pixel
BESIDES = (3, 1)  # channels into the network and out of it besides one for each of the shares
INPUTS, OUTPUTS = (n + len(SHARES) for n in BESIDES)


class Spectrum(eqx.Module):
    """An isotropic power spectrum as a table, interpolated in logarithms.

    Parameters
    ----------
    frequency
        Frequencies, cycles per pixel, increasing.
    log_power
        Logarithm of the power there.
    """

    frequency: Float[Array, " n"]
    log_power: Float[Array, " n"]

    def __call__(self, k: Float[Array, "*n"]) -> Float[Array, "*n"]:
        log_k = jnp.log(jnp.maximum(k, self.frequency[0]))
        return jnp.exp(jnp.interp(log_k, jnp.log(self.frequency), self.log_power)).astype(k.dtype)


class Estimate(eqx.Module):
    """What a denoiser makes of an image.

    Parameters
    ----------
    mean
        ``E[x0 | x]``, flux per pixel.
    weights
        Of the Wiener filters in each pixel, that of the prior first and those of brighter and fainter images (`SHARES`)
        after it; none below zero, one in all.
    """

    mean: Float[Array, "y x"]
    weights: Float[Array, "filters y x"]


class Denoiser(eqx.Module):
    """``D(x; C) = mu + P / (P + C) (x - mu) + f c residual``, an estimate of ``E[x0 | x0 + n = x]``, ``n ~ N(0, C)``.

    The noise may be white or any other stationary one, known by its power spectrum C. P is the power spectrum of the
    prior, and c the size of what the Wiener filter leaves: ``1 / c^2 = 1 / C + 1 / c_out^2`` for each mode, with
    ``c_out^2`` the mean over all modes of ``P C / (P + C)``. For white noise c is one number, c_out but for a factor
    below sqrt(2); where the noise is small in some modes and large in others, it is small in those, so that the network
    need not be exact to one part in a thousand there. The residual is what the network adds: weights for the Wiener
    filters of fainter and brighter images, and an image; of its widest modes only a part f is taken (`trust`). With the
    last layer of the network zero, as it begins, D is the denoiser of a Gaussian prior, exactly.

    The network sees no normalized image: its inputs are ``asinh`` of the image in units of the noise and of what is
    expected. So it is told the flux.

    Parameters
    ----------
    network
        From channels and the noise level to the residual.
    spectrum
        P, the squared flux of a pixel of an orthonormal Fourier mode.
    mean
        mu, flux per pixel.

    References
    ----------
    Karras et al. 2022, arXiv:2206.00364 (preconditioning); Mildenhall et al. 2018, CVPR, 2502 (weights of filters).
    """

    network: UNet
    spectrum: Spectrum
    mean: Float[Array, ""]

    def power(self, shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, "ky kx"]:
        """P on the rfft2 grid of an image."""
        return self.spectrum(jnp.asarray(frequencies(shape), dtype))

    def __call__(self, x: Float[Array, "y x"], noise: Float[Array, "ky kx"]) -> Float[Array, "y x"]:
        """``E[x0 | x]`` for noise of this power spectrum on the rfft2 grid, squared flux per pixel."""
        return self.wiener(x, noise) + self.residual(x, noise)

    def wiener(self, x: Float[Array, "y x"], noise: Float[Array, "ky kx"]) -> Float[Array, "y x"]:
        """What a Gaussian prior of the same mean and power gives."""
        power = self.power(x.shape, x.dtype)
        return self.mean + jnp.fft.irfft2(power / (power + noise) * jnp.fft.rfft2(x - self.mean), s=x.shape)

    def residual(self, x: Float[Array, "y x"], noise: Float[Array, "ky kx"]) -> Float[Array, "y x"]:
        """What the network adds to the Wiener filter."""
        return self._residual(x, noise)[0]

    def estimate(self, x: Float[Array, "y x"], noise: Float[Array, "ky kx"]) -> Estimate:
        """``E[x0 | x]`` and the filters that it is nearly made of."""
        residual, weights = self._residual(x, noise)
        weights = jnp.maximum(jnp.concatenate([1 - jnp.sum(weights, -1, keepdims=True), weights], -1), 0)
        weights = weights / jnp.sum(weights, -1, keepdims=True)
        return Estimate(self.wiener(x, noise) + residual, weights.transpose(2, 0, 1).astype(x.dtype))

    def scatter(self, key, weights: Float[Array, "filters y x"], noise: Float[Array, "ky kx"]) -> Float[Array, "y x"]:
        """A draw of about ``x0 - E[x0 | x]``.

        Its covariance is the noise's times the derivative of the denoiser (Miyasawa 1961), which is taken to be that of
        the filters with their weights, those of other brightness as far as the network is believed (`trust`).
        """
        shape = weights.shape[1:]
        white = jnp.fft.rfft2(jax.random.normal(key, weights.shape, weights.dtype))
        filters = self._filters(shape, noise)
        filters = filters[:1] + self.trust(shape, noise) * (filters - filters[:1])
        parts = jnp.fft.irfft2(jnp.sqrt(noise * filters) * white, s=shape)
        return jnp.sum(jnp.sqrt(weights) * parts, 0)

    def viewed(self, key) -> Denoiser:
        """The same with a network that sees images turned, mirrored and shifted, at random.

        What is likely of a galaxy is likely of it in any orientation and place, and a network knows this but nearly. So
        its error depends on the view, and the mean over views is closer to the truth: where many estimates are
        averaged, each may take another one, at no cost (Terris et al. 2024, arXiv:2312.01831).
        """
        view = View.random(key, self.network.multiple)
        return eqx.tree_at(lambda d: d.network, self, Viewed(self.network, view))

    def _filters(self, shape: tuple[int, ...], noise: Float[Array, "ky kx"]) -> Float[Array, "filters ky kx"]:
        """The Wiener filter of the prior, and those of fainter and brighter images."""
        power = jnp.asarray([1.0, *SHARES], noise.dtype)[:, None, None] * self.power(shape, noise.dtype)
        return power / (power + noise)

    def _residual(self, x: Float[Array, "y x"], noise: Float[Array, "ky kx"]) -> tuple[Array, Array]:
        """What the network adds, and the weights in it of the other filters, ``(y, x, share)``."""
        size = self.size(x.shape, noise)
        modes = jnp.fft.rfft2(x - self.mean)
        filters = self._filters(x.shape, noise)
        whiten = jnp.stack([jax.lax.rsqrt(noise), jax.lax.rsqrt(self.power(x.shape, x.dtype) + noise)])
        filters = jnp.concatenate([whiten, filters[:1] / size, (filters[1:] - filters[:1]) / size])
        seen = jnp.fft.irfft2(filters * modes, s=x.shape).transpose(1, 2, 0).astype(jnp.float32)
        out = self._any_size(jnp.arcsinh(seen), level(noise, x.shape).astype(jnp.float32))
        into, out_of = BESIDES
        weights = shares(out[..., out_of:])
        residual = out[..., 0] + jnp.sum(weights * seen[..., into:], axis=-1)
        heard = size * self.trust(x.shape, noise)
        return jnp.fft.irfft2(heard * jnp.fft.rfft2(residual.astype(x.dtype)), s=x.shape), weights

    def trust(self, shape: tuple[int, ...], noise: Float[Array, "ky kx"]) -> Float[Array, "ky kx"]:
        """Part of what the network says of each mode that is taken.

        A network is less sure of the widest modes, which are few, than of others; where the data know those well, its
        error is larger than what it could add. The part ``C / (C + b c_out^2)``, with ``b = UNSURE / (1 + (k /
        WIDEST)^2)`` at the frequency k, is a fit: to the regression of what a denoiser should add on what the shipped
        network, trained on 64 x 64 pixels, says, over PSFs of 4 to 16 pixels and S/N of 20 to 500.
        """
        k = jnp.asarray(frequencies(shape), noise.dtype)
        error = UNSURE * self.left(shape, noise) / (1 + (k / WIDEST) ** 2)
        return noise / (noise + error)

    def left(self, shape: tuple[int, ...], noise: Float[Array, "ky kx"]) -> Float[Array, ""]:
        """c_out^2: the mean over all modes of what the Wiener filter leaves."""
        power = self.power(shape, noise.dtype)
        return mean_over_modes(power * noise / (power + noise), shape)

    def size(self, shape: tuple[int, ...], noise: Float[Array, "ky kx"]) -> Float[Array, "ky kx"]:
        """c: the size of what the Wiener filter leaves in each mode."""
        left = self.left(shape, noise)
        return jnp.sqrt(noise * left / (noise + left))

    def _any_size(self, seen: Float[Array, "y x i"], level: Float[Array, " l"]) -> Float[Array, "y x o"]:
        ny, nx, _ = seen.shape
        more = [(0, -n % self.network.multiple) for n in (ny, nx)]
        return self.network(jnp.pad(seen, (*more, (0, 0)), mode="wrap"), level)[:ny, :nx]


def shares(out: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
    """Weights of the filters, none far below zero and at most one in all, so that a denoiser never amplifies."""
    out = jnp.where(out >= 0, out, LEAK * out)
    return out / jnp.maximum(1, jnp.sum(jnp.abs(out), axis=-1, keepdims=True))


def mean_over_modes(values: Float[Array, "ky kx"], shape: tuple[int, ...]) -> Float[Array, ""]:
    """Mean over all modes of a quantity on the rfft2 grid, whose inner columns stand for two each."""
    return jnp.sum(values * multiplicity(shape).astype(values.dtype)) / (shape[0] * shape[1])


def level(noise: Float[Array, "ky kx"], shape: tuple[int, ...]) -> Float[Array, " levels"]:
    """What the network is told of the noise: the logarithm of its power at `LEVELS`, the mean of both axes."""
    k = jnp.asarray(LEVELS, noise.dtype)
    along = (noise[: shape[0] // 2 + 1, 0], noise[0])
    at = [
        jnp.interp(k, jnp.asarray(np.fft.rfftfreq(n), noise.dtype), jnp.log10(a))
        for n, a in zip(shape, along, strict=True)
    ]
    return 0.25 * (at[0] + at[1]) / 2 + 1


def widened(network: UNet, shares: tuple[float, ...]) -> UNet:
    """A network for some of `SHARES` as one for all, the others of which it neither sees nor weighs."""
    at = [SHARES.index(share) for share in shares]

    def spread(array: Array, axis: int, before: int) -> Array:
        channels = jnp.moveaxis(array, axis, -1)
        channels = channels.reshape(*channels.shape[:-1], network.patch**2, before + len(shares))
        wide = jnp.zeros((*channels.shape[:-1], before + len(SHARES)), array.dtype)
        wide = wide.at[..., [*range(before), *(before + i for i in at)]].set(channels)
        return jnp.moveaxis(wide.reshape(*wide.shape[:-2], -1), -1, axis)

    into, out = BESIDES
    return eqx.tree_at(
        lambda n: (n.into.weight, n.out.weight, n.out.bias),
        network,
        (spread(network.into.weight, 2, into), spread(network.out.weight, 3, out), spread(network.out.bias, 0, out)),
    )


def untrained(key, spectrum: Spectrum, mean, shares: tuple[float, ...] = SHARES, **settings) -> Denoiser:
    """A denoiser whose network has seen nothing: that of a Gaussian prior."""
    inputs, outputs = (n + len(shares) for n in BESIDES)
    network = UNet(key, inputs, outputs, len(LEVELS), **settings)
    return Denoiser(network, spectrum, jnp.asarray(mean, jnp.float32))


__all__ = ["Denoiser", "Estimate", "Spectrum", "untrained", "widened"]
