"""Metric Gaussian variational inference: the Fisher metric is the precision of q, Newton steps find its mean."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from invprob import likelihoods
from invprob.covariance import AbstractCovariance, Blocks, Diagonal
from invprob.errors import UsageError
from invprob.loop import Chunk, Pace, run_chunks
from invprob.operators.base import AbstractOperator, Structure, compose, precision_of, vdot
from invprob.operators.function import Function
from invprob.optimize.loop import STATUS, iterate_pure
from invprob.optimize.solvers.base import DONE, NOT_FINITE
from invprob.posterior import Posterior, Whitened
from invprob.priors.gaussian import Gaussian
from invprob.results import Status
from invprob.variational.family import AbstractFamily, Fit, FitSettings, VariationalProgress, status_of
from invprob.variational.local_gaussian import (
    LocalGaussian,
    local_gaussian,
    local_system,
    most_probable,
    newton,
    whitened,
)

PROBES = 64  # random vectors behind the log-determinant in the ELBO
SETTLED = 0.01  # the mean has settled when a step moves it by less, in standard deviations of q, on average
NEWTON_STEPS = 100  # most within one step of the fit


class _Averaged(eqx.Module):
    """xi -> the whitened predictions at ``xi + d`` for S offsets d, over ``sqrt(S)``: their squares average."""

    forward: AbstractOperator
    noise: AbstractCovariance
    offsets: PyTree

    def __call__(self, xi):
        number = jax.tree.leaves(self.offsets)[0].shape[0]

        def one(d):
            return self.noise.inv_sqrt(self.forward.apply(jax.tree.map(jnp.add, xi, d)))

        return jax.vmap(one)(self.offsets) / jnp.sqrt(jnp.asarray(number, precision_of(xi)))


def averaged(problem: Whitened, offsets: PyTree) -> Posterior:
    """The posterior of xi whose log-density is the mean over ``xi + d``, less a constant, for d that sum to zero."""
    like: Any = problem.posterior.likelihood
    number = jax.tree.leaves(offsets)[0].shape[0]
    dtype = precision_of(offsets)
    forward = compose(like.operator, problem.T)
    operator = Function(_Averaged(forward, like.noise, offsets), problem.structure)
    y = like.noise.inv_sqrt(like.data) / jnp.sqrt(jnp.asarray(number, dtype))
    data = jnp.broadcast_to(y, (number, *y.shape))
    return Posterior(likelihoods.Gaussian(operator, data, jnp.ones_like(data)), _white_prior(problem.structure, dtype))


def _white_prior(structure: Structure, dtype) -> Gaussian:
    parts = jax.tree.map(lambda s: Diagonal(jnp.ones(s.shape, s.dtype)), structure.like(dtype))
    return Gaussian(None, parts if isinstance(parts, AbstractCovariance) else Blocks(parts))


@eqx.filter_jit
def _step(problem: Whitened, xi: PyTree, key, num_pairs: int):
    """One step: draws with the metric at xi, then the mean that minimizes the average over them."""
    system = local_system(problem, xi)
    q = LocalGaussian(system, jnp.zeros((), system.data.dtype))
    draws = q.draws(key, num_pairs)
    flat, unravel = ravel_pytree(xi)
    offsets = jax.vmap(unravel)(jnp.concatenate([draws.c, draws.reflected]))
    solver = newton(precision_of(xi))
    smooth = averaged(problem, offsets)
    sampled = solver.prepare(smooth)
    state = iterate_pure(solver, sampled, solver.init(sampled, xi), NEWTON_STEPS)
    moved = jax.tree.map(jnp.subtract, state.x, xi)
    change = jnp.sqrt(vdot(moved, system.precision.apply(moved)) / flat.size)
    energy = 0.5 * (smooth.likelihood.chi2(state.x) + vdot(state.x, state.x))
    return state.x, change, energy, state.metrics.code, jnp.all(draws.good)


class MetricGaussian(AbstractFamily):
    """A Gaussian whose precision is the Fisher metric at its mean, ``M = J.T N^-1 J + 1`` in white coordinates.

    In turn: draw deviations ``+-d ~ N(0, M^-1)`` at the mean (perturb and solve), then move the mean by Newton steps to
    the minimum of the average of ``-log p(data, xi)`` over them. From half of the steps on the random numbers stay, so
    that the mean settles. For a linear operator and a Gaussian prior q is the posterior. It scales to any image: no
    matrix is stored.

    Notes
    -----
    ``learning_rate`` has no meaning here. The ELBO counts ``log det M``, exactly up to some thousand numbers, else
    with the error of its estimate.

    References
    ----------
    Knollmueller & Ensslin 2019, arXiv:1901.11033.
    """

    name: ClassVar[str] = "metric"
    effort: ClassVar[FitSettings] = FitSettings(12, 8, None)

    def check(self, post):
        whitened(post, type(self).__name__)

    def fit(self, post, key, effort, where, watch):
        if where is not None:
            raise UsageError("MetricGaussian has its own coordinates, those in which the prior is white: give none")
        problem = whitened(post, type(self).__name__)
        steps, pairs = effort.num_steps or 12, -(-(effort.num_draws or 8) // 2)
        begun = time.monotonic()
        keep = watch.keep(post, f"{self} {steps} {pairs} {jax.random.key_data(key).tolist()}")

        def advance(state, until):
            xi, code, done, _ = state
            fresh = min(int(done), steps // 2)  # a fixed point needs the same random numbers
            found = _step(problem, xi, jax.random.fold_in(key, fresh), pairs)
            xi, change, energy, code, good = jax.block_until_ready(found)
            failed = int(code) == NOT_FINITE or not bool(good)
            settled = not failed and until - 1 > steps // 2 and int(code) == DONE and float(change) < SETTLED
            state = (xi, code, np.asarray(until), np.asarray(settled))
            return Chunk(state, until, failed or settled, (-float(energy), float(change)))

        def line(chunk, seconds):
            objective, change = chunk.seen
            return VariationalProgress(chunk.step, steps, objective, seconds, change)

        state = keep.load((*most_probable(problem), np.asarray(0), np.asarray(False)))
        # of a Gaussian posterior the maximum is the mean, whatever the draws
        total = 0 if post.linear_gaussian() is not None else steps
        outcome = run_chunks(
            Chunk(state, int(state[2]), bool(state[3])), advance, line, total, watch=watch, keep=keep,
            pace=Pace(most=1),  # a step is a whole Newton solve
            is_recorded=True, begun=begun,
        )  # fmt: skip
        last = outcome.last
        xi, code, _, settled = last.state
        status = Status.CONVERGED if settled else Status.MAX_STEPS
        if status is Status.MAX_STEPS and (last.step == 0 or int(code) != DONE):
            status = STATUS[int(code)]
        approximation = local_gaussian(problem, xi, jax.random.fold_in(key, steps), PROBES)
        return Fit(approximation, status_of(outcome, status), last.step, outcome.history)


__all__ = ["MetricGaussian", "averaged"]
