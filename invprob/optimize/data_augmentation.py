"""An auxiliary image between the prior and the data, for priors that are known by their denoiser.

``u ~ N(x, C)`` with C stationary and at most the inverse of ``H = A.T N^-1 A``. Given u the prior knows nothing of the
PSF, the mask or the noise of the data: all it does is to take noise of the spectrum C away.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob import likelihoods
from invprob.covariance import Stationary
from invprob.errors import CapabilityError
from invprob.operators.base import AbstractLinearOperator
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasColouredDenoiser, require

POWER_STEPS = 40  # of the iteration for the largest eigenvalue ...
MARGIN = 1.03  # ... and what it may be too small by
DEGREE = 16  # of the polynomial for the square root


class AugmentedPosterior(eqx.Module):
    """A posterior with an auxiliary image u, ``u ~ N(x, C)``, and C at most the inverse of ``H = A.T N^-1 A``.

    Parameters
    ----------
    like, prior
        Gaussian likelihood of a linear operator; prior with a denoiser for coloured noise.
    covariance
        C, stationary.
    """

    like: likelihoods.Gaussian
    prior: HasColouredDenoiser
    covariance: Stationary

    def towards_data(self, x: Float[Array, "y x"]) -> Float[Array, "y x"]:
        """The mean of u given x and the data, ``x + C A.T N^-1 (y - A x)``."""
        like = self.like
        left = like.noise.inv(like.data - like.operator.apply(x))
        return x + self.covariance.operator(like.operator.adjoint(left))  # type: ignore[attr-defined]

    def scatter(self, key) -> Float[Array, "y x"]:
        """A draw of ``N(0, C - C H C)``: ``C^1/2 (1 - M)^1/2 e`` with ``M = C^1/2 H C^1/2``, a Chebyshev polynomial."""
        dtype = self.like.data.dtype
        e = jax.random.normal(key, self.prior.structure.shape, dtype)
        coefficients = np.polynomial.chebyshev.chebinterpolate(_root, DEGREE)
        root = self.covariance.sqrt

        def shifted(v):
            return 2 * self._whitened(v) - v

        before, now = e, shifted(e)
        out = coefficients[0] * before + coefficients[1] * now
        for c in coefficients[2:]:
            before, now = now, 2 * shifted(now) - before
            out = out + c * now
        return root(out)

    def _whitened(self, v: Float[Array, "y x"]) -> Float[Array, "y x"]:
        root, like = self.covariance.sqrt, self.like
        return root(like.operator.adjoint(like.noise.inv(like.operator.apply(root(v)))))  # type: ignore[attr-defined]


def temperature(hot: float, step: Array, anneal: int, dtype) -> Float[Array, ""]:
    """From ``hot`` at step zero to one at step ``anneal``, evenly in the logarithm, and one from then on."""
    return jnp.asarray(hot, dtype) ** jnp.maximum(0, 1 - step.astype(dtype) / anneal)


def _root(t: Any) -> Any:
    """The square root of one minus m, m from zero to one as t goes from minus one to one."""
    return np.sqrt((1 - t) / 2)


def augment(post: Posterior, share: float, depth: float) -> AugmentedPosterior:
    """The auxiliary image for a posterior.

    Parameters
    ----------
    post
        Linear operator on one image, Gaussian noise, a prior with a denoiser for coloured noise.
    share
        Largest eigenvalue of ``C H``, below one.
    depth
        Power response of the operator, relative to the largest, below which C rises no more.

    Raises
    ------
    CapabilityError
        When operator, noise or prior are others.
    """
    like = post.likelihood
    if not isinstance(like, likelihoods.Gaussian) or not isinstance(like.operator, AbstractLinearOperator):
        raise CapabilityError("an auxiliary image needs a linear operator and Gaussian noise")
    prior = require(post.prior, HasColouredDenoiser, "auxiliary images")
    (ny, nx), dtype = prior.structure.shape, like.data.dtype
    out = like.operator.out_structure.shape
    datum = jnp.zeros(out, dtype).at[tuple(n // 2 for n in out)].set(1)
    response = jnp.abs(jnp.fft.rfft2(like.operator.adjoint(datum))) ** 2
    first = Stationary(1 / (response + depth * jnp.max(response)), (ny, nx))
    trial = AugmentedPosterior(like, prior, first)

    def grow(_, state):
        v, _ = state
        bent = trial._whitened(v)
        size = jnp.sqrt(jnp.sum(bent**2))
        return bent / jnp.maximum(size, jnp.finfo(dtype).tiny), size

    start = jax.random.normal(jax.random.key(0), (ny, nx), dtype)
    _, largest = jax.lax.fori_loop(0, POWER_STEPS, grow, (start / jnp.sqrt(jnp.sum(start**2)), jnp.ones((), dtype)))
    return AugmentedPosterior(like, prior, Stationary(share / (MARGIN * largest) * first.power, (ny, nx)))


__all__ = ["AugmentedPosterior", "augment", "temperature"]
