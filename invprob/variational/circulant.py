"""The Gaussian with a circulant covariance, as a family of approximations."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from invprob.covariance import AbstractCovariance, Blocks, Diagonal, Stationary
from invprob.operators.base import Structure, zeros
from invprob.posterior import Whitened
from invprob.priors.capabilities import HasTransform
from invprob.sampling.coordinates import Coordinates
from invprob.variational.base import AbstractDistribution, TargetDensity
from invprob.variational.local_gaussian import likelihood_dtype, local_system, most_probable, whitened
from invprob.variational.stochastic_gradient import AbstractStochasticVI, about


@eqx.filter_jit
def _circulant(problem: Whitened, xi: PyTree) -> AbstractCovariance:
    return local_system(problem, xi).circulant()


class CirculantNormal(AbstractDistribution):
    """A normal distribution with a circulant covariance of each image, and independent other numbers."""

    mean: Float[Array, " n"]
    log_std: PyTree
    structure: Structure

    @property
    def _covariance(self) -> AbstractCovariance:
        def one(leaf, log_std):
            if len(leaf.shape) != 2:
                return Diagonal(jnp.exp(2 * log_std))
            mirrored = 0.5 * (log_std + jnp.roll(log_std[::-1], 1, axis=0))
            # these columns hold a frequency and its negative
            whole = jnp.zeros(log_std.shape[1], bool).at[0].set(True)
            whole = whole.at[-1].set(True) if leaf.shape[1] % 2 == 0 else whole
            return Stationary(jnp.exp(2 * jnp.where(whole, mirrored, log_std)), leaf.shape)

        found = jax.tree.map(one, self.structure.like(self.mean.dtype), self.log_std)
        return found if isinstance(found, AbstractCovariance) else Blocks(found)

    def log_prob(self, c):
        covariance = self._covariance
        unravel = ravel_pytree(zeros(self.structure, c.dtype))[1]
        squared = covariance.quadratic(unravel(c - self.mean))
        return -0.5 * (squared + covariance.logdet() + c.size * jnp.log(2 * jnp.pi))

    def draws(self, key, num):
        covariance = self._covariance

        def one(key):
            return ravel_pytree(covariance.sample(key, self.mean.dtype))[0]

        return about(self.mean, self.mean + jax.vmap(one)(jax.random.split(key, num)))


class CirculantGaussian(AbstractStochasticVI):
    """A normal distribution with a circulant covariance on the latent grid: one scale for each spatial frequency.

    Its coordinates are those in which the prior is white, scaled by the circulant approximation of the posterior there,
    so that the determinant is known for any size. It is the posterior where operator, noise and prior are stationary on
    a periodic grid, and does not know of masks and borders.
    """

    name: ClassVar[str] = "circulant"

    def target(self, post, key):
        if post.prior.find(HasTransform) is None:
            return super().target(post, key)
        problem = whitened(post, type(self).__name__)
        xi, _ = most_probable(problem)
        metric = _circulant(problem, xi)
        none = jnp.zeros((), likelihood_dtype(post))
        return TargetDensity(Coordinates(problem, metric.sqrt, xi), 0.5 * metric.logdet(), none)

    def start(self, target, key):
        def scales(leaf):
            shape = (leaf.shape[0], leaf.shape[1] // 2 + 1) if len(leaf.shape) == 2 else leaf.shape
            return jnp.zeros(shape, leaf.dtype)

        log_std = jax.tree.map(scales, target.structure.like(target.dtype))
        return CirculantNormal(jnp.zeros(target.size, target.dtype), log_std, target.structure)


__all__ = ["CirculantGaussian", "CirculantNormal"]
