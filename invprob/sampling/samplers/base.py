"""What a sampler is: independent draws, or chains that `invprob.sample` runs, watches and judges."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree

from invprob.posterior import Hierarchy, Posterior


class AbstractSampler(eqx.Module):
    """A way to draw from a posterior. It holds settings, never arrays of a problem; all methods are pure."""

    name: eqx.AbstractClassVar[str]
    bias: ClassVar[str] = ""
    """What keeps its draws from those of the posterior however long it runs; empty where nothing does."""
    takes: ClassVar[type[Posterior] | type[Hierarchy]] = Posterior
    """A posterior, or one with its hyperparameters."""

    @abstractmethod
    def prepare(self, post: Any) -> Any:
        """The problem as a pytree, of a `Posterior` or, where hyperparameters are sampled too, a `Hierarchy`.

        Raises
        ------
        CapabilityError
            When the operator, the noise or the prior cannot do what the sampler needs.
        """


class Draw(eqx.Module):
    """The posterior mean, or the deviation of one draw from it, with how the solve ended (1: done)."""

    value: PyTree
    code: Array


class AbstractIndependent(AbstractSampler):
    """Draws that do not depend on each other: no warm-up, nothing to mix."""

    @abstractmethod
    def mean(self, problem: Any) -> Draw:
        """The posterior mean."""

    @abstractmethod
    def draw(self, problem: Any, key) -> Draw:
        """One draw."""


class Info(eqx.Module):
    """What a transition tells, for each chain.

    Parameters
    ----------
    energy
        Energy of the state before the transition with its new momentum; NaN for samplers without momentum.
    accept
        Probability with which the proposal is taken; one for samplers that always move.
    divergent
        Whether the integration of the proposal lost its energy.
    gradients
        Gradients of the log-density (for a Gibbs sampler: steps of the solver) that the transition cost.
    """

    energy: Float[Array, " chain"]
    accept: Float[Array, " chain"]
    divergent: Bool[Array, " chain"]
    gradients: Int[Array, " chain"]


class Chains(eqx.Module):
    """The state of all chains: position in the sampler's coordinates, what it carries, steps taken, the last `Info`."""

    position: PyTree
    carry: Any
    step: Int[Array, ""]
    info: Info


class AbstractMarkov(AbstractSampler):
    """A chain that leaves the posterior as it is, after a warm-up of `num_warmup` steps in which it may adapt."""

    num_warmup: eqx.AbstractVar[int]

    @abstractmethod
    def init(self, problem: Any, key, num_chains: int) -> Chains:
        """Over-dispersed starts."""

    @abstractmethod
    def step(self, problem: Any, chains: Chains, key) -> Chains:
        """One transition of every chain."""

    @abstractmethod
    def latent(self, problem: Any, position: PyTree) -> PyTree:
        """The latent pytree of the position of one chain."""


__all__ = ["AbstractIndependent", "AbstractMarkov", "AbstractSampler", "Chains", "Draw", "Info"]
