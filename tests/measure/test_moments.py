"""How asymmetric an object is, against what two points give, and which object of an image is looked at."""

import numpy as np
import pytest
from scipy import ndimage

from invprob.measure.moments import asymmetry, main_object


def blob(shape, y, x, sigma=2.0, flux=1.0) -> np.ndarray:
    at = np.indices(shape)
    return flux * np.exp(-((at[0] - y) ** 2 + (at[1] - x) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


@pytest.mark.parametrize(("y", "x"), [(20, 20), (20.5, 19), (3.0, 21.5)])
def test_what_is_symmetric(y, x):
    """About any middle or edge of a pixel, near a border as well."""
    light = blob((41, 40), y, x, 1.0)
    assert asymmetry(light) < 1e-3


def test_a_centre_between_pixels_costs_little():
    assert asymmetry(blob((41, 41), 20.25, 20.25)) < 0.06


@pytest.mark.parametrize(("first", "second"), [(3.0, 1.0), (3.0, 2.5), (1.0, 1.0)])
def test_two_points(first, second):
    """About the brighter one the other does not meet itself; about the middle only what they differ by does not."""
    light = np.zeros((31, 31))
    light[15, 15], light[15, 19] = first, second
    expected = min(second, first - second) / (first + second)
    # points 4 apart, so that the way downhill from the centroid is level: a blur makes it one
    soft = ndimage.gaussian_filter(light, 1.2, truncate=8)
    found = asymmetry(soft)
    assert found == pytest.approx(expected, abs=0.05)


def test_it_does_not_depend_on_flux_orientation_or_place():
    light = blob((41, 41), 20, 20) + blob((41, 41), 24, 17, 1.5, 0.4)
    found = asymmetry(light)
    assert found > 0.1
    for other in (7 * light, light.T, light[::-1], np.roll(light, 3, 0)):
        assert asymmetry(other) == pytest.approx(found, abs=1e-6)


def test_the_brightest_object_alone():
    """In the middle of its window, without the neighbour, which does not touch it."""
    shape = (60, 70)
    light = blob(shape, 22, 31, flux=10.0) + blob(shape, 45, 40, flux=3.0)
    seen = main_object(light, 48)
    assert seen is not None and seen.shape == (48, 48)
    assert np.unravel_index(int(seen.argmax()), seen.shape) == (24, 24)
    assert 6 < seen.sum() < 10
    assert asymmetry(seen) < 0.02
    assert asymmetry(light) > 0.1


def test_what_touches_belongs_to_it():
    shape = (60, 60)
    light = blob(shape, 30, 30, flux=10.0) + blob(shape, 35, 30, flux=5.0)
    seen = main_object(light, 48)
    assert seen is not None and asymmetry(seen) > 0.1


def test_at_an_edge_of_the_image():
    seen = main_object(blob((30, 30), 1, 28, flux=10.0), 32)
    assert seen is not None and seen.shape == (32, 32) and seen[16, 16] == seen.max()


@pytest.mark.parametrize("light", [np.zeros((9, 9)), -np.ones((9, 9)), np.full((9, 9), np.nan)])
def test_nothing_shines(light):
    assert main_object(light, 8) is None
