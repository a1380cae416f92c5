"""Whether a posterior predicts data that it has not seen: a p-value that needs no truth.

With fresh noise the data are split into two independent parts (`invprob.evidence.fission`). Draws of the posterior of
the first predict the second; where the prior made up structure that is not there, or could not make what is, the second
part is unlike what was predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from invprob import likelihoods
from invprob.covariance import Diagonal
from invprob.errors import CapabilityError
from invprob.evidence.fission import split_data
from invprob.operators.base import AbstractLinearOperator, vdot
from invprob.posterior import Posterior

SHARE = 1.0  # both parts know the same


@dataclass(frozen=True)
class HeldOutPrediction:
    """p-values of the second part of the data, two-sided: small where it is unlike the prediction of the first.

    Parameters
    ----------
    chi2
        Of the squared distance of the data from the mean prediction, in the noise.
    structure
        The same of the distance as the operator sees it, ``A.T N^-1 (y - A x)``: of structure as wide as the PSF.
    num_draws
        Draws behind them; no p-value is below ``2 / (num_draws + 1)``, both together twice that.
    """

    chi2: float
    structure: float
    num_draws: int

    @property
    def p_value(self) -> float:
        """Both together, by Bonferroni."""
        return min(1.0, 2 * min(self.chi2, self.structure))


def _distances(like: likelihoods.Gaussian, data: Array, fitted: Array) -> Array:
    away = data - fitted
    left = like.noise.inv(away)
    seen = like.operator.adjoint(left)  # type: ignore[attr-defined]
    return jnp.stack([jnp.sum(left * away), vdot(seen, seen)])


@eqx.filter_jit
def _compared(like: likelihoods.Gaussian, draws: PyTree, keys: Array) -> tuple[Array, Array]:
    """The distances of the data, and of a replica for each draw, from the mean prediction."""
    fitted = like.operator.apply(jax.tree.map(lambda a: jnp.mean(a, axis=0), draws))

    def replica(pair):
        x, key = pair
        return _distances(like, like.operator.apply(x) + like.noise.sample(key, like.data.dtype), fitted)

    return _distances(like, like.data, fitted), jax.lax.map(replica, (draws, keys))


def predicted(post: Posterior, key, draw: Callable[[Posterior, Any], PyTree]) -> HeldOutPrediction:
    """p-values of one half of the data under the posterior of the other half.

    Parameters
    ----------
    post
        Posterior with a linear operator and Gaussian noise of independent data.
    key
        Of the split, of the draws and of their noise.
    draw
        From a posterior and a key to draws of its latent, stacked along a leading axis; nearly independent ones.

    Raises
    ------
    CapabilityError
        When operator or noise are others.

    References
    ----------
    Leiner, Duan, Wasserman & Ramdas 2023, J. American Statistical Association 120, 135 (data fission); Gelman, Meng &
    Stern 1996, Statistica Sinica 6, 733 (posterior predictive p-values, here of data that the posterior has not seen).
    """
    like = post.likelihood
    needed = CapabilityError("data fission needs a linear operator and Gaussian noise of independent data")
    if not isinstance(like, likelihoods.Gaussian) or not isinstance(like.operator, AbstractLinearOperator):
        raise needed
    if not isinstance(like.noise, Diagonal):
        raise needed
    split, sampling, noise = jax.random.split(key, 3)
    first, second = split_data(like, split, SHARE)
    draws = draw(Posterior(first, post.prior), sampling)
    number = len(jax.tree.leaves(draws)[0])
    seen, replicas = jax.tree.map(np.asarray, _compared(second, draws, jax.random.split(noise, number)))
    above = (1 + (replicas >= seen).sum(0)) / (number + 1)
    below = (1 + (replicas <= seen).sum(0)) / (number + 1)
    chi2, structure = np.minimum(1.0, 2 * np.minimum(above, below))
    return HeldOutPrediction(float(chi2), float(structure), number)


__all__ = ["HeldOutPrediction", "predicted"]
