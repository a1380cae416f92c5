"""The Wiener filter: a circulant forward operator, stationary noise and a stationary prior."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invprob.covariance import Stationary
from invprob.errors import CapabilityError
from invprob.operators import CircularConvolve, Identity
from invprob.operators.base import vdot, zeros
from invprob.optimize.solvers.base import DONE, NOT_FINITE, STALLED, AbstractSolver, State, first_metrics
from invprob.posterior import LinearGaussian, Posterior


class Wiener(AbstractSolver):
    """The closed form ``(|h|^2 / N + 1 / P)^-1 h* y / N`` in Fourier space (Wiener 1949): no iteration.

    The circulant approximation of the posterior covariance is the covariance itself here. The residual of the normal
    equations is looked at afterwards: noise that differs from pixel to pixel, which only its numbers can tell, gives
    `STALLED` and the gap that is left.
    """

    rtol: float = 1e-7
    name: ClassVar[str] = "wiener"

    def prepare(self, post: Posterior) -> LinearGaussian:
        system = post.linear_gaussian()
        if (
            system is None
            or not isinstance(system.operator, CircularConvolve | Identity)
            or not isinstance(system.covariance, Stationary)
        ):
            raise CapabilityError(
                "the Wiener filter needs a circulant operator, even Gaussian noise and a stationary Gaussian prior; "
                "conjugate gradients (method='cg') need only a linear operator, Gaussian noise and a Gaussian prior"
            )
        return system

    def init(self, problem: LinearGaussian, x0: Any) -> State:
        start = zeros(problem.covariance.structure, problem.data.dtype)
        return State(start, None, first_metrics(problem.data.dtype))

    def step(self, problem: LinearGaussian, state: State) -> State:
        circulant, b = problem.circulant().operator, problem.right_hand_side()
        u = circulant(b)
        gap = self._gap(problem, circulant, b, u)
        code = jnp.where(gap <= self.rtol, DONE, jnp.where(jnp.isfinite(gap), STALLED, NOT_FINITE))
        done = (jnp.ones((), jnp.int32), gap, code.astype(jnp.int32))
        return State(problem.shifted(u), None, eqx.tree_at(lambda m: (m.step, m.gap, m.code), state.metrics, done))

    def _gap(self, problem, circulant, b, u: PyTree) -> Float[Array, ""]:
        residual = jax.tree.map(jnp.subtract, b, problem.precision.apply(u))
        left = 0.5 * vdot(residual, circulant(residual))
        objective = problem.null_objective() - 0.5 * vdot(u, b)
        return jnp.where(left > 0, left / objective, left)

    def latent(self, problem, state):
        return state.x
