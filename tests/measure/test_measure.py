"""Measurements against closed forms, their covariance against an exact one, and what is said of the undefined."""

import math

import astropy.units as u
import numpy as np
import pytest

import invprob
from invprob.errors import InputError, UsageError
from invprob.measure.measure import measure_image, measure_sources, sources_table
from invprob.measure.moments import circle

HALF = math.sqrt(2 * math.log(2))  # half-light radius of a Gaussian in sigmas: 1.1774


def gaussian(shape, centre, covariance, flux=1000.0) -> np.ndarray:
    """A Gaussian at the pixels' centres; the covariance is that of (x, y)."""
    y, x = np.indices(shape)
    d = np.stack([x - centre[1], y - centre[0]], -1)
    inverse = np.linalg.inv(covariance)
    density = np.exp(-np.einsum("yxi,ij,yxj->yx", d, inverse, d) / 2)
    return flux * density / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))


def ellipse(a: float, b: float, theta: float) -> np.ndarray:
    """Covariance with the axes a and b, a at an angle (degrees) from x to y."""
    c, s = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    turn = np.array([[c, -s], [s, c]])
    return turn @ np.diag([a**2, b**2]) @ turn.T


def same(image, count: int = 8) -> np.ndarray:
    """As many draws as are needed, all alike."""
    return np.broadcast_to(image, (count, *np.shape(image)))


@pytest.mark.parametrize("sigma", [1.5, 4.0])
@pytest.mark.parametrize("radius", [None, 26.0])
def test_a_round_gaussian(sigma, radius):
    image = gaussian((64, 70), (31.3, 33.8), sigma**2 * np.eye(2))
    found = measure_image(same(image), centre=(31.0, 34.0), radius=radius)
    for name, value in {"flux": 1000.0, "y": 31.3, "x": 33.8}.items():
        assert found[name] == (pytest.approx(value, rel=1e-6), pytest.approx(0, abs=1e-9))
    # the light of a pixel is spread evenly over it, which adds 1/12 to the variance
    assert found["r50"][0] == pytest.approx(HALF * math.sqrt(sigma**2 + 1 / 12), rel=2e-4 if sigma > 2 else 2e-3)
    assert found["e1"][0] == pytest.approx(0, abs=1e-5) and found["e2"][0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("theta", [0, 30, 45, 90, 120])
def test_the_ellipticity_of_a_sheared_gaussian(theta):
    """(a^2 - b^2) / (a^2 + b^2), whatever the aperture and where it is centred."""
    image = gaussian((72, 72), (36.2, 35.1), ellipse(5.0, 3.0, theta))
    e = (25 - 9) / (25 + 9) * np.array([np.cos(np.radians(2 * theta)), np.sin(np.radians(2 * theta))])
    for options in ({}, {"centre": (36, 35), "radius": 25.0}, {"centre": (34, 38), "radius": 10.0}):
        found = measure_image(same(image), **options)
        assert [found["e1"][0], found["e2"][0]] == pytest.approx(e, abs=1e-4), options
    # the other convention, (a - b) / (a + b), and moments cut off by the circle are something else
    assert np.hypot(*e) != pytest.approx((5 - 3) / (5 + 3), abs=0.1)


def test_apertures_have_exact_areas():
    ones = same(np.ones((20, 22)))
    found = measure_image(ones, centre=(9.3, 10.85), apertures=(0.4, 3.21, 8.0))
    for i, r in enumerate((0.4, 3.21, 8.0), 1):
        assert found[f"aperture_{i}"][0] == pytest.approx(math.pi * r**2, rel=1e-12)
    assert found["flux"][0] == 20 * 22
    assert found.notes == ("the 95 % interval needs 40 draws, there are 8: its ends are rough",)
    corner = np.zeros((6, 6))
    corner[2, 3] = 7.0
    quarter = measure_image(same(corner), centre=(2.5, 3.5), apertures=(0.8,))
    assert quarter["aperture_1"][0] == pytest.approx(7 * math.pi * 0.8**2 / 4, rel=1e-12)
    # a pixel's light is spread over it: half of it lies within pi r^2 = 1/2
    alone = measure_image(same(corner))
    assert alone["r50"][0] == pytest.approx(math.sqrt(0.5 / math.pi), rel=1e-5)


def test_the_edge_of_the_image_is_said():
    found = measure_image(same(np.ones((12, 12)), 40), centre=(-0.5, 5.0), radius=4.0, apertures=(3.0,))
    assert found["aperture_1"][0] == pytest.approx(math.pi * 9 / 2) and found["flux"][0] == pytest.approx(math.pi * 8)
    assert found.notes[:2] == (
        "aperture_1: 50 % of its area is outside of the image and counts as zero",
        "the measured circle: 50 % of its area is outside of the image and counts as zero",
    )


def test_the_first_radius_that_holds_half():
    """Noise makes the curve of growth fall again; the smallest radius counts."""
    image = np.zeros((31, 31))
    ring = circle(image.shape, (15, 15), 9) - circle(image.shape, (15, 15), 6)
    image += circle(image.shape, (15, 15), 4) / (math.pi * 16) - ring / ring.sum()
    outer = circle(image.shape, (15, 15), 14) - circle(image.shape, (15, 15), 11)
    found = measure_image(same(image + outer / outer.sum()))
    assert found["flux"][0] == pytest.approx(1)
    assert found["r50"][0] == pytest.approx(4 / math.sqrt(2), rel=0.01)


def correlated(rng, count: int, size: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a bright source plus a field whose neighbouring pixels are correlated, and the exact covariance."""
    mean = gaussian((size, size), (12.3, 11.8), ellipse(3.0, 2.2, 20), flux=5000.0)
    position = np.indices((size, size)).reshape(2, -1)
    distance2 = ((position[:, :, None] - position[:, None]) ** 2).sum(axis=0)
    brightness = 0.2 + mean.ravel() / mean.max()
    covariance = np.exp(-distance2 / (2 * 1.5**2)) * np.outer(brightness, brightness)
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(size**2))
    return mean + (rng.normal(size=(count, size**2)) @ root.T).reshape(count, size, size), covariance


def weights(size: int, centre, radius: float, fine: int = 151) -> np.ndarray:
    """Area fractions by counting points."""
    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    y = (np.arange(size)[:, None] + offsets).ravel() - centre[0]
    x = (np.arange(size)[:, None] + offsets).ravel() - centre[1]
    inside = (y[:, None] ** 2 + x**2) < radius**2
    return inside.reshape(size, fine, size, fine).mean(axis=(1, 3)).ravel()


def test_the_joint_errors_are_those_of_the_field():
    """Fluxes and centroid (linear for a bright source) against J C J^T, which no diagonal C gives."""
    draws, covariance = correlated(np.random.default_rng(5), 2500)
    centre, radii, size = (12.0, 12.0), (2.0, 4.0, 7.0), draws.shape[1]
    found = measure_image(draws, centre=centre, apertures=radii)
    mean = draws.mean(axis=0).ravel()
    y, x = (axis.ravel() for axis in np.indices((size, size)))
    rows = [np.ones(size**2), *(weights(size, centre, r) for r in radii)]
    rows += [(axis - axis @ mean / mean.sum()) / mean.sum() for axis in (x, y)]
    jacobian = np.array(rows)
    quantities = ["flux", "aperture_1", "aperture_2", "aperture_3", "x", "y"]
    index = [found.names.index(name) for name in quantities]
    measured = found.covariance[np.ix_(index, index)]

    def away(exact: np.ndarray) -> np.ndarray:
        variance = np.diag(exact)
        return (measured - exact) / np.sqrt((exact**2 + np.outer(variance, variance)) / (len(draws) - 1))

    assert np.abs(away(jacobian @ covariance @ jacobian.T)).max() < 4.5
    independent = jacobian @ np.diag(np.diag(covariance)) @ jacobian.T
    assert (np.abs(np.diag(away(independent))) > 20).all()
    assert found.values[index[1:4]] == pytest.approx(jacobian[1:4] @ mean, rel=1e-3)


def test_a_shape_has_an_error():
    """The scatter of the ellipticity of draws that are themselves ellipses, and its correlation with the flux."""
    rng = np.random.default_rng(2)
    axes = rng.normal([4.0, 3.0], [0.3, 0.2], (60, 2))
    draws = np.array([gaussian((56, 56), (27.4, 28.2), ellipse(a, b, 0), 100 * a) for a, b in axes])
    found = measure_image(draws)
    e = (axes[:, 0] ** 2 - axes[:, 1] ** 2) / (axes**2).sum(axis=1)
    assert found["e1"] == (pytest.approx(e.mean(), abs=1e-4), pytest.approx(e.std(ddof=1), rel=1e-3))
    assert found["flux"][1] == pytest.approx(100 * axes[:, 0].std(ddof=1), rel=1e-3)
    i, j = found.names.index("e1"), found.names.index("flux")
    correlation = found.covariance[i, j] / (found.std[i] * found.std[j])
    assert correlation == pytest.approx(np.corrcoef(e, axes[:, 0])[0, 1], abs=1e-3)


def test_intervals_are_central_quantiles():
    flux = np.random.default_rng(3).exponential(size=200)
    found = measure_image(flux[:, None, None] * np.ones((4, 4)) / 16, intervals=(50, 90.5))
    assert list(found.intervals) == [50, 90.5]
    np.testing.assert_allclose(found.intervals[50][:, 0], np.quantile(flux, [0.25, 0.75]))
    np.testing.assert_allclose(found.intervals[90.5][:, 0], np.quantile(flux, [0.0475, 0.9525]))
    assert found["flux"] == (pytest.approx(flux.mean()), pytest.approx(flux.std(ddof=1)))
    assert {"lower_50", "upper_90.5"} < set(found.to_table().colnames)


def some_dark(dark: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a source that moves, `dark` of them without positive flux; and the positions in x."""
    x = np.random.default_rng(4).normal(10, 0.5, count)
    draws = np.array([gaussian((21, 21), (10.0, at), 4 * np.eye(2)) for at in x])
    draws[:dark] *= -1
    return draws, x


def test_a_quantity_that_is_sometimes_undefined():
    draws, x = some_dark(3)
    found = measure_image(draws, centre=(10, 10))
    assert found["x"] == (pytest.approx(x[3:].mean(), abs=1e-3), pytest.approx(x[3:].std(ddof=1), rel=1e-3))
    assert found["flux"][0] == pytest.approx(1000 * 54 / 60, rel=1e-3)  # all draws
    assert found["flux"][1] == pytest.approx(np.std([-1000] * 3 + [1000] * 57, ddof=1), rel=1e-3)
    assert found.notes[0] == (
        "x, y, r50: undefined in 3 of 60 draws (the flux is not positive or its centroid is not in the image), which "
        "were left out"
    )
    assert found.notes[1].startswith("e1, e2: undefined in 3 of 60 draws")
    assert np.linalg.eigvalsh(found.covariance).min() > -1e-9 * np.linalg.eigvalsh(found.covariance).max()


def test_a_quantity_that_is_often_undefined():
    found = measure_image(some_dark(4)[0], centre=(10, 10), apertures=(5.0,))
    assert np.isfinite([*found["flux"], *found["aperture_1"]]).all()
    for name in ("x", "y", "r50", "e1", "e2"):
        assert np.isnan(found[name]).all() and np.isnan(found.intervals[68][:, found.names.index(name)]).all()
    assert "undefined in 4 of 60 draws" in found.notes[0] and found.notes[0].endswith("so that there is no value")


def test_no_light_at_all():
    draws = -np.ones((40, 9, 9))
    found = measure_image(draws)
    assert found["flux"] == (-81, 0) and np.isnan(found["x"][0]) and np.isnan(found.centre).all()
    with pytest.raises(UsageError, match="no positive flux whose centroid could be the centre: give the centre"):
        measure_image(draws, apertures=(2.0,))


def test_moments_that_do_not_settle():
    """Of one bright pixel the window shrinks to nothing: no shape, but all the rest."""
    image = np.zeros((15, 15))
    image[7, 8] = 3.0
    found = measure_image(same(image, 40))
    assert (found["x"][0], found["y"][0]) == (8, 7) and found["r50"][0] > 0
    assert np.isnan(found["e1"][0]) and "the adaptive moments do not converge" in found.notes[0]
    # a flat field has no width: the window grows beyond the circle
    assert np.isnan(measure_image(same(np.ones((60, 60)), 40), centre=(30, 30), radius=6.0)["e2"][0])


@pytest.mark.parametrize(
    ("unit", "pixel_scale", "factor", "flux_unit", "noted"),
    [
        ("electron/s", 0.1, 1.0, "electron/s", False),
        ("", None, 1.0, "", False),
        ("ct / pix", 0.1, 1.0, "ct", False),
        ("MJy/sr", 0.1, (0.1 / 206264.806247) ** 2, "MJy", False),
        ("nJy/arcsec2", 0.5, 0.25, "nJy", False),
        ("Jy/deg2", 1.0, 1 / 3600**2, "Jy", False),
        ("MJy/sr", None, 1.0, "MJy pix / sr", True),
        ("Jy/beam", 0.1, 1.0, "Jy pix / beam", True),
        ("foo/sq.arcsec", 0.1, 1.0, "(foo/sq.arcsec) pix", True),
    ],
)
def test_units(unit, pixel_scale, factor, flux_unit, noted):
    """Surface brightness is integrated over the pixel's area where that is known, and said where it is not."""
    image = gaussian((30, 30), (15, 15), 4 * np.eye(2))
    found = measure_image(same(image, 40), apertures=(6.0,), unit=unit, pixel_scale=pixel_scale)
    plain = measure_image(same(image, 40), apertures=(6.0,))
    for name in ("flux", "aperture_1"):
        assert found[name][0] == pytest.approx(factor * plain[name][0], rel=1e-9)
        assert found.units[found.names.index(name)] == flux_unit
    scale = pixel_scale or 1.0
    assert found["r50"][0] == pytest.approx(scale * plain["r50"][0])
    assert found.units[found.names.index("r50")] == ("arcsec" if pixel_scale else "pix")
    assert found["x"] == plain["x"] and any("not integrals" in note for note in found.notes) is noted
    if unit == "nJy/arcsec2":
        column: u.Unit = sources_table([found])["flux"].unit
        assert column == u.nJy


@pytest.mark.parametrize(
    ("shape", "options", "error", "fragment"),
    [
        ((7, 9, 9), {}, InputError, "7 draws are too few for an error: at least 8 are needed"),
        ((9, 9), {}, UsageError, r"\(9, 9\); \(draw, y, x\) is needed"),
        ((9, 9, 9), {"radius": 0.0}, UsageError, "radius = 0.0: a number above 0"),
        ((9, 9, 9), {"apertures": (1.0, math.nan)}, UsageError, "aperture = nan"),
        ((9, 9, 9), {"pixel_scale": -1.0}, UsageError, "pixel_scale = -1.0"),
        ((9, 9, 9), {"intervals": (68, 100)}, UsageError, "an interval of 100 %"),
        ((9, 9, 9), {"centre": (3.0, 8.6)}, UsageError, r"\(3.00, 8.60\) is not in the image of 9 x 9 pixels"),
        ((9, 9, 9), {"centre": (math.nan, 3.0)}, UsageError, "not in the image"),
        ((9, 9, 9), {"centre": 4.0}, UsageError, "has to be two numbers"),
    ],
)
def test_bad_arguments(shape, options, error, fragment):
    with pytest.raises(error, match=fragment):
        measure_image(np.ones(shape), **options)


def test_draws_that_are_not_finite():
    draws = np.ones((9, 5, 5))
    draws[3, 2, 2] = np.nan
    with pytest.raises(InputError, match="1 values of the draws are not finite"):
        measure_image(draws)


def test_sources_are_measured_as_if_each_were_alone():
    rng = np.random.default_rng(6)
    image = gaussian((50, 60), (14, 12), 6 * np.eye(2)) + gaussian((50, 60), (33, 44), ellipse(3, 2, 70), 400.0)
    draws = (image + rng.normal(0, 0.3, (45, 50, 60))).astype(np.float32)
    centres = [(14, 12), (33.4, 43.8), (60, 4)]
    found = measure_sources(draws, centres, radius=9.0, apertures=(4.0,))
    for centre, one in zip(centres[:2], found, strict=False):
        alone = measure_image(draws, centre=centre, radius=9.0, apertures=(4.0,))
        np.testing.assert_array_equal(one.values, alone.values)
        np.testing.assert_array_equal(one.covariance, alone.covariance)
    assert (found[1]["y"][0], found[1]["x"][0]) == (pytest.approx(33, abs=0.2), pytest.approx(44, abs=0.2))
    assert np.isnan(found[2].values).all() and np.isnan(found[2].covariance).all()
    assert "(60.00, 4.00) is not in the image: nothing was measured" in found[2].notes[-1]
    table = sources_table(found, ["a", "b", "c"])
    assert list(table["id"]) == ["a", "b", "c"] and list(table["centre_y"]) == [14, 33.4, 60]
    assert table["aperture_1_std"][1] == found[1]["aperture_1"][1]
    assert table["r50_upper_95"][0] == found[0].intervals[95][1, found[0].names.index("r50")]
    assert np.array(table.meta["covariance"]).shape == (3, 7, 7) and "nothing was measured" in table["notes"][2]
    with pytest.raises(UsageError, match="several sources need the radius"):
        measure_sources(draws, centres, radius=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one position"):
        sources_table(measure_sources(draws, [], radius=3.0))


def test_the_table_of_one_source():
    found = measure_image(some_dark(0)[0], apertures=(3.0,), pixel_scale=0.2, unit="ct")
    table = found.to_table()
    assert table.colnames == [
        "name", "value", "std", "lower_68", "upper_68", "lower_95", "upper_95", "unit", "description",
    ]  # fmt: skip
    assert list(table["name"]) == ["flux", "aperture_1", "x", "y", "r50", "e1", "e2"]
    assert list(table["unit"]) == ["ct", "ct", "pix", "pix", "arcsec", "", ""]
    assert table["description"][1] == "flux within 3 pixels (0.6 arcsec) of the centre"
    np.testing.assert_array_equal(table["std"], found.std)
    np.testing.assert_array_equal(table.meta["covariance"], found.covariance)
    assert table.meta["num_draws"] == 60 and table.meta["apertures"] == [3.0] and table.meta["notes"] == []


def test_the_names_beside_the_module():
    """The functions are of the first level, and the module of that name stays one."""
    import invprob.measure.measure as module

    assert invprob.measure_image is module.measure_image and invprob.measure.measure is module
