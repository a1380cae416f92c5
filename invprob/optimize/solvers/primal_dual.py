"""Primal-dual steps for any linear forward operator and sparse terms: nothing is inverted."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from invprob import likelihoods
from invprob.covariance import Diagonal, white
from invprob.errors import CapabilityError
from invprob.operators.base import AbstractLinearOperator, Structure, compose, precision_of, vdot
from invprob.optimize.solvers.base import (
    DONE,
    NOT_FINITE,
    RESIDUAL,
    RUNNING,
    STALLED,
    AbstractSolver,
    Metrics,
    State,
    first_metrics,
)
from invprob.optimize.solvers.proximal import SAFETY, Smooth, as_piece, dual_norm, largest_eigenvalue, times
from invprob.optimize.solvers.terms import planes_of, terms_of
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasProx
from invprob.priors.gaussian import Gaussian

ROUND = 10  # steps between two looks at the residuals
ADAPT = 200  # steps in which the step sizes may change; convergence needs that they settle
CLIP, BAND = 4.0, 1.2  # most that a dual step changes at once, and the least that is worth a change
SHARE = 0.3  # of the ratio of dual and primal variables that is the dual step (measured: 0.1 and 1 need more steps)
START = 0.1  # dual step of a plane of unit spectrum
FLOOR = 1e-2  # outputs W x smaller than this share of those of white noise like x are measured against it
PATIENCE = 60  # looks without a smaller residual after which a run has stalled


class Dual(eqx.Module):
    """One ``g(W x)``, reached through its dual variable.

    Parameters
    ----------
    W, g
        Linear map of x, and a prior with a prox.
    planes
        Number of planes of the output that have a dual step each; only a separable g allows more than one.
    """

    W: AbstractLinearOperator
    g: HasProx
    planes: int = eqx.field(static=True)

    def scaled(self, sigma: Float[Array, " p"], u: PyTree) -> PyTree:
        """The steps times u."""
        factor = self.spread(sigma)
        return jax.tree.map(lambda a: factor * a, u)

    def spread(self, sigma: Float[Array, " p"]) -> Float[Array, ...]:
        """Steps as a factor of the output."""
        return sigma[:, None, None] if self.planes > 1 else sigma[0]

    def norms(self, u: PyTree) -> Float[Array, " p"]:
        """Sum of squares over each plane."""
        return jnp.sum(u**2, axis=(-2, -1)) if self.planes > 1 else vdot(u, u)[None]


class Problem(eqx.Module):
    """A linear posterior as primal-dual steps see it.

    Parameters
    ----------
    own
        Priors of x itself or of parts of it.
    terms
        The others, and the data first.
    metric
        Curvature of the likelihood in each part of x.
    means
        Mean spectrum of each plane of each term in the metric.
    first
        Norm of the gradient at zero.
    """

    own: Smooth
    terms: tuple[Dual, ...]
    metric: PyTree
    means: tuple[Float[Array, " p"], ...]
    first: Float[Array, ""]

    def pulls(self, duals: Any) -> list[PyTree]:
        """Each ``W_j.T y_j``."""
        return [term.W.adjoint(y) for term, y in zip(self.terms, duals, strict=True)]


class Carry(eqx.Module):
    """What primal-dual steps remember.

    Parameters
    ----------
    x, duals
        The relaxed iterate; the state's x is one that a proximal map gave.
    sigmas, tau
        Dual steps of each plane of each term, and the primal step in the metric.
    best, age
        Smallest residual, and its age in looks.
    """

    x: PyTree
    duals: tuple[PyTree, ...]
    sigmas: tuple[Float[Array, " p"], ...]
    tau: Float[Array, ""]
    best: Float[Array, ""]
    age: Int[Array, ""]


class PrimalDual(AbstractSolver):
    """Primal-dual steps for Gaussian noise of any covariance, any linear forward operator and any sum of terms.

    ``x' = prox_tau(x - tau sum_j W_j.T y_j)``, ``y_j' = prox_{sigma_j g_j*}(y_j + sigma_j W_j (2 x' - x))``: only
    operators and their adjoints are applied. The whitened data are a term like the others, ``|N^-1/2 (y - A x)|^2 / 2``
    with ``W = N^-1/2 A``: a gradient step instead (Condat & Vu) needed up to forty times as many steps, since it
    reaches what the PSF hardly shows at the rate of its square. A prior that is one of x itself, or of a part of it, is
    applied to x and keeps its exact zeros.

    A step costs A and each W_j and their adjoints once: two FFT pairs for a convolution. Where `ADMM` can be had it
    needs fewer.

    No step size needs to be given. Each term (each scale of the starlet) has a dual step
    ``sigma_j = 0.3 |y_j| / |W_j x|``, so that primal and dual variables move alike relative to their size; the primal
    step follows by power iteration, ``1 / tau = |sum_j sigma_j W_j.T W_j|``, in units of the curvature of each part of
    x. All are frozen after 200 steps. Steps come in rounds of ten, each ending with a look at the residuals.

    Parameters
    ----------
    rtol
        Relative primal and dual residual, in the norms of the steps, at which to stop.
    relaxation
        Over-relaxation, between 1 and 2.

    References
    ----------
    Chambolle & Pock 2011, J. Math. Imaging Vision 40, 120; Condat 2013, J. Optimization Theory Appl. 158, 460, and Vu
    2013, Adv. Comput. Math. 38, 667 (several terms, over-relaxation); Goldstein et al. 2015, arXiv:1305.0546
    (residuals, adaptive steps); Applegate et al. 2021, arXiv:2106.04756 (steps from the sizes of the variables).
    """

    rtol: float = 1e-4
    relaxation: float = 1.9
    name: ClassVar[str] = "pdhg"
    measure: ClassVar[str] = RESIDUAL

    def prepare(self, post: Posterior) -> Problem:
        like = post.likelihood
        if not isinstance(like, likelihoods.Gaussian) or not isinstance(like.operator, AbstractLinearOperator):
            raise CapabilityError(
                "primal-dual steps (pdhg) need a linear operator and Gaussian noise; NewtonCG (newton) and proximal "
                "gradient steps (proximal) take any operator that is differentiable"
            )
        whiten = like.noise.inv_sqrt
        data = whiten(like.data)
        unit = Gaussian(data, Diagonal(jnp.ones_like(data)))
        pieces, terms = [], [Dual(compose(whiten, like.operator), unit, 1)]
        for W, g in terms_of(post, "primal-dual steps (pdhg)"):
            piece = as_piece(W, g)
            taken = {i for other in pieces for i in other.leaves}
            if piece is None or taken & set(piece.leaves):
                terms.append(Dual(W, g, planes_of(W, g)))
            else:
                pieces.append(piece)
        own = Smooth(like, tuple(pieces), post.structure)
        metric = own.metric(own.zeros())
        first = dual_norm(metric, terms[0].W.adjoint(data))
        return Problem(own, tuple(terms), metric, _means(terms, metric, own.zeros()), first)

    def init(self, problem: Problem, x0: PyTree | None) -> State:
        x = problem.own.zeros()
        dtype = precision_of(x)
        sigmas = tuple(START / mean for mean in problem.means)
        x = x if x0 is None else jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), x, x0)
        duals = tuple(jax.tree.map(jnp.zeros_like, term.W.apply(x)) for term in problem.terms)
        tau = _primal_step(problem, sigmas)
        carry = Carry(x, duals, sigmas, tau, jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32))
        return State(x, carry, first_metrics(dtype))

    def step(self, problem: Problem, state: State) -> State:
        def one(_, carry):
            return self._relaxed(carry, *_iterate(problem, carry)[:2])

        before = jax.lax.fori_loop(0, ROUND - 1, one, state.carry)
        x, duals, force = _iterate(problem, before)
        after = self._relaxed(before, x, duals)
        count = state.metrics.step + ROUND
        primal, seen = _primal_residual(problem, before, x, duals)
        gap = jnp.maximum(primal, _dual_residual(problem, x, duals, force, self.rtol))
        best, age = jnp.minimum(gap, after.best), jnp.where(gap < after.best, 0, after.age + 1)
        after = jax.lax.cond(count <= ADAPT, lambda c: _adapted(problem, c, duals, seen), lambda c: c, after)
        after = eqx.tree_at(lambda c: (c.best, c.age), after, (best, age))
        code = jnp.where(age > PATIENCE, STALLED, RUNNING)
        code = jnp.where(gap <= self.rtol, DONE, code)
        code = jnp.where(jnp.isfinite(gap), code, NOT_FINITE).astype(jnp.int32)
        return State(x, after, Metrics(count, gap, code))

    def _relaxed(self, carry: Carry, x: PyTree, duals: tuple[PyTree, ...]) -> Carry:
        moved = jax.tree.map(lambda a, b: a + self.relaxation * (b - a), (carry.x, carry.duals), (x, duals))
        return eqx.tree_at(lambda c: (c.x, c.duals), carry, moved)

    def latent(self, problem: Problem, state: State) -> PyTree:
        return state.x


def _sum(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *trees)


def _iterate(problem: Problem, c: Carry) -> tuple[PyTree, tuple[PyTree, ...], PyTree]:
    """The two proximal steps, and the force of the priors of x itself."""
    steps = jax.tree.map(lambda h: c.tau / h, problem.metric)
    pull = _sum(problem.pulls(c.duals))
    v = jax.tree.map(lambda a, e, p: a - e * p, c.x, steps, pull)
    x = problem.own.prox(v, steps)
    ahead = jax.tree.map(lambda new, old: 2 * new - old, x, c.x)
    duals = []
    for term, y, sigma in zip(problem.terms, c.duals, c.sigmas, strict=True):
        z = jax.tree.map(jnp.add, y, term.scaled(sigma, term.W.apply(ahead)))
        # Moreau: the prox of the conjugate from that of g
        split = term.g.prox(term.scaled(1 / sigma, z), 1 / term.spread(sigma))
        duals.append(jax.tree.map(jnp.subtract, z, term.scaled(sigma, split)))
    return x, tuple(duals), jax.tree.map(lambda a, b, e: (a - b) / e, v, x, steps)


def _primal_residual(problem: Problem, old: Carry, x: PyTree, duals: tuple[PyTree, ...]):
    """``W x - v`` relative to its parts, ``v = prox(z)`` the split variables, and the squares of the parts."""
    back = jax.tree.map(jnp.subtract, old.x, x)
    missed, size, seen = jnp.zeros_like(old.tau), jnp.zeros_like(old.tau), []
    whole = vdot(x, times(problem.metric, x))
    parts = zip(problem.terms, old.duals, duals, old.sigmas, problem.means, strict=True)
    for term, y, new, sigma, mean in parts:
        change = term.scaled(1 / sigma, jax.tree.map(jnp.subtract, y, new))
        left, value = jax.tree.map(jnp.subtract, term.W.apply(back), change), term.W.apply(x)
        split = jax.tree.map(jnp.subtract, value, left)
        seen.append(jnp.maximum(jnp.maximum(term.norms(value), term.norms(split)), FLOOR**2 * mean * whole))
        missed, size = missed + jnp.sum(sigma * term.norms(left)), size + jnp.sum(sigma * seen[-1])
    return jnp.sqrt(missed / jnp.where(size > 0, size, 1)), seen


def _dual_residual(problem: Problem, x: PyTree, duals: tuple[PyTree, ...], force: PyTree, rtol: float):
    """``sum_j W_j.T y_j`` and the force of the priors of x itself, which balance, relative to the largest of them."""
    h, pulls = problem.metric, problem.pulls(duals)
    left = dual_norm(h, jax.tree.map(jnp.add, _sum(pulls), force))
    scale = jnp.max(jnp.stack([*(dual_norm(h, part) for part in [*pulls, force]), rtol * problem.first]))
    return left / jnp.where(scale > 0, scale, 1)


def _adapted(problem: Problem, c: Carry, duals: tuple[PyTree, ...], seen: list[Float[Array, " p"]]) -> Carry:
    """Dual steps nearer to ``0.3 |y_j| / |W_j x|``, and the primal step they allow."""
    sigmas = []
    for term, y, square, sigma in zip(problem.terms, duals, seen, c.sigmas, strict=True):
        ratio = SHARE * jnp.sqrt(term.norms(y) / jnp.where(square > 0, square, 1)) / sigma
        factor = jnp.clip(jnp.sqrt(ratio), 1 / CLIP, CLIP)
        worth = (square > 0) & (ratio > 0) & ((factor > BAND) | (factor < 1 / BAND))
        sigmas.append(sigma * jnp.where(worth, factor, 1))
    return eqx.tree_at(lambda a: (a.sigmas, a.tau), c, (tuple(sigmas), _primal_step(problem, tuple(sigmas))))


def _means(terms: list[Dual], metric: PyTree, zero: PyTree) -> tuple[Float[Array, " p"], ...]:
    """Mean spectrum of each plane of each term in the metric, seen in one white image."""
    noise = white(jax.random.key(0), Structure(zero), precision_of(zero))
    u = jax.tree.map(lambda h, a: a / jnp.sqrt(h), metric, noise)
    means = [term.norms(term.W.apply(u)) / vdot(noise, noise) for term in terms]
    return tuple(jnp.where(mean > 0, mean, 1) for mean in means)


def _primal_step(problem: Problem, sigmas: tuple[Float[Array, " p"], ...]) -> Float[Array, ""]:
    """``1 / |sum_j sigma_j W_j.T W_j|`` in the metric, with a margin."""
    root = jax.tree.map(lambda h: 1 / jnp.sqrt(h), problem.metric)

    def apply(v):
        u = times(root, v)
        duals = [term.scaled(s, term.W.apply(u)) for term, s in zip(problem.terms, sigmas, strict=True)]
        return times(root, _sum(problem.pulls(duals)))

    largest = largest_eigenvalue(apply, problem.own.zeros())
    return 1 / (SAFETY * jnp.where(largest > 0, largest, 1))
