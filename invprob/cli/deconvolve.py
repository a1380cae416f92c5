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
    from invprob.results.report import Report


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
        **{record.name: record.value for record in result.report},
    }  # fmt: skip


def _in_words(result: Estimate, out: Path) -> str:
    report = result.report
    lines = [
        f"{out}: {result.solver}, {result.steps} steps ({result.reason})",
        *_prior_in_words(report),
        *_draws_in_words(report),
    ]
    if "compare_prior" in report:
        lines.append(
            f"  differs from the image of prior {report.compare_prior} by {report.compare_rms:.2f} errors (rms), "
            f"{report.compare_max:.1f} at most"
        )
    if "heldout_p_value" in report:
        lines.append(f"  half of the data given the other half: p = {report.heldout_p_value:.2g}")
    flux = f"  flux {report.flux:.6g}" + (f" +- {report.flux_std:.2g}" if "flux_std" in report else "")
    if "sky" in report:
        flux += f"; sky {report.sky:.6g}" + (f" +- {report.sky_std:.2g}" if "sky_std" in report else "")
    fit = f"  chi-square {result.chi2:.1f} for {result.num_data} data"
    if result.effective_dof is not None:
        fit += f", {result.chi2 / result.effective_dof:.3f} per effective degree of freedom"
    if "fit_p_value" in report:
        fit += (
            f"; p of the residuals {report.fit_p_value:.2g}, the largest as wide as the PSF "
            f"{report.peak_residual:.1f} sigma"
        )
    return "\n".join([*lines, flux, fit])


def _prior_in_words(report: Report) -> list[str]:
    """The prior, its hyperparameters, and those of noise and PSF."""
    lines = []
    if "prior_amplitude" in report:
        lines.append(
            f"  prior: amplitude {report.prior_amplitude:.4g}, break {report.prior_break:.4g} cycles/pixel, "
            f"slope {report.prior_slope:.3g} ({report.strength_choice})"
        )
        if "prior_amplitude_p16" in report:
            spread = ", ".join(
                f"{report.get(name + '_p16'):.3g} to {report.get(name + '_p84'):.3g}"
                for name in ("prior_amplitude", "prior_break", "prior_slope")
            )
            lines.append(f"  68 % of the draws have amplitude, break and slope {spread}")
        for what, name in (("noise: standard deviation", "noise_factor"), ("PSF: width", "psf_width_factor")):
            if name in report:
                low, middle, high = (report.get(name + end) for end in ("_p16", "", "_p84"))
                lines.append(f"  {what} times {middle:.3f} ({low:.3f} to {high:.3f})")
    elif "prior_strength" in report:
        lines.append(f"  prior: {report.prior_name} of strength {report.prior_strength:.4g} ({report.strength_choice})")
    elif "weights_sha256" in report:
        target = f", on an image with a PSF of {report.target_fwhm:.3g} arcsec" if "target_fwhm" in report else ""
        lines.append(f"  prior: {report.prior_name}, weights {report.weights_sha256[:12]}{target}")
        if not report.in_range:
            lines.append("  the image is unlike what the prior was trained on: see the warnings")
    if "floor" in report:
        lines.append(f"  no pixel below {report.floor:.4g}; --floor 0 for strictly positive")
    return lines


def _draws_in_words(report: Report) -> list[str]:
    """Whether draws of chains, or of an approximation, may be believed."""
    lines = []
    if "max_rhat" in report:
        lines.append(
            f"  {report.num_samples} draws of {report.num_chains} chains: largest R-hat {report.max_rhat:.3f}, "
            f"smallest effective sample size {min(report.min_ess_bulk, report.min_ess_tail):.0f}"
        )
    if "khat" in report:
        bound = f"ELBO {report.elbo:.1f} +- {report.elbo_error:.2g}" if "elbo" in report else (
            f"log evidence {report.laplace_log_evidence:.1f} +- {report.laplace_log_evidence_error:.2g}"
        )  # fmt: skip
        lines.append(f"  k-hat of the draws {report.khat:.2f}, to be below {report.khat_threshold:.2f}; {bound}")
    return lines
