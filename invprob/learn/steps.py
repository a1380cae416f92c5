"""What the trainings of denoisers and generators have in common: a schedule, a state, and how a gradient moves it."""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained.

    Parameters
    ----------
    steps, batch
        Steps, and images in each.
    learning_rate
        Of Adam, after a warm-up; it ends at zero along a cosine.
    decay
        Of the moving average of the weights, which is what is kept.
    memory
        Of Adam's mean of squared gradients.
    """

    steps: int = 8000
    batch: int = 16
    learning_rate: float = 1e-3
    decay: float = 0.999
    memory: float = 0.99

    def optimizer(self) -> optax.GradientTransformation:
        warm = max(1, self.steps // 40)
        last = max(self.steps, warm + 1)
        rate = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warm, last)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=self.memory))


class State(eqx.Module):
    """Weights, their moving average, and the state of the optimizer."""

    network: PyTree
    average: PyTree
    optimizer: PyTree
    step: Array

    @classmethod
    def first(cls, network: PyTree, schedule: Schedule) -> State:
        """Before the first step."""
        optimizer = schedule.optimizer().init(eqx.filter(network, eqx.is_array))
        # copies: the memory of a state is used again
        copy = [jax.tree.map(lambda a: jnp.array(a) if eqx.is_array(a) else a, network) for _ in range(2)]
        return cls(copy[0], copy[1], optimizer, jnp.zeros((), jnp.int32))

    def moved(self, gradient: PyTree, schedule: Schedule) -> State:
        """After a step along a gradient."""
        updates, inner = schedule.optimizer().update(gradient, self.optimizer)
        network = eqx.apply_updates(self.network, updates)
        # the average forgets the beginning faster
        kept = jnp.minimum(schedule.decay, (1.0 + self.step) / (10.0 + self.step))
        average = jax.tree.map(lambda a, b: kept * a + (1 - kept) * b if eqx.is_array(a) else a, self.average, network)
        return State(network, average, inner, self.step + 1)


__all__ = ["Schedule", "State"]
