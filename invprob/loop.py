"""The one loop of host code around compiled chunks of steps: progress, stop rules, Ctrl-C, and a file of the state.

Solvers, chains, variational fits and trainings run in it. It knows nothing of them: a state is a pytree, and a function
takes it some steps further.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invprob.errors import InputError
from invprob.files import atomic_write

CHUNK_SECONDS = 0.5  # how long a user waits for a progress line or for Ctrl-C to be heard
CHECKPOINT_SECONDS = 60.0

S = TypeVar("S")
StopRule = Callable[[Any], bool]
"""From a line of progress to whether the run ends."""


def after(seconds: float) -> StopRule:
    """Stop rule: no longer than this."""
    return lambda progress: progress.seconds >= seconds


def any_of(*rules: StopRule) -> StopRule:
    """Stop when one of the rules says so."""
    return lambda progress: any(rule(progress) for rule in rules)


@dataclass(frozen=True)
class Watch:
    """Who watches a run, what may stop it, and where its state is kept.

    Parameters
    ----------
    progress
        Called with a line of progress after each chunk.
    stop
        Rule that ends the run, looked at with each line.
    checkpoint
        File that keeps the state: written now and then and at an interruption, read when it is there and of the same
        run, removed when the run ends by itself.
    checkpoint_seconds
        From one writing to the next.
    """

    progress: Callable[[Any], None] | None = None
    stop: StopRule | None = None
    checkpoint: str | os.PathLike | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    @property
    def sees(self) -> bool:
        """Whether a line of progress is of use to anyone."""
        return self.progress is not None or self.stop is not None

    def keep(self, problem: PyTree, name: str) -> Checkpoint:
        """Where the state of a run is kept, known by its problem and by a name that says what runs."""
        return Checkpoint(self.checkpoint, problem, name, seconds=self.checkpoint_seconds)


UNWATCHED = Watch()


@dataclass(frozen=True)
class Chunk(Generic[S]):
    """Where a chunk of steps has led.

    Parameters
    ----------
    state
        Pytree of all that is needed to go on. The state before stays as it is: an interruption falls back to it.
    step
        Steps that lie behind it, those of an earlier run included.
    ended
        Whether there is nothing more to do.
    seen
        What else is known of the chunk.
    """

    state: S
    step: int
    ended: bool = False
    seen: Any = None


@dataclass(frozen=True)
class Pace:
    """How many steps a chunk has; the next one has so many that it takes about `CHUNK_SECONDS`.

    Parameters
    ----------
    first
        Steps of the first chunk.
    least, most
        Fewest and most steps of a chunk.
    line_seconds
        Least time between two lines of progress; zero: a line for each chunk.
    """

    first: int = 1
    least: int = 1
    most: float = math.inf
    line_seconds: float = 0.0

    def next(self, length: int, steps: int, seconds: float) -> int:
        """Length of the chunk after one that had this length, took so many steps, and lasted so long."""
        return int(np.clip(steps / max(seconds, 1e-6) * CHUNK_SECONDS, self.least, 4 * length))


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """How a run ended: its last chunk, whether it was interrupted or stopped by the rule given, and its lines."""

    last: Chunk[S]
    interrupted: bool
    stopped: bool
    lines: tuple[Any, ...]

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """The lines as mappings."""
        return tuple(vars(line) for line in self.lines)


def run_chunks(
    start: Chunk[S],
    advance: Callable[[S, int], Chunk[S]],
    line: Callable[[Chunk[S], float], Any],
    total: int,
    *,
    watch: Watch,
    keep: Checkpoint,
    pace: Pace = Pace(),
    border: Callable[[int], int] | None = None,
    is_recorded: bool = False,
    begun: float | None = None,
) -> Outcome[S]:
    """Run to the last step in chunks.

    Parameters
    ----------
    start
        The state to begin with, which `Checkpoint.load` may have given.
    advance
        From a state and a step to the chunk that ends at that step at the latest.
    line
        From a chunk and the seconds since the start to a line of progress, an object with ``seconds`` at least.
    total
        The last step.
    watch, keep
        Who is told, and where the state is kept.
    pace
        How long the chunks are.
    border
        From a step to the next one that no chunk may go beyond.
    is_recorded
        Whether there are lines though nobody watches.
    begun
        When the run began, in seconds of ``time.monotonic()``; default: now.
    """
    saved = told = time.monotonic()
    begun = saved if begun is None else begun
    chunk, length, interrupted, stopped, lines = start, pace.first, False, False, []
    try:
        with terminated_as_interrupted() if keep.path else contextlib.nullcontext():
            while chunk.step < total and not chunk.ended and not stopped:
                began, before = time.monotonic(), chunk.step
                until = min(before + min(length, pace.most), total if border is None else border(before), total)
                chunk = advance(chunk.state, int(until))
                now = time.monotonic()
                length = pace.next(length, chunk.step - before, now - began)
                if (watch.sees or is_recorded) and now - told >= pace.line_seconds:
                    lines.append(line(chunk, now - begun))
                    told = now
                    if watch.progress is not None:
                        watch.progress(lines[-1])
                    stopped = watch.stop is not None and watch.stop(lines[-1])
                if now - saved > keep.seconds:
                    keep.save(chunk.state)
                    saved = now
    except KeyboardInterrupt:
        interrupted = True
        keep.save(chunk.state)
    if not interrupted and not keep.is_lasting:
        keep.remove()
    return Outcome(chunk, interrupted, stopped, tuple(lines))


@contextlib.contextmanager
def terminated_as_interrupted():
    """SIGTERM stops a run as Ctrl-C does, so that a batch system's stop keeps the state.

    Only where SIGTERM would end the process; what the caller has set stays. Signals reach the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray)


class Checkpoint:
    """The state of a run in a file: one line of JSON that names the problem, then the arrays.

    Parameters
    ----------
    path
        The file; None: nothing is kept.
    problem
        Pytree; the state of a run of another one is refused.
    name
        What runs, with the settings on which its numbers depend; the state of another one is refused.
    seconds
        From one writing to the next.
    is_lasting
        Whether the file stays when the run has ended by itself.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        problem: PyTree,
        name: str,
        *,
        seconds: float = CHECKPOINT_SECONDS,
        is_lasting: bool = False,
    ):
        self.path = None if path is None else Path(path)
        self.problem = "" if path is None else _fingerprint(problem)
        self.name, self.seconds, self.is_lasting = name, seconds, is_lasting

    def save(self, state: Any) -> None:
        """Write the arrays of a state; the file before it is there until all of them are."""
        if self.path is None:
            return
        with atomic_write(self.path, overwrite=True) as file:
            about = {"invprob checkpoint": 1, "problem": self.problem, "solver": self.name}
            file.write((json.dumps(about) + "\n").encode())
            eqx.tree_serialise_leaves(file, eqx.filter(state, _is_array))

    def load(self, state: S) -> S:
        """The state in the file, of the shapes of the one given; that one where there is no file."""
        if self.path is None or not self.path.exists():
            return state
        arrays, rest = eqx.partition(state, _is_array)
        try:
            with open(self.path, "rb") as file:
                about = json.loads(file.readline())
                if about["problem"] == self.problem and about["solver"] == self.name:
                    return eqx.combine(eqx.tree_deserialise_leaves(file, arrays), rest)
        except (ValueError, KeyError, TypeError, RuntimeError, EOFError, OSError) as error:
            raise InputError(f"{self.path} is not a checkpoint that can be read ({error}): remove it") from None
        raise InputError(f"{self.path} is the checkpoint of another problem or solver: remove it, or give another name")

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def kept_by(checkpoint: str | os.PathLike | None) -> str | None:
    """Name of what runs whose state a file keeps; None where there is no such file."""
    try:
        with open(checkpoint or "", "rb") as file:
            return json.loads(file.readline())["solver"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(problem: PyTree) -> str:
    # the settings as well as the arrays, without the addresses of functions, which differ from run to run
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(jax.tree.structure(problem))).encode())
    for leaf in jax.tree.leaves(eqx.filter(problem, eqx.is_array)):
        digest.update(np.asarray(leaf).tobytes())
        digest.update(str(jnp.shape(leaf)).encode())
    return digest.hexdigest()


__all__ = [
    "UNWATCHED",
    "Checkpoint",
    "Chunk",
    "Outcome",
    "Pace",
    "StopRule",
    "Watch",
    "after",
    "any_of",
    "kept_by",
    "run_chunks",
    "terminated_as_interrupted",
]
