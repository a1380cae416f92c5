"""`invprob calibrate`: a card that says whether error bars are right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from invprob.cli.common import Quiet, listener, prepare_jax
from invprob.cli.console import reported, say
from invprob.errors import ExitCode, UsageError


@reported
def calibrate(
    config: Annotated[Path, typer.Argument(help="TOML file as for `invprob deconvolve --config`, with the image.")],
    image: Annotated[str | None, typer.Option(help="FITS image, if the file does not name it.")] = None,
    cases: Annotated[int, typer.Option(min=10, help="Simulated data sets.")] = 100,
    draws: Annotated[int, typer.Option(min=19, help="Draws from each posterior.")] = 99,
    thin: Annotated[int, typer.Option(min=1, help="Steps of a chain from one draw to the next.")] = 5,
    control: Annotated[
        str,
        typer.Option(
            help="none, or what is wrong on purpose, so that the card must fail: noise (variance 1.3 too small), psf "
            "(5 % too wide)."
        ),
    ] = "none",
    out: Annotated[Path, typer.Option("-o", "--out", help="Card to write, JSON.")] = Path("calibration.json"),
    plot: Annotated[Path | None, typer.Option(help="Picture to write: PNG, PDF or SVG.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    quiet: Quiet = False,
) -> None:
    """Test the error bars of a configuration on simulated data whose truth is known.

    Truths come from the prior, at the strength found for the image, and data from the PSF, noise and mask of the image.
    Ranks of the truths among the draws, the coverage of intervals, TARP and the residuals are tested, and corrected for
    their number. Writes a card with its hash, to which `invprob deconvolve --calibration` refers; exit code 70 when it
    fails.
    """
    from invprob.config import Config
    from invprob.files import check_writable

    settings = Config.from_toml(config, **({} if image is None else {"input": {"image": image}}))
    if settings.input.image is None:
        raise UsageError("no image given: --image, or input.image in the configuration file")
    for path in (out, *([] if plot is None else [plot])):
        check_writable(path, overwrite)
    if plot is not None:
        from invprob.plot.figures import picture_format

        picture_format(plot)  # before the work, not after it
    prepare_jax()
    from invprob.pipeline.calibrate import calibrate_configuration

    found = calibrate_configuration(
        settings, num_cases=cases, num_draws=draws, thin=thin, control=control, listener=listener(quiet)
    )
    found.write(out, overwrite)
    if plot is not None:
        from invprob.plot.calibration import plot_calibration

        plot_calibration(found, plot, overwrite=overwrite)
    if not quiet:
        print(found.markdown())
        say(f"{out}: {'passed' if found.passed else 'failed'}, SHA-256 {found.sha256}")
    if not found.passed:
        say(f"invprob: the error bars are not right: caught by {', '.join(found.caught_by)}")
        raise typer.Exit(ExitCode.NOT_CONVERGED)
