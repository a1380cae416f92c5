"""Chains in jitted chunks, with progress, Ctrl-C and a checkpoint from which they go on with the same numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invprob.diagnostics.convergence import RunningMoments
from invprob.diagnostics.monitors import MonitoredQuantities
from invprob.optimize.loop import CHUNK_SECONDS, Checkpoint
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

    def add(self, first: int, every: int, out: Any, view: Any, info: Any) -> None:
        """Put in draws of all chains that begin with number ``first``."""
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
            mean[...], square[...] = seen.mean, seen.squares

        jax.tree.map(moments, self.mean, self.square, view)


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
    interrupted
        Whether Ctrl-C ended the run.
    gradients
        Gradients (steps of a solver) of all chains, warm-up included.
    """

    record: Record
    done: int
    every: int
    interrupted: bool
    gradients: int


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
    *,
    progress: Callable[[SampleProgress], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_seconds: float = 60.0,
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
    progress
        Called with a `SampleProgress` about every half second.
    checkpoint
        File that keeps the state; see `invprob.optimize.loop.iterate`.
    """
    begun = time.monotonic()
    start, key = jax.random.split(key)
    problem, chains, finite = _start(sampler, post, start, num_chains)
    tracked = MonitoredQuantities(post.structure)
    one = eqx.filter_eval_shape(_seen, sampler, problem, view, tracked, chains)
    record, every = _empty(one, num_draws)
    size = int(np.clip(BUFFER_BYTES // max(_bytes(one[0]), 1), 1, BUFFER))
    state: Any = (chains, vars(record), np.zeros((), np.int64))
    keep = None
    if checkpoint is not None:
        settings = f"{sampler} {num_chains} {num_draws} {jax.random.key_data(key).tolist()}"
        keep = Checkpoint(Path(checkpoint), post, settings)
        state = keep.load(state)
    chains, fields, gradients = state
    record = Record(**fields)
    if not finite:
        return ChainRun(record, 0, every, False, 0)
    total, length, interrupted, saved = sampler.num_warmup + num_draws, 1, False, begun
    try:
        while (step := int(chains.step)) < total:
            # a chunk does not go over the end of the warm-up: what is seen in it is thrown away
            until = sampler.num_warmup if step < sampler.num_warmup else total
            count, began = min(length, size, until - step), time.monotonic()
            chains, seen, cost = jax.block_until_ready(
                _advance(sampler, problem, view, tracked, chains, key, jnp.asarray(count), size)
            )
            gradients = gradients + int(cost)
            viewed, followed, info = jax.tree.map(lambda a, n=count: np.asarray(a[:n]), seen)
            if step >= sampler.num_warmup:
                record.add(step - sampler.num_warmup, every, followed, viewed, info)
            now = time.monotonic()
            if progress is not None:
                accept = float(info.accept.mean())
                progress(SampleProgress(step + count, sampler.num_warmup, num_draws, accept, now - begun))
            if keep is not None and now - saved > checkpoint_seconds:
                keep.save((chains, vars(record), gradients))
                saved = now
            length = int(np.clip(CHUNK_SECONDS * count / max(now - began, 1e-6), 1, 4 * length))
    except KeyboardInterrupt:
        interrupted = True
        if keep is not None:
            keep.save((chains, vars(record), gradients))
    if keep is not None and not interrupted:
        keep.remove()
    done = max(int(chains.step) - sampler.num_warmup, 0)
    return ChainRun(record, done, every, interrupted, int(gradients))


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
