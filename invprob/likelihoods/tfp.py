"""Likelihoods as TensorFlow Probability distributions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import PyTree

from invprob.covariance import Diagonal
from invprob.likelihoods.gaussian import Gaussian


def distribution(likelihood: Gaussian, x: PyTree) -> Any:
    """The distribution of the data given x, as a TFP distribution.

    Its ``log_prob(likelihood.data)`` is ``likelihood.log_prob(x)``; masked data contribute nothing.

    Parameters
    ----------
    likelihood
        A Gaussian likelihood with `Diagonal` noise.
    x
        Latent pytree.

    Returns
    -------
    tfp.distributions.Distribution
        Event shape: that of the data.

    Raises
    ------
    TypeError
        For noise that is not diagonal.
    """
    import tensorflow_probability.substrates.jax.distributions as tfd

    if not isinstance(likelihood.noise, Diagonal):
        raise TypeError(
            f"the TFP distribution needs Diagonal noise, not {type(likelihood.noise).__name__}: use likelihood.log_prob"
        )
    mean, variance = likelihood.operator(x), likelihood.noise.variance
    axes = mean.ndim
    if likelihood.valid is None:
        return tfd.Independent(tfd.Normal(mean, jnp.sqrt(variance)), reinterpreted_batch_ndims=axes)
    scale = jnp.sqrt(jnp.where(likelihood.valid, variance, 1))
    return tfd.Independent(
        tfd.Masked(tfd.Normal(mean, scale), validity_mask=likelihood.valid), reinterpreted_batch_ndims=axes
    )
