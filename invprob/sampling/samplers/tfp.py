"""Hamiltonian samplers of TensorFlow Probability on JAX, in the coordinates of `invprob.sampling.coordinates`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from invprob.errors import UsageError
from invprob.operators.base import vdot
from invprob.posterior import Posterior
from invprob.sampling.coordinates import Coordinates, coordinates
from invprob.sampling.samplers.base import AbstractMarkov, Chains, Info

ADAPTING = 0.8  # of the warm-up; the rest settles with the settings found
TRAJECTORY = 1.6  # about a quarter of the period of white noise, where adaptation begins
LOST = 1000.0  # energy error of a divergent trajectory, as in Stan


class AbstractHamiltonian(AbstractMarkov):
    """Chains by trajectories of a particle in the potential ``-log p(c)``, all at once.

    In warm-up the step size is adapted by dual averaging to an acceptance of `target_accept`.
    """

    target_accept: eqx.AbstractVar[float]

    def __check_init__(self):
        if self.num_warmup < 1 or not 0 < self.target_accept < 1:
            raise UsageError(
                f"{type(self).__name__} takes num_warmup of at least 1 and target_accept between 0 and 1, not "
                f"{self.num_warmup} and {self.target_accept:g}"
            )

    @abstractmethod
    def kernel(self, log_prob: Any, step: Array, dtype) -> Any:
        """The TFP kernel for a density of lists of arrays with a leading chain axis."""

    @abstractmethod
    def told(self, before: Any, after: Any) -> Info:
        """What the results of TFP say of a transition."""

    def _kernel(self, problem: Coordinates) -> Any:
        from tensorflow_probability.substrates import jax as tfp

        leaves, treedef = jax.tree.flatten(problem.T.in_structure.tree)
        size = sum(leaf.size for leaf in leaves)
        dtype = jax.tree.leaves(problem.origin)[0].dtype

        def log_prob(*parts):
            return jax.vmap(lambda *one: problem.log_prob(treedef.unflatten(one)))(*parts)

        step = jnp.asarray(1.5 * size**-0.25, dtype)
        return tfp.mcmc.DualAveragingStepSizeAdaptation(
            self.kernel(log_prob, step, dtype),
            num_adaptation_steps=int(ADAPTING * self.num_warmup),
            target_accept_prob=jnp.asarray(self.target_accept, dtype),
        )

    def prepare(self, post: Posterior) -> Coordinates:
        return coordinates(post)

    def init(self, problem: Coordinates, key, num_chains: int) -> Chains:
        dtype = jax.tree.leaves(problem.origin)[0].dtype
        leaves, treedef = jax.tree.flatten(problem.T.in_structure.like(dtype))
        keys = jax.random.split(key, len(leaves))
        parts = [
            jax.random.normal(k, (num_chains, *leaf.shape), leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)
        ]
        results = _plain(self._kernel(problem).bootstrap_results(parts))
        none = jnp.zeros(num_chains, dtype)
        info = Info(none, none, none > 0, jnp.zeros(num_chains, jnp.int32))
        return Chains(treedef.unflatten(parts), results, jnp.zeros((), jnp.int32), info)

    def step(self, problem: Coordinates, chains: Chains, key) -> Chains:
        parts, treedef = jax.tree.flatten(chains.position)
        parts, results = self._kernel(problem).one_step(parts, chains.carry, seed=key)
        info = self.told(_inner(chains.carry), _inner(results))
        # TFP may return another floating point or integer type than it was given
        results = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), _plain(results), chains.carry)
        return Chains(treedef.unflatten(parts), results, chains.step + 1, info)

    def latent(self, problem: Coordinates, position: PyTree) -> PyTree:
        return problem.latent(position)


def _plain(results: Any) -> Any:
    """Results without typed keys (TFP keeps the seed), which could not be written to a checkpoint."""
    typed = jax.dtypes.prng_key
    return jax.tree.map(lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, typed) else a, results)


def _inner(results: Any) -> Any:
    while hasattr(results, "inner_results"):
        results = results.inner_results
    return results


class HMC(AbstractHamiltonian):
    """Hamiltonian Monte Carlo; all chains together adapt the length of the trajectories (ChEES).

    Parameters
    ----------
    num_warmup
        Steps of warm-up.
    target_accept
        Mean acceptance that the step size is adapted to.
    jitter
        Part of each trajectory's length that is random, against orbits that close.

    References
    ----------
    Neal 2011, Handbook of MCMC, ch. 5; Hoffman, Radul & Sountsov 2021, AISTATS, PMLR 130, 3907.
    """

    num_warmup: int = 200
    target_accept: float = 0.75
    jitter: float = 0.2
    name: ClassVar[str] = "hmc"

    def kernel(self, log_prob, step, dtype):
        from tensorflow_probability.substrates import jax as tfp

        inner = tfp.mcmc.HamiltonianMonteCarlo(
            log_prob, step_size=step, num_leapfrog_steps=jnp.asarray(jnp.ceil(TRAJECTORY / step), jnp.int32)
        )
        return tfp.experimental.mcmc.GradientBasedTrajectoryLengthAdaptation(
            inner, num_adaptation_steps=int(ADAPTING * self.num_warmup), jitter_amount=jnp.asarray(self.jitter, dtype)
        )

    def told(self, before, after):
        momentum = after.proposed_results.initial_momentum
        kinetic = jax.vmap(lambda p: 0.5 * vdot(p, p))(momentum)
        ratio = after.log_accept_ratio
        steps = jnp.broadcast_to(after.proposed_results.num_leapfrog_steps, ratio.shape)
        return Info(
            kinetic - before.accepted_results.target_log_prob, jnp.exp(jnp.minimum(ratio, 0)),
            ~(ratio > -LOST), steps.astype(jnp.int32),
        )  # fmt: skip


class NUTS(AbstractHamiltonian):
    """The no-U-turn sampler: each trajectory doubles until it turns back.

    Parameters
    ----------
    num_warmup
        Steps of warm-up.
    target_accept
        Mean acceptance that the step size is adapted to.
    max_depth
        Most doublings of a trajectory.

    References
    ----------
    Hoffman & Gelman 2014, JMLR 15, 1593; Betancourt 2017, arXiv:1701.02434.
    """

    num_warmup: int = 100
    target_accept: float = 0.8
    max_depth: int = 8
    name: ClassVar[str] = "nuts"

    def kernel(self, log_prob, step, dtype):
        from tensorflow_probability.substrates import jax as tfp

        return tfp.mcmc.NoUTurnSampler(log_prob, step_size=step, max_tree_depth=self.max_depth)

    def told(self, before, after):
        accept = jnp.exp(jnp.minimum(after.log_accept_ratio, 0))
        return Info(-after.energy, accept, after.has_divergence, after.leapfrogs_taken.astype(jnp.int32))


__all__ = ["HMC", "NUTS"]
