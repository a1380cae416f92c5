"""Exact independent draws of a linear-Gaussian posterior: perturb and solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from invprob.covariance import white
from invprob.errors import CapabilityError
from invprob.operators.base import vdot
from invprob.optimize.choose import is_circulant
from invprob.optimize.loop import iterate_pure
from invprob.optimize.solvers import ConjugateGradient, TwoGrid, Wiener
from invprob.posterior import LinearGaussian, Posterior
from invprob.sampling.samplers.base import AbstractIndependent, Draw

DRAW_RTOL = 1e-6  # part of the energy of a draw that may be missing


def perturbation(system: LinearGaussian, key) -> PyTree:
    """``A.T N^-1/2 e1 + S^-1/2 e2``: a right-hand side whose covariance is the posterior precision."""
    data_key, prior_key = jax.random.split(key)
    dtype = system.data.dtype
    noise = system.noise.inv_sqrt(white(data_key, system.noise.structure, dtype))
    data = system.operator.adjoint(noise)
    prior = system.covariance.inv_sqrt(white(prior_key, system.covariance.structure, dtype))
    return jax.tree.map(jnp.add, data, prior)


class Problem(eqx.Module):
    """A linear-Gaussian system and the solver's view of it."""

    system: LinearGaussian
    solved: Any


class AbstractExact(AbstractIndependent):
    """Exact draws of a linear-Gaussian posterior, each by one solve.

    Parameters
    ----------
    solver
        What solves; its gap bounds the part of a draw's energy that is wrong.
    max_steps
        Most steps of a solve.
    """

    solver: eqx.AbstractVar[Any]
    max_steps: eqx.AbstractVar[int]

    def prepare(self, post: Posterior) -> Problem:
        system = post.linear_gaussian()
        if system is None:
            raise CapabilityError("exact draws need a linear operator, Gaussian noise and a Gaussian prior")
        return Problem(system, self.solver.prepare(post))

    def mean(self, problem: Problem) -> Draw:
        return self.solution(problem.solved)

    def solution(self, solved: Any) -> Draw:
        """The solution of a prepared problem."""
        state = iterate_pure(self.solver, solved, self.solver.init(solved, None), self.max_steps)
        return Draw(self.solver.latent(solved, state), state.metrics.code)


class PerturbationOptimization(AbstractExact):
    """Perturb and solve: ``K u = A.T N^-1/2 e1 + S^-1/2 e2`` by conjugate gradients, for every linear operator.

    References
    ----------
    Papandreou & Yuille 2010, NIPS 23.
    """

    solver: ConjugateGradient = ConjugateGradient(rtol=DRAW_RTOL)
    max_steps: int = 1000
    name: ClassVar[str] = "perturb and solve"

    def draw(self, problem: Problem, key) -> Draw:
        return self.solution(problem.solved.with_right(perturbation(problem.system, key)))


class ConstrainedRealization(AbstractExact):
    """Simulate and condition: a draw of the prior less its reconstruction from simulated data, on two grids.

    With ``x' ~ N(0, S)`` and ``y' = A x' + n'`` the difference of x' from the posterior mean given y' has the posterior
    covariance. What the data do not see comes from the prior itself, so that the solve is left with little, and two
    grids suit that.

    References
    ----------
    Hoffman & Ribak 1991, ApJ 380, L5.
    """

    solver: TwoGrid
    max_steps: int = 1000
    name: ClassVar[str] = "simulate and condition"

    def draw(self, problem: Problem, key) -> Draw:
        system = problem.system
        prior_key, noise_key = jax.random.split(key)
        dtype = system.data.dtype
        x = system.covariance.sample(prior_key, dtype)
        y = system.operator.apply(x) + system.noise.sample(noise_key, dtype)
        found = self.solution(problem.solved.with_data(y))
        return Draw(jax.tree.map(jnp.subtract, x, found.value), found.code)


class Filtered(AbstractExact):
    """White noise through the root of the posterior covariance, where that is circulant: one FFT a draw, no solve.

    Noise that differs from pixel to pixel, which only its numbers can tell, is noticed at the mean, whose code then is
    not 1.
    """

    solver: Wiener = Wiener()
    max_steps: int = 1
    name: ClassVar[str] = "filtered noise"

    def draw(self, problem: Problem, key) -> Draw:
        root = problem.system.circulant().root
        real, imaginary = jax.random.normal(key, (2, *root.in_structure.shape), problem.system.data.dtype)
        return Draw(root.apply(jax.lax.complex(real, imaginary)), jnp.ones((), jnp.int32))


def exact_sampler(post: Posterior, rtol: float = DRAW_RTOL, max_steps: int = 1000) -> AbstractExact:
    """The fastest of the three for a posterior with concrete arrays."""
    if is_circulant(post):
        return Filtered()
    two = TwoGrid.fitting(post, rtol)
    if two is not None:
        return ConstrainedRealization(two, max_steps)
    return PerturbationOptimization(ConjugateGradient(rtol=rtol), max_steps)


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
        1 where the solve reached ``rtol``; see `invprob.optimize.find_map.Solution`.
    """
    system = post.linear_gaussian()
    if system is None:
        raise CapabilityError("the variance needs a linear operator, Gaussian noise and a Gaussian prior")
    solver = ConjugateGradient(rtol=rtol)
    problem = solver.system(system).with_right(direction)
    state = iterate_pure(solver, problem, solver.init(problem, None), max_steps)
    return vdot(direction, problem.root.apply(state.x)), state.metrics.code


@eqx.filter_jit
def _prepared(sampler: AbstractIndependent, post: Posterior) -> Any:
    return sampler.prepare(post)


def _nothing(deviation: PyTree) -> None:
    """Sums of no kind."""


def summed(draw: Callable[[Any], Draw], keys, before: PyTree, summary: Callable, sums: Callable):
    """Sums over draws, added to those before, with the stacked summaries and codes; no draw is kept."""

    def one(total, key):
        d = draw(key)
        return jax.tree.map(jnp.add, total, sums(d.value)), (summary(d.value), d.code)

    return jax.lax.scan(one, before, keys)


@eqx.filter_jit
def _summaries(sampler: AbstractIndependent, problem: Any, keys, before: PyTree, summary: Callable, sums: Callable):
    return summed(lambda key: sampler.draw(problem, key), keys, before, summary, sums)


def no_sums(sums: Callable[[PyTree], Any], x: PyTree) -> PyTree:
    """Zeros like the sums over draws such as x (arrays, or their shapes)."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), eqx.filter_eval_shape(sums, x))


def exact_draws(
    post: Posterior,
    key,
    num_samples: int,
    summary: Callable[[PyTree], Any],
    *,
    sampler: AbstractIndependent | None = None,
    chunk: int = 8,
    progress: Callable[[int, int], None] | None = None,
    fold: Callable[[Any, Any], Any] | None = None,
) -> tuple[Any, bool]:
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
    sampler
        With its solver, which says what part of the energy of a draw may be missing.
    chunk
        Draws in one compiled call.
    progress
        Called with the draws done and to do.
    fold
        From what was kept so far (None at first) and the stacked summaries of a chunk to what is kept; for sums, which
        then take the memory of one draw however many there are. Default: all of them, in a list.

    Returns
    -------
    kept
        What is kept in the end; without ``fold`` a list of one stacked summary for each chunk, on the device.
    bool
        Whether every solve got there.
    """
    _, kept, good = exact_sums(
        post, key, num_samples, _nothing, summary, sampler, chunk=chunk, progress=progress, fold=fold
    )
    return kept, good


def exact_sums(
    post: Posterior,
    key,
    num_samples: int,
    sums: Callable[[PyTree], Any],
    summary: Callable[[PyTree], Any],
    sampler: AbstractIndependent | None = None,
    *,
    chunk: int = 8,
    progress: Callable[[int, int], None] | None = None,
    fold: Callable[[Any, Any], Any] | None = None,
) -> tuple[PyTree, Any, bool]:
    """`exact_draws` with sums over all draws, of which none is kept.

    Parameters
    ----------
    post, key, num_samples, summary, sampler, chunk, progress, fold
        As for `exact_draws`.
    sums
        From the deviation of a draw from the posterior mean (latent pytree) to arrays that are added up.

    Returns
    -------
    sums
        Pytree like that of ``sums``.
    kept, bool
        As of `exact_draws`.
    """
    sampler = PerturbationOptimization() if sampler is None else sampler
    problem = _prepared(sampler, post)
    before = no_sums(sums, eqx.filter_eval_shape(sampler.draw, problem, key).value)
    kept, good = None, True
    fold = _listed if fold is None else fold
    # not in `invprob.loop`: one draw knows nothing of another, so that there is no state to go on from
    for first in range(0, num_samples, chunk):
        last = min(first + chunk, num_samples)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(first, last))
        before, (values, codes) = _summaries(sampler, problem, keys, before, summary, sums)
        kept = jax.block_until_ready(fold(kept, values))
        good &= bool(jnp.all(codes == 1))
        if progress is not None:
            progress(last, num_samples)
    return before, kept, good


def _listed(kept: list[Any] | None, stacked: Any) -> list[Any]:
    return [*(kept or ()), stacked]
