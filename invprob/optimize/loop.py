"""A solver in the one loop, with progress, stop rules, checkpoints and Ctrl-C; and its pure twin.

`iterate` is for people, `iterate_pure` for pipelines and gradients: the same `init` and `step` in one
``while_loop``, which can be jitted and vmapped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from invprob.loop import CHECKPOINT_SECONDS, Chunk, Pace, StopRule, Watch, run_chunks
from invprob.optimize.solvers.base import DONE, NOT_FINITE, RUNNING, STALLED, AbstractSolver, State
from invprob.posterior import Posterior
from invprob.results import Status

STATUS = {
    RUNNING: Status.MAX_STEPS,
    DONE: Status.CONVERGED,
    STALLED: Status.STALLED,
    NOT_FINITE: Status.NOT_FINITE,
}


@dataclass(frozen=True)
class Progress:
    """One line of progress.

    Parameters
    ----------
    step, max_steps
        Steps taken and allowed.
    gap
        The solver's estimate of the relative gap.
    reduced_chi2
        Chi-square per valid datum.
    seconds
        Since the start.
    """

    step: int
    max_steps: int
    gap: float
    reduced_chi2: float
    seconds: float

    def __str__(self):
        return (
            f"step {self.step:5d}  reduced chi-square {self.reduced_chi2:8.4f}  "
            f"relative gap {self.gap:9.2e}  {self.seconds:6.1f} s"
        )


def chi2_below(value: float) -> StopRule:
    """Stop rule: the discrepancy principle, reduced chi-square at or below a value."""
    return lambda progress: progress.reduced_chi2 <= value


def iterate_pure(solver: AbstractSolver, problem: Any, state: State, until) -> State:
    """Step until the solver is done or ``until`` steps were taken; pure, for jit and vmap."""
    # a carry may hold functions or None (optax): only arrays go through the loop
    arrays, rest = eqx.partition(state, eqx.is_array)

    def step(current):
        return eqx.filter(solver.step(problem, eqx.combine(current, rest)), eqx.is_array)

    def unfinished(current):
        return (current.metrics.code == RUNNING) & (current.metrics.step < until)

    return eqx.combine(jax.lax.while_loop(unfinished, step, arrays), rest)


@eqx.filter_jit
def _start(solver: AbstractSolver, post: Posterior, x0: PyTree | None):
    problem = solver.prepare(post)
    return problem, solver.init(problem, x0)


_advance = eqx.filter_jit(iterate_pure)


@eqx.filter_jit
def _look(solver: AbstractSolver, problem: Any, post: Posterior, state: State):
    x = solver.latent(problem, state)
    return x, post.likelihood.chi2(x), jnp.asarray(post.likelihood.num_data)


@dataclass(frozen=True)
class Run:
    """What the loop gives back."""

    x: PyTree
    status: Status
    steps: int
    gap: float
    chi2: float
    num_data: int
    history: tuple[dict[str, float], ...]


def iterate(
    solver: AbstractSolver,
    post: Posterior,
    x0: PyTree | None = None,
    *,
    max_steps: int = 1000,
    progress: Callable[[Progress], None] | None = None,
    stop: StopRule | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Run:
    """Run a solver in jitted chunks of about half a second.

    Parameters
    ----------
    progress
        Called with a `Progress` after each chunk.
    stop
        Further rule that ends the run with `Status.STOPPED`, looked at after each chunk.
    checkpoint
        File that keeps the state: written every ``checkpoint_seconds`` and at Ctrl-C, read when it is there and of the
        same problem, removed when the run ends by itself. A resumed run takes the same steps as an uninterrupted one.
    """
    begun = time.monotonic()
    problem, state = _start(solver, post, x0)
    watch = Watch(progress, stop, checkpoint, checkpoint_seconds)
    keep = watch.keep(post, solver.name)
    state = keep.load(state)

    def advance(state: State, until: int) -> Chunk[State]:
        # an array: a Python number would be compiled in
        state = jax.block_until_ready(_advance(solver, problem, state, jnp.asarray(until)))
        return Chunk(state, int(state.metrics.step), int(state.metrics.code) != RUNNING)

    def line(chunk: Chunk[State], seconds: float) -> Progress:
        _, chi2, num_data = _look(solver, problem, post, chunk.state)
        reduced = float(chi2) / max(float(num_data), 1.0)
        return Progress(chunk.step, max_steps, float(chunk.state.metrics.gap), reduced, seconds)

    outcome = run_chunks(
        Chunk(state, int(state.metrics.step)), advance, line, max_steps, watch=watch, keep=keep,
        pace=Pace(8 if watch.sees else 64), begun=begun,
    )  # fmt: skip
    state = outcome.last.state
    x, chi2, num_data = _look(solver, problem, post, state)
    status = Status.INTERRUPTED if outcome.interrupted else STATUS[int(state.metrics.code)]
    if outcome.stopped and status is Status.MAX_STEPS:
        status = Status.STOPPED
    return Run(x, status, outcome.last.step, float(state.metrics.gap), float(chi2), int(num_data), outcome.history)
