"""The contract of a solver, and dense solutions of small problems to compare with."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from invprob import likelihoods, priors
from invprob.covariance import Diagonal, dense, dense_operator
from invprob.operators import Convolve
from invprob.operators.base import precision_of, zeros
from invprob.optimize.find_map import find_map, solve
from invprob.optimize.solvers import AbstractSolver
from invprob.optimize.solvers.base import DONE, NOT_FINITE, RUNNING
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.testing.base import first, repeated, require


def small_problem(key: Any = None, side: int = 8) -> Posterior:
    """A linear-Gaussian posterior of a few pixels, with a PSF, varying noise and a fifth masked."""
    keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
    axis = jnp.arange(-1, 2)
    kernel = jnp.exp(-0.5 * (axis[:, None] ** 2 + axis[None] ** 2))
    operator = Convolve(kernel / kernel.sum(), (side + 2, side + 2))
    power = priors.PowerLaw(4.0, 0.1, 3.0)
    prior = priors.GaussianField((side + 2, side + 2), power)
    variance = 0.1 * jnp.exp(0.5 * jax.random.normal(keys[1], (side, side)))
    valid = jax.random.uniform(keys[2], (side, side)) > 0.2
    data = operator(prior.sample(keys[0])) + jnp.sqrt(variance) * jax.random.normal(keys[3], (side, side))
    return Posterior(likelihoods.Gaussian(operator, data, Diagonal(variance), valid), prior)


def sparse_problem(prior: priors.AbstractPrior | None = None, key: Any = None, side: int = 8) -> Posterior:
    """A few sources behind a PSF, with varying noise and a fifth masked, under a sparse prior.

    Parameters
    ----------
    prior
        Prior of an image of ``(side + 2, side + 2)``; default: total variation and positivity.
    key, side
        Random key, and side of the data.
    """
    shape = (side + 2, side + 2)
    prior = priors.Positive(priors.TotalVariation(shape, 2.0)) if prior is None else prior
    smooth = small_problem(key, side)
    operator, like = smooth.likelihood.operator, smooth.likelihood
    places, *keys = jax.random.split(jax.random.key(1) if key is None else jax.random.fold_in(key, 1), 3)
    sources = jnp.where(jax.random.uniform(places, shape) > 0.9, 20.0, 0.0)
    truth = sources + 3.0 * jax.random.uniform(keys[0], shape)
    noise = jnp.sqrt(like.noise.variance) * jax.random.normal(keys[1], (side, side))  # type: ignore[attr-defined]
    data = operator(truth) + noise
    return Posterior(likelihoods.Gaussian(operator, data, like.noise), prior)  # type: ignore[attr-defined]


def check_solver(
    solver: AbstractSolver,
    post: Posterior | None = None,
    max_steps: int = 5000,
    best: PyTree | None = None,
    reference: Posterior | None = None,
) -> None:
    """Check that a solver reaches the known optimum of a small problem, by jit and vmap too, and its statuses.

    Parameters
    ----------
    solver
        Solver to check.
    post
        A posterior it can solve, by default `small_problem`.
    max_steps
        Most steps it may take.
    best
        The optimum, up to a hundredth of the solver's ``rtol``; default: that of the dense normal equations of a
        linear-Gaussian posterior, and of `sparse_map` otherwise.
    reference
        A posterior with the same optimum and a density, for a prior that has none.

    Notes
    -----
    The optimum is judged by the objective, relative to half of chi-square and of the number of data. A solver whose
    ``rtol`` is that of a residual may be ten times as far from a sparse optimum as one whose ``rtol`` is a gap.
    """
    post = small_problem() if post is None else post
    known_by = post if reference is None else reference
    sharp = known_by.linear_gaussian() is None
    if best is None:
        best = sparse_map(known_by) if sharp else dense_map(known_by)
    lowest = float(-known_by.log_prob(best))
    scale = 0.5 * float(post.likelihood.chi2(best)) + 0.5 * float(post.likelihood.num_data)
    allowed = (30 if sharp else 3) * max(solver.rtol, 1e3 * float(jnp.finfo(precision_of(best)).eps))

    def near(x, check):
        gap = (float(-known_by.log_prob(x)) - lowest) / scale
        require(gap <= allowed, solver, check, f"relative gap {gap:.2g}, {allowed:.2g} is allowed")

    known = "the known optimum" if sharp else "the dense optimum"
    estimate = find_map(post, solver, max_steps=max_steps)
    require(estimate.status is Status.CONVERGED, solver, "status of a converged run", estimate.status.value)
    near(estimate.x, known)
    run = eqx.filter_jit(lambda p: solve(p, solver, max_steps=max_steps))
    alone = run(post)
    near(alone.x, f"{known}, by solve under jit")
    require(int(alone.code) == DONE, solver, "code of a converged solve", str(alone.code))
    both = eqx.filter_vmap(lambda p: solve(p, solver, max_steps=max_steps))(repeated(post))
    near(first(both.x), f"{known}, by solve under vmap")
    one_by_one = jax.lax.map(lambda p: solve(p, solver, max_steps=max_steps), repeated(post))
    near(first(one_by_one.x), f"{known}, by solve under lax.map")
    if int(alone.steps) > 1:
        short = find_map(post, solver, max_steps=1)
        require(short.status is Status.MAX_STEPS, solver, "status at max_steps", short.status.value)
        require(int(solve(post, solver, max_steps=1).code) == RUNNING, solver, "code at max_steps")
    data = jnp.full_like(post.likelihood.data, jnp.nan)  # type: ignore[attr-defined]
    broken = eqx.tree_at(lambda p: p.likelihood.data, post, data)
    require(int(solve(broken, solver, max_steps=20).code) == NOT_FINITE, solver, "code of a problem with NaN")


def sparse_map(post: Posterior, rtol: float = 1e-7) -> PyTree:
    """The maximum of a small posterior with a linear operator and terms, by a barrier method with dense Newton steps.

    Each term has its `invprob.priors.HasLogProb.barrier`: a sharp norm ``lambda |u|`` becomes ``min_t lambda t -
    log(t^2 - |u|^2) / kappa``, and x >= 0 becomes ``-log(x) / kappa``; the minimum is then at most ``(2 norms +
    constraints) / kappa`` above the true one (Boyd & Vandenberghe 2004, Convex Optimization, ch. 11), which ends below
    ``rtol`` of half the number of data.
    """
    flat, unravel = ravel_pytree(zeros(post.structure, jnp.zeros(()).dtype))
    found = priors.require(post.prior, priors.HasTerms, "barrier methods")
    terms = []
    for W, g in found.terms:
        density = priors.require(g, priors.HasLogProb, "barrier methods")
        terms.append((np.asarray(dense_operator(W)), density, ravel_pytree(zeros(W.out_structure, flat.dtype))[1]))
    cones = sum(g.barrier(shaped(jnp.asarray(W @ flat + 1.0)), 1.0)[1] for W, g, shaped in terms)

    @jax.jit
    def objective(x, kappa):
        parts = [g.barrier(shaped(W @ x), kappa)[0] for W, g, shaped in terms]
        return -post.likelihood.log_prob(unravel(x)) + sum(parts)

    gradient, hessian = jax.jit(jax.grad(objective)), jax.jit(jax.hessian(objective))
    x, kappa, last = np.ones(flat.size), 1e-2, cones / (0.5 * rtol * float(post.likelihood.num_data))
    while kappa < last:
        kappa = min(3 * kappa, last)
        for _ in range(60):
            g = np.asarray(gradient(x, kappa))
            d = -np.linalg.solve(np.asarray(hessian(x, kappa)), g)
            if -g @ d < 1e-3 / kappa:
                break
            step, value = 1.0, float(objective(x, kappa))
            while not float(objective(x + step * d, kappa)) <= value + 0.1 * step * (g @ d) and step > 1e-12:
                step /= 2
            x = x + step * d
    return unravel(jnp.asarray(x))


def dense_map(post: Posterior) -> PyTree:
    """The maximum of a small linear-Gaussian posterior, by its dense normal equations."""
    return dense_posterior(post)[0]


def dense_posterior(post: Posterior) -> tuple[PyTree, np.ndarray]:
    """Mean (as a latent pytree) and covariance matrix (flat) of a small linear-Gaussian posterior."""
    system = post.linear_gaussian()
    if system is None:
        raise TypeError("only a linear operator, Gaussian noise and a Gaussian prior have a dense solution")
    forward = np.asarray(dense_operator(system.operator))
    weight = np.asarray(dense_operator(system.noise.inv))
    signal = np.asarray(dense(system.covariance))
    covariance = np.linalg.inv(forward.T @ weight @ forward + np.linalg.inv(signal))
    _, unravel = ravel_pytree(zeros(system.covariance.structure, system.data.dtype))
    deviation = covariance @ (forward.T @ weight @ np.asarray(system.centred).ravel())
    return system.shifted(unravel(jnp.asarray(deviation))), covariance
