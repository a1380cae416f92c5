"""The Gaussian around a point with the Fisher information there, in the coordinates in which the prior is white."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from invprob import likelihoods
from invprob.covariance import AbstractCovariance, Blocks, Diagonal, Stationary
from invprob.errors import CapabilityError
from invprob.operators.base import Identity, Structure, compose, precision_of, vdot, zeros
from invprob.operators.fourier import half_shape
from invprob.optimize.loop import iterate_pure
from invprob.optimize.solvers import ConjugateGradient, NewtonCG
from invprob.posterior import LinearGaussian, Posterior, Whitened
from invprob.priors.capabilities import HasPrecision, HasTransform, require
from invprob.sampling.coordinates import Coordinates
from invprob.sampling.samplers.gaussian import DRAW_RTOL, perturbation
from invprob.variational.base import AbstractDistribution, Approximation, Draws, TargetDensity
from invprob.variational.lanczos import log_determinant

SOLVE_STEPS = 2000  # most conjugate-gradient steps of a draw


def newton(dtype) -> NewtonCG:
    """A Newton solver whose mean is so good that the evidence of a linear-Gaussian posterior is exact to rounding."""
    return NewtonCG(rtol=min(1e-7, float(jnp.finfo(dtype).eps) ** 0.75))


def likelihood_dtype(post: Posterior):
    """Floating point type of the arrays of a likelihood."""
    return precision_of(eqx.filter(post.likelihood, eqx.is_inexact_array))


def whitened(post: Posterior, what: str) -> Whitened:
    """The posterior in white coordinates.

    Raises
    ------
    CapabilityError
        When the prior is not white noise pushed through a map, or the likelihood not Gaussian.
    """
    require(post.prior, HasTransform, f"approximations by {what}")
    if not isinstance(post.likelihood, likelihoods.Gaussian):
        raise CapabilityError(f"{what} needs a Gaussian likelihood, not {type(post.likelihood).__name__}")
    return post.whiten()


def unit_covariance(structure: Structure, dtype) -> AbstractCovariance:
    """The identity, in a form whose circulant relatives are known."""

    def one(leaf):
        shape = leaf.shape
        if len(shape) == 2:
            return Stationary(jnp.ones(half_shape(shape), dtype), shape)
        return Diagonal(jnp.ones(shape, dtype))

    found = jax.tree.map(one, structure.like(dtype))
    return found if isinstance(found, AbstractCovariance) else Blocks(found)


def local_system(problem: Whitened, xi: PyTree) -> LinearGaussian:
    """The linear-Gaussian system of deviations from xi, with the precision ``M = J.T N^-1 J + 1``."""
    like: Any = problem.posterior.likelihood
    gaussian = problem.posterior.prior.find(HasPrecision)
    if gaussian is None:
        jacobian = compose(like.operator, problem.T).linearize(xi)
    else:  # the root of a covariance may join the operator, which the derivative of a function does not
        jacobian = compose(like.operator.linearize(problem.T(xi)), gaussian.covariance.sqrt)
    covariance = unit_covariance(problem.structure, precision_of(xi))
    return LinearGaussian(jacobian, jnp.zeros_like(like.data), like.noise, None, covariance)


@eqx.filter_jit
def most_probable(problem: Whitened, max_steps: int = 200) -> tuple[PyTree, Int[Array, ""]]:
    """The maximum of the density of xi, with the solver's code."""
    solver = newton(likelihood_dtype(problem.posterior))
    state = iterate_pure(solver, problem, solver.init(problem, None), max_steps)
    return state.x, state.metrics.code


class LocalGaussian(AbstractDistribution):
    """``q = N(0, M^-1)`` of deviations, M the precision of a linear-Gaussian system; each draw is one solve.

    Parameters
    ----------
    system
        The system.
    logdet
        ``log det M``.
    """

    system: LinearGaussian
    logdet: Float[Array, ""]

    def _unravel(self):
        return ravel_pytree(zeros(self.system.covariance.structure, self.system.data.dtype))[1]

    def log_prob(self, c):
        d = self._unravel()(c)
        squared = vdot(d, self.system.precision.apply(d))
        return 0.5 * (self.logdet - squared - c.size * jnp.log(2 * jnp.pi))

    def draws(self, key, num):
        solver = ConjugateGradient(rtol=DRAW_RTOL)
        problem = solver.system(self.system)

        def one(key):
            solved = problem.with_right(perturbation(self.system, key))
            state = iterate_pure(solver, solved, solver.init(solved, None), SOLVE_STEPS)
            return ravel_pytree(solver.latent(solved, state))[0], state.metrics.code == 1

        c, good = jax.lax.map(one, jax.random.split(key, num))
        return Draws(c, -c, good)


@eqx.filter_jit
def _system_and_metric(problem: Whitened, xi: PyTree) -> tuple[LinearGaussian, AbstractCovariance]:
    system = local_system(problem, xi)
    return system, system.circulant()


def local_gaussian(problem: Whitened, xi: PyTree, key, num_probes: int) -> Approximation:
    """The Gaussian around xi with the metric there.

    ``log det M = log det(R M R) - log det R^2``, R the root of the circulant approximation of ``M^-1``, whose
    determinant is known: only the rest is left to random probes.
    """
    system, metric = _system_and_metric(problem, xi)
    dtype = precision_of(xi)
    root = metric.sqrt
    rest = log_determinant(compose(root, system.precision, root), key, num_probes, dtype)
    logdet = jnp.asarray(rest.value, dtype) - metric.logdet()
    none = jnp.zeros((), dtype)
    target = TargetDensity(Coordinates(problem, Identity(problem.structure), xi), none, none)
    return Approximation(target, LocalGaussian(system, logdet), jnp.asarray(rest.error / 2, dtype))


__all__ = ["LocalGaussian", "local_gaussian", "local_system", "most_probable", "unit_covariance", "whitened"]
