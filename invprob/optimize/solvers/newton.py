"""Newton's method with the Fisher information, in the coordinates in which the prior is white."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from invprob.operators.base import precision_of, vdot, zeros
from invprob.optimize.solvers.base import (
    DONE,
    NOT_FINITE,
    ROUNDING,
    RUNNING,
    STALLED,
    AbstractSolver,
    Metrics,
    State,
    first_metrics,
)
from invprob.optimize.solvers.cg import axpy, descend
from invprob.posterior import Posterior, Whitened
from invprob.priors.capabilities import HasTransform, HasWhitening, require

FORCING = 0.3  # most that is left of the gradient by the inner iteration, relative
ARMIJO, SHORTEST = 1e-4, 1e-6  # decrease that is asked of a step, of that of its tangent; shortest share of it
PATIENCE = 12  # steps without a smaller gap after which a run has stalled


class Carry(eqx.Module):
    """Norm of the last gradient, and the smallest gap with its age in steps."""

    norm: Float[Array, ""]
    best: Float[Array, ""]
    age: Int[Array, ""]


class NewtonCG(AbstractSolver):
    """Gauss-Newton steps (natural gradient) for any forward operator and any prior that is white noise pushed forward.

    It minimizes ``f(xi) = -log p(y | F(T(xi))) + |xi|^2 / 2`` with the metric ``M = J.T N^-1 J + 1``, J the Jacobian of
    ``F(T(xi))``: the Fisher information of the likelihood plus the identity. Each step solves ``M d = -grad f`` by
    conjugate gradients, truncated where they are better than the gradient's own progress (Eisenstat & Walker), and
    searches along d for an f that is lower by more than its rounding. A conjugate-gradient step costs T, F and their
    adjoints once.

    The gap is half the squared Newton decrement, ``g.T M^-1 g / 2`` with the gradient g before the last step, relative
    to ``(chi2 + |xi|^2) / 2``: for Gaussian noise f without its constants. Since ``M >= 1`` the residual r of a
    truncated inner solution bounds what it leaves out, ``r.T M^-1 r <= |r|^2``, which is added.

    The maximum is that of the density of xi, the field's own coordinates. It differs from that of x where T is not
    affine: for a `LogNormal` prior it is the exponential of the most probable field.

    Parameters
    ----------
    rtol
        Relative gap at which to stop.
    inner
        Most conjugate-gradient steps within one step.

    References
    ----------
    Knollmueller & Ensslin 2019, arXiv:1901.11033 (the metric); Eisenstat & Walker 1996, SIAM J. Sci. Comput. 17, 16;
    Nocedal & Wright 2006, Numerical Optimization, ch. 7.
    """

    rtol: float = 1e-7
    inner: int = 200
    name: ClassVar[str] = "newton"

    def prepare(self, post: Posterior) -> Whitened:
        require(post.prior, HasTransform, "Newton steps")
        return post.whiten()

    def init(self, problem: Whitened, x0: PyTree | None) -> State:
        dtype = precision_of(eqx.filter(problem.posterior.likelihood, eqx.is_inexact_array))
        xi = zeros(problem.structure, dtype)
        if x0 is not None:
            white = require(problem.posterior.prior, HasWhitening, "Newton steps from a given x0").whitened(x0)
            xi = jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), xi, white)
        infinite = jnp.asarray(jnp.inf, dtype)
        return State(xi, Carry(infinite, infinite, jnp.zeros((), jnp.int32)), first_metrics(dtype))

    def step(self, problem: Whitened, state: State) -> State:
        xi, s = state.x, state.carry
        value, g = jax.value_and_grad(lambda at: -problem.log_prob(at))(xi)
        squared = vdot(g, g)
        objective = 0.5 * (problem.posterior.likelihood.chi2(problem.T(xi)) + vdot(xi, xi))
        # as exact as the gradient has become smaller in the last step, and no better than is asked in the end
        forcing = jnp.minimum(FORCING, jnp.sqrt(squared) / s.norm) ** 2 * squared
        enough = jnp.maximum(forcing, 0.1 * self.rtol * objective)
        d, left = self._inner(problem, xi, g, enough)
        slope = vdot(g, d)
        decrement = 0.5 * (left - slope)
        gap = jnp.where(decrement > 0, decrement / jnp.where(objective > 0, objective, 1), decrement)
        share = _search(problem, xi, d, value, slope)
        finite = jnp.isfinite(value) & jnp.isfinite(squared)
        x = axpy(jnp.where(finite, share, 0), d, xi)
        better = gap < s.best
        best, age = jnp.where(better, gap, s.best), jnp.where(better, 0, s.age + 1)
        code = jnp.where((age > PATIENCE) | (share == 0), STALLED, RUNNING)
        code = jnp.where(gap <= self.rtol, DONE, code)
        code = jnp.where(finite, code, NOT_FINITE).astype(jnp.int32)
        return State(x, Carry(jnp.sqrt(squared), best, age), Metrics(state.metrics.step + 1, gap, code))

    def _inner(self, problem: Whitened, xi: PyTree, g: PyTree, enough: Float[Array, ""]):
        """``d`` with ``M d + g = r``, and ``|r|^2``."""
        x, push = jax.linearize(problem.T.apply, xi)
        pull = jax.linear_transpose(push, xi)
        fisher = problem.posterior.likelihood.fisher(x)

        def metric(p):
            return jax.tree.map(jnp.add, pull(fisher(push(p)))[0], p)

        zero, residual = jax.tree.map(jnp.zeros_like, g), jax.tree.map(jnp.negative, g)
        d, squared, _ = descend(metric, zero, residual, enough, self.inner)
        return d, squared

    def latent(self, problem: Whitened, state: State) -> PyTree:
        return problem.T(state.x)


def _search(problem: Whitened, xi: PyTree, d: PyTree, value: Float[Array, ""], slope: Float[Array, ""]):
    """The share of a step that lowers the objective enough (Armijo), up to its rounding; zero where there is none."""
    rounding = ROUNDING * jnp.finfo(value.dtype).eps * jnp.abs(value)

    def too_far(share):
        new = -problem.log_prob(axpy(share, d, xi))
        return ~(new <= value + ARMIJO * share * slope + rounding) & (share > SHORTEST)

    share = jax.lax.while_loop(too_far, lambda share: 0.5 * share, jnp.ones_like(value))
    return jnp.where(share > SHORTEST, share, 0)
