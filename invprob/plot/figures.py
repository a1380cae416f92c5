"""Pictures as files: their formats, and writing them whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from invprob.errors import UsageError
from invprob.files import atomic_write


def save_figure(figure: Figure, path: str | os.PathLike[str], overwrite: bool, dpi: int) -> None:
    """Write a picture whole or not at all."""
    kind = picture_format(path)
    with atomic_write(path, overwrite) as stream:
        figure.savefig(stream, format=kind, dpi=dpi)


def picture_format(path: str | os.PathLike[str]) -> str:
    """The format that the ending of a name asks for, PNG without one.

    Raises
    ------
    UsageError
        When matplotlib cannot write it.
    """
    kind = Path(path).suffix.lstrip(".").lower() or "png"
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise UsageError(f"{path}: matplotlib cannot write '{kind}'; use .png, .pdf or .svg")
    return kind
