"""The Wiener filter: a circulant forward operator, stationary noise and a stationary prior."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from invprob.infer.solvers.base import DONE, AbstractSolver, State, first_metrics
from invprob.posterior import LinearGaussian, Posterior


class Wiener(AbstractSolver):
    """The closed form ``(|h|^2 / N + 1 / P)^-1 h* y / N`` in Fourier space (Wiener 1949): no iteration.

    The circulant approximation of the posterior covariance is the covariance itself here.
    """

    rtol: float = 0.0
    name: ClassVar[str] = "wiener"

    def prepare(self, post: Posterior) -> LinearGaussian:
        system = post.linear_gaussian()
        if system is None:
            raise TypeError("the Wiener filter needs a linear operator, Gaussian noise and a Gaussian prior")
        return system

    def init(self, problem: LinearGaussian, x0: Any) -> State:
        return State(problem.mean, None, first_metrics(problem.data.dtype))

    def step(self, problem: LinearGaussian, state: State) -> State:
        u = problem.circulant().operator(problem.right_hand_side())
        x = jax.tree.map(jnp.add, problem.mean, u)
        done = (jnp.ones((), jnp.int32), jnp.zeros_like(state.metrics.gap), jnp.asarray(DONE, jnp.int32))
        return State(x, None, eqx.tree_at(lambda m: (m.step, m.gap, m.code), state.metrics, done))

    def latent(self, problem, state):
        return state.x
