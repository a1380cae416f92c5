"""What is seen in an image: no rings around stars, no ghosts across the frame, the same in either precision."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from invprob.config import Config
from invprob.io.read.read_fits import read_fits
from invprob.observation import PSF, Observation
from invprob.pipeline.deconvolve import deconvolve
from invprob.results import Estimate, Status

SIDE, CENTRE, FWHM = 33, 16, 3.0
WIDE = PSF.gaussian(FWHM, size=15)
STAR = 500.0 / WIDE.image.max()  # flux of a star whose peak is 500 standard deviations of the noise


def around(y: float, x: float, shape: tuple[int, int], fwhm: float) -> np.ndarray:
    """The ring of 1 to 4 FWHM around a place."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    radius = np.hypot(rows - y, columns - x)
    return (radius >= fwhm) & (radius <= 4 * fwhm)


def star(flux: float, noise: float, seed: int = 1) -> Observation:
    """A star in the middle of a flat sky, in units of the standard deviation of the stated noise."""
    data = np.random.default_rng(seed).normal(0, noise, (SIDE, SIDE))
    half = WIDE.shape[0] // 2
    middle = slice(CENTRE - half, CENTRE + half + 1)
    data[middle, middle] += flux * WIDE.image
    return Observation.from_arrays(data, 1.0, psf=WIDE)


RING = around(CENTRE, CENTRE, (SIDE, SIDE), FWHM)


def negative(model: np.ndarray) -> float:
    """Negative flux, of that of the star."""
    return -np.minimum(model, 0).sum() / STAR


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_rings_around_a_star(seed):
    """Nowhere in the ring is the model far below the sky, and it lacks hardly more flux there than by the noise."""
    result = deconvolve(star(STAR, 1.0, seed), Config.make(prior="starlet"))
    empty = deconvolve(star(0.0, 1.0, seed), Config.make(prior="starlet"))
    assert result.status is empty.status is Status.CONVERGED
    ring, without = result.model[RING], negative(empty.model[RING])
    print(f"lowest {ring.min():.2f} sigma, negative {100 * negative(ring):.3f} %, by the noise {100 * without:.3f} %")
    assert ring.min() > -3 and negative(ring) < without + 5e-3
    assert result.model[CENTRE, CENTRE] == pytest.approx(500, rel=0.05)


def test_no_rings_without_noise():
    """What the prior alone makes of a star."""
    ring = deconvolve(star(STAR, 1e-3), Config.make(prior="starlet")).model[RING]
    print(f"lowest {ring.min():.3f} sigma, negative {100 * negative(ring):.3f} %")
    assert ring.min() > -1 and negative(ring) < 5e-3


def test_a_ring_would_be_noticed():
    """A linear filter without a prior rings where this criterion looks."""
    data = star(STAR, 1.0).data
    kernel = np.zeros((SIDE, SIDE))
    kernel[: WIDE.shape[0], : WIDE.shape[1]] = WIDE.image
    kernel = np.roll(kernel, (-(WIDE.shape[0] // 2), -(WIDE.shape[1] // 2)), (0, 1))
    sharp = np.abs(np.fft.fft2(kernel)) > 0.2
    cut = np.fft.ifft2(np.fft.fft2(data) * sharp).real[RING]
    assert cut.min() < -3 and negative(cut) > 1e-2


EDGE, NARROW = 24, PSF.gaussian(2.5, size=9)


def at_the_edge(present: bool) -> Observation:
    """A source of which the frame cuts off half, 1000 standard deviations bright, and noise."""
    y, x = np.mgrid[:EDGE, :EDGE]
    noise = np.random.default_rng(7).normal(0, 1, (EDGE, EDGE))
    source = 1000 * np.exp(-((y - 12) ** 2 + x**2) / (2 * 1.6**2))
    return Observation.from_arrays(present * source + noise, 1.0, psf=NARROW)


@cache
def edge(prior: str, present: bool = True, **fields) -> Estimate:
    """The result for `at_the_edge`."""
    return deconvolve(at_the_edge(present), Config.make(prior=prior, **fields))


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("prior", ["starlet", "tv"])
def test_no_ghost_of_a_source_at_the_edge(prior, positive):
    """The far side is what it is without the source; the near side is not."""
    there, absent = (edge(prior, present, positive=positive) for present in (True, False))
    assert there.status is absent.status is Status.CONVERGED
    away, peak = np.abs(there.image - absent.image), there.image.max()
    print(f"ghost {away[:, EDGE // 2 :].max() / peak:.2g} of the peak")
    assert peak > 900 and away[:, 0].max() > 0.5 * peak
    assert away[:, EDGE // 2 :].max() < 1e-3 * peak


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["starlet", "tv"])
def test_single_precision(prior):
    """Solved well, the two precisions agree far better than a thousandth of the peak."""
    double, single = (edge(prior, rtol=3e-5, max_steps=10000, dtype=name) for name in ("float64", "float32"))
    assert double.status is single.status is Status.CONVERGED and single.image.dtype == np.float32
    away = np.abs(single.image - double.image).max() / double.image.max()
    print(f"precisions differ by {away:.2g} of the peak")
    assert away < 1e-4


@pytest.mark.slow
def test_no_rings_around_real_stars(shared):
    """The brightest unsaturated stars of a survey image with its sky fitted."""
    path = shared / "field_decam_z_stars" / "decam_z_test4.fits"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    obs = read_fits(str(path))
    result = deconvolve(obs, Config.make(prior="starlet", sky="fit"))
    assert result.status is Status.CONVERGED
    assert result.report.sky == pytest.approx(3171, abs=10)
    sky, fwhm = np.median(result.model), obs.psf.fwhm
    sigma = np.sqrt(np.median(obs.variance[obs.valid]))
    data, model = np.where(obs.valid, obs.data - sky, 0), result.model - sky
    peaks = np.argwhere((data == maximum_filter(data, 15)) & (data > 40 * sigma))
    rows, columns = np.mgrid[: obs.shape[0], : obs.shape[1]]
    stars = [(y, x) for y, x in peaks if np.hypot(y - 191, x - 117) > 5]  # that one is a galaxy
    assert len(stars) == 2
    for y, x in stars:
        near = (np.hypot(rows - y, columns - x) < 3 * fwhm) & obs.valid
        ring = model[around(y, x, obs.shape, fwhm)]
        flux, lowest = data[near].sum(), ring.min() / sigma
        lacking = -np.minimum(ring, 0).sum() / flux
        print(f"({y}, {x}): peak {data[y, x] / sigma:.0f} sigma, lowest {lowest:.2f} sigma, {100 * lacking:.3f} %")
        assert lowest > -3, (y, x)
        if data[y, x] > 100 * sigma:  # beside the other the noise of the sky is more than that
            assert lacking < 5e-3, (y, x)
