"""How well sparse priors deconvolve the ground simulations, and what they do around a star: Markdown tables.

python tests/benchmarks/sparse_images.py scores                 # the eight files by the command line, every default
python tests/benchmarks/sparse_images.py strengths              # the automatic strength beside the best by hand
python tests/benchmarks/sparse_images.py flux 000002            # bias of the stamp's flux over noise realizations
python tests/benchmarks/sparse_images.py star FIELD.fits                 # a star field
python tests/benchmarks/sparse_images.py precision              # float32 against float64
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from ground_sims import DATA, REFINE, Simulation, files, head, row
from scipy.ndimage import maximum_filter

FACTORS = (2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35)


def options_of(given: argparse.Namespace) -> list[str]:
    """The options of the command for a prior."""
    positive = [] if given.free or given.prior == "lognormal" else ["--positive"]
    return ["--prior", given.prior, *positive]


def config_of(given: argparse.Namespace, **changes):
    """The configuration for a prior."""
    import invprob

    positive = not given.free and given.prior != "lognormal"
    return invprob.Config.make(refine=REFINE, prior=given.prior, positive=positive, num_samples=0, **changes)


def scores(simulations: Sequence[Simulation], given: argparse.Namespace) -> None:
    """Errors of the files that the command line wrote."""
    head("file", "relerr", "flux in mask", "stamp's flux", "chi2 / n", "strength", "steps", "status")
    table = []
    for simulation in simulations:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.fits"
            command = [str(Path(sys.executable).with_name("invprob")), "deconvolve", str(simulation.path)]
            command += ["--psf", "[KERNEL]", "--refine", str(REFINE), "-o", str(out), "--quiet", *options_of(given)]
            subprocess.run(command, check=False)
            with fits.open(out) as file:
                image = np.asarray(file["SCI"].data, float)
                header = file[0].header
        table.append((
            simulation.relative_error(image), simulation.flux_error(image),
            float(image.sum() / simulation.truth.sum() - 1), header["REDCHI2"], header.get("PRIORSTR", np.nan),
        ))  # fmt: skip
        row(simulation.name, *map(float, table[-1]), header["STEPS"], header["STATUS"])
    values = np.array(table)
    row("median (fluxes: of the size)", *map(float, np.median(np.abs(values), axis=0)), "", "")


def strengths(simulations: Sequence[Simulation], given: argparse.Namespace) -> None:
    """Relative error at the automatic strength and at multiples of it."""
    import invprob

    head("file", "automatic", *(f"x {f:g}" for f in FACTORS), "best", "automatic / best")
    table = []
    for simulation in simulations:
        observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
        automatic = invprob.deconvolve(observation, config_of(given, dtype="float32"))
        strength = automatic.report.prior_strength
        errors = []
        for factor in FACTORS:
            by_hand = config_of(given, dtype="float32", strength=float(strength * factor))
            errors.append(simulation.relative_error(invprob.deconvolve(observation, by_hand).image))
        best = min(errors)
        table.append((simulation.relative_error(automatic.image), *errors, best))
        row(simulation.name, *table[-1], table[-1][0] / best)
    median = np.median(table, axis=0)
    row("median", *map(float, median), float(median[0] / median[-1]))


def flux(simulations: Sequence[Simulation], given: argparse.Namespace) -> None:
    """Bias of the flux over noise realizations; each noise with both signs, so that it cancels from the mean."""
    import invprob

    head("file", "bias of the stamp's flux", "its standard error", "scatter", "bias in mask", "mean relerr")
    for simulation in simulations:
        observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
        rng, found, noise = np.random.default_rng(0), [], np.zeros(simulation.variance.shape)
        for i in range(given.number):
            noise = -noise if i % 2 else np.sqrt(simulation.variance) * rng.standard_normal(simulation.variance.shape)
            changed = replace(observation, data=simulation.model + noise)
            image = invprob.deconvolve(changed, config_of(given, dtype="float32", floor=given.floor)).image
            found.append((
                image.sum() / simulation.truth.sum() - 1, simulation.flux_error(image),
                simulation.relative_error(image),
            ))  # fmt: skip
        values = np.array(found)
        pairs = values[: len(values) // 2 * 2, 0].reshape(-1, 2).mean(1)
        row(
            simulation.name, float(values[:, 0].mean()), float(pairs.std(ddof=1) / np.sqrt(len(pairs))),
            float(values[:, 0].std(ddof=1)), float(values[:, 1].mean()), float(values[:, 2].mean()),
        )  # fmt: skip


def precision(simulations: Sequence[Simulation], given: argparse.Namespace) -> None:
    """Largest difference of float32 and float64 in units of the peak, both solved further than by default."""
    import invprob

    head("file", "largest difference / peak", "residuals")
    for simulation in simulations:
        observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
        pair = [
            invprob.deconvolve(observation, config_of(given, dtype=dtype, rtol=given.rtol, max_steps=100_000))
            for dtype in ("float32", "float64")
        ]
        one, two = (result.image for result in pair)
        residuals = ", ".join(f"{result.report.gap:.1e}" for result in pair)
        row(simulation.name, float(np.abs(one - two).max() / two.max()), residuals)


def star(given: argparse.Namespace) -> None:
    """The ring of 1 to 4 FWHM around the brightest sources of a field, in the model seen through the PSF."""
    import invprob

    observation = invprob.read_fits(given.names[0])
    data, valid = observation.data, observation.valid
    level = float(np.median(data[valid]))
    result = invprob.deconvolve(observation, invprob.Config.make(prior=given.prior, sky="fit", num_samples=0))
    model = np.asarray(result.model) - level
    sigma = float(np.sqrt(np.median(observation.variance[valid])))
    fwhm = observation.psf.fwhm if given.fwhm is None else given.fwhm
    light = np.where(valid, data - level, 0)
    peaks = np.argwhere(light == maximum_filter(light, 2 * int(np.ceil(2 * fwhm)) + 1))
    peaks = sorted(peaks, key=lambda at: -light[tuple(at)])[: given.stars]
    head("source (y, x)", "peak / sigma", "lowest in the ring / sigma", "negative flux in the ring / source's")
    y, x = np.indices(model.shape)
    for at in peaks:
        radius = np.hypot(y - at[0], x - at[1])
        ring = (radius >= fwhm) & (radius <= 4 * fwhm)
        row(
            f"({at[0]}, {at[1]})", float(light[tuple(at)] / sigma), float(model[ring].min() / sigma),
            float(-model[ring].clip(None, 0).sum() / model[radius <= 4 * fwhm].sum()),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("scores", "strengths", "flux", "star", "precision"))
    parser.add_argument("names", nargs="*", help="simulations such as 000047 (default: all), or the field of `star`")
    parser.add_argument("--folder", type=Path, default=DATA, help="where the simulations are")
    parser.add_argument("--prior", default="starlet")
    parser.add_argument("--free", action="store_true", help="without --positive")
    parser.add_argument("--floor", type=float, default=1.0, help="of `flux`")
    parser.add_argument("--number", type=int, default=50, help="realizations of `flux`")
    parser.add_argument("--stars", type=int, default=3, help="number of stars of `star`")
    parser.add_argument("--fwhm", type=float, help="of the PSF in pixels; default: measured on it")
    parser.add_argument("--rtol", type=float, default=3e-5, help="of `precision`")
    given = parser.parse_args()
    if given.what == "star":
        star(given)
        return
    simulations = list(files(given.names, given.folder))
    if not simulations:
        parser.error(f"no simulation of that name in {given.folder}")
    {"scores": scores, "strengths": strengths, "flux": flux, "precision": precision}[given.what](simulations, given)


if __name__ == "__main__":
    main()
