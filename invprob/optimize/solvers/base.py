"""What an algorithm is to the loop: `init` and `step` on a `State`, and how to read a state."""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from invprob.posterior import Posterior

RUNNING, DONE, STALLED, NOT_FINITE = 0, 1, 2, 3
RESIDUAL = "relative primal and dual residual"
ROUNDING = 30  # an objective below so many units of rounding of its value at zero is not known
WINDOW, FACTOR = 3, 2.5
"""The objective is taken to be within FACTOR times its last WINDOW decreases of the optimum. The decreases of the next
steps are a lower bound of the error (Strakos & Tichy 2002, ETNA 13, 56); extrapolating them by their ratio stops too
early where convergence slows down, as it does when only the modes of masked pixels and of the border are left.
"""


class Metrics(eqx.Module):
    """What is known of an iterate.

    Parameters
    ----------
    step
        Steps taken.
    gap
        Estimate of ``(f - f*) / f``, f the negative log-posterior less its constants, or another measure of optimality
        between 0 and 1; the solver says which.
    code
        `RUNNING`, `DONE`, `STALLED` or `NOT_FINITE`.
    """

    step: Int[Array, ""]
    gap: Float[Array, ""]
    code: Int[Array, ""]


class State(eqx.Module):
    """An iterate: x in the solver's coordinates, what the algorithm carries along, and the metrics."""

    x: PyTree
    carry: Any
    metrics: Metrics


class AbstractSolver(eqx.Module):
    """An iterative algorithm for the maximum of a posterior.

    A solver prepares a problem once (inverses, transfer functions, coordinates), and then steps. All methods are pure
    and can be jitted and vmapped; a solver holds settings, never arrays of a problem.
    """

    rtol: eqx.AbstractVar[float]
    name: eqx.AbstractClassVar[str]
    measure: ClassVar[str] = "estimated relative gap (f - f*) / f"
    """What `Metrics.gap` is, in words."""

    @abstractmethod
    def prepare(self, post: Posterior) -> Any:
        """The problem as a pytree, in the solver's coordinates."""

    @abstractmethod
    def init(self, problem: Any, x0: PyTree | None) -> State:
        """First state; ``x0`` is a latent pytree or None for the solver's own start."""

    @abstractmethod
    def step(self, problem: Any, state: State) -> State:
        """Next state."""

    @abstractmethod
    def latent(self, problem: Any, state: State) -> PyTree:
        """The latent pytree of a state."""


def first_metrics(dtype) -> Metrics:
    """Metrics before the first step."""
    return Metrics(jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, dtype), jnp.asarray(RUNNING, jnp.int32))
