"""What a learned prior says of what it has not seen, as a Markdown table and a picture.

    python tests/benchmarks/guards.py --out docs/guards.png
    python tests/benchmarks/guards.py --rates 40 # how often each warns

A galaxy of the simulator behind a PSF of 0.5 arcsec in pixels of 0.1 arcsec; the same with the trail of a satellite,
with a cosmic ray, merging with another one, with a star in its place, and with a PSF that is 8 % too wide. Each is
sampled under `galaxies`, tested by data fission and compared with the Gaussian prior.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from ground_sims import head, row

import invprob
from invprob.learn.galaxies import Population, Simulator
from invprob.pipeline.problem import build_problem
from invprob.recipes.registry import recipe_of
from invprob.recipes.training_range import MISFIT

SIDE, PIXEL, REFINE, FWHM, SNR = 28, 0.1, 2, 0.5, 150.0
MARGIN = 16  # latent pixels on a side that are cut off a scene, whose light may come round
WRONG = 1.08  # of a PSF's width
CASES = ("galaxy", "trail", "cosmic ray", "merger", "star", "PSF")


@dataclass(frozen=True)
class Case:
    """An observation, and the scene behind it in flux per latent pixel."""

    name: str
    observation: invprob.Observation
    truth: np.ndarray


def population(seed: int, **fields) -> Simulator:
    """One galaxy in the middle, in the latent pixels."""
    scale = PIXEL / REFINE
    one = Population(pixel_scales=(scale, scale), crowding=(0.0, 1.0), centred=True, brightest=21.5, faintest=22.0)
    return Simulator(replace(one, **fields), seed)


def scene(name: str, seed: int) -> np.ndarray:
    """Flux per latent pixel."""
    side = SIDE * REFINE + 2 * MARGIN
    one = population(seed)
    if name == "star":
        return one.psf.withFlux(10 ** (-0.4 * (20.0 - 25.937))).drawImage(nx=side, ny=side, scale=PIXEL / REFINE).array
    image = one.stamp(side)
    if name == "merger":
        other = population(seed + 1, size=0.2).stamp(side)
        y, x = np.indices(image.shape) - side / 2
        r, angle = np.hypot(y + 5, x - 3), np.arctan2(y + 5, x - 3)
        tail = np.exp(-0.5 * ((r - 12 - 3 * angle) / 1.2) ** 2) * (np.abs(angle) < 1.6)
        tail *= 0.3 * image.sum() / tail.sum()
        image = np.roll(image, (-4, -5), (0, 1)) + np.roll(other, (5, 6), (0, 1)) + tail
    return image


def made(name: str, seed: int) -> Case:
    """Data of the model itself, with noise, and what is wrong with them."""
    rng = np.random.default_rng(seed)
    psf = invprob.PSF.moffat(FWHM, beta=3.5, pixel_scale=PIXEL / REFINE)
    frame = invprob.Frame((SIDE, SIDE), pixel_scale=PIXEL, unit="electron/s", zeropoint=25.937)
    empty = np.zeros((SIDE, SIDE))
    given = invprob.Observation(empty, np.ones_like(empty), empty == 0, psf, frame)
    problem = build_problem(given, invprob.Config.make(prior="galaxies", refine=REFINE, dtype="float32"))
    truth = scene(name, seed)
    inner = truth[MARGIN:-MARGIN, MARGIN:-MARGIN]
    latent = np.zeros(problem.frame.shape, np.float32)
    latent[problem.frame.footprint] = inner
    clean = np.asarray(problem.likelihood.operator.apply(jnp.asarray(latent)))
    sigma = np.sqrt(np.sum(clean**2)) / SNR
    data = clean + sigma * rng.standard_normal(clean.shape)
    y, x = np.indices(data.shape)
    if name == "trail":
        away = (y - 0.35 * x - 8) / np.hypot(1, 0.35)
        data = data + 8 * sigma * np.exp(-0.5 * (away / (FWHM / PIXEL / 2.355)) ** 2)
    if name == "cosmic ray":
        data[17, 8:11] += 30 * sigma
    if name == "PSF":
        psf = invprob.PSF.moffat(WRONG * FWHM, beta=3.5, pixel_scale=PIXEL / REFINE)
    return Case(name, replace(given, data=data, variance=np.full(data.shape, sigma**2), psf=psf), inner)


def rates(number: int) -> None:
    """How often a run warns, does not fit, and is more asymmetric, by image and by truth, than all but a part."""
    config = invprob.Config.make(prior="galaxies", num_samples=0, refine=REFINE, dtype="float32")
    limits = (0.02, 0.05, 0.1)
    shares = [f"asymmetric {what}, {100 * limit:g} %" for what in ("image", "truth") for limit in limits]
    head("case", "warned", "does not fit", "median p", "of chi-square", "of structure", "of the peak", *shares)
    for name in CASES:
        warned, fits, found = [], [], []
        for seed in range(100, 100 + number):
            case = made(name, seed)
            result = invprob.deconvolve(case.observation, config)
            warned.append(not result.report.in_range)
            fits.append([result.report.get(f"fit_p_{name}") for name in ("value", "chi2", "matched", "peak")])
            of_truth = recipe_of(config).report(replace(result, image=case.truth))
            found.append([result.report.asymmetry_share, of_truth.asymmetry_share])
        p = np.transpose(fits)
        parts = [f"{np.mean(part < limit):.2f}" for part in np.transpose(found) for limit in limits]
        medians = [f"{v:.1g}" for v in np.median(p, axis=1)]
        row(name, f"{np.mean(warned):.2f}", f"{np.mean(p[0] < MISFIT):.2f}", *medians, *parts)


def pictured(cases: list[tuple[Case, invprob.Samples]], path: str) -> None:
    """Data, truth, image and what differs from the Gaussian prior, a row for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(cases), 5, figsize=(10, 2 * len(cases)), layout="constrained", squeeze=False)
    titles = ("data", "truth", "image", "(image - Gaussian) / error", "known from the data")
    for line, (case, found) in zip(axes, cases, strict=True):
        top = float(np.quantile(case.truth, 0.998))
        for ax, image in zip(line[:3], (case.observation.data / REFINE**2, case.truth, found.image), strict=True):
            ax.imshow(np.arcsinh(10 * image / top), origin="lower", cmap="gray", vmin=-0.3, vmax=3)
        line[3].imshow(found.comparison, origin="lower", cmap="RdBu_r", vmin=-5, vmax=5)
        line[4].imshow(found.contraction, origin="lower", cmap="viridis", vmin=0, vmax=1)
        line[0].set_ylabel(case.name)
        for ax in line:
            ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--draws", type=int, default=100, help="of all chains")
    parser.add_argument("--num-chains", type=int, default=2)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--rates", type=int, default=0, help="of each case, in how many a best image warns")
    parser.add_argument("--out", help="picture to write")
    args = parser.parse_args()
    if args.rates:
        rates(args.rates)
        return
    config = invprob.Config.make(
        prior="galaxies", method="sample", num_samples=args.draws, num_chains=args.chains, refine=REFINE,
        dtype="float32",
        fission_test=True, compare_prior="gaussian",
    )  # fmt: skip
    done = []
    columns = {
        "fit_p_value": "p of residuals", "peak_residual": "largest as wide as the PSF, sigma",
        "heldout_p_value": "p by fission", "heldout_p_chi2": "of chi-square", "heldout_p_matched": "of structure",
        "compare_rms": "differs from Gaussian, rms", "compare_max": "at most", "asymmetry": "asymmetry",
        "asymmetry_share": "of the training set",
    }  # fmt: skip
    head("case", "chi-square / datum", *columns.values(), "in range", "status", "seconds")
    for name in args.cases:
        case = made(name, args.seed)
        begun = time.perf_counter()
        found = invprob.deconvolve(case.observation, config)
        seconds = time.perf_counter() - begun
        done.append((case, found))
        values = [found.chi2 / found.num_data, *(found.report.get(key) for key in columns)]
        row(name, *(f"{v:.3g}" for v in values), "yes" if found.report.in_range else "no", found.status.name,
            f"{seconds:.0f}")  # fmt: skip
    if args.out:
        pictured(done, args.out)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)
    main()
