"""The most probable latent image: `find_map` for people, `solve` for pipelines and gradients."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import optax
from jaxtyping import Array, Float, Int, PyTree

from invprob.errors import CapabilityError, UsageError
from invprob.loop import StopRule, kept_by
from invprob.operators.base import precision_of
from invprob.optimize.choose import choose_solver
from invprob.optimize.loop import Progress, iterate, iterate_pure
from invprob.optimize.solvers import (
    ADMM,
    AbstractSolver,
    ConjugateGradient,
    NewtonCG,
    Optax,
    PlugAndPlay,
    PrimalDual,
    ProximalGradient,
    TwoGrid,
    Wiener,
)
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasPrecision
from invprob.results import Estimate, Status
from invprob.results.report import Record, Report


def _two_grids(post: Posterior, **settings: Any) -> TwoGrid:
    solver = TwoGrid.fitting(post, **settings)
    if solver is None:
        raise CapabilityError(
            "two grids need a convolution with a mask (no binning), Diagonal noise, a stationary Gaussian prior and a "
            "PSF that reaches over several pixels; conjugate gradients (cg) need less"
        )
    return solver


NAMES: dict[str, Callable[..., AbstractSolver]] = {
    "wiener": lambda post, **settings: Wiener(**settings),
    "cg": lambda post, **settings: ConjugateGradient(**settings),
    "twogrid": _two_grids,
    "admm": lambda post, **settings: ADMM(**settings),
    "pdhg": lambda post, **settings: PrimalDual(**settings),
    "proximal": lambda post, **settings: ProximalGradient(**settings),
    "newton": lambda post, **settings: NewtonCG(**settings),
    "plugplay": lambda post, **settings: PlugAndPlay(**settings),
    "lbfgs": lambda post, **settings: Optax(**settings),
}


def as_solver(
    method: str | AbstractSolver | optax.GradientTransformation, post: Posterior, rtol: float | None = None
) -> tuple[AbstractSolver, str]:
    """The solver for a name, a solver or an optax transformation, and the reason for it.

    Without an ``rtol`` each solver has its own.

    Raises
    ------
    UsageError
        For a name that is not known.
    """
    if isinstance(method, AbstractSolver):
        return method, "chosen by the caller"
    settings = {} if rtol is None else {"rtol": rtol}
    if isinstance(method, optax.GradientTransformation):
        return Optax(method, **settings), "optax transformation chosen by the caller"
    if method == "auto":
        return choose_solver(post, **settings)
    if method not in NAMES:
        raise UsageError(f"no solver is called {method!r}; there are auto, {', '.join(NAMES)}")
    return NAMES[method](post, **settings), "chosen by the caller"


def find_map(
    post: Posterior,
    method: str | AbstractSolver | optax.GradientTransformation = "auto",
    x0: PyTree | None = None,
    *,
    rtol: float | None = None,
    max_steps: int = 2000,
    progress: Callable[[Progress], None] | None = None,
    stop: StopRule | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> Estimate:
    """The maximum of the posterior density.

    Parameters
    ----------
    post
        Posterior.
    method
        ``"auto"`` chooses by structure; else a name of `NAMES` (``"cg"``, ``"admm"``, ``"newton"``, ...), a solver, or
        any optax `GradientTransformation`.
    x0
        Latent pytree to begin with; default: the solver's own start.
    rtol
        Where to stop, in the measure of the solver: the relative gap ``(f - f*) / f`` of the smooth ones (their
        default 1e-7), the relative residual of the others (3e-4 or 1e-4), which comes out near the
        gap.
    max_steps
        Most steps.
    progress, stop, checkpoint
        See `invprob.optimize.loop.iterate`.

    Returns
    -------
    Estimate
        With x, status, solver, reason, steps, chi2 and history. The status says whether the gap was reached.

    Raises
    ------
    CapabilityError
        When the operator, the noise or the prior cannot do what the solver needs (a `TypeError`).
    """
    solver, reason = as_solver(method, post, rtol)
    two = method == "auto" and isinstance(solver, TwoGrid)
    # a state of conjugate gradients was kept by a run that had stalled on two grids before it was interrupted
    stalled = two and kept_by(checkpoint) == ConjugateGradient.name
    go = partial(iterate, max_steps=max_steps, progress=progress, stop=stop, checkpoint=checkpoint)
    run = None if stalled else go(solver, post, x0)
    if run is None or (two and run.status is Status.STALLED):
        solver, reason = ConjugateGradient(rtol=solver.rtol), f"{reason}; which stalled: conjugate gradients from there"
        run = go(solver, post, x0 if run is None else run.x)
    return Estimate(
        x=run.x, status=run.status, solver=solver.name, reason=reason, steps=run.steps, chi2=run.chi2,
        num_data=run.num_data, history=run.history,
        report=Report([Record("gap", run.gap, "", solver.measure)]),
    )  # fmt: skip


class Solution(eqx.Module):
    """What `solve` gives: all traced, one element per problem under vmap.

    Parameters
    ----------
    x
        Latent pytree.
    steps, gap
        Steps taken and estimated relative gap.
    code
        0 stopped at max_steps, 1 done, 2 stalled, 3 not finite.
    """

    x: PyTree
    steps: Int[Array, ""]
    gap: Float[Array, ""]
    code: Int[Array, ""]


def solve(
    post: Posterior, solver: AbstractSolver | None = None, x0: PyTree | None = None, *, max_steps: int = 2000
) -> Solution:
    """The maximum of the posterior as a pure function: jit it, vmap it over stamps, differentiate through it.

    Derivatives are those of the exact optimum by the implicit function theorem, with respect to every array in the
    posterior (data, variance, PSF, hyperparameters). They are as good as the solve: give a solver a small ``rtol``.

    Parameters
    ----------
    post
        Posterior.
    solver
        Default: conjugate gradients for a linear-Gaussian posterior, ADMM for sparse terms behind a convolution,
        else what `choose_solver` names.
    x0
        Latent pytree to begin with.
    max_steps
        Most steps.
    """
    if solver is None:
        solver = ConjugateGradient() if post.linear_gaussian() is not None else choose_solver(post)[0]
    return _optimum(post, solver, x0, max_steps)


def solve_many(
    posts: Posterior, solver: AbstractSolver | None = None, *, rtol: float | None = None, max_steps: int = 2000
):
    """`solve` for a batch of posteriors, one compiled loop in which each has its own stop.

    Parameters
    ----------
    posts
        Posteriors of one structure, their arrays stacked along a leading axis
        (``jax.tree.map(lambda *a: jnp.stack(a), *posts)``).
    solver
        Default: conjugate gradients on two grids where the posteriors allow it, else as `solve`.
    rtol
        Where the default solver stops, in its own measure.
    max_steps
        Most steps of each.

    Returns
    -------
    Solution
        With a leading axis. Unlike `find_map` it does not go on with another solver where one stalled (code 2).
    """
    if solver is None:
        solver = _for_many(posts, **({} if rtol is None else {"rtol": rtol}))
    return _solve_many(posts, solver, max_steps)


def _for_many(posts: Posterior, **settings: Any) -> AbstractSolver:
    if (two := TwoGrid.fitting(posts, **settings, stacked=True)) is not None:
        return two
    one = jax.tree.map(lambda a: a[0] if eqx.is_array(a) else a, posts)
    if one.linear_gaussian() is not None:
        return ConjugateGradient(**settings)
    return choose_solver(one, **settings)[0]


@eqx.filter_jit
def _solve_many(posts: Posterior, solver: AbstractSolver, max_steps: int) -> Solution:
    # one after the other: a batch of FFTs is no faster than each alone on a CPU, and would run until the last is done
    return jax.lax.map(lambda post: solve(post, solver, max_steps=max_steps), posts)


@eqx.filter_custom_jvp
def _optimum(post: Posterior, solver: AbstractSolver, x0: PyTree | None, max_steps: int) -> Solution:
    problem = solver.prepare(post)
    state = iterate_pure(solver, problem, solver.init(problem, x0), max_steps)
    metrics = state.metrics
    return Solution(solver.latent(problem, state), metrics.step, metrics.gap, metrics.code)


@_optimum.def_jvp
def _implicit(primals, tangents):
    # the gradient of -log p vanishes at the optimum: H dx = -d(gradient), by lineax
    post, *rest = primals
    if post.prior.find(HasPrecision) is None and not isinstance(rest[0], Optax):
        raise CapabilityError(
            f"the optimum under a {type(post.prior).__name__} prior has no implicit derivative here, which needs a "
            "smooth density of x: a Gaussian prior, or the lbfgs solver"
        )
    solution = _optimum(post, *rest)
    x = solution.x
    still = jax.tree.map(jnp.zeros_like, eqx.filter(solution, eqx.is_inexact_array))
    if tangents[0] is None:
        return solution, still
    _, change = eqx.filter_jvp(lambda p: p.score(x), (post,), (tangents[0],))

    def hessian(v):
        return jax.jvp(lambda at: jax.tree.map(jnp.negative, post.score(at)), (x,), (v,))[1]

    like = jax.eval_shape(lambda: x)
    operator = lineax.FunctionLinearOperator(hessian, like, lineax.positive_semidefinite_tag)
    system = post.linear_gaussian()
    options = {}
    if system is not None:
        circulant = jax.lax.stop_gradient(system.circulant().operator)
        options["preconditioner"] = lineax.FunctionLinearOperator(
            circulant.apply, like, lineax.positive_semidefinite_tag
        )
    tolerance = float(jnp.finfo(precision_of(x)).eps) ** 0.8
    cg = lineax.CG(rtol=tolerance, atol=0.0)
    dx = lineax.linear_solve(operator, change, cg, options=options, throw=False).value
    return solution, eqx.tree_at(lambda s: s.x, still, dx)
