"""`invprob deconvolve`: all its options, and what it says of the result."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from invprob.cli.common import Quiet, listener, prepare_jax
from invprob.cli.console import reported, say
from invprob.cli.options import configuration, given
from invprob.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from invprob.results import Estimate


def _out_option(text: str, *names: str, panel: str = "Output") -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


@reported
def deconvolve(
    context: typer.Context,
    image: Annotated[str | None, typer.Argument(metavar="IMAGE")] = None,
    config: Annotated[
        Path | None,
        _out_option("TOML file with these options; the command line goes first.", panel="Input"),
    ] = None,
    out: Annotated[Path | None, _out_option("Output FITS. Default: IMAGE_deconvolved.fits.", "-o", "--out")] = None,
    plot: Annotated[Path | None, _out_option("Picture to write: PNG, PDF or SVG.")] = None,
    overwrite: Annotated[bool, _out_option("Replace outputs that exist.", "--overwrite")] = False,
    draws_out: Annotated[
        Path | None,
        _out_option(
            "Directory for all draws of --method sample with their chains: a zarr store (draws.zarr), which "
            "xarray and ArviZ open. The FITS file then has at most 100 of them. Default: all in the FITS file."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, _out_option("Card of `invprob calibrate`; its hash and verdict go into the header.")
    ] = None,
    json: Annotated[bool, _out_option("Print a summary as JSON on stdout.", "--json")] = False,
    quiet: Quiet = False,
) -> None:
    """Deconvolve a FITS image.

    The strength of the prior is found from the data. Writes SCI (flux per latent pixel on the
    image's footprint), ERR, DQ, MODEL, RESID and PSF, with everything needed to repeat the run in the header.
    """
    settings = configuration(config, image, given(context))
    if settings.input.image is None:
        raise UsageError("no image given: invprob deconvolve IMAGE, or input.image in the configuration file")
    prepare_jax()
    from invprob.loop import terminated_as_interrupted
    from invprob.pipeline.run import run

    target = out if out is not None else _default_out(settings.input.image)
    with terminated_as_interrupted():
        result, _ = run(
            settings, target, overwrite=overwrite, plot=plot, listener=listener(quiet), calibration=calibration,
            draws_out=draws_out,
        )  # fmt: skip
    if json:
        print(json_module.dumps(_summary(result, target, plot, draws_out), indent=1))
    elif not quiet:
        say(_in_words(result, target))
        if draws_out is not None:
            say(f"  all draws are in {draws_out}, at most 100 of them in {target}")
    if not result.status.ok:
        say(f"invprob: {target} is written, but: {result.status.value}")
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _default_out(image: str) -> Path:
    name = Path(image.split("[")[0]).name
    for ending in (".gz", ".fz", ".bz2", ".fits", ".fit", ".fts"):
        name = name.removesuffix(ending)
    return Path(f"{name}_deconvolved.fits")


def _summary(result: Estimate, out: Path, plot: Path | None, draws_out: Path | None) -> dict[str, Any]:
    return {
        "out": str(out), "plot": None if plot is None else str(plot),
        "draws_out": None if draws_out is None else str(draws_out), "status": result.status.name,
        "advice": None if result.status.ok else result.status.value, "solver": result.solver,
        "reason": result.reason, "steps": result.steps, "chi2": result.chi2, "num_data": result.num_data,
        "effective_dof": result.effective_dof, "reduced_chi2": result.reduced_chi2,
        **{name.lower(): value for name, (value, _) in result.cards.items()},
    }  # fmt: skip


def _in_words(result: Estimate, out: Path) -> str:
    cards = {name: value for name, (value, _) in result.cards.items()}
    lines = [f"{out}: {result.solver}, {result.steps} steps ({result.reason})"]
    if "PRIORAMP" in cards:
        lines.append(
            f"  prior: amplitude {cards['PRIORAMP']:.4g}, break {cards['PRIORSCL']:.4g} cycles/pixel, "
            f"slope {cards['PRIORSLP']:.3g} ({cards['STRENGTH']})"
        )
        if "AMP16" in cards:
            spread = ", ".join(f"{cards[f'{n}16']:.3g} to {cards[f'{n}84']:.3g}" for n in ("AMP", "SCL", "SLP"))
            lines.append(f"  68 % of the draws have amplitude, break and slope {spread}")
        if "NOISEFAC" in cards:
            low, middle, high = (cards[name] for name in ("FAC16", "NOISEFAC", "FAC84"))
            lines.append(f"  noise: standard deviation times {middle:.3f} ({low:.3f} to {high:.3f})")
        if "PSFWID" in cards:
            low, middle, high = (cards[name] for name in ("WID16", "PSFWID", "WID84"))
            lines.append(f"  PSF: width times {middle:.3f} ({low:.3f} to {high:.3f})")
    elif "PRIORSTR" in cards:
        lines.append(f"  prior: {cards['PRIOR']} of strength {cards['PRIORSTR']:.4g} ({cards['STRENGTH']})")
    elif "PRIORSHA" in cards:
        target = f", on an image with a PSF of {cards['TARGET']:.3g} arcsec" if "TARGET" in cards else ""
        lines.append(f"  prior: {cards['PRIOR']}, weights {cards['PRIORSHA'][:12]}{target}")
        if not cards["INRANGE"]:
            lines.append("  the image is unlike what the prior was trained on: see the warnings")
    if "FLOOR" in cards:
        lines.append(f"  no pixel below {cards['FLOOR']:.4g}; --floor 0 for strictly positive")
    if "RHAT" in cards:
        lines.append(
            f"  {cards['NSAMPLES']} draws of {cards['NCHAINS']} chains: largest R-hat {cards['RHAT']:.3f}, smallest "
            f"effective sample size {min(cards['ESSBULK'], cards['ESSTAIL']):.0f}"
        )
    if "KHAT" in cards:
        bound = f"ELBO {cards['ELBO']:.1f} +- {cards['ELBOERR']:.2g}" if "ELBO" in cards else (
            f"log evidence {cards['LAPEVID']:.1f} +- {cards['LAPERR']:.2g}"
        )  # fmt: skip
        lines.append(f"  k-hat of the draws {cards['KHAT']:.2f}, to be below {cards['KHATMAX']:.2f}; {bound}")
    if "CMPPRIOR" in cards:
        lines.append(
            f"  differs from the image of prior {cards['CMPPRIOR']} by {cards['CMPRMS']:.2f} errors (rms), "
            f"{cards['CMPMAX']:.1f} at most"
        )
    if "HELDPVAL" in cards:
        lines.append(f"  half of the data given the other half: p = {cards['HELDPVAL']:.2g}")
    flux = f"  flux {cards['FLUX']:.6g}" + (f" +- {cards['FLUXERR']:.2g}" if "FLUXERR" in cards else "")
    if "SKY" in cards:
        flux += f"; sky {cards['SKY']:.6g}" + (f" +- {cards['SKYERR']:.2g}" if "SKYERR" in cards else "")
    fit = f"  chi-square {result.chi2:.1f} for {result.num_data} data"
    if result.effective_dof is not None:
        fit += f", {result.chi2 / result.effective_dof:.3f} per effective degree of freedom"
    if "FITPVAL" in cards:
        fit += (
            f"; p of the residuals {cards['FITPVAL']:.2g}, the largest as wide as the PSF {cards['RESPEAK']:.1f} sigma"
        )
    return "\n".join([*lines, flux, fit])
