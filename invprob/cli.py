"""The `invprob` command. Heavy packages are imported by the subcommand that needs them, when it needs them."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from invprob.console import OneLineGroup, reported, say
from invprob.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from invprob.pipeline.listener import Listener
    from invprob.result import Estimate

EXIT_CODES = """\b
Exit codes: 0 done; 1 unexpected; 2 usage; 3 replay differs; 64 no usable pixels; 65 bad input;
70 written, but not converged; 73 output exists or cannot be written; 130 interrupted, state kept."""

app = typer.Typer(
    name="invprob",
    cls=OneLineGroup,
    help="Undo a telescope: deconvolve, denoise and inpaint FITS images, with errors that are meant.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages on stderr but errors.")]


def prepare_jax() -> None:
    """Keep compiled programs between runs, in the user's cache; what the environment says goes first.

    One thread for each FFT: with several, the order of rounding differs from run to run, and no two runs would write
    the same bytes. One for BLAS: on a machine where others work its threads wait for each other, up to a hundred times
    longer than one needs for the small matrices of the evidence.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    flag = "--xla_cpu_multi_thread_eigen"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=false".strip()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invprob" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _listener(quiet: bool) -> Listener:
    from invprob.pipeline.listener import Listener

    if quiet:
        return Listener()
    if not sys.stderr.isatty():
        return Listener(note=say)

    def draw(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r  draw {done} of {total}", end=end, file=sys.stderr, flush=True)

    return Listener(note=say, step=lambda line: say(f"  {line}"), draw=draw)


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


@app.command(epilog=EXIT_CODES)
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
            "points+starlet, or one that another package installs; `invprob priors` lists them."
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
            help="'auto' (from the data and their noise), 'fission' (what predicts held-out noise best), or a number, "
            "larger for smoother: for gaussian a factor on the inverse amplitude found, for the others in units of the "
            "noise. Default: auto."
        ),
    ] = None,
    refine: Annotated[int | None, typer.Option(help="Latent pixels on a side of a data pixel. Default: 1.")] = None,
    method: Annotated[
        str | None, typer.Option(help="map: best image and errors (default); sample: the draws as well.")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Exact draws behind the errors; 0: no errors. Default: 64.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws. Default: 0.")] = None,
    variance: Annotated[
        str | None,
        typer.Option(help="Noise map FILE[EXT]; end with :var, :std or :ivar where its name does not tell."),
    ] = None,
    noise_std: Annotated[float | None, typer.Option(help="Noise standard deviation, in the data's unit.")] = None,
    mask: Annotated[str | None, typer.Option(help="Mask FILE[EXT], non-zero = bad.")] = None,
    normalise_psf: Annotated[bool | None, typer.Option("--normalise-psf", help="Divide the PSF by its sum.")] = None,
    psf_without_pixel: Annotated[
        bool | None,
        typer.Option("--psf-without-pixel", help="The PSF image lacks the response of its pixel."),
    ] = None,
    pixel_scale: Annotated[float | None, typer.Option(help="Arcsec per data pixel, if the file does not tell.")] = None,
    psf_pixel_scale: Annotated[
        float | None, typer.Option(help="Arcsec per PSF pixel, if the file does not tell.")
    ] = None,
    sky: Annotated[
        str | None,
        typer.Option(help="'none' (default), 'fit' one level with its error, or the level to subtract."),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="auto (default); gaussian prior: wiener, cg, twogrid (without --refine); sparse and positive: admm, "
            "pdhg, proximal; lognormal: newton; smooth: lbfgs."
        ),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            help="Where the solver stops: relative gap of the objective (default 1e-7), or relative residual of admm "
            "(default 3e-4), pdhg and proximal (1e-4)."
        ),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most steps of the solver. Default: 10000.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 (default) or float32.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with these options; the command line goes first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Output FITS. Default: IMAGE_deconvolved.fits.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
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
            strength=_number_or_word("--strength", "auto", "fission")(strength), refine=refine, method=method,
            num_samples=num_samples, seed=seed, sky=_number_or_word("--sky", "none", "fit")(sky), solver=solver,
            rtol=rtol, max_steps=max_steps, dtype=dtype,
        ),
        dict(
            image=image, psf=psf, variance=variance, noise_std=noise_std, mask=mask, normalise_psf=normalise_psf,
            psf_without_pixel=psf_without_pixel, pixel_scale=pixel_scale, psf_pixel_scale=psf_pixel_scale,
        ),
    )  # fmt: skip
    if settings.input.image is None:
        raise UsageError("no image given: invprob deconvolve IMAGE, or input.image in the configuration file")
    prepare_jax()
    from invprob.pipeline.run import run, terminated_as_interrupted

    target = out if out is not None else _default_out(settings.input.image)
    with terminated_as_interrupted():
        result, _ = run(settings, target, overwrite=overwrite, plot=plot, listener=_listener(quiet))
    if json:
        print(json_module.dumps(_summary(result, target, plot), indent=1))
    elif not quiet:
        say(_in_words(result, target))
    if not result.status.ok:
        say(f"invprob: {target} is written, but: {result.status.value}")
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _default_out(image: str) -> Path:
    name = Path(image.split("[")[0]).name
    for ending in (".gz", ".fz", ".bz2", ".fits", ".fit", ".fts"):
        name = name.removesuffix(ending)
    return Path(f"{name}_deconvolved.fits")


def _summary(result: Estimate, out: Path, plot: Path | None) -> dict[str, Any]:
    return {
        "out": str(out), "plot": None if plot is None else str(plot), "status": result.status.name,
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
    elif "PRIORSTR" in cards:
        lines.append(f"  prior: {cards['PRIOR']} of strength {cards['PRIORSTR']:.4g} ({cards['STRENGTH']})")
    if "FLOOR" in cards:
        lines.append(f"  no pixel below {cards['FLOOR']:.4g}; --floor 0 for strictly positive")
    flux = f"  flux {cards['FLUX']:.6g}" + (f" +- {cards['FLUXERR']:.2g}" if "FLUXERR" in cards else "")
    if "SKY" in cards:
        flux += f"; sky {cards['SKY']:.6g}" + (f" +- {cards['SKYERR']:.2g}" if "SKYERR" in cards else "")
    fit = f"  chi-square {result.chi2:.1f} for {result.num_data} data"
    if result.effective_dof is not None:
        fit += f", {result.chi2 / result.effective_dof:.3f} per effective degree of freedom"
    return "\n".join([*lines, flux, fit])


@app.command(epilog=EXIT_CODES)
@reported
def inspect(
    file: Annotated[str, typer.Argument(help="FITS image: FILE, FILE[EXT] or FILE[EXT,plane].")],
    psf: Annotated[str | None, typer.Option(help="PSF: FILE[EXT].")] = None,
    variance: Annotated[str | None, typer.Option(help="Noise map FILE[EXT].")] = None,
    mask: Annotated[str | None, typer.Option(help="Mask FILE[EXT].")] = None,
    normalise_psf: Annotated[bool, typer.Option("--normalise-psf", help="Divide the PSF by its sum.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what the reader understands of a file: shape, unit, WCS, noise, mask, PSF."""
    from invprob.io.inspect import inspect_file

    found = inspect_file(file, psf=psf, variance=variance, mask=mask, normalise_psf=normalise_psf)
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


@app.command(epilog=EXIT_CODES)
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
    from invprob.simulate import simulate_pair, write_pair

    given = {"size": size, "factor": factor, "seeing": seeing, "snr": snr}
    pair = simulate_pair(seed=seed, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    for path in write_pair(pair, out, overwrite=overwrite):
        print(path)


@app.command(epilog=EXIT_CODES)
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

    outcome = repeat(file, image=image, listener=_listener(quiet))
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


@app.command(name="priors", epilog=EXIT_CODES)
@reported
def list_priors(json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the priors that are installed, those of other packages included."""
    from invprob.pipeline.prior import listing

    found = listing()
    if json:
        print(json_module.dumps(found, indent=1))
        return
    width = max(len(prior["name"]) for prior in found)
    for prior in found:
        source = "" if prior["provider"] == "invprob" else f" [{prior['provider']}]"
        print(f"{prior['name']:{width}s}  {prior['about']}{source}")


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


if __name__ == "__main__":
    main()
