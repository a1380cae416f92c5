"""The Hubble images that the ground simulations are made of: their noise, what it does to truths, and more of them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from ground_sims import DATA, Simulation
from scipy.ndimage import gaussian_filter

HUBBLE = DATA.parent / "galaxies"


def more_simulations(folder: Path) -> list[Path]:
    """Ground simulations of the galaxies that have none, with the recipes of those that have, in turn."""
    recipes = json.loads((DATA / "recipe.json").read_text())
    taken = {Path(recipe["galaxy"]).name for recipe in recipes}
    paths = []
    for number, galaxy in enumerate(p for p in sorted(HUBBLE.glob("cosmos_*.fits")) if p.name not in taken):
        args = {**recipes[number % len(recipes)]["args"], "seed": 1000 + number}
        paths.append(folder / galaxy.name.replace("cosmos", "ground"))
        options = [f"--{name}={value}" for name, value in args.items()]
        subprocess.run([sys.executable, DATA.parent / "make_ground.py", galaxy, paths[-1], *options], check=True)
    return paths


@cache
def own_power(side: int) -> np.ndarray:
    """Power of the noise of drizzled Hubble images in blank sky, of variance one (Leauthaud et al. 2007; GalSim)."""
    table = fits.getdata(HUBBLE / "acs_I_unrot_sci_20_cf.fits").astype(float)
    reach, whole = table.shape[0] // 2, side + table.shape[0]
    kernel = np.zeros((whole, whole))
    kernel[: table.shape[0], : table.shape[0]] = table / table.max()
    power = np.fft.rfft2(np.roll(kernel, (-reach, -reach), (0, 1))).real.clip(0)
    return power / np.fft.irfft2(power, s=(whole, whole))[0, 0]


def own_noise(rng: np.random.Generator, side: int, sigma: float) -> np.ndarray:
    """A draw of it."""
    power = own_power(side)
    whole = (len(power),) * 2
    white = np.fft.rfft2(rng.standard_normal(whole))
    return sigma * np.fft.irfft2(np.sqrt(power) * white, s=whole)[:side, :side]


def truth_noise(simulation: Simulation, number: int) -> np.ndarray:
    """Draws of the noise that a truth has, as it is the picture that Hubble took, on the grid of the truth."""
    return np.where(simulation.truth == 0, 0.0, _noise(simulation.path, number))


@cache
def _noise(path: Path, number: int) -> np.ndarray:
    """The same, where the truth is zero too; the same for all priors."""
    import galsim

    with fits.open(path) as file:
        sigma, fine = file[0].header["HSTSIG"], file["TRUTH"].header["PIXSCALE"]
        shape, scale = file["HST"].data.shape, file["HST"].header["PIXSCALE"]
        ny, nx = file["TRUTH"].data.shape
    rng, out = np.random.default_rng(0), []
    for _ in range(number):
        image = own_noise(rng, max(shape), sigma)[: shape[0], : shape[1]]
        noise = galsim.InterpolatedImage(galsim.ImageD(image, scale=scale), normalization="flux")
        out.append(noise.drawImage(nx=nx, ny=ny, scale=fine, method="auto").array)
    return np.array(out)


def isophote(picture: np.ndarray, simulation: Simulation) -> np.ndarray:
    """Where a picture, smoothed, stands above the level that the mask of the simulation was drawn at on its truth."""
    level = gaussian_filter(simulation.truth, 1.5)[simulation.inside].min()
    return gaussian_filter(picture, 1.5) >= level


def mask_bias(image: np.ndarray, simulation: Simulation) -> float:
    """Relative error of the flux inside the mask that is to be expected of an image were it the galaxy itself.

    The truth is a picture with noise, and the mask is drawn on it, so that the noise inside is positive on average. So
    masks are drawn in the same way on the image with other noise like that of the truth.
    """
    pictures = np.where(simulation.truth == 0, 0.0, image) + truth_noise(simulation, 20)
    masks = [isophote(picture, simulation) for picture in pictures]
    return float(np.mean([image[m].sum() / p[m].sum() - 1 for m, p in zip(masks, pictures, strict=True)]))
