"""Conjugate gradients for a linear forward operator, Gaussian noise and a Gaussian prior.

The iteration runs in the coordinates ``u = L c`` with ``L L.T`` the circulant approximation of the posterior
covariance, in which the system is close to the identity and no preconditioner is applied. For a stationary prior c are
Fourier coordinates: behind the convolution the inverse FFT of L is the only one, so that one step costs one FFT pair of
the latent grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from invprob.covariance import AbstractCovariance
from invprob.errors import CapabilityError
from invprob.operators.base import AbstractLinearOperator, vdot, zeros
from invprob.optimize.solvers.base import (
    DONE,
    FACTOR,
    NOT_FINITE,
    ROUNDING,
    RUNNING,
    STALLED,
    WINDOW,
    AbstractSolver,
    State,
    first_metrics,
)
from invprob.posterior import LinearGaussian, Posterior, Precision


class System(eqx.Module):
    """``K c = b`` in the coordinates ``u = L c``, with what is needed to go back.

    Parameters
    ----------
    precision, right
        K and b.
    null
        Objective at u = 0; zero where only the energy ``b.T c / 2`` counts.
    metric, root
        The circulant posterior covariance and its root L.
    mean
        Mean of the prior, None for zero.
    """

    precision: Precision
    right: PyTree
    null: Float[Array, ""]
    metric: AbstractCovariance
    root: AbstractLinearOperator
    mean: PyTree

    def with_right(self, b: PyTree) -> System:
        """The system ``K u = b`` of a deviation u, b in latent coordinates; its scale is its own energy."""
        return replace(self, right=self.root.adjoint(b), null=jnp.zeros_like(self.null), mean=None)


class Carry(eqx.Module):
    """Residual, direction, squared residual, and the decreases of the objective."""

    residual: PyTree
    direction: PyTree
    squared: Float[Array, ""]
    decrease: Float[Array, ""]
    recent: Float[Array, " window"]


def axpy(a, x: PyTree, y: PyTree) -> PyTree:
    """``a x + y`` on pytrees."""
    return jax.tree.map(lambda p, q: a * p + q, x, y)


def descend(
    apply: Callable[[PyTree], PyTree],
    x: PyTree,
    residual: PyTree,
    enough: Float[Array, ""] | float,
    most: int,
    condition: Callable[[PyTree], PyTree] = lambda r: r,
) -> tuple[PyTree, Float[Array, ""], Int[Array, ""]]:
    """Conjugate gradients within another algorithm, without metrics: from x and its residual ``b - K x``.

    Parameters
    ----------
    apply
        The positive definite operator K.
    enough
        Where ``r.T P r`` is small enough.
    most
        Most steps.
    condition
        The preconditioner P.

    Returns
    -------
    x, left, steps
        The last x, its ``r.T P r`` (not finite where the solve broke), and the steps taken.
    """
    z = condition(residual)

    def unfinished(state):
        *_, left, step = state
        return (left > enough) & (step < most)

    def body(state):
        x, r, p, left, step = state
        q = apply(p)
        alpha = left / vdot(p, q)
        x, r = axpy(alpha, p, x), axpy(-alpha, q, r)
        z = condition(r)
        new = vdot(r, z)
        return x, r, axpy(new / left, p, z), new, step + 1

    start = (x, residual, z, vdot(residual, z), jnp.zeros((), jnp.int32))
    x, _, _, left, steps = jax.lax.while_loop(unfinished, body, start)
    return x, left, steps


class ConjugateGradient(AbstractSolver):
    """Conjugate gradients (Hestenes & Stiefel 1952), stopped by the decreases of the objective.

    Parameters
    ----------
    rtol
        Relative gap ``(f - f*) / f`` at which to stop, estimated from the last decreases of f.
    """

    rtol: float = 1e-7
    name: ClassVar[str] = "cg"

    def prepare(self, post: Posterior) -> System:
        system = post.linear_gaussian()
        if system is None:
            raise CapabilityError("conjugate gradients need a linear operator, Gaussian noise and a Gaussian prior")
        return self.system(system)

    def system(self, system: LinearGaussian) -> System:
        """The whitened system of a linear-Gaussian problem."""
        # a constant to derivatives: the solution does not depend on the coordinates it is found in
        metric = jax.lax.stop_gradient(system.circulant())
        root = metric.root
        inner = system.pulled_back(root)
        right, null = inner.right_hand_side(), inner.null_objective()
        return System(inner.precision, right, null, metric, root, system.mean)

    def init(self, problem: System, x0: PyTree | None) -> State:
        b = problem.right
        dtype = problem.null.dtype
        c, r = zeros(problem.precision.in_structure, dtype), b
        if x0 is not None:
            u0 = x0 if problem.mean is None else jax.tree.map(jnp.subtract, x0, problem.mean)
            c = problem.root.adjoint(problem.metric.inv(u0))  # L.T (L L.T)^-1 = L^-1
            r = axpy(-1.0, problem.precision.apply(c), b)
        decrease = 0.5 * (vdot(c, b) + vdot(c, r))
        recent = jnp.full((WINDOW,), jnp.inf, dtype)
        return State(c, Carry(r, r, vdot(r, r), decrease, recent), first_metrics(dtype))

    def step(self, problem: System, state: State) -> State:
        s = state.carry
        q = problem.precision.apply(s.direction)
        curvature = vdot(s.direction, q)
        alpha = jnp.where(curvature > 0, s.squared / curvature, 0)  # a zero residual has no direction
        x = axpy(alpha, s.direction, state.x)
        residual = axpy(-alpha, q, s.residual)
        squared = vdot(residual, residual)
        direction = axpy(jnp.where(s.squared > 0, squared / s.squared, 0), s.direction, residual)
        drop = 0.5 * alpha * s.squared
        decrease = s.decrease + drop
        recent = jnp.roll(s.recent, 1).at[0].set(drop)
        metrics = self._metrics(problem, state, squared, decrease, recent, curvature)
        return State(x, Carry(residual, direction, squared, decrease, recent), metrics)

    def _metrics(self, problem, state, squared, decrease, recent, curvature):
        left = FACTOR * jnp.sum(recent)
        objective = jnp.where(problem.null > 0, problem.null - decrease, decrease)
        # f is a difference: at high signal to noise only its rounding may be left
        lost = objective <= ROUNDING * jnp.finfo(objective.dtype).eps * problem.null
        solved = squared == 0
        gap = jnp.where(solved, 0.0, left / objective)
        code = jnp.where(gap <= self.rtol, DONE, RUNNING)
        # in exact arithmetic K is positive definite: a curvature that is not means that rounding took over
        code = jnp.where(((curvature <= 0) | lost) & ~solved, STALLED, code)
        code = jnp.where(jnp.isfinite(squared), code, NOT_FINITE)
        step = state.metrics.step + 1
        return eqx.tree_at(lambda m: (m.step, m.gap, m.code), state.metrics, (step, gap, code.astype(jnp.int32)))

    def latent(self, problem: System, state: State) -> PyTree:
        u = problem.root.apply(state.x)
        return u if problem.mean is None else jax.tree.map(jnp.add, problem.mean, u)
