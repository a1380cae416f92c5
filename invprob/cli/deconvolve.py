"""`invprob deconvolve`: all its options, and what it says of the result."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from invprob.cli.common import Quiet, listener, prepare_jax
from invprob.cli.console import reported, say
from invprob.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from invprob.results import Estimate


@reported
def deconvolve(
    image: Annotated[str | None, typer.Argument(help="FITS image: FILE, FILE[EXT] or FILE[EXT,plane].")] = None,
    psf: Annotated[
        str | None,
        typer.Option(help="PSF: FILE[EXT], [EXT] of the image's file, or 'none' to denoise. Default: the file's own."),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="Prior on the image: gaussian (the default), starlet, tv, wavelet, laplace, lognormal, "
            "points+starlet, the learned one galaxies, FILE.eqx of `invprob train`, or one that another package "
            "installs; `invprob priors` lists them."
        ),
    ] = None,
    positive: Annotated[
        bool | None,
        typer.Option("--positive", help="No pixel below the floor: the image is positive within the noise."),
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(
            help="How far below zero --positive lets a pixel go, in standard deviations of the noise; 0: strictly "
            "positive, which adds flux to a noisy sky. Default: 1."
        ),
    ] = None,
    strength: Annotated[
        str | None,
        typer.Option(
            help="'auto' (from the data and their noise), 'fission' (what predicts held-out noise best), 'sample' "
            "(gaussian: drawn together with the image, with --method sample), or a number, larger for smoother: for "
            "gaussian a factor on the inverse amplitude found, for the others in units of the noise. Default: auto."
        ),
    ] = None,
    refine: Annotated[int | None, typer.Option(help="Latent pixels on a side of a data pixel. Default: 1.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="map: best image, with errors for the gaussian prior (default); sample: draws, their mean and errors "
            "for every prior, by chains where they cannot be independent; vi, laplace: an approximation of the "
            "posterior with draws of it, and k-hat, which says when not to trust it."
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Distributions of --method vi: auto (default), metric (gaussian, lognormal), circulant, meanfield, "
            "lowrank (every prior), flow (up to 400 latent pixels)."
        ),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            help="Draws; 0: no errors. Default: 64 exact ones, 2000 of chains, 4000 with --strength sample, 1000 of vi "
            "and laplace."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="auto (default); gaussian prior: exact; starlet, tv, wavelet, laplace: gibbs; --positive, lognormal: "
            "hmc, nuts; learned: split."
        ),
    ] = None,
    num_chains: Annotated[int | None, typer.Option(help="Chains, from scattered starts. Default: 4.")] = None,
    num_warmup: Annotated[
        int | None, typer.Option(help="Steps of warm-up of each chain. Default: the sampler's own.")
    ] = None,
    intervals: Annotated[
        str | None, typer.Option(help="Central intervals to write for each pixel, per cent: 68,95. From the draws.")
    ] = None,
    fission_test: Annotated[
        bool | None,
        typer.Option(
            "--fission-test", help="Whether half of the data predicts the other half: p-values; twice the time."
        ),
    ] = None,
    compare_prior: Annotated[
        str | None,
        typer.Option(
            help="Another prior, such as gaussian, to compare with: extension COMPARED, the difference in errors."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws. Default: 0.")] = None,
    variance: Annotated[
        str | None,
        typer.Option(help="Noise map FILE[EXT]; end with :var, :std or :ivar where its name does not tell."),
    ] = None,
    noise_scale: Annotated[
        str | None,
        typer.Option(
            help="Factor of the noise's standard deviation; 'sample': drawn together with the image, with --strength "
            "sample. Default: 1."
        ),
    ] = None,
    psf_error: Annotated[
        float | None,
        typer.Option(
            help="Fraction by which the PSF's width is uncertain: drawn together with the image, with --strength "
            "sample. Default: 0."
        ),
    ] = None,
    noise_std: Annotated[float | None, typer.Option(help="Noise standard deviation, in the data's unit.")] = None,
    mask: Annotated[str | None, typer.Option(help="Mask FILE[EXT], non-zero = bad.")] = None,
    normalize_psf: Annotated[bool | None, typer.Option("--normalize-psf", help="Divide the PSF by its sum.")] = None,
    psf_without_pixel: Annotated[
        bool | None,
        typer.Option("--psf-without-pixel", help="The PSF image lacks the response of its pixel."),
    ] = None,
    pixel_scale: Annotated[float | None, typer.Option(help="Arcsec per data pixel, if the file does not tell.")] = None,
    psf_pixel_scale: Annotated[
        float | None, typer.Option(help="Arcsec per PSF pixel, if the file does not tell.")
    ] = None,
    zeropoint: Annotated[
        float | None,
        typer.Option(help="AB magnitude of one unit of flux, if the file does not tell; learned priors need it."),
    ] = None,
    sky: Annotated[
        str | None,
        typer.Option(help="'none' (default), 'fit' one level with its error, or the level to subtract."),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="auto (default); gaussian prior: wiener, cg, twogrid (without --refine); sparse and positive: admm, "
            "pdhg, proximal; lognormal: newton; smooth: lbfgs; learned: plugplay."
        ),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            help="Where the solver stops: relative gap of the objective (default 1e-7), or relative residual of admm "
            "(default 3e-4), pdhg and proximal (1e-4), or scatter of the image of plugplay (5e-2)."
        ),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(help="Most steps of the solver, or of the fit of vi. Default: 10000, or the family's own."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 (default) or float32.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with these options; the command line goes first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Output FITS. Default: IMAGE_deconvolved.fits.")
    ] = None,
    draws_out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for all draws of --method sample with their chains: a zarr store (draws.zarr), which "
            "xarray and ArviZ open. The FITS file then has at most 100 of them. Default: all in the FITS file."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Card of `invprob calibrate`; its hash and verdict go into the header.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write: PNG, PDF or SVG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on stdout.")] = False,
    quiet: Quiet = False,
) -> None:
    """Deconvolve a FITS image.

    The strength of the prior is found from the data. Writes SCI (flux per latent pixel on the
    image's footprint), ERR, DQ, MODEL, RESID and PSF, with everything needed to repeat the run in the header.
    """
    settings = _configuration(
        config,
        dict(
            prior=prior, positive=positive, floor=floor,
            strength=_number_or_word("--strength", "auto", "fission", "sample")(strength), refine=refine,
            psf_error=psf_error, noise_scale=_number_or_word("--noise-scale", "sample")(noise_scale), method=method,
            family=family, num_samples=num_samples, sampler=sampler, num_chains=num_chains, num_warmup=num_warmup,
            intervals=_percentages(intervals), fission_test=fission_test, compare_prior=compare_prior, seed=seed,
            sky=_number_or_word("--sky", "none", "fit")(sky), solver=solver, rtol=rtol, max_steps=max_steps,
            dtype=dtype,
        ),
        dict(
            image=image, psf=psf, variance=variance, noise_std=noise_std, mask=mask, normalize_psf=normalize_psf,
            psf_without_pixel=psf_without_pixel, pixel_scale=pixel_scale, psf_pixel_scale=psf_pixel_scale,
            zeropoint=zeropoint,
        ),
    )  # fmt: skip
    if settings.input.image is None:
        raise UsageError("no image given: invprob deconvolve IMAGE, or input.image in the configuration file")
    prepare_jax()
    from invprob.pipeline.run import run, terminated_as_interrupted

    target = out if out is not None else _default_out(settings.input.image)
    with terminated_as_interrupted():
        result, _ = run(
            settings,
            target,
            overwrite=overwrite,
            plot=plot,
            listener=listener(quiet),
            calibration=calibration,
            draws_out=draws_out,
        )
    if json:
        print(json_module.dumps(_summary(result, target, plot, draws_out), indent=1))
    elif not quiet:
        say(_in_words(result, target))
        if draws_out is not None:
            say(f"  all draws are in {draws_out}, at most 100 of them in {target}")
    if not result.status.ok:
        say(f"invprob: {target} is written, but: {result.status.value}")
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _percentages(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--intervals takes percentages such as 68,95, not {text!r}") from None


def _number_or_word(name: str, *words: str) -> Callable[[str | None], Any]:
    def parse(text: str | None):
        if text is None or text in words:
            return text
        try:
            return float(text)
        except ValueError:
            choices = ", ".join(repr(w) for w in words)
            raise typer.BadParameter(f"{name} takes {choices} or a number, not {text!r}") from None

    return parse


def _configuration(path: Path | None, options: dict[str, Any], inputs: dict[str, Any]):
    """The configuration of file and command line; the command line goes first."""
    from invprob.config import Config

    def given(fields: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in fields.items() if v is not None}

    changes = {**given(options), "input": given(inputs)}
    return Config.make(**changes) if path is None else Config.from_toml(path, **changes)


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
