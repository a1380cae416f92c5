"""Simulated galaxies for training: Sersic profiles, bulges with disks, spiral arms and knots, as a telescope sees them.

Images are periodic: light beyond an edge comes in at the opposite one, so that no galaxy is cut.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
from jaxtyping import Float

from invprob.errors import InvprobError, UsageError

BLANK_FLUX = 1e-3  # of a galaxy, below which a component is not drawn
PART = 500  # stamps that one process makes at once
ENDS = 5  # radii at which a profile can end
LARGEST = 512  # pixels of the canvas of one galaxy, before it is folded
NUDGES = (0.0, 1e-6, 3e-6, 1e-5)  # of the pixel scale: GalSim's obscured Airy disk is not a number at a few wavenumbers


@dataclass(frozen=True)
class Population:
    """Distributions from which galaxies are drawn; those of a deep survey in a red band.

    Parameters
    ----------
    pixel_scales
        Smallest and largest arcsec per pixel of a stamp, log-uniform between them: one prior for the grids on which
        images of one telescope are found.
    zeropoint
        AB magnitude of one unit of flux.
    brightest, faintest, slope
        Magnitudes between which galaxies are counted as ``10^(slope m)``. Real counts rise more steeply (0.3 to 0.35):
        a flatter slope shows more of the bright ones.
    size, size_slope, size_scatter
        Half-light radius in arcsec at magnitude 24, its change in dex per magnitude, its scatter in dex.
    flattening
        Scatter of each component of the shear of a galaxy.
    disk_ends, spheroid_ends
        Radii, in half-light radii, between which disks and spheroids end.
    early
        Part of the galaxies that are spheroids (Sersic index 2 to 5); the rest are disks, with or without a bulge.
    knots, arms
        Parts of the disks with star-forming knots, and with spiral arms.
    crowding
        Probabilities of 0, 1, 2, ... galaxies in a stamp.
    centred
        Whether the galaxies lie in the middle of a stamp, to a fraction of a pixel; else anywhere.
    lam_over_diam, obscuration, jitter, box
        Diffraction limit in arcsec, part of the diameter that is obscured, FWHM in arcsec of a Gaussian blur, and side
        in arcsec of the detector's pixel: together the target PSF. All zero: none.
    """

    pixel_scales: tuple[float, float] = (0.028, 0.052)
    zeropoint: float = 25.937
    brightest: float = 19.5
    faintest: float = 25.5
    slope: float = 0.2
    size: float = 0.27
    size_slope: float = -0.1
    size_scatter: float = 0.2
    flattening: float = 0.27
    disk_ends: tuple[float, float] = (6.0, 6.0)
    spheroid_ends: tuple[float, float] = (8.0, 8.0)
    early: float = 0.25
    knots: float = 0.5
    arms: float = 0.4
    crowding: tuple[float, ...] = (0.12, 0.68, 0.15, 0.05)
    centred: bool = False
    lam_over_diam: float = 0.0699
    obscuration: float = 0.33
    jitter: float = 0.055
    box: float = 0.05
    kinds: tuple[str, ...] = field(default=("bulge", "disk"))

    def __post_init__(self):
        if not 0 < self.pixel_scales[0] <= self.pixel_scales[1]:
            raise UsageError(f"pixel_scales are two rising numbers of arcsec above zero, not {self.pixel_scales}")
        if not self.brightest < self.faintest:
            raise UsageError(f"brightest is below faintest, not {self.brightest:g} and {self.faintest:g}")
        for name in ("disk_ends", "spheroid_ends"):
            if not 1.5 <= getattr(self, name)[0] <= getattr(self, name)[1]:
                raise UsageError(
                    f"{name} are two rising numbers of half-light radii from 1.5 on, not {getattr(self, name)}"
                )
        if not set(self.kinds) <= {"bulge", "disk"} or not self.kinds:
            raise UsageError(f"kinds are 'bulge', 'disk' or both, not {', '.join(self.kinds) or 'none'}")


class Simulator:
    """Draws stamps of a `Population`.

    Parameters
    ----------
    population
        What is drawn.
    seed
        Seed of everything random.
    """

    def __init__(self, population: Population, seed: int | tuple[int, ...]):
        try:
            import galsim
        except ImportError:
            raise UsageError("simulated galaxies need GalSim: pip install 'invprob[train]'") from None
        self.galsim: Any = galsim
        self.population = population
        self.random = np.random.default_rng(seed)
        self.gsparams = galsim.GSParams(folding_threshold=1e-2, maxk_threshold=3e-3, kvalue_accuracy=1e-4)
        self.psf = self._psf()

    def _psf(self) -> Any:
        p, galsim = self.population, self.galsim
        parts = []
        if p.lam_over_diam > 0:
            parts.append(galsim.Airy(lam_over_diam=p.lam_over_diam, obscuration=p.obscuration, gsparams=self.gsparams))
        if p.jitter > 0:
            parts.append(galsim.Gaussian(fwhm=p.jitter))
        if p.box > 0:
            parts.append(galsim.Pixel(p.box))
        return galsim.Convolve(parts, gsparams=self.gsparams) if parts else None

    def stamp(self, size: int) -> Float[np.ndarray, "size size"]:
        """One periodic stamp, flux per pixel."""
        number = self.random.choice(len(self.population.crowding), p=self.population.crowding)
        scale = float(np.exp(self.random.uniform(*np.log(self.population.pixel_scales))))
        out = np.zeros((size, size), np.float32)
        for _ in range(number):
            place = self.random.integers(0, size, 2)
            image = self._drawn(self._galaxy(scale), scale)
            if self.population.centred:
                place = np.array([size // 2 - n // 2 for n in image.shape])
            out += np.roll(_folded(image, size), place, (0, 1))
        return out

    def _galaxy(self, scale: float) -> Any:
        p, random = self.population, self.random
        magnitude = _counted(random, p.brightest, p.faintest, p.slope)
        flux = 10 ** (-0.4 * (magnitude - p.zeropoint))
        size = p.size * 10 ** (p.size_slope * (magnitude - 24) + p.size_scatter * random.standard_normal())
        size = float(np.clip(size, 0.05, 3.0))
        early = p.kinds == ("bulge",) or ("bulge" in p.kinds and random.random() < p.early)
        light = self._spheroid(size) if early else self._disk(size)
        g1, g2 = p.flattening * random.standard_normal(2)
        while np.hypot(g1, g2) > 0.7:
            g1, g2 = p.flattening * random.standard_normal(2)
        dx, dy = scale * (random.random(2) - 0.5)
        return light.withFlux(flux).shear(g1=float(g1), g2=float(g2)).shift(float(dx), float(dy))

    def _spheroid(self, size: float) -> Any:
        # GalSim makes its tables anew for each index and end: a grid of them is many times faster
        index = round(float(self.random.uniform(2.0, 5.0)) * 4) / 4
        return self._sersic(index, size, self.population.spheroid_ends)

    def _sersic(self, index: float, size: float, ends: tuple[float, float]) -> Any:
        end = ends[0]
        if ends[1] > end:
            end += (ends[1] - end) * int(self.random.integers(0, ENDS)) / (ENDS - 1)
        return self.galsim.Sersic(n=index, half_light_radius=size, trunc=end * size, gsparams=self.gsparams)

    def _disk(self, size: float) -> Any:
        p, random, galsim = self.population, self.random, self.galsim
        index = round(float(np.clip(random.lognormal(0.0, 0.3), 0.5, 2.0)) * 8) / 8
        disk = self._sersic(index, size, p.disk_ends)
        if random.random() < p.arms:
            disk = self._with_arms(disk, size)
        parts = [disk]
        if random.random() < p.knots:
            share = float(random.uniform(0.02, 0.4))
            number = int(random.integers(3, 30))
            rng = galsim.BaseDeviate(int(random.integers(1, 2**31)))
            clumps = galsim.RandomKnots(number, half_light_radius=0.9 * size, rng=rng, gsparams=self.gsparams)
            blur = galsim.Gaussian(half_light_radius=float(random.uniform(0.05, 0.25)) * max(size, 0.1))
            parts = [disk.withFlux(1 - share), galsim.Convolve(clumps, blur, gsparams=self.gsparams).withFlux(share)]
        if "bulge" in p.kinds and random.random() < 0.6:
            share = float(random.beta(1.2, 3.0))
            if share > BLANK_FLUX:
                parts = [
                    (1 - share) * galsim.Add(parts),
                    share * self._spheroid(size * float(random.uniform(0.2, 0.6))),
                ]
        return galsim.Add(parts, gsparams=self.gsparams)

    def _with_arms(self, disk: Any, size: float) -> Any:
        random = self.random
        scale = size / 12
        n = 96
        image = disk.drawImage(nx=n, ny=n, scale=scale, method="no_pixel").array.astype(float)
        axis = (np.arange(n) - (n - 1) / 2) * scale / size
        r, angle = np.hypot(axis[:, None], axis[None]), np.arctan2(axis[:, None], axis[None])
        number, pitch = int(random.integers(1, 5)), float(random.uniform(1.0, 5.0)) * random.choice([-1, 1])
        phase = number * angle + pitch * np.log(r + 0.1) + random.uniform(0, 2 * np.pi)
        contrast = random.uniform(0.2, 0.9) * (1 - np.exp(-((r / 0.6) ** 2)))
        image *= 1 + contrast * np.cos(phase)
        return self.galsim.InterpolatedImage(
            self.galsim.ImageD(image, scale=scale), x_interpolant="linear", gsparams=self.gsparams
        )

    def _drawn(self, galaxy: Any, scale: float) -> Float[np.ndarray, "n n"]:
        seen = galaxy if self.psf is None else self.galsim.Convolve(galaxy, self.psf, gsparams=self.gsparams)
        n = min(seen.getGoodImageSize(scale), LARGEST)
        for nudge in NUDGES:
            image = seen.drawImage(nx=n, ny=n, scale=scale * (1 + nudge), method="auto").array
            if np.isfinite(image).all():
                return image
        raise InvprobError(f"GalSim draws no finite image of {galaxy!r}")


def stamps(
    population: Population, number: int, size: int = 64, seed: int = 0, progress: Any = None
) -> Float[np.ndarray, "number size size"]:
    """Stamps of a population, flux per pixel, made on all cores.

    Parameters
    ----------
    population
        What is drawn.
    number, size
        Stamps, and pixels on a side.
    seed
        The same seed gives the same stamps, on any number of cores.
    progress
        Called with the stamps done and to do.
    """
    parts = [(population, min(PART, number - at), size, (seed, at)) for at in range(0, number, PART)]
    if len(parts) == 1:
        return _part(*parts[0])
    out, done = np.empty((number, size, size), np.float32), 0
    # not forked: the threads of JAX would be left behind
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for images in pool.map(_part, *zip(*parts, strict=True)):
            out[done : done + len(images)] = images
            done += len(images)
            if progress is not None:
                progress(done, number)
    return out


def _part(population: Population, number: int, size: int, seed: tuple[int, int]) -> Float[np.ndarray, "n size size"]:
    simulator = Simulator(population, seed)
    return np.array([simulator.stamp(size) for _ in range(number)])


def _counted(random: np.random.Generator, low: float, high: float, slope: float) -> float:
    """A magnitude with the density ``10^(slope m)``."""
    u = random.random()
    if slope == 0:
        return low + u * (high - low)
    a, b = 10 ** (slope * low), 10 ** (slope * high)
    return float(np.log10(a + u * (b - a)) / slope)


def _folded(image: np.ndarray, size: int) -> np.ndarray:
    """An image wrapped into a periodic one."""
    n = -(-image.shape[0] // size) * size
    wide = np.zeros((n, n), image.dtype)
    wide[: image.shape[0], : image.shape[1]] = image
    return wide.reshape(n // size, size, n // size, size).sum((0, 2))


__all__ = ["Population", "Simulator", "stamps"]
