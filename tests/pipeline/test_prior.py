"""`deconvolve` with every prior by name: strength, positivity, sky, units, parts, and what is written."""

from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from astropy.io import fits

from invprob.config import Config
from invprob.evidence.fission import strength_by_fission
from invprob.io.readback import read_images
from invprob.observation import Observation
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.deconvolve import deconvolve
from invprob.pipeline.run import replay, run
from invprob.recipes.registry import find_recipe
from invprob.results import Estimate, Status
from tests.small import HAND, SHAPE, SIGMA, names, observation, scene, write_image

FLUX = scene(sigma=0.0).sum()
SLOW = {"wavelet": {"rtol": 1e-3}}  # what a solver does not reach in the steps that it has by default


@cache
def found(prior: str, **fields) -> Estimate:
    """The result for the scene, computed once."""
    by_hand = HAND if prior in ("gaussian", "lognormal") else {"strength": 1.0, **SLOW.get(prior, {})}
    return deconvolve(observation(), Config.make(prior=prior, num_samples=0, **{**by_hand, **fields}))


STRENGTHS = ("starlet", "tv", "wavelet", "laplace", "points+starlet")
SLOWLY = ("wavelet", "points+starlet", "lognormal")
NAMES = [
    *(pytest.param(n, marks=pytest.mark.slow) if n in SLOWLY else n for n in STRENGTHS),
    pytest.param("lognormal", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name(name):
    """Each converges to an image that fits the data and holds their flux."""
    result = found(name)
    assert result.status is Status.CONVERGED and result.image.shape == SHAPE
    assert 0.6 < result.chi2 / result.num_data < 1.3
    assert result.image.sum() == pytest.approx(FLUX, rel=0.1)
    report = result.report
    assert report.prior_name == name and report.strength_choice == "set by hand" and "floor" not in report
    assert report.flux == pytest.approx(result.image.sum())
    if name == "lognormal":
        assert result.image.min() > 0 and "prior_log_mean" in report and "prior_strength" not in report
    else:
        assert report.prior_strength == 1.0
    assert result.std is None and result.no_std == "draw samples: --method sample"


@pytest.mark.parametrize("name", ["starlet", "tv", pytest.param("points+starlet", marks=pytest.mark.slow)])
def test_the_strength_of_these_needs_no_search(name):
    """By default it is the universal one, which is the same as that number by hand."""
    auto = found(name, strength="auto", max_steps=20)
    by_hand = found(name, strength=find_recipe(name).strength, max_steps=20)
    np.testing.assert_array_equal(auto.image, by_hand.image)
    assert auto.report.prior_strength == find_recipe(name).strength
    assert auto.report.strength_choice.startswith("universal")


@pytest.mark.parametrize("name", ["starlet", "tv"])
def test_a_larger_strength_is_smoother(name):
    weak, strong = found(name), found(name, strength=5.0)
    assert strong.chi2 > weak.chi2
    assert np.abs(np.diff(strong.image)).sum() < np.abs(np.diff(weak.image)).sum()


def test_strength_by_fission(monkeypatch):
    """Found among the strengths that are tried, whatever the prior has by default."""
    few = partial(strength_by_fission, strengths=(4.0, 1.0, 0.25, 0.06), num_splits=1)
    monkeypatch.setattr("invprob.recipes.strength.strength_by_fission", few)
    result = deconvolve(observation(), Config.make(prior="tv", strength="fission"))
    strength = result.report.prior_strength
    assert 0.1 < strength < 3.0 and strength not in (1.0, 0.25)
    assert result.report.strength_choice == "data fission" and result.status is Status.CONVERGED
    again = found("tv", strength=strength)
    np.testing.assert_allclose(result.image, again.image, rtol=0, atol=1e-6 * again.image.max())


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("starlet", 0.0), ("tv", 0.0), ("tv", 2.0), pytest.param("points+starlet", 0.0, marks=pytest.mark.slow),
        pytest.param("points+starlet", 2.0, marks=pytest.mark.slow),
        pytest.param("laplace", 0.0, marks=pytest.mark.slow), pytest.param("gaussian", 0.0, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_positive(name, floor):
    """No pixel below the floor, exactly, and with a floor of zero some that reach it."""
    result = found(name, positive=True, floor=floor)
    assert result.status is Status.CONVERGED
    lowest = -floor * SIGMA
    assert result.report.floor == pytest.approx(lowest)
    for image in (result.parts or {"": result.image}).values():
        assert image.min() >= lowest
    assert np.isfinite(result.image).all() and 0.6 < result.chi2 / result.num_data < 1.3
    if floor == 0.0:
        assert (result.image <= 1e-6).any() and found(name, max_steps=200).image.min() < -0.1


@pytest.mark.slow
def test_the_floor_is_in_the_noise_of_a_latent_pixel():
    """A data pixel has four of them, or four times their mean."""
    for unit, share in (("electron/s", 4), ("MJy/sr", 1)):
        config = Config.make(prior="tv", refine=2, positive=True, floor=1.0, max_steps=30)
        result = deconvolve(observation(unit=unit), config)
        assert result.report.floor == pytest.approx(-SIGMA / share)
        assert result.image.min() >= -SIGMA / share


@pytest.mark.slow
def test_surface_brightness():
    """The same numbers in a flux and in a surface-brightness unit are the same image, up to the unit."""
    config = Config.make(prior="starlet", refine=2)
    flux, mean = (deconvolve(observation(unit=unit), config) for unit in ("electron/s", "MJy/sr"))
    assert flux.status is mean.status is Status.CONVERGED
    np.testing.assert_allclose(mean.image, 4 * flux.image, rtol=0, atol=2e-3 * mean.image.max())
    np.testing.assert_allclose(mean.model, flux.model, rtol=0, atol=2e-3 * flux.model.max())


def test_a_sky_is_fitted():
    """Where most of the image is empty its level is found within the noise of a pixel, and is not in the image.

    A constant costs the starlet nothing: it may lie in the sky or in the image, so that their sum alone is exact.
    """
    level = 50.0
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    source = 60 * np.exp(-((y - 9) ** 2 + (x - 10) ** 2) / (2 * 1.3**2))
    data = source + level + np.random.default_rng(2).normal(0, SIGMA, SHAPE)
    obs = replace(observation(), data=data)
    result = deconvolve(obs, Config.make(prior="starlet", sky="fit"))
    assert result.status is Status.CONVERGED
    assert result.report.sky == pytest.approx(level, abs=SIGMA)
    np.testing.assert_allclose(result.model + result.residual * SIGMA, data, atol=1e-9)
    known = deconvolve(obs, Config.make(prior="starlet", sky=level))
    np.testing.assert_allclose(known.model, result.model, rtol=0, atol=0.1)
    assert known.image.sum() == pytest.approx(source.sum(), rel=0.05)


def test_parts_are_written(tmp_path):
    """Points and diffuse light add up to the image, and are in the file."""
    image = write_image(tmp_path / "image.fits")
    config = Config.make(prior="points+starlet", strength=1.0, positive=True, input={"image": str(image)})
    result, _ = run(config, tmp_path / "out.fits")
    assert result.status is Status.CONVERGED and set(result.parts) == {"diffuse", "points"}
    np.testing.assert_allclose(sum(result.parts.values()), result.image, rtol=1e-12, atol=1e-12)
    images = read_images(tmp_path / "out.fits")
    np.testing.assert_array_equal(images["DIFFUSE"], result.parts["diffuse"])
    np.testing.assert_array_equal(images["POINTS"], result.parts["points"])
    np.testing.assert_allclose(images["SCI"], images["DIFFUSE"] + images["POINTS"], rtol=1e-12, atol=1e-12)
    header = fits.getheader(tmp_path / "out.fits")
    assert header["PRIOR"] == "points+starlet" and header["PRIORSTR"] == 1.0 and header["FLOOR"] == -SIGMA
    assert fits.getheader(tmp_path / "out.fits", "POINTS")["BUNIT"] == "electron/s"


def test_without_parts_there_are_none():
    assert found("starlet").parts == {}


def test_a_replay_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "image.fits", bad=[(5, 6)])
    run(Config.make(prior="starlet", input={"image": "image.fits"}), "out.fits")
    header = fits.getheader("out.fits")
    assert header["NOERR"] == "draw samples: --method sample"
    assert "ERR" not in [hdu.name for hdu in fits.open("out.fits")] and header["PRIORSTR"] == 2.5
    again = replay("out.fits")
    assert again.identical, again


def stamps() -> list[Observation]:
    return [observation(0), observation(1, fwhm=2.9, mask=np.eye(*SHAPE, dtype=bool))]


def test_many_are_the_same_as_each_alone():
    config = Config.make(prior="starlet")
    for alone, one in zip((deconvolve(o, config) for o in stamps()), deconvolve_many(stamps(), config), strict=True):
        assert one.status is alone.status is Status.CONVERGED and one.solver == alone.solver
        assert np.abs(one.image - alone.image).max() < 3e-3 * np.abs(alone.image).max()
        assert names(one) == names(alone) and one.no_std == alone.no_std
        assert one.chi2 == pytest.approx(alone.chi2, rel=1e-2)


def test_another_image_of_the_shape_compiles_nothing():
    """Other data, noise, mask and PSF are traced values."""
    config = Config.make(prior="starlet")
    deconvolve(stamps()[0], config)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    deconvolve(stamps()[1], config)
    assert compiled == []
    deconvolve(stamps()[1], config.model_copy(update={"refine": 2, "max_steps": 1}))
    assert compiled  # what this test would notice
