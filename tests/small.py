"""Small images and settings for the tests of the command and the pipeline."""

from pathlib import Path

import numpy as np
from astropy.io import fits

from invprob.config import Config
from invprob.observation import PSF, Frame, Observation
from invprob.pipeline.problem import build_problem
from invprob.posterior import Problem
from invprob.recipes.base import FittedPrior
from invprob.recipes.registry import recipe_of
from invprob.results import Estimate

HAND = {"amplitude": 1e4, "scale": 0.04, "slope": 3.0}  # of the prior, so that no evidence is searched
HAND_TOML = "".join(f"{name} = {value}\n" for name, value in HAND.items()) + "num_samples = 0\n"
SHAPE = (18, 20)
SIGMA = 1.0


def settings(**fields) -> Config:
    """A configuration with the strength by hand."""
    return Config.make(**{**HAND, "num_samples": 0, **fields})


def psf_image(fwhm: float = 2.5, size: int = 9) -> np.ndarray:
    """A normalized Gaussian at the data's pixel."""
    image = PSF.gaussian(fwhm, size=size).image
    return np.asarray(image / image.sum())


def scene(seed: int = 0, shape: tuple[int, int] = SHAPE, sigma: float = SIGMA) -> np.ndarray:
    """Two blurred sources and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]

    def source(flux, y0, x0, width):
        return flux * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * width**2)) / (2 * np.pi * width**2)

    clean = source(900.0, 8.3, 9.1, 1.8) + source(300.0, 12.0, 5.0 + seed % 3, 1.5)
    return clean + rng.normal(0, sigma, shape)


def write_image(
    path: Path, data: np.ndarray | None = None, *, psf: np.ndarray | str | None = "default", bad=(), unit="electron/s"
) -> Path:
    """A file with SCI, VAR, DQ and PSF; ``bad`` are the masked pixels."""
    data = scene() if data is None else data
    kernel = psf_image() if isinstance(psf, str) else psf
    quality = np.zeros(data.shape, np.int16)
    for y, x in bad:
        quality[y, x] = 1
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(data, name="SCI"),
        fits.ImageHDU(np.full(data.shape, SIGMA**2), name="VAR"),
    ]
    hdus[1].header["BUNIT"] = unit
    hdus[1].header["PIXSCALE"] = 0.2
    hdus.append(fits.ImageHDU(quality, name="DQ"))
    if kernel is not None:
        hdus.append(fits.ImageHDU(kernel, name="PSF"))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def observation(seed: int = 0, *, fwhm: float = 2.5, size: int = 9, mask=None, unit: str = "") -> Observation:
    """An observation with a PSF of its own."""
    psf = PSF.gaussian(fwhm, size=size)
    data = scene(seed)
    return Observation.from_arrays(data, SIGMA**2, mask=mask, psf=psf, frame=Frame(data.shape, 0.2, unit))


def fitted(observation: Observation, config: Config) -> tuple[Problem, FittedPrior]:
    """The problem of an observation, and its prior with the hyperparameters that a run would choose."""
    problem, recipe = build_problem(observation, config), recipe_of(config)
    return problem, recipe.fit(problem, recipe.build(problem, config), config)


def names(estimate: Estimate) -> list[str]:
    """Names of the records of a result, in their order."""
    return [record.name for record in estimate.report]
