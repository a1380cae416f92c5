"""Families that are fitted by stochastic gradients of the evidence lower bound."""

from __future__ import annotations

import functools
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from invprob.loop import Chunk, Pace, run_chunks
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.sampling.coordinates import coordinates
from invprob.variational.base import AbstractDistribution, Approximation, Draws, TargetDensity, target_density
from invprob.variational.family import AbstractFamily, Fit, VariationalProgress, status_of

_near_white = eqx.filter_jit(coordinates)


@functools.cache
def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=1e-4)  # of nats: a gradient that small is rounding, and not to be blown up


def _loss(q: AbstractDistribution, target: TargetDensity, key, num_pairs: int) -> Float[Array, ""]:
    """Minus the ELBO, whose gradient flows through the draws alone: at q = p it is zero for each draw."""
    draws = q.draws(key, num_pairs)
    held = jax.lax.stop_gradient(q)

    def one(c):
        return held.log_prob(c) - target.log_joint(c)

    return jnp.mean(jax.vmap(one)(jnp.concatenate([draws.c, draws.reflected])))


@eqx.filter_jit
def _climb(q, carry, target: TargetDensity, key, first, until, total, rate, num_pairs: int):
    """Steps of Adam from ``first`` to ``until``, and the mean loss over them."""
    arrays, rest = eqx.partition(q, eqx.is_inexact_array)

    def step(i, state):
        arrays, carry, lost = state
        at = eqx.combine(arrays, rest)
        value, gradient = eqx.filter_value_and_grad(_loss)(at, target, jax.random.fold_in(key, i), num_pairs)
        updates, carry = _adam().update(gradient, carry)
        now = rate * 0.5 * (1 + jnp.cos(jnp.pi * i / total))
        arrays = jax.tree.map(lambda a, u: a - (now * u).astype(a.dtype), arrays, updates)
        return arrays, carry, lost + value

    start = (arrays, carry, jnp.zeros((), target.dtype))
    arrays, carry, lost = jax.lax.fori_loop(first, until, step, start)
    return eqx.combine(arrays, rest), carry, lost / (until - first)


class AbstractStochasticVI(AbstractFamily):
    """A family fitted by stochastic gradients of the ELBO: Adam, its rate falling to zero along a cosine.

    Each step takes draws in pairs about the centre of q, and the gradient through the draws alone.

    References
    ----------
    Roeder, Wu & Duvenaud 2017, NeurIPS 30 (the gradient); Kucukelbir et al. 2017, JMLR 18 (14).
    """

    @abstractmethod
    def start(self, target: TargetDensity, key) -> AbstractDistribution:
        """Where the fit begins: near to white noise."""

    def target(self, post: Posterior, key) -> TargetDensity:
        """The coordinates of the family: near to white noise under the posterior."""
        return target_density(_near_white(post), key)

    def check(self, post):
        eqx.filter_eval_shape(coordinates, post)

    def fit(self, post, key, effort, where, watch):
        suggested = self.effort
        total = effort.num_steps or suggested.num_steps or 1000
        pairs = -(-(effort.num_draws or suggested.num_draws or 8) // 2)
        rate = effort.learning_rate or suggested.learning_rate or 0.03
        keys = jax.random.split(key, 3)
        target = self.target(post, keys[0]) if where is None else target_density(where, keys[0])
        q = self.start(target, keys[1])
        carry = _adam().init(eqx.filter(q, eqx.is_inexact_array))
        keep = watch.keep((post, where), f"{self} {total} {pairs} {rate} {jax.random.key_data(key).tolist()}")

        def advance(state, until):
            q, carry, done = state
            first, last, whole = (jnp.asarray(n) for n in (int(done), until, total))  # numbers would be compiled in
            found = _climb(q, carry, target, keys[2], first, last, whole, jnp.asarray(rate, target.dtype), pairs)
            q, carry, loss = jax.block_until_ready(found)
            return Chunk((q, carry, np.asarray(until)), until, not np.isfinite(float(loss)), -float(loss))

        def line(chunk, seconds):
            return VariationalProgress(chunk.step, total, chunk.seen, seconds)

        state = keep.load((q, carry, np.asarray(0)))
        outcome = run_chunks(
            Chunk(state, int(state[-1])), advance, line, total, watch=watch, keep=keep, pace=Pace(8, 8),
            is_recorded=True,
        )  # fmt: skip
        status = status_of(outcome, Status.NOT_FINITE if outcome.last.ended else Status.CONVERGED)
        approximation = Approximation(target, outcome.last.state[0], jnp.zeros((), target.dtype))
        return Fit(approximation, status, outcome.last.step, outcome.history)


def about(centre: Array, c: Array) -> Draws:
    """Draws c with their reflections about a centre."""
    return Draws(c, 2 * centre - c, jnp.ones(len(c), bool))


__all__ = ["AbstractStochasticVI", "about"]
