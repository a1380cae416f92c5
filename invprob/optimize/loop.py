"""The one loop: jitted chunks with progress, stop rules, checkpoints and Ctrl-C, and its pure twin.

`iterate` is for people, `iterate_pure` for pipelines and gradients: the same `init` and `step` in one
``while_loop``, which can be jitted and vmapped.
"""

from __future__ import annotations

import json
import os
import re
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

from invprob.errors import InputError
from invprob.optimize.solvers.base import DONE, NOT_FINITE, RUNNING, STALLED, AbstractSolver, State
from invprob.posterior import Posterior
from invprob.results import Status

STATUS = {
    RUNNING: Status.MAX_STEPS,
    DONE: Status.CONVERGED,
    STALLED: Status.STALLED,
    NOT_FINITE: Status.NOT_FINITE,
}
CHUNK_SECONDS = 0.5  # how long a user waits for a progress line or for Ctrl-C to be heard


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


StopRule = Callable[[Progress], bool]


def after(seconds: float) -> StopRule:
    """Stop rule: no longer than this."""
    return lambda progress: progress.seconds >= seconds


def chi2_below(value: float) -> StopRule:
    """Stop rule: the discrepancy principle, reduced chi-square at or below a value."""
    return lambda progress: progress.reduced_chi2 <= value


def any_of(*rules: StopRule) -> StopRule:
    """Stop when one of the rules says so."""
    return lambda progress: any(rule(progress) for rule in rules)


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
    checkpoint_seconds: float = 60.0,
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
    keep = None if checkpoint is None else Checkpoint(Path(checkpoint), post, solver.name)
    if keep is not None:
        state = keep.load(state)
    watched = progress is not None or stop is not None
    length, history, interrupted, stopped = (8 if watched else 64), [], False, False
    saved = begun
    try:
        while True:
            done = int(state.metrics.step)
            began = time.monotonic()
            until = jnp.asarray(min(done + length, max_steps))  # an array: a Python number would be compiled in
            state = jax.block_until_ready(_advance(solver, problem, state, until))
            step, now = int(state.metrics.step), time.monotonic()
            if watched:
                line = _line(solver, problem, post, state, max_steps, now - begun)
                history.append(vars(line))
                if progress is not None:
                    progress(line)
                stopped = stop is not None and stop(line)
            if stopped or int(state.metrics.code) != RUNNING or step >= max_steps:
                break
            if keep is not None and now - saved > checkpoint_seconds:
                keep.save(state)
                saved = now
            rate = (step - done) / max(now - began, 1e-6)
            length = int(np.clip(rate * CHUNK_SECONDS, 1, 4 * length))
    except KeyboardInterrupt:
        interrupted = True
        if keep is not None:
            keep.save(state)
    if keep is not None and not interrupted:
        keep.remove()
    x, chi2, num_data = _look(solver, problem, post, state)
    code = int(state.metrics.code)
    status = Status.INTERRUPTED if interrupted else STATUS[code]
    if stopped and status is Status.MAX_STEPS:
        status = Status.STOPPED
    return Run(x, status, int(state.metrics.step), float(state.metrics.gap), float(chi2), int(num_data), tuple(history))


def _line(solver, problem, post, state, max_steps, seconds) -> Progress:
    _, chi2, num_data = _look(solver, problem, post, state)
    return Progress(
        int(state.metrics.step),
        max_steps,
        float(state.metrics.gap),
        float(chi2) / max(float(num_data), 1.0),
        seconds,
    )


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray)


class Checkpoint:
    """The state of a run in a file: one line of JSON that names the problem, then the arrays."""

    def __init__(self, path: Path, post: PyTree, solver: str):
        self.path = path
        self.problem, self.solver = _fingerprint(post), solver

    def save(self, state: Any) -> None:
        temporary = self.path.with_name(self.path.name + ".part")
        with open(temporary, "wb") as file:
            about = {"invprob checkpoint": 1, "problem": self.problem, "solver": self.solver}
            file.write((json.dumps(about) + "\n").encode())
            eqx.tree_serialise_leaves(file, eqx.filter(state, _is_array))
        os.replace(temporary, self.path)

    def load(self, state: Any) -> Any:
        """The state in the file, of the shapes of the one given; that one where there is no file."""
        if not self.path.exists():
            return state
        arrays, rest = eqx.partition(state, _is_array)
        try:
            with open(self.path, "rb") as file:
                about = json.loads(file.readline())
                if about["problem"] == self.problem and about["solver"] == self.solver:
                    return eqx.combine(eqx.tree_deserialise_leaves(file, arrays), rest)
        except (ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
            raise InputError(f"{self.path} is not a checkpoint that can be read ({error}): remove it") from None
        raise InputError(f"{self.path} is the checkpoint of another problem or solver: remove it, or give another name")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def solver_of(checkpoint: str | os.PathLike | None) -> str | None:
    """Name of the solver whose state a file keeps; None where there is no such file."""
    try:
        with open(checkpoint or "", "rb") as file:
            return json.loads(file.readline())["solver"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(post: PyTree) -> str:
    import hashlib

    # the settings as well as the arrays, without the addresses of functions, which differ from run to run
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(jax.tree.structure(post))).encode())
    for leaf in jax.tree.leaves(eqx.filter(post, eqx.is_array)):
        digest.update(np.asarray(leaf).tobytes())
        digest.update(str(jnp.shape(leaf)).encode())
    return digest.hexdigest()
