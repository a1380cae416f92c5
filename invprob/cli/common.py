"""What several commands share: the option --quiet, the messages of a run, and JAX made ready."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from invprob.cli.console import say

if TYPE_CHECKING:
    from invprob.progress import Listener

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages on stderr but errors.")]


def prepare_jax(many_threads: bool = False) -> None:
    """Keep compiled programs between runs, in the user's cache; what the environment says goes first.

    One thread for each FFT: with several, the order of rounding differs from run to run, and no two runs would write
    the same bytes. One for BLAS: on a machine where others work its threads wait for each other, up to a hundred times
    longer than one needs for the small matrices of the evidence. Training, which is long and need not write the same
    bytes, has ``many_threads``.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    flag = "--xla_cpu_multi_thread_eigen"
    if not many_threads and flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=false".strip()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invprob" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def listener(quiet: bool) -> Listener:
    """What a run says on stderr: lines, and on a terminal each step and draw."""
    from invprob.progress import Listener

    if quiet:
        return Listener()
    if not sys.stderr.isatty():
        return Listener(note=say)

    def draw(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r  draw {done} of {total}", end=end, file=sys.stderr, flush=True)

    return Listener(note=say, step=lambda line: say(f"  {line}"), draw=draw)
