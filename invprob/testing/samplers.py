"""The contract of a sampler: its draws against the dense posterior of a small linear-Gaussian problem."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from invprob.diagnostics.rank_statistics import mean_ess
from invprob.posterior import Hierarchy, Posterior
from invprob.results import Samples, Status
from invprob.sampling.sample import sample
from invprob.sampling.samplers.base import AbstractSampler
from invprob.testing.base import require
from invprob.testing.solvers import dense_posterior, small_problem

SIGMAS = 5.0  # Monte-Carlo standard errors that a statistic may be off


def check_sampler(
    sampler: AbstractSampler,
    post: Posterior | Hierarchy | None = None,
    key: Any = None,
    num_samples: int = 3000,
    reference: Posterior | None = None,
) -> None:
    """Check that a sampler draws from the posterior.

    Mean and variance of each unknown and the energy of the whole against the dense posterior, in Monte-Carlo standard
    errors that allow for correlated draws; the same key gives the same draws, another key others.

    Parameters
    ----------
    sampler
        Sampler that takes a linear operator, Gaussian noise and a Gaussian prior.
    post
        A small linear-Gaussian posterior, or a hierarchy that is the same one for every theta; default: `small_problem`
        of 6 x 6 data.
    key
        Random key.
    num_samples
        Draws.
    reference
        The same posterior as a linear-Gaussian one, where the prior of the first does not say that it is Gaussian.
    """
    post = small_problem(side=6) if post is None else post
    key = jax.random.key(0) if key is None else key
    result = sample(post, key, num_samples, sampler)
    for name, sigmas in off_by(post if reference is None else reference, result).items():
        require(sigmas < SIGMAS, sampler, name, f"{sigmas:.1f} Monte-Carlo standard errors from the dense posterior")
    good = result.status in (Status.CONVERGED, Status.NOT_MIXED)
    require(good, sampler, "status", f"{result.status.name} after {num_samples} draws")
    few = [sample(post, k, 16, sampler).latents for k in (key, key, jax.random.fold_in(key, 1))]
    one, again, other = (np.asarray(ravel_pytree(draws)[0]) for draws in few)
    require(np.array_equal(one, again), sampler, "the same key gives the same draws")
    require(not np.any(one == other), sampler, "another key gives other draws")


def off_by(post: Posterior | Hierarchy, result: Samples) -> dict[str, float]:
    """How far draws are from the dense posterior, in Monte-Carlo standard errors.

    Returns
    -------
    dict
        ``"mean"`` and ``"variance"`` of the worst unknown, less what the worst of many is off by chance, and
        ``"energy"``: the sum of the squares in white coordinates, which sees an error of the scale of all.
    """
    latents = result.latents
    if isinstance(post, Hierarchy):
        post, latents = post.build(post.start), latents["x"]
    mean, covariance = dense_posterior(post)
    flat = jax.vmap(jax.vmap(lambda x: ravel_pytree(x)[0]))(latents)
    u = np.asarray(flat, float) - np.ravel(ravel_pytree(mean)[0])
    sd = np.sqrt(np.diag(covariance))
    size = u.shape[-1]
    white = np.linalg.solve(np.linalg.cholesky(covariance), u.reshape(-1, size).T).T.reshape(u.shape)
    by_chance = np.sqrt(2 * np.log(size))

    def worst(values: np.ndarray, expected: float) -> float:
        error = values.std((0, 1)) / np.sqrt(mean_ess(values))
        return float(np.max(np.abs(values.mean((0, 1)) - expected) / error))

    return {
        "mean": worst(u / sd, 0.0) - by_chance,
        "variance": worst((u / sd) ** 2, 1.0) - by_chance,
        "energy": worst((white**2).mean(-1)[..., None], 1.0),
    }


__all__ = ["check_sampler", "off_by"]
