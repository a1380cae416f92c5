"""Stamps to train on: simulated, or read from a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from invprob.errors import InputError, UsageError
from invprob.io.read.read_fits import read_fits
from invprob.learn.galaxies import Population, stamps
from invprob.learn.recipe import FolderData, Recipe
from invprob.learn.training import WHITE, WIDTH, Stamps
from invprob.measure.moments import asymmetry, main_object
from invprob.observation import Frame, Observation
from invprob.priors.learned import Training

NOISE = 3e-3  # standard deviation of a pixel of a stamp, in units of the network: an orbit of Hubble's, in electron/s
LOOKED_AT = 2000  # stamps whose shapes are measured
RARITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)  # of them that are at least as asymmetric as is written
SEEN = 0.5  # part of the pixels of a stamp that have to be valid
ALIKE = 1.05  # by which the pixel scales of stamps may differ
FADE = 4  # pixels over which the edge of a stamp that is cut is faded, so that it can be periodic


def population(recipe: Recipe) -> Population:
    """The population of a recipe.

    Raises
    ------
    UsageError
        For a field that is not known or does not fit.
    """
    assert recipe.simulated is not None
    given = recipe.simulated.population
    known = [f.name for f in fields(Population)]
    for name in given:
        if name not in known:
            raise UsageError(
                f"recipe: 'simulated.population.{name}' is not a known field; there are {', '.join(known)}"
            )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Population(**values)


def training_data(recipe: Recipe, note: Callable[[str], object] = lambda text: None) -> tuple[Stamps, Stamps, Training]:
    """Stamps to train on, stamps to validate with, and what they are.

    Raises
    ------
    UsageError, InputError
        When the recipe does not fit, or a folder has no stamps that can be used.
    """
    if recipe.simulated is not None:
        return _simulated(recipe, note)
    return _from_folder(recipe, note)


def _simulated(recipe: Recipe, note: Callable[[str], object]) -> tuple[Stamps, Stamps, Training]:
    assert recipe.simulated is not None
    kinds, number = population(recipe), recipe.simulated.number
    note(f"simulating {number + recipe.validation} stamps of {recipe.size} x {recipe.size} pixels")

    def progress(done: int, total: int) -> None:
        if done % 5000 == 0:
            note(f"  {done} of {total} stamps")

    images = stamps(kinds, number + recipe.validation, recipe.size, recipe.seed, progress)
    smallest, largest, widest = noise_range()
    about = Training(
        recipe.name, kinds.pixel_scales, fwhm(kinds), "electron/s", kinds.zeropoint, smallest, largest, widest=widest,
        card={
            "simulated": {f.name: getattr(kinds, f.name) for f in fields(kinds)}, "number": number,
            "asymmetry": asymmetries(images[:LOOKED_AT]),
        },
    )  # fmt: skip
    parts = [Stamps(jnp.asarray(a), jnp.zeros(len(a), jnp.float32)) for a in (images[:number], images[number:])]
    return parts[0], parts[1], about


def asymmetries(images: Float[np.ndarray, "n side side"]) -> dict[str, Any]:
    """How asymmetric the brightest objects of periodic stamps are (`invprob.measure.moments.asymmetry`).

    Returns
    -------
    dict
        ``side`` of the window, and for each of the parts ``share`` of the stamps with light the ``value`` that they
        reach; nothing without light.
    """
    side, found = images.shape[1], []
    for image in images[images.any((1, 2))]:
        brightest = np.unravel_index(int(image.argmax()), image.shape)
        seen = main_object(np.roll(image, [side // 2 - int(n) for n in brightest], (0, 1)), side)
        if seen is not None:
            found.append(asymmetry(seen))
    if not found:
        return {}
    values = np.quantile(found, 1 - np.array(RARITIES))
    return {"side": side, "share": list(RARITIES), "value": [round(float(v), 4) for v in values]}


def noise_range() -> tuple[float, float, float]:
    """Smallest and largest standard deviation of white noise in the training, in units of the network, and the widest
    PSF of coloured noise."""
    return 10 ** WHITE[0], 10 ** WHITE[1], WIDTH[1]


def fwhm(kinds: Population) -> float | None:
    """FWHM in arcsec of the PSF of the stamps of a population, None without one."""
    from invprob.learn.galaxies import Simulator

    psf = Simulator(kinds, 0).psf
    return None if psf is None else float(psf.calculateFWHM())


def _from_folder(recipe: Recipe, note: Callable[[str], object]) -> tuple[Stamps, Stamps, Training]:
    assert recipe.stamps is not None
    folder = Path(recipe.stamps.folder)
    paths = sorted([*folder.glob("*.fits"), *folder.glob("*.fits.gz")])
    if len(paths) <= recipe.validation:
        raise InputError(
            f"{folder}: {len(paths)} FITS files; more than validation = {recipe.validation} are needed, and thousands "
            "for a prior that is worth its name"
        )
    random = np.random.default_rng(recipe.seed)
    images, variances, widths, frames = [], [], [], {}
    for path in paths:
        observation = read_fits(path)
        level = _noise_level(observation, path)
        seen = observation.valid
        # what is masked is noise about the sky, not a hole to be learned
        filled = np.where(seen, observation.data, np.sqrt(level) * random.standard_normal(seen.shape))
        images.append(_of_size(filled, recipe.size, level, random))
        variances.append(level)
        widths.append(None if observation.psf is None else observation.psf.fwhm_arcsec)
        frames[path] = observation.frame
    scales = _pixel_scales(frames)
    unit, zeropoint = _flux_unit(frames, recipe.stamps)
    note(f"read {len(paths)} stamps from {folder}")
    known = [w for w in widths if w is not None]
    scale = float(np.sqrt(np.median(variances))) / NOISE
    smallest, largest, widest = noise_range()
    about = Training(
        recipe.name, scales, float(np.median(known)) if known else None, unit, zeropoint, scale * smallest,
        scale * largest, scale, widest, card={"folder": folder.name, "number": len(paths)},
    )  # fmt: skip
    every = Stamps(
        jnp.asarray(np.array(images) / scale, jnp.float32), jnp.asarray(np.array(variances) / scale**2, jnp.float32)
    )
    order, kept = random.permutation(len(paths)), recipe.validation
    parts = [Stamps(every.images[which], every.variance[which]) for which in (order[kept:], order[:kept])]
    return parts[0], parts[1], about


def _noise_level(observation: Observation, path: Path) -> float:
    """Variance of the noise of a stamp's pixels."""
    part = float(observation.valid.mean())
    if part < SEEN:
        needed = f"at least {100 * SEEN:.0f} % are needed: leave it out"
        raise InputError(f"{path}: {100 * part:.0f} % of its pixels can be used, {needed}")
    return float(np.median(observation.variance[observation.valid]))


def _pixel_scales(frames: dict[Path, Frame]) -> tuple[float, float]:
    """The smallest and the largest pixel of stamps, in arcsec."""
    for path, frame in frames.items():
        if frame.pixel_scale is None:
            raise InputError(
                f"{path}: no pixel scale, which a prior has; world coordinates or a card PIXSCALE in arcsec are needed"
            )
    scales = {path: float(frame.pixel_scale or 0) for path, frame in frames.items()}
    least, most = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
    if scales[most] / scales[least] > ALIKE:
        raise InputError(
            f"pixels of {scales[least]:.4g} arcsec in {least} and of {scales[most]:.4g} in {most.name}; a prior is for "
            "one pixel scale, resample them"
        )
    return scales[least], scales[most]


def _flux_unit(frames: dict[Path, Frame], given: FolderData) -> tuple[str, float | None]:
    """The one unit of flux of stamps and its zero point: those of the recipe, or else of the files."""
    first = next(iter(frames))
    for path, frame in frames.items():
        for what, value, other, told in (
            ("unit", frame.unit, frames[first].unit, given.unit or None),
            ("zero point", frame.zeropoint, frames[first].zeropoint, given.zeropoint),
        ):
            if told is None and value != other:
                raise InputError(
                    f"the {what} of {path} is {value}, that of {first.name} {other}; a prior is for one, convert them, "
                    f"or tell what all have with {what.replace(' ', '')} in the recipe"
                )
    zeropoint = frames[first].zeropoint if given.zeropoint is None else given.zeropoint
    return given.unit or str(frames[first].unit or ""), zeropoint


def _of_size(
    image: Float[np.ndarray, "y x"], size: int, variance: float, random: np.random.Generator
) -> Float[np.ndarray, "size size"]:
    """An image in the middle of a stamp: cut and faded where it is larger, with noise around it where it is smaller."""
    out = np.sqrt(variance) * random.standard_normal((size, size))
    cuts, places = [], []
    for n in image.shape:
        cuts.append(slice(max(0, (n - size) // 2), max(0, (n - size) // 2) + min(n, size)))
        places.append(slice(max(0, (size - n) // 2), max(0, (size - n) // 2) + min(n, size)))
    inner = image[tuple(cuts)]
    share = np.ones(inner.shape)
    for axis, n in enumerate(inner.shape):
        edge = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
        ramp = np.where(edge < FADE, np.sin(0.5 * np.pi * edge / FADE), 1.0)
        share *= ramp[:, None] if axis == 0 else ramp[None]
    # noise and noise in shares whose squares add up to one: the variance is the same everywhere
    out[tuple(places)] = share * inner + np.sqrt(1 - share**2) * out[tuple(places)]
    return out


__all__ = ["asymmetries", "fwhm", "population", "training_data"]
