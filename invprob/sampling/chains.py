"""Chains in jitted chunks, with progress, Ctrl-C and a checkpoint from which they go on with the same numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invprob.diagnostics.convergence import RunningMoments
from invprob.diagnostics.monitors import MonitoredQuantities
from invprob.loop import UNWATCHED, Chunk, Pace, Watch, run_chunks
from invprob.posterior import Hierarchy, Posterior
from invprob.sampling.samplers.base import AbstractMarkov, Chains

BUFFER = 64  # most draws of a chain in one compiled call ...
BUFFER_BYTES = 2**28  # ... and most bytes of them
KEPT_BYTES = 2**30  # most bytes of draws that are kept: beyond it every second, third, ... draw is


@dataclass(frozen=True)
class SampleProgress:
    """One line of progress of chains.

    Parameters
    ----------
    step, num_warmup, num_draws
        Steps taken, steps of warm-up, and draws of each chain after it.
    acceptance
        Mean acceptance of the last steps; one for samplers that always move.
    seconds
        Since the start.
    """

    step: int
    num_warmup: int
    num_draws: int
    acceptance: float
    seconds: float

    def __str__(self):
        warming = self.step <= self.num_warmup
        done, total = (self.step, self.num_warmup) if warming else (self.step - self.num_warmup, self.num_draws)
        return (
            f"{'warm-up' if warming else 'draw':7s} {done:5d} of {total} of each chain  "
            f"acceptance {self.acceptance:.2f}  {self.seconds:6.1f} s"
        )


@dataclass(eq=False)
class Record:
    """The draws so far: all of what is tracked, the moments of all, and the draws that are kept.

    Parameters
    ----------
    tracked
        Named quantities, each ``(draw, chain, ...)``.
    energy, accept, divergent
        Of each draw, ``(draw, chain)``.
    kept
        Pytree of what is kept, ``(kept draw, chain, ...)``.
    mean, square
        Mean of all draws, and sum of the squared deviations from it.
    """

    tracked: dict[str, np.ndarray]
    energy: np.ndarray
    accept: np.ndarray
    divergent: np.ndarray
    kept: PyTree
    mean: PyTree
    square: PyTree

    def with_draws(self, first: int, every: int, out: Any, view: Any, info: Any) -> Record:
        """With draws of all chains that begin with number ``first``.

        They take their places in the arrays that are there, and may be put in again; the moments, which may not, are
        new.
        """
        number = len(info.accept)
        at = slice(first, first + number)
        for name, values in out.items():
            self.tracked[name][at] = values
        self.energy[at], self.accept[at], self.divergent[at] = info.energy, info.accept, info.divergent
        jax.tree.map(lambda kept, values: put_every(kept, first, every, values), self.kept, view)

        def moments(mean, square, values):
            # step by step: how many steps a chunk has is a matter of time, and rounding is not to depend on that
            seen = RunningMoments(first * values.shape[1], mean, square)
            for draws in values:
                seen = seen.add(draws)
            return seen

        seen = jax.tree.map(moments, self.mean, self.square, view)
        return replace(
            self,
            mean=jax.tree.map(lambda moments: np.asarray(moments.mean), seen),
            square=jax.tree.map(lambda moments: np.asarray(moments.squares), seen),
        )


@dataclass(frozen=True, eq=False)
class ChainRun:
    """What `run_chains` gives back.

    Parameters
    ----------
    record
        The draws.
    done
        Draws of each chain that were taken.
    every
        One draw in so many is kept.
    gradients
        Gradients (steps of a solver) of all chains, warm-up included.
    interrupted, stopped
        Whether Ctrl-C or the stop rule ended the run.
    """

    record: Record
    done: int
    every: int
    gradients: int
    interrupted: bool = False
    stopped: bool = False


@eqx.filter_jit
def _start(sampler: AbstractMarkov, post: Posterior | Hierarchy, key, num_chains: int):
    problem = sampler.prepare(post)
    chains = sampler.init(problem, key, num_chains)
    x = jax.vmap(lambda position: sampler.latent(problem, position))(chains.position)
    return problem, chains, jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]))


def _seen(sampler, problem, view, tracked, chains):
    def one(position):
        x = sampler.latent(problem, position)
        return view(x), tracked(x)

    return (*jax.vmap(one)(chains.position), chains.info)


@eqx.filter_jit
def _advance(sampler, problem, view, tracked, chains: Chains, key, count, size: int):
    """So many steps, with what is seen of each in a buffer."""
    shapes = eqx.filter_eval_shape(_seen, sampler, problem, view, tracked, chains)
    buffer = jax.tree.map(lambda s: jnp.zeros((size, *s.shape), s.dtype), shapes)

    def body(i, state):
        chains, buffer, total = state
        chains = sampler.step(problem, chains, jax.random.fold_in(key, chains.step))
        seen = _seen(sampler, problem, view, tracked, chains)
        buffer = jax.tree.map(lambda b, s: b.at[i].set(s), buffer, seen)
        return chains, buffer, total + jnp.sum(chains.info.gradients, dtype=jnp.int32)

    return jax.lax.fori_loop(0, count, body, (chains, buffer, jnp.zeros((), jnp.int32)))


def run_chains(
    post: Posterior | Hierarchy,
    sampler: AbstractMarkov,
    key,
    num_chains: int,
    num_draws: int,
    view: Callable[[PyTree], PyTree],
    watch: Watch = UNWATCHED,
) -> ChainRun:
    """Run the chains of a sampler through warm-up and draws.

    Step i uses the key ``fold_in(key, i)`` whatever the chunks are, so that a run which was stopped and goes on from
    its checkpoint gives the numbers of one that was not.

    Parameters
    ----------
    num_draws
        Draws of each chain.
    view
        From the latent to what is kept of a draw, and what mean and standard deviation are of.
    watch
        Who is told, with a `SampleProgress` about every half second, and where the state is kept.
    """
    begun = time.monotonic()
    start, key = jax.random.split(key)
    problem, chains, finite = _start(sampler, post, start, num_chains)
    tracked = MonitoredQuantities(post.structure)
    one = eqx.filter_eval_shape(_seen, sampler, problem, view, tracked, chains)
    record, every = _empty(one, num_draws)
    size = int(np.clip(BUFFER_BYTES // max(_bytes(one[0]), 1), 1, BUFFER))
    keep = watch.keep(post, f"{sampler} {num_chains} {num_draws} {jax.random.key_data(key).tolist()}")
    state: Any = keep.load((chains, vars(record), np.zeros((), np.int64)))
    if not finite:
        return ChainRun(Record(**state[1]), 0, every, 0)
    warm, total = sampler.num_warmup, sampler.num_warmup + num_draws

    def advance(state: Any, until: int) -> Chunk[Any]:
        chains, fields, gradients = state
        step = int(chains.step)
        count = until - step
        chains, seen, cost = jax.block_until_ready(
            _advance(sampler, problem, view, tracked, chains, key, jnp.asarray(count), size)
        )
        viewed, followed, info = jax.tree.map(lambda a: np.asarray(a[:count]), seen)
        record = Record(**fields)
        if step >= warm:
            record = record.with_draws(step - warm, every, followed, viewed, info)
        return Chunk((chains, vars(record), gradients + int(cost)), until, seen=float(info.accept.mean()))

    def line(chunk: Chunk[Any], seconds: float) -> SampleProgress:
        return SampleProgress(chunk.step, warm, num_draws, chunk.seen, seconds)

    outcome = run_chunks(
        Chunk(state, int(state[0].step)), advance, line, total, watch=watch, keep=keep, pace=Pace(most=size),
        # a chunk does not go over the end of the warm-up: what is seen in it is thrown away
        border=lambda step: warm if step < warm else total, begun=begun,
    )  # fmt: skip
    _, fields, gradients = outcome.last.state
    done = max(outcome.last.step - warm, 0)
    return ChainRun(Record(**fields), done, every, int(gradients), outcome.interrupted, outcome.stopped)


def thinning(view: PyTree, num_draws: int) -> int:
    """One draw in so many is kept, of which each is a view of this size."""
    return -(-_bytes(view) * num_draws // KEPT_BYTES) or 1


def put_every(kept: np.ndarray, first: int, every: int, values: np.ndarray) -> None:
    """Put those draws that are kept where they belong; ``values`` begin with number ``first``."""
    numbers = np.arange(first, first + len(values))
    chosen = numbers % every == every - 1
    kept[numbers[chosen] // every] = values[chosen]


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _empty(one: Any, num_draws: int) -> tuple[Record, int]:
    """A record with room for the draws, and which of them are kept."""
    view, tracked, info = one
    every = thinning(view, num_draws)

    def room(number, leaf):
        return np.zeros((number, *leaf.shape), leaf.dtype)

    return Record(
        tracked={name: room(num_draws, leaf) for name, leaf in tracked.items()},
        energy=room(num_draws, info.energy),
        accept=room(num_draws, info.accept),
        divergent=room(num_draws, info.divergent),
        kept=jax.tree.map(lambda leaf: room(num_draws // every, leaf), view),
        mean=jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:]), view),
        square=jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:]), view),
    ), every  # fmt: skip


__all__ = ["ChainRun", "Record", "SampleProgress", "put_every", "run_chains", "thinning"]
