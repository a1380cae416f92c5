"""Chains whose mixing is known."""

import numpy as np
from scipy.signal import lfilter


def autoregressive(rho, shape, seed=0):
    """Stationary chains ``x_t = rho x_t-1 + noise`` of unit variance, of shape ``(chain, draw, ...)``.

    ``S (1 - rho) / (1 + rho)`` of S draws are effective for the mean.
    """
    noise = np.random.default_rng(seed).standard_normal(shape) * np.sqrt(1 - rho**2)
    noise[:, 0] /= np.sqrt(1 - rho**2)
    return lfilter([1], [1, -rho], noise, axis=1)


def independent(shape, seed=0):
    """Chains of independent draws."""
    return np.random.default_rng(seed).standard_normal(shape)


def stuck(x):
    """One chain stays where it began."""
    return np.concatenate([np.broadcast_to(x[:1, :1], x[:1].shape), x[1:]])


def shifted(x, by=0.5):
    """The mean of one chain is off by half a standard deviation."""
    return np.concatenate([x[:1] + by, x[1:]])


def wider(x, by=2.0):
    """One chain has twice the scatter."""
    return np.concatenate([x[:1] * by, x[1:]])


def drifting(x):
    """Every chain moves by one standard deviation from its begin to its end."""
    return x + np.linspace(-0.5, 0.5, x.shape[1]).reshape(1, -1, *[1] * (x.ndim - 2))


def two_modes(x):
    """Two chains in one mode, two in another, which is 4 standard deviations away."""
    return x + 4.0 * (np.arange(len(x)) % 2).reshape(-1, *[1] * (x.ndim - 1))
