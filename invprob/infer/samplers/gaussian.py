"""Exact independent draws of a linear-Gaussian posterior: perturb and solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from invprob.covariance import white
from invprob.errors import CapabilityError
from invprob.infer.loop import iterate_pure
from invprob.infer.solvers.cg import ConjugateGradient, System
from invprob.operators.base import vdot
from invprob.posterior import LinearGaussian, Posterior


class Draw(eqx.Module):
    """One draw, as its deviation from the posterior mean, with how its solve ended."""

    deviation: PyTree
    code: Array


def perturbation(system: LinearGaussian, key) -> PyTree:
    """``A.T N^-1/2 e1 + S^-1/2 e2``: a right-hand side whose covariance is the posterior precision."""
    data_key, prior_key = jax.random.split(key)
    dtype = system.data.dtype
    noise = system.noise.inv_sqrt(white(data_key, system.noise.structure, dtype))
    data = system.operator.adjoint(noise)
    prior = system.covariance.inv_sqrt(white(prior_key, system.covariance.structure, dtype))
    return jax.tree.map(jnp.add, data, prior)


def draw(system: LinearGaussian, whitened: System, key, solver: ConjugateGradient, max_steps: int) -> Draw:
    """One exact draw: a solve with a perturbed right-hand side (Papandreou & Yuille 2010, NIPS 23).

    The deviation has exactly the posterior covariance when the solve is exact; the solver's gap bounds the part of its
    energy that is missing.
    """
    problem = whitened.with_right(perturbation(system, key))
    state = iterate_pure(solver, problem, solver.init(problem, None), max_steps)
    return Draw(problem.root.apply(state.x), state.metrics.code)


def variance_along(
    post: Posterior, direction: PyTree, *, rtol: float = 1e-6, max_steps: int = 1000
) -> tuple[Array, Array]:
    """The posterior variance of the linear functional ``<direction, x>``, by one solve: ``d.T K^-1 d``.

    Parameters
    ----------
    post
        Linear-Gaussian posterior with precision K.
    direction
        Latent pytree d.
    rtol
        Relative error of the variance.
    max_steps
        Most steps of the solve.

    Returns
    -------
    variance
        In the squared unit of the functional.
    code
        1 where the solve reached ``rtol``; see `invprob.infer.find_map.Solution`.
    """
    system = post.linear_gaussian()
    if system is None:
        raise CapabilityError("the variance needs a linear operator, Gaussian noise and a Gaussian prior")
    solver = ConjugateGradient(rtol=rtol)
    problem = solver.system(system).with_right(direction)
    state = iterate_pure(solver, problem, solver.init(problem, None), max_steps)
    return vdot(direction, problem.root.apply(state.x)), state.metrics.code


@eqx.filter_jit
def _summaries(post: Posterior, keys, rtol, max_steps: int, summary: Callable[[PyTree], Any]):
    system = post.linear_gaussian()
    assert system is not None
    solver = ConjugateGradient(rtol=rtol)
    whitened = solver.system(system)

    def one(key):
        d = draw(system, whitened, key, solver, max_steps)
        return summary(d.deviation), d.code

    return jax.lax.map(one, keys)


def exact_draws(
    post: Posterior,
    key,
    num_samples: int,
    summary: Callable[[PyTree], Any],
    *,
    rtol: float = 1e-6,
    max_steps: int = 1000,
    chunk: int = 8,
    progress: Callable[[int, int], None] | None = None,
    fold: Callable[[Any], Any] = lambda stacked: stacked,
) -> tuple[list[Any], bool]:
    """Summaries of independent exact draws.

    Draw i uses the key ``fold_in(key, i)``, whatever the number of draws or the chunk.

    Parameters
    ----------
    post
        Linear-Gaussian posterior.
    key
        Random key.
    num_samples
        Number of draws.
    summary
        From the deviation of a draw from the posterior mean (latent pytree) to what is to be kept.
    rtol
        Part of the energy of a draw that may be missing.
    chunk
        Draws in one compiled call.
    progress
        Called with the draws done and to do.
    fold
        Applied to the stacked summaries of a chunk; for sums that need not be kept for each draw.

    Returns
    -------
    list
        One stacked (and folded) summary for each chunk, on the device.
    bool
        Whether every solve reached ``rtol``.
    """
    if post.linear_gaussian() is None:
        raise CapabilityError("exact draws need a linear operator, Gaussian noise and a Gaussian prior")
    out, good = [], True
    for first in range(0, num_samples, chunk):
        last = min(first + chunk, num_samples)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(first, last))
        values, codes = _summaries(post, keys, rtol, max_steps, summary)
        out.append(jax.block_until_ready(fold(values)))
        good &= bool(jnp.all(codes == 1))
        if progress is not None:
            progress(last, num_samples)
    return out, good
