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
from invprob.infer.find_map import find_map, solve
from invprob.infer.solvers import AbstractSolver
from invprob.infer.solvers.base import DONE, NOT_FINITE, RUNNING
from invprob.operators import Convolve
from invprob.operators.base import precision_of, zeros
from invprob.posterior import Posterior
from invprob.result import Status
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


def check_solver(solver: AbstractSolver, post: Posterior | None = None, max_steps: int = 5000) -> None:
    """Check that a solver reaches the dense optimum of a small problem, by jit and vmap too, and its statuses.

    Parameters
    ----------
    solver
        Solver to check.
    post
        A linear-Gaussian posterior it can solve, by default `small_problem`.
    max_steps
        Most steps it may take.
    """
    post = small_problem() if post is None else post
    best = dense_map(post)
    lowest = float(-post.log_prob(best))
    scale = 0.5 * float(post.likelihood.chi2(best)) + 0.5 * float(post.likelihood.num_data)
    allowed = 3 * max(solver.rtol, 1e3 * float(jnp.finfo(precision_of(best)).eps))

    def near(x, check):
        gap = (float(-post.log_prob(x)) - lowest) / scale
        require(gap <= allowed, solver, check, f"relative gap {gap:.2g}, {allowed:.2g} is allowed")

    estimate = find_map(post, solver, max_steps=max_steps)
    require(estimate.status is Status.CONVERGED, solver, "status of a converged run", estimate.status.value)
    near(estimate.x, "the dense optimum")
    run = eqx.filter_jit(lambda p: solve(p, solver, max_steps=max_steps))
    alone = run(post)
    near(alone.x, "the dense optimum, by solve under jit")
    require(int(alone.code) == DONE, solver, "code of a converged solve", str(alone.code))
    both = eqx.filter_vmap(lambda p: solve(p, solver, max_steps=max_steps))(repeated(post))
    near(first(both.x), "the dense optimum, by solve under vmap")
    if int(alone.steps) > 1:
        short = find_map(post, solver, max_steps=1)
        require(short.status is Status.MAX_STEPS, solver, "status at max_steps", short.status.value)
        require(int(solve(post, solver, max_steps=1).code) == RUNNING, solver, "code at max_steps")
    data = jnp.full_like(post.likelihood.data, jnp.nan)  # type: ignore[attr-defined]
    broken = eqx.tree_at(lambda p: p.likelihood.data, post, data)
    require(int(solve(broken, solver, max_steps=20).code) == NOT_FINITE, solver, "code of a problem with NaN")


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
