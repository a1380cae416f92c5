"""The commands about files: `inspect` before a run, `simulate` for one, `replay` after it."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from invprob.cli.common import Quiet, listener, prepare_jax
from invprob.cli.console import reported, say
from invprob.cli.options import given
from invprob.errors import ExitCode


@reported
def inspect(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE")],
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.", rich_help_panel="Output")] = False,
) -> None:
    """Say what the reader understands of a file: shape, unit, WCS, noise, mask, PSF."""
    from invprob.io.inspect import inspect_file

    found = inspect_file(file, **given(context))
    if json:
        print(json_module.dumps(found, indent=1))
        return
    for name, value in found.items():
        if name == "hdus":
            print("HDUs:")
            for hdu in value:
                shape = "" if hdu["shape"] is None else "x".join(map(str, hdu["shape"]))
                print(f"  {hdu['index']:3d}  {hdu['name'] or '-':16s} {hdu['kind']:14s} {shape}")
        elif name == "warnings":
            for warning in value:
                print(f"warning: {warning}")
        else:
            print(f"{name.replace('_', ' ') + ':':17s}{_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " x ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else "-" if value in (None, "") else str(value)


@reported
def simulate(
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for ground.fits and hubble.fits.")] = Path(),
    seed: Annotated[int, typer.Option(help="Seed of the scene and the noise.")] = 1,
    size: Annotated[int | None, typer.Option(help="Ground pixels on a side.")] = None,
    factor: Annotated[int | None, typer.Option(help="Hubble pixels on a side of a ground pixel.")] = None,
    seeing: Annotated[float | None, typer.Option(help="FWHM of the seeing, arcsec.")] = None,
    snr: Annotated[float | None, typer.Option(help="Signal to noise of the whole scene (matched filter).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Make a pair of images of one sky: from the ground, and as Hubble would see it."""
    from invprob.simulate.pair import simulate_pair, write_pair

    given = {"size": size, "factor": factor, "seeing": seeing, "snr": snr}
    pair = simulate_pair(seed=seed, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    for path in write_pair(pair, out, overwrite=overwrite):
        print(path)


@reported
def replay(
    file: Annotated[str, typer.Argument(help="An output of `invprob deconvolve`.")],
    image: Annotated[str | None, typer.Option(help="Where the image lies now, if not where the header says.")] = None,
    quiet: Quiet = False,
) -> None:
    """Repeat the run that wrote FILE, from its header, and compare.

    Same bytes on the same machine and versions; elsewhere the arrays agree to 1e-6 of their largest value (float32:
    1e-3).
    """
    prepare_jax()
    from invprob.pipeline.run import replay as repeat

    outcome = repeat(file, image=image, listener=listener(quiet))
    for change in outcome.changed:
        say(f"changed: {change}")
    if outcome.identical:
        print(f"{file}: same bytes")
    elif outcome.changed and not outcome.differences:
        print(f"{file}: agrees to {outcome.rtol:g} of the largest value")
    else:
        for line in outcome.differences or ("the headers differ, the arrays do not",):
            print(line)
        say(f"invprob: the replay of {file} differs")
        raise typer.Exit(ExitCode.REPLAY_DIFFERS)
