"""Ground simulations of Hubble galaxies under `galaxies` and other priors: parts of `learned.py`."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from ground_sims import DATA, Simulation, head, row
from hubble import isophote, mask_bias, more_simulations, truth_noise

import invprob
from invprob.measure.moments import adaptive_ellipticity, centroid

OTHERS = (("gaussian", False), ("starlet", False), ("starlet", True), ("tv", True))
ROUND = 8.0  # standard deviation of a round blob, latent pixels
OF_DRAWS = (
    "68 % of pixels", "with the truth's noise", "isophotal flux, errors", "of the stamp", "e1", "e2", "e of the draws",
)  # fmt: skip


@contextmanager
def simulations(args: argparse.Namespace) -> Iterator[list[Path]]:
    """Files of the ground simulations, or of more of them, which are made for the time."""
    with tempfile.TemporaryDirectory() as folder:
        yield more_simulations(Path(folder)) if args.more else sorted(DATA.glob("ground_*.fits"))


def ellipticity(image: np.ndarray, simulation: Simulation) -> np.ndarray:
    """Of the whole image, from the centre of its light inside the mask; NaN where that fails."""
    centre = centroid(np.where(simulation.inside, image, 0.0))
    shape = None if centre is None else adaptive_ellipticity(image, centre, sigma=10.0, reach=30.0)
    return np.array([np.nan, np.nan] if shape is None else shape)


def mask(args: argparse.Namespace) -> None:
    """What masks tell of ellipticities, by images that know nothing of the data, and how well truths are known."""
    with simulations(args) as paths:
        errors, noises = [], []
        for simulation in map(Simulation.read, paths):
            truth, (ny, nx) = simulation.truth, simulation.truth.shape
            y, x = np.arange(ny)[:, None] - (ny - 1) / 2, np.arange(nx) - (nx - 1) / 2
            for image in (np.ones_like(truth), np.exp(-0.5 * (y**2 + x**2) / ROUND**2)):
                cut = (np.where(simulation.inside, light, 0.0) for light in (image, truth))
                found, true = (ellipticity(light, simulation) for light in cut)
                errors.append(np.hypot(*(found - true)))
            noises.append(np.mean([simulation.relative_error(truth + n) for n in truth_noise(simulation, 4)]))
        head("ellipticity error of one brightness", "of a round blob", "relative error by the noise of the truth")
        row(*(f"{v:.3f}" for v in (*np.nanmedian(np.reshape(errors, (-1, 2)), axis=0), np.median(noises))))


def covered(draws: np.ndarray, simulation: Simulation) -> list[float]:
    """Part of the pixels inside the mask whose truth lies in their 68 % interval: of draws, and with the truth's noise.

    And the distance in errors of the flux inside the isophote (each picture's own, as the mask is the truth's), that
    of the whole stamp, and both ellipticities; last the error of the mean ellipticity, which the shape of the mean
    image, rounder than any draw, does not have. Draws are of a galaxy, the truth is a picture of one.
    """
    inside, truth = simulation.inside, simulation.truth
    pictures, parts, away = draws + truth_noise(simulation, len(draws)), [], []
    for images in (draws, pictures):
        low, high = np.quantile(images, (0.16, 0.84), axis=0)
        parts.append(float(np.mean(((low <= truth) & (truth <= high))[inside])))
    whole = pictures.sum((1, 2))
    cut = np.where(truth == 0, 0.0, pictures)
    isophotal = np.array([picture[isophote(picture, simulation)].sum() for picture in cut])
    for flux, true in ((isophotal, truth[inside].sum()), (whole, truth.sum())):
        away.append(float((true - flux.mean()) / flux.std(ddof=1)))
    shapes = np.array([ellipticity(image, simulation) for image in pictures])
    off = ellipticity(truth, simulation) - shapes.mean(0)
    return [*parts, *away, *(off / shapes.std(0, ddof=1)), float(np.hypot(*off))]


def scores(result: invprob.Result, simulation: Simulation) -> list[float]:
    """Relative error, flux inside the mask (also without the part of the mask) and of the whole stamp, and more."""
    image = np.asarray(result.image, float)
    flux = simulation.flux_error(image)
    found = [
        simulation.relative_error(image), 100 * flux, 100 * (flux - mask_bias(image, simulation)),
        100 * (image.sum() / simulation.truth.sum() - 1),
        float(np.hypot(*(ellipticity(image, simulation) - ellipticity(simulation.truth, simulation)))),
        float(result.chi2) / result.num_data, result.report.fit_p_value,
    ]  # fmt: skip
    return found + covered(np.asarray(result.draws), simulation) if isinstance(result, invprob.Samples) else found


def ground(args: argparse.Namespace) -> None:
    """Scores of the ground simulations, or of more of them."""
    with simulations(args) as paths:
        scored([p for p in paths if not args.files or p.stem.removeprefix("ground_") in args.files], args)


def scored(paths: list[Path], args: argparse.Namespace) -> None:
    """Scores of simulations, with their own noise or with others."""
    more: dict = {"num_samples": 0}
    extra = OF_DRAWS if args.method == "sample" else ()
    if extra:
        more = {"method": "sample", "num_samples": args.draws, "chains": args.chains}
    errors = (
        "relative error", "flux error, %", "without that of the mask", "of the total", "ellipticity error",
        "chi-square / datum", "p of residuals",
    )  # fmt: skip
    head("prior", "file", *errors, *extra, "seconds")
    of_all: dict[str, np.ndarray] = {}
    for prior, positive in [(args.prior, False), *(OTHERS if args.others else ())]:
        name = f"{prior}{' positive' if positive else ''}"
        config = invprob.Config.make(prior=prior, positive=positive, refine=4, dtype="float32", **more)
        tables = []
        for seed in range(1, args.noises + 1) if args.noises else [None]:
            found = []
            for path in paths:
                simulation = Simulation.read(path)
                observation = invprob.read_fits(path, psf="[KERNEL]", dtype="float32")
                if seed is not None:
                    noise = np.random.default_rng([seed, int(simulation.name)]).standard_normal(simulation.model.shape)
                    observation = replace(observation, data=simulation.model + np.sqrt(simulation.variance) * noise)
                begun = time.perf_counter()
                result = invprob.deconvolve(observation, config)
                seconds = time.perf_counter() - begun
                found.append(scores(result, simulation))
                row(name, simulation.name, *(f"{v:.3f}" for v in found[-1]), f"{seconds:.0f} ({result.status.name})")
            tables.append(found)
        table = np.array(tables)
        table[..., 1:4] = np.abs(table[..., 1:4])
        row(name, "median", *(f"{v:.3f}" for v in np.nanmedian(table, axis=1).mean(0)), "")
        if args.noises:
            row(name, "of all", *(f"{v:.3f}" for v in np.nanmedian(table, axis=(0, 1))), "")
        of_all[name] = table[..., errors.index("ellipticity error")]
    if args.others:
        paired(of_all)


def paired(ellipticities: dict[str, np.ndarray]) -> None:
    """Ellipticity errors (noise, galaxy) beside those of the first prior, where all could be measured."""
    print()
    head("prior", "galaxies", "ellipticity error, mean", "less that of the first", "+-", "larger in, %")
    known = np.all(np.isfinite(list(ellipticities.values())), axis=(0, 1))
    first, *_ = ellipticities.values()
    for name, errors in ellipticities.items():
        away = np.mean(errors - first, axis=0)[known]
        row(name, int(known.sum()), f"{np.mean(errors[:, known]):.3f}", f"{np.mean(away):.3f}",
            f"{np.std(away, ddof=1) / np.sqrt(len(away)):.3f}", f"{100 * np.mean(away > 0):.0f}")  # fmt: skip
