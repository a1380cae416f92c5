"""Any TensorFlow Probability distribution as a prior."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from invprob.covariance import Diagonal
from invprob.operators.base import Structure
from invprob.priors.capabilities import HasLogProb, HasSample
from invprob.priors.gaussian import Gaussian

GRID = 256  # even, so that the mean itself is looked at


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

    # its parameters, apart: some distributions cannot be rebuilt while their arrays are set aside
    parameters: list[Any]
    kind: Any = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    normalized: ClassVar[bool] = True

    def __init__(self, distribution: Any, shape: tuple[int, ...]):
        self.parameters, self.kind = jax.tree.flatten(distribution)
        self.shape = tuple(shape)

    def __check_init__(self):
        given = self._own_shape
        if self.shape[len(self.shape) - len(given) :] != given:
            raise ValueError(f"a distribution of shape {given} does not fill an image of {self.shape}")

    @property
    def distribution(self) -> Any:
        """The TFP distribution."""
        return jax.tree.unflatten(self.kind, self.parameters)

    @property
    def _own_shape(self) -> tuple[int, ...]:
        return tuple(self.distribution.batch_shape) + tuple(self.distribution.event_shape)

    @property
    def structure(self):
        return Structure(self.shape)

    def log_prob(self, x):
        return jnp.sum(self.distribution.log_prob(x))

    def constrain(self, c, unit=1.0):
        bijector = self.distribution.experimental_default_event_space_bijector()
        return c if bijector is None else bijector.forward(c)

    def unconstrain(self, x, unit=1.0):
        bijector = self.distribution.experimental_default_event_space_bijector()
        return x if bijector is None else bijector.inverse(x)

    def log_jacobian(self, c, unit=1.0):
        bijector = self.distribution.experimental_default_event_space_bijector()
        return jnp.zeros(()) if bijector is None else jnp.sum(bijector.forward_log_det_jacobian(c))

    def gaussian_approximation(self):
        try:
            mean, variance = self.distribution.mean(), self.distribution.variance()
        except NotImplementedError:
            return None
        mean = jnp.where(jnp.isfinite(mean), mean, 0)
        variance = jnp.where(jnp.isfinite(variance) & (variance > 0), variance, 1)  # heavy tails have none
        return Gaussian(jnp.broadcast_to(mean, self.shape), Diagonal(jnp.broadcast_to(variance, self.shape)))

    def start(self, solution, covariance):
        """The best of a coarse grid in each pixel, so that a mixture begins in its higher mode.

        What the data say of a pixel is taken out of its marginal under the matched Gaussian, as expectation
        propagation does.
        """
        matched = self.gaussian_approximation()
        if matched is None or len(self.distribution.event_shape) > 0:
            return solution
        assert isinstance(matched.covariance, Diagonal) and isinstance(covariance, Diagonal)  # as `matched` gives it
        mean, before, after = matched.mean, matched.covariance.variance, covariance.variance
        weight = jnp.maximum(1 / after - 1 / before, 0)
        pull = solution / after - mean / before

        def value(x):
            out = self.distribution.log_prob(x) + pull * x - 0.5 * weight * x**2
            return jnp.where(jnp.isnan(out), -jnp.inf, out)  # outside of the support

        def look(i, best):
            x = mean + jnp.sqrt(before) * (8 * i / GRID - 4)
            return jnp.where(value(x) > value(best), x, best)

        inside = jnp.where(jnp.isfinite(value(solution)), solution, mean)
        return jax.lax.fori_loop(0, GRID + 1, look, inside)

    def sample(self, key):
        repeats = self.shape[: len(self.shape) - len(self._own_shape)]
        return self.distribution.sample(repeats, seed=key)
