"""`invprob train`: a learned prior from a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from invprob.cli.common import Quiet, prepare_jax
from invprob.cli.console import reported, say


@reported
def train(
    recipe: Annotated[
        Path, typer.Argument(help="TOML file: [simulated] galaxies or [stamps] of a folder, and the network.")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Weights to write. Default: NAME.eqx.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a learned prior: a denoiser of galaxies, or a generator of them, for `invprob deconvolve --prior OUT`.

    Simulated galaxies need GalSim (the extra `train`). Stamps of a folder are taken with their noise, which is not
    learned. Ctrl-C keeps the state in OUT.state, and the same command goes on from it.
    """
    from invprob.learn.recipe import Recipe

    settings = Recipe.from_toml(recipe)
    prepare_jax(many_threads=True)
    from invprob.learn.run import train as run
    from invprob.loop import terminated_as_interrupted

    target = out if out is not None else Path(f"{settings.name}.eqx")
    with terminated_as_interrupted():
        found = run(settings, target, overwrite=overwrite, note=(lambda text: None) if quiet else say)
    if not quiet:
        last = found.curve[-1]
        beside = f" where the Wiener filter has {last[2]:.4f}" if math.isfinite(last[2]) else ""
        say(f"{target}: loss {last[1]:.4f}{beside}, SHA-256 {found.training.hash}")
