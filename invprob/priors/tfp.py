"""Any TensorFlow Probability distribution as a prior."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from invprob.operators.base import Structure
from invprob.priors.base import HasLogProb, HasSample


class FromTFP(HasLogProb, HasSample):
    """A TFP distribution (JAX substrate) as a prior on an image.

    A scalar distribution is used for each pixel independently; one whose batch and event shapes fill the image
    describes it as a whole.

    Parameters
    ----------
    distribution
        A distribution of ``tensorflow_probability.substrates.jax.distributions``.
    shape
        Shape of the image.
    """

    distribution: Any
    shape: tuple[int, ...] = eqx.field(static=True)
    normalized = True

    def __check_init__(self):
        given = self._own_shape
        if self.shape[len(self.shape) - len(given) :] != given:
            raise ValueError(f"a distribution of shape {given} does not fill an image of {self.shape}")

    @property
    def _own_shape(self) -> tuple[int, ...]:
        return tuple(self.distribution.batch_shape) + tuple(self.distribution.event_shape)

    @property
    def structure(self):
        return Structure(self.shape)

    def log_prob(self, x):
        return jnp.sum(self.distribution.log_prob(x))

    def sample(self, key):
        repeats = self.shape[: len(self.shape) - len(self._own_shape)]
        return self.distribution.sample(repeats, seed=key)
