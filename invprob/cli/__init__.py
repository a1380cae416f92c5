"""The `invprob` command. Heavy packages are imported by the subcommand that needs them, when it needs them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from invprob.cli import calibrate, deconvolve, files, measure, priors, train
from invprob.cli.console import OneLineGroup
from invprob.cli.options import ConfigurationCommand, InspectCommand

EXIT_CODES = """\b
Exit codes: 0 done; 1 unexpected; 2 usage; 3 replay differs; 64 no usable pixels; 65 bad input;
70 written, but not converged; 73 output exists or cannot be written; 130 interrupted, state kept."""

app = typer.Typer(
    name="invprob",
    cls=OneLineGroup,
    help="Undo a telescope: deconvolve, denoise and inpaint FITS images, with calibrated error bars.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_COMMANDS = (measure.measure, calibrate.calibrate, train.train, files.simulate, files.replay)
app.command(cls=ConfigurationCommand, epilog=EXIT_CODES)(deconvolve.deconvolve)
app.command(cls=InspectCommand, epilog=EXIT_CODES)(files.inspect)
for _command in _COMMANDS:
    app.command(epilog=EXIT_CODES)(_command)
app.command(name="priors", epilog=EXIT_CODES)(priors.list_priors)


def _version(wanted: bool) -> None:
    if wanted:
        from invprob import __version__

        print(f"invprob {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of unexpected errors.")] = False,
) -> None:
    if debug:
        os.environ["INVPROB_DEBUG"] = "1"


def main() -> None:
    """Entry point of the `invprob` command."""
    app()
