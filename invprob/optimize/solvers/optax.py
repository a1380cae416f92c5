"""Any optax transformation as a solver, in coordinates in which the posterior is well conditioned."""

from __future__ import annotations

import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from invprob.operators.base import AbstractLinearOperator, Identity, vdot
from invprob.optimize.solvers.base import DONE, NOT_FINITE, RUNNING, AbstractSolver, State, first_metrics
from invprob.optimize.solvers.cg import ConjugateGradient
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasPrecision

START_STEPS = 30  # conjugate gradients towards the start of a local search


class Problem(eqx.Module):
    """A posterior as a function of coordinates c, ``x = constrain(origin + L c)``."""

    post: Posterior
    root: AbstractLinearOperator
    inverse: AbstractLinearOperator
    origin: PyTree

    def latent(self, c: PyTree) -> PyTree:
        """x of c."""
        return self.post.prior.constrain(jax.tree.map(jnp.add, self.origin, self.root.apply(c)))

    def objective(self, c: PyTree):
        """The negative log-posterior."""
        return -self.post.log_prob(self.latent(c))


class Optax(AbstractSolver):
    """Minimizes the negative log-posterior with an optax `GradientTransformation`.

    For a Gaussian prior the coordinates are those of the circulant posterior covariance (linear operator) or of the
    prior (non-linear). There the curvature of the objective is about one, and less along modes of masked pixels and of
    the border; half the squared gradient stands for the gap, relative to half the number of data, the typical value of
    the objective. It is an indication, not a bound. For other priors x itself is the coordinate, or for a bounded
    support an unbounded function of it.

    Parameters
    ----------
    transformation
        For example ``optax.lbfgs()`` or ``optax.adam(1e-2)``. One made anew is compiled anew.
    rtol
        Gap at which to stop.
    """

    transformation: optax.GradientTransformationExtraArgs
    rtol: float = 1e-7
    name: ClassVar[str] = "optax"

    def __init__(self, transformation: optax.GradientTransformation | None = None, rtol: float = 1e-7):
        given = _default() if transformation is None else transformation
        self.transformation = optax.with_extra_args_support(given)
        self.rtol = rtol

    def prepare(self, post: Posterior) -> Problem:
        gaussian = post.prior.find(HasPrecision)
        if gaussian is None:
            identity = Identity(post.structure)
            return Problem(post, identity, identity, post.prior.unconstrain(_start_of(post)))
        system = post.linear_gaussian()
        metric = gaussian.covariance if system is None else system.circulant()
        metric = jax.lax.stop_gradient(metric)
        return Problem(post, metric.sqrt, metric.inv_sqrt, gaussian.mean)

    def init(self, problem: Problem, x0: PyTree | None) -> State:
        if x0 is None:
            c = jax.tree.map(jnp.zeros_like, problem.root.apply(problem.origin))
        else:
            free = problem.post.prior.unconstrain(x0)
            c = problem.inverse.apply(jax.tree.map(jnp.subtract, free, problem.origin))
        return State(c, self.transformation.init(c), first_metrics(_dtype(c)))

    def step(self, problem: Problem, state: State) -> State:
        value, gradient = jax.value_and_grad(problem.objective)(state.x)
        updates, carry = self.transformation.update(
            gradient, state.carry, state.x, value=value, grad=gradient, value_fn=problem.objective
        )
        scale = jnp.asarray(problem.post.likelihood.num_data, value.dtype)
        gap = vdot(gradient, gradient) / scale
        done = gap <= self.rtol
        # the gradient belongs to the point before the update: keep that point when it is good enough
        x = jax.tree.map(lambda old, d: jnp.where(done, old, old + d), state.x, updates)
        finite = jnp.isfinite(value) & jnp.isfinite(gap)
        code = jnp.where(done, DONE, jnp.where(finite, RUNNING, NOT_FINITE)).astype(jnp.int32)
        metrics = eqx.tree_at(lambda m: (m.step, m.gap, m.code), state.metrics, (state.metrics.step + 1, gap, code))
        return State(x, carry, metrics)

    def latent(self, problem: Problem, state: State) -> PyTree:
        return problem.latent(state.x)


@functools.cache
def _default() -> optax.GradientTransformationExtraArgs:
    """L-BFGS, one object, so that two solves share one compilation."""
    return optax.lbfgs()


def _dtype(tree: PyTree):
    return jnp.result_type(*jax.tree.leaves(tree))


def _start_of(post: Posterior) -> PyTree:
    """Where to begin without a Gaussian prior: near the solution under the Gaussian matched to it, else zeros."""
    matched = post.prior.gaussian_approximation()
    system = None if matched is None else Posterior(post.likelihood, matched).linear_gaussian()
    if system is None:
        like = post.structure.like(_dtype(eqx.filter(post.likelihood, eqx.is_inexact_array)))
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
    solver = ConjugateGradient()
    problem = solver.system(system)
    state = jax.lax.fori_loop(0, START_STEPS, lambda _, s: solver.step(problem, s), solver.init(problem, None))
    return jax.lax.stop_gradient(post.prior.start(solver.latent(problem, state), problem.metric))
