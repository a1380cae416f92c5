"""Who is told of the progress of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Listener:
    """Who is told of the progress of a run; nobody by default.

    Parameters
    ----------
    note
        Called with a line of text at each stage.
    step
        Called with a `Progress` of the solver, or a `SampleProgress` of chains, about every half second.
    draw
        Called with the draws done and to do.
    """

    note: Callable[[str], Any] = lambda text: None
    step: Callable[[Any], Any] | None = None
    draw: Callable[[int, int], Any] | None = None


SILENT = Listener()
