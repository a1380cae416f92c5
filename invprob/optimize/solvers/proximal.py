"""Accelerated proximal gradient for a smooth likelihood and a prior with a proximal map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from invprob.covariance import white
from invprob.errors import CapabilityError
from invprob.likelihoods.base import AbstractLikelihood
from invprob.operators.base import AbstractLinearOperator, Structure, precision_of, vdot, zeros
from invprob.optimize.solvers.base import (
    DONE,
    NOT_FINITE,
    RUNNING,
    STALLED,
    AbstractSolver,
    Metrics,
    State,
    first_metrics,
)
from invprob.optimize.solvers.terms import picked, terms_of
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasProx

POWER = 30  # power iterations for a largest eigenvalue
SAFETY = 1.05  # of their result, which is a lower bound
LOWER, RAISE, ROOM = 0.5, 1.1, 0.7  # of the step size; it is raised where the descent condition has so much room
SLACK = 1.01  # of the descent condition, for rounding
NOISE = 1e3  # a change of the objective below so many of its roundings is found from gradients instead
PATIENCE = 500  # steps without a smaller residual after which a run has stalled


class Piece(eqx.Module):
    """A prior of some arrays of the latent pytree, unchanged.

    Parameters
    ----------
    g
        Prior with a proximal map.
    leaves, treedef
        Which of the latent's arrays, and how g takes them.
    """

    g: HasProx
    leaves: tuple[int, ...] = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)


class Smooth(eqx.Module):
    """``-log p(data | x)`` with a metric in which its curvature is about one in each array of x.

    Parameters
    ----------
    likelihood
        Likelihood with any differentiable forward operator.
    pieces
        Priors of disjoint arrays of x.
    structure
        Structure of x.
    """

    likelihood: AbstractLikelihood
    pieces: tuple[Piece, ...]
    structure: Structure

    def value(self, x: PyTree) -> Float[Array, ""]:
        """``-log p(data | x)``."""
        return -self.likelihood.log_prob(x)

    def zeros(self) -> PyTree:
        """Zeros in the precision of the data."""
        return zeros(self.structure, precision_of(eqx.filter(self.likelihood, eqx.is_inexact_array)))

    def prox(self, v: PyTree, steps: PyTree) -> PyTree:
        """The proximal map of the pieces, with a step for each array."""
        leaves, treedef = jax.tree.flatten(v)
        each = jax.tree.leaves(steps)
        for piece in self.pieces:
            own = piece.treedef.unflatten([leaves[i] for i in piece.leaves])
            for i, leaf in zip(piece.leaves, jax.tree.leaves(piece.g.prox(own, each[piece.leaves[0]])), strict=True):
                leaves[i] = leaf
        return treedef.unflatten(leaves)

    def metric(self, x: PyTree) -> PyTree:
        """The curvature in each array of x, the largest eigenvalue of that block of the Fisher information at x.

        Arrays with one prior share theirs, since a proximal map has one step.
        """
        fisher, like = self.likelihood.fisher(x), self.zeros()
        leaves, treedef = jax.tree.flatten(like)
        covered = {i for piece in self.pieces for i in piece.leaves}
        groups = [piece.leaves for piece in self.pieces] + [(i,) for i in range(len(leaves)) if i not in covered]
        curvature = [jnp.zeros(())] * len(leaves)
        for group in groups:
            keep = treedef.unflatten([float(i in group) for i in range(len(leaves))])
            largest = largest_eigenvalue(lambda v, k=keep: jax.tree.map(jnp.multiply, k, fisher(times(k, v))), like)
            for i in group:
                curvature[i] = jnp.where(largest > 0, largest, 1)
        return treedef.unflatten(curvature)

    def lipschitz(self, x: PyTree, metric: PyTree) -> Float[Array, ""]:
        """Largest eigenvalue of the Fisher information at x in the metric, at most the number of arrays."""
        fisher, root = self.likelihood.fisher(x), jax.tree.map(lambda h: 1 / jnp.sqrt(h), metric)
        return largest_eigenvalue(lambda v: times(root, fisher(times(root, v))), self.zeros())


def times(factors: PyTree, x: PyTree) -> PyTree:
    """Each array of x times its factor."""
    return jax.tree.map(jnp.multiply, factors, x)


def dual_norm(metric: PyTree, g: PyTree) -> Float[Array, ""]:
    """Norm of a gradient, ``(g.T H^-1 g)^1/2``."""
    return jnp.sqrt(vdot(g, jax.tree.map(jnp.divide, g, metric)))


def largest_eigenvalue(apply: Callable[[PyTree], PyTree], like: PyTree, steps: int = POWER) -> Float[Array, ""]:
    """Largest eigenvalue of a positive operator by power iteration from white noise: a lower bound."""
    v = white(jax.random.key(0), Structure(like), precision_of(like))

    def body(_, state):
        v, size = state
        u = apply(jax.tree.map(lambda a: a / jnp.where(size > 0, size, 1), v))
        return u, jnp.sqrt(vdot(u, u))

    return jax.lax.fori_loop(0, steps, body, (v, jnp.sqrt(vdot(v, v))))[1]


def as_piece(W: AbstractLinearOperator, g: HasProx) -> Piece | None:
    """The term g(W x) as a prior of some arrays of x, None where W changes them."""
    indices = picked(W)
    return None if indices is None else Piece(g, tuple(jax.tree.leaves(indices)), jax.tree.structure(indices))


class Carry(eqx.Module):
    """What accelerated steps remember.

    Parameters
    ----------
    y
        The extrapolated point.
    t, size
        Momentum and step size, in the metric.
    metric
        Curvature of each array of x.
    first
        Norm of the gradient at the start.
    best, age
        Smallest residual, and its age in steps.
    """

    y: PyTree
    t: Float[Array, ""]
    size: Float[Array, ""]
    metric: PyTree
    first: Float[Array, ""]
    best: Float[Array, ""]
    age: Int[Array, ""]


class ProximalGradient(AbstractSolver):
    """Accelerated proximal gradient steps with adaptive restart and step sizes by backtracking (FISTA).

    ``x' = prox(y - s grad, s)``, then ``y' = x' + momentum (x' - x)``. It takes any differentiable forward operator,
    and a prior with a proximal map, or with one for each part of the latent pytree. A step costs one gradient (one
    forward and one adjoint: two FFT pairs for a convolution) and one value (one forward).

    The step size is in units of the curvature of each part, found by power iteration at the start; it is halved where
    the descent condition fails and raised where it has room. Near the optimum, where the objective changes by less
    than its rounding, the condition is that of the gradients.

    It stops by the proximal gradient ``(y - x') / s``, relative to the gradient or the force ``(v - x') / s`` of the
    prior, whichever is larger, or to ``rtol`` of the first gradient where both vanish. The Karush-Kuhn-Tucker residual
    of the result is at most twice as large.

    Parameters
    ----------
    rtol
        Relative residual at which to stop.

    References
    ----------
    Beck & Teboulle 2009, SIAM J. Imaging Sciences 2, 183; O'Donoghue & Candes 2015, Found. Comput. Math. 15, 715
    (restart by gradients); Becker, Candes & Grant 2011, Math. Prog. Comp. 3, 165 (step sizes near rounding);
    Scheinberg, Goldfarb & Bai 2014, Found. Comput. Math. 14, 389 (momentum for changing steps).
    """

    rtol: float = 1e-4
    name: ClassVar[str] = "proximal"
    measure: ClassVar[str] = "relative proximal gradient"

    def prepare(self, post: Posterior) -> Smooth:
        terms = terms_of(post, "proximal gradient steps")
        pieces = [as_piece(W, g) for W, g in terms]
        leaves = [i for piece in pieces if piece is not None for i in piece.leaves]
        if None in pieces or len(set(leaves)) < len(leaves):
            raise CapabilityError(
                f"{type(post.prior).__name__} has terms on linear maps of the latent, or several on one part: proximal "
                "gradient steps need one proximal map for each part; ADMM (admm) and primal-dual steps (pdhg) do not"
            )
        return Smooth(post.likelihood, tuple(p for p in pieces if p is not None), post.structure)

    def init(self, problem: Smooth, x0: PyTree | None) -> State:
        x = problem.zeros()
        x = x if x0 is None else jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), x, x0)
        dtype = precision_of(x)
        metric = jax.lax.stop_gradient(problem.metric(x))
        size = 1 / (SAFETY * problem.lipschitz(x, metric))
        gradient = jax.grad(problem.value)(x)
        first = dual_norm(metric, gradient)
        size = jnp.where(jnp.isfinite(size), size, 1).astype(dtype)
        carry = Carry(
            x, jnp.ones((), dtype), size, metric, first, jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32)
        )
        return State(x, carry, first_metrics(dtype))

    def step(self, problem: Smooth, state: State) -> State:
        s, h = state.carry, state.carry.metric
        value, gradient = jax.value_and_grad(problem.value)(s.y)
        steps = jax.tree.map(lambda curvature: s.size / curvature, h)
        v = jax.tree.map(lambda y, g, e: y - e * g, s.y, gradient, steps)
        x = problem.prox(v, steps)
        d = jax.tree.map(jnp.subtract, x, s.y)
        used, size = self._curvature(problem, s, x, d, value, gradient)
        ok = used <= SLACK
        # the gradient scheme of the restart: momentum that climbs is dropped
        climbs = _primal(h, d, jax.tree.map(jnp.subtract, x, state.x)) < 0
        t = 0.5 * (1 + jnp.sqrt(1 + 4 * (s.size / size) * s.t**2))
        momentum = jnp.where(climbs, 0, (s.t - 1) / t)
        y = jax.tree.map(lambda new, old: new + momentum * (new - old), x, state.x)
        carry = Carry(y, jnp.where(climbs, 1, t), size, h, s.first, s.best, s.age)
        old = eqx.tree_at(lambda c: c.size, s, size)
        parts = jnp.sqrt(_primal(h, d, d)) / s.size, dual_norm(h, gradient), _force(h, v, x) / s.size
        x, carry = jax.tree.map(lambda a, b: jnp.where(ok, a, b), (x, carry), (state.x, old))
        return self._judged(state, x, carry, ok, parts)

    def _curvature(self, problem: Smooth, s: Carry, x, d, value, gradient):
        """Curvature along the step in units of what the step size allows, and the next step size."""
        allowed = _primal(s.metric, d, d) / (2 * s.size)

        def by_gradients(_):
            change = jax.tree.map(jnp.subtract, jax.grad(problem.value)(x), gradient)
            return 0.5 * vdot(change, d)

        def by_values(new):
            return new - value - vdot(gradient, d)

        new = problem.value(x)
        known = allowed > NOISE * jnp.finfo(value.dtype).eps * jnp.maximum(jnp.abs(value), jnp.abs(new))
        excess = jax.lax.cond(known | ~jnp.isfinite(new), by_values, by_gradients, new)
        used = jnp.where(allowed > 0, excess / jnp.where(allowed > 0, allowed, 1), 0)
        used = jnp.where(jnp.isfinite(used), used, jnp.inf)
        factor = jnp.where(used > SLACK, LOWER, jnp.where((used < ROOM) & (allowed > 0), RAISE, 1))
        return used, s.size * factor

    def _judged(self, state: State, x: PyTree, carry: Carry, ok, parts) -> State:
        residual, gradient, force = parts
        scale = jnp.maximum(jnp.maximum(gradient, force), self.rtol * carry.first)
        gap = jnp.where(residual > 0, residual / scale, residual)
        finite, gap = jnp.isfinite(gradient), jnp.where(ok, gap, state.metrics.gap)
        better = gap < carry.best
        best, age = jnp.where(better, gap, carry.best), jnp.where(better, 0, carry.age + 1)
        code = jnp.where(age > PATIENCE, STALLED, RUNNING)
        code = jnp.where(ok & (gap <= self.rtol), DONE, code)
        code = jnp.where(finite, code, NOT_FINITE).astype(jnp.int32)
        carry = eqx.tree_at(lambda c: (c.best, c.age), carry, (best, age))
        return State(x, carry, Metrics(state.metrics.step + 1, gap, code))

    def latent(self, problem: Smooth, state: State) -> PyTree:
        return state.x


def _primal(metric: PyTree, a: PyTree, b: PyTree) -> Float[Array, ""]:
    """``a.T H b``."""
    return vdot(a, times(metric, b))


def _force(metric: PyTree, v: PyTree, x: PyTree) -> Float[Array, ""]:
    """Norm of ``H (v - x)``, in the dual metric."""
    change = jax.tree.map(jnp.subtract, v, x)
    return jnp.sqrt(_primal(metric, change, change))
