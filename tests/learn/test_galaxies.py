"""Simulated galaxies: what a population says is what its stamps show."""

from dataclasses import replace

import numpy as np
import pytest

from invprob.learn.galaxies import Population, stamps

pytest.importorskip("galsim", reason="simulated galaxies need GalSim (the extra train)")


def test_no_stamp_is_not_a_number():
    """GalSim draws one of these as NaN, the obscured Airy disk being so at a wavenumber of its pixel scale."""
    images = stamps(Population(), 67, 64, 3)
    assert np.isfinite(images).all() and images[66].sum() > 1


def test_galaxies_in_the_middle():
    one = {"crowding": (0.0, 1.0), "faintest": 22.0}
    middle, anywhere = (stamps(Population(**one, centred=c), 6, 32, 0) for c in (True, False))
    for image in middle:
        y, x = np.indices(image.shape)
        assert abs((y * image).sum() / image.sum() - 16) < 3 and abs((x * image).sum() / image.sum() - 16) < 3
    assert max(np.hypot(*(np.array(np.unravel_index(a.argmax(), a.shape)) - 16)) for a in anywhere) > 6


def test_galaxies_end_where_the_population_says():
    disk = Population(
        pixel_scales=(0.05, 0.05), crowding=(0.0, 1.0), faintest=22.0, centred=True, kinds=("disk",), flattening=0.0,
        arms=0.0, knots=0.0, size=0.2, size_slope=0.0, size_scatter=0.0, lam_over_diam=0.0, jitter=0.0, box=0.0,
    )  # fmt: skip
    y, x = np.indices((64, 64)) - 32
    for end, beyond in ((2.5, False), (5.0, True)):
        image = stamps(replace(disk, disk_ends=(end, end)), 1, 64, 0)[0]
        outside = image[np.hypot(y, x) > 2.5 * 4 + 2].sum() / image.sum()
        assert outside > 0.02 if beyond else abs(outside) < 1e-3
