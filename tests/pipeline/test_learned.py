"""Learned priors in the pipeline: by file and by name, in the data's units, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from invprob.config import Config
from invprob.covariance import dense_operator
from invprob.errors import InputError, UsageError
from invprob.io.readback import read_provenance
from invprob.observation import PSF, Frame
from invprob.optimize.find_map import find_map
from invprob.optimize.solvers import ConjugateGradient
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.deconvolve import deconvolve
from invprob.pipeline.problem import build_problem
from invprob.posterior import Posterior
from invprob.priors.denoiser import Spectrum, mean_over_modes, untrained
from invprob.priors.learned import Training
from invprob.priors.weights_file import save_weights, shipped_weights
from invprob.recipes.learned import half_width_enclosing
from invprob.recipes.model_card import calibration_of, load, model_card
from invprob.recipes.registry import RECIPES, list_recipes
from invprob.recipes.training_range import unlike_noise
from invprob.results import Samples
from tests.priors.test_learned import SMALL
from tests.small import SHAPE, fitted, observation, write_image

TRAINING = Training("small", (0.18, 0.22), 0.3, "electron/s", 25.0, card={"simulated": {"brightest": 15.0}})


def saved(folder: Path, training: Training) -> str:
    """An untrained prior in a file."""
    k = jnp.geomspace(0.005, 0.75, 60, dtype=jnp.float32)
    spectrum = Spectrum(k, jnp.log(1e4 * (1 + (k / 0.04) ** 2) ** -1.5))
    path = folder / "small.eqx"
    save_weights(untrained(jax.random.key(0), spectrum, 0.5, **SMALL), path, training, SMALL)
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("weights"), TRAINING)


def learned(weights, **fields) -> Config:
    return Config.make(**{"prior": weights, **fields})


def seen(**fields):
    """The observation, in the unit of the training set."""
    obs = observation(unit="electron/s")
    return replace(obs, frame=replace(obs.frame, **fields))


def test_the_best_image_is_that_of_the_gaussian_prior(weights):
    """Untrained, and within a fraction of the error bar: the border, of which nothing is known, comes last."""
    found = deconvolve(seen(), learned(weights, rtol=1e-3))
    assert found.solver == "plugplay" and found.status.ok and found.std is None
    with jax.enable_x64(True):
        problem, prior = fitted(seen(), learned(weights))
        post = prior.posterior
        gaussian = Posterior(post.likelihood, post.prior.gaussian)
        best = np.asarray(problem.footprint.apply(find_map(gaussian, ConjugateGradient(rtol=1e-12)).x))
        std = np.asarray(problem.footprint.apply(dense_std(gaussian)))
    away = np.asarray(found.image) - best
    assert np.sqrt(np.mean((away / std) ** 2)) < 0.1
    assert np.sqrt(np.mean(((away + 0.5) / std) ** 2)) > 0.1
    assert found.report.weights_sha256 == load(Path(weights))[1].hash and found.report.in_range
    assert found.report.target_fwhm == 0.3


def dense_std(post: Posterior):
    """Standard deviations of the pixels of a linear-Gaussian posterior."""
    operator = np.asarray(dense_operator(post.likelihood.operator))
    inverse = np.asarray(dense_operator(post.likelihood.noise.inv))
    prior = np.asarray(dense_operator(post.prior.covariance.operator))
    covariance = np.linalg.inv(operator.T @ inverse @ operator + np.linalg.inv(prior))
    return np.sqrt(np.diag(covariance)).reshape(post.structure.shape)


def test_the_unit_does_not_matter(weights):
    """The same data in a unit a hundred times smaller, of a zero point five magnitudes fainter."""
    config = learned(weights, max_steps=30)
    one = deconvolve(seen(zeropoint=25.0), config)
    obs = seen(zeropoint=30.0, unit="adu")
    obs = replace(obs, data=100 * obs.data, variance=1e4 * obs.variance)
    other = deconvolve(obs, config)
    np.testing.assert_allclose(np.asarray(other.image), 100 * np.asarray(one.image), rtol=1e-4, atol=1e-3)
    assert one.report.flux_scale == 1 and other.report.flux_scale == pytest.approx(0.01)


def test_the_border_is_narrow_and_the_psf_whole(weights):
    """No wrap-around and no lost light: the operator is that of the wide grid, dark beyond the narrow one."""
    obs = observation(fwhm=4.0, size=35, unit="electron/s")
    narrow, wide = build_problem(obs, learned(weights)), build_problem(obs, Config.make())
    assert all(n % 8 == 0 for n in narrow.frame.shape)
    assert np.prod(narrow.frame.shape) < 0.6 * np.prod(wide.frame.shape)
    x = np.random.default_rng(0).normal(size=narrow.frame.shape)
    (a, _), (b, _) = narrow.frame.border
    (c, _), (d, _) = wide.frame.border
    on_wide = np.zeros(wide.frame.shape)
    on_wide[c - a : c - a + x.shape[0], d - b : d - b + x.shape[1]] = x
    np.testing.assert_allclose(
        narrow.likelihood.operator.apply(jnp.asarray(x)),
        wide.likelihood.operator.apply(jnp.asarray(on_wide)),
        atol=1e-6,
    )


def test_the_light_within():
    kernel = np.zeros((9, 9))
    kernel[4, 4], kernel[4, 6], kernel[0, 0] = 0.8, 0.15, 0.05
    assert [half_width_enclosing(kernel, share) for share in (0.8, 0.9, 0.95, 1.0)] == [0, 2, 2, 4]


def test_draws_are_those_of_the_gaussian_prior(weights):
    """Their mean and spread, with an untrained network; the map of evidence is that of the training set."""
    found = deconvolve(seen(), learned(weights, method="sample", num_samples=400, num_chains=4))
    assert isinstance(found, Samples) and found.solver == "split" and "denoiser" in found.bias
    assert found.std is not None
    with jax.enable_x64(True):
        problem, prior = fitted(seen(), learned(weights))
        post = prior.posterior
        std = np.asarray(problem.footprint.apply(dense_std(Posterior(post.likelihood, post.prior.gaussian))))
    # 400 draws, and few of them independent where the border is near
    assert (found.std / std)[3:-3, 3:-3].mean() == pytest.approx(1, abs=0.06)
    assert found.report.prior_calibration == "not tested"
    assert found.contraction is not None and 0 < np.median(found.contraction) < 1
    denoiser = load(Path(weights))[0]
    variance = float(mean_over_modes(denoiser.power(problem.frame.shape), problem.frame.shape))
    np.testing.assert_allclose(found.contraction, np.clip(1 - np.asarray(found.std) ** 2 / variance, 0, 1), atol=1e-3)


@pytest.mark.slow
def test_the_guards_go_with_it(weights):
    """Half of the data predicts the other half, but for a trail that no PSF makes; and another prior differs."""
    config = learned(weights, method="sample", num_samples=60, num_chains=2, fission_test=True)
    config = config.model_copy(update={"compare_prior": "gaussian"})
    trail = seen().data.copy()
    trail[np.arange(18), np.arange(18)] += 60.0
    usual, wrong = (deconvolve(obs, config) for obs in (seen(), replace(seen(), data=trail)))
    assert usual.report.heldout_p_value > 0.01 > wrong.report.heldout_p_value
    assert usual.report.in_range and not wrong.report.in_range
    assert usual.comparison is not None and usual.comparison.shape == usual.image.shape
    assert usual.report.compare_prior == "gaussian" and usual.report.compare_max > 0


def test_by_the_command(weights, tmp_path):
    image = write_image(tmp_path / "image.fits")
    out = tmp_path / "out.fits"
    result = CliRunner().invoke(app, ["deconvolve", str(image), "--prior", weights, "-o", str(out), "--json"])
    assert result.exit_code in (0, 70), result.output
    summary = json.loads(result.stdout)
    assert summary["weights_sha256"] == load(Path(weights))[1].hash and summary["in_range"]
    with fits.open(out) as file:
        assert file["SCI"].data.shape == SHAPE and np.isfinite(file["SCI"].data).all()
        assert file[0].header["MODLCARD"] == model_card(Path(weights))["card sha256"]
    assert read_provenance(out)["config"]["prior"] == weights


def test_a_run_is_repeated_with_the_same_weights_alone(tmp_path):
    image, out = write_image(tmp_path / "image.fits"), tmp_path / "out.fits"
    weights = saved(tmp_path, TRAINING)
    options = ["deconvolve", str(image), "--prior", weights, "--max-steps", "3", "-o", str(out), "-q"]
    assert CliRunner().invoke(app, options).exit_code in (0, 70)
    assert CliRunner().invoke(app, ["replay", str(out)]).exit_code == 0
    Path(weights).unlink()
    saved(tmp_path, replace(TRAINING, largest=3.0))
    again = CliRunner().invoke(app, ["replay", str(out)])
    assert again.exit_code == 65 and "the run to be repeated had" in again.stderr and "unchanged file" in again.stderr
    Path(weights).unlink()
    gone = CliRunner().invoke(app, ["replay", str(out)])
    assert gone.exit_code == 65 and len(gone.stderr.strip().splitlines()) == 1 and weights in gone.stderr


SHIPPED = [name for name in RECIPES if shipped_weights(name).is_file()]
REFUSED = {
    "scale": ({}, {"pixel_scale": 0.05}, r"for latent pixels of 0.18 to 0.22 arcsec, not 0.05 .*too fine"),
    "refine": ({}, {"pixel_scale": 0.61}, r"not 0.61 .*give --refine 3"),
    "no scale": ({}, {"pixel_scale": None}, "give it with --pixel-scale"),
    "unit": ({}, {"unit": "adu"}, r"image \(adu\) is not known: give its AB magnitude with --zeropoint"),
    "brightness": ({}, {"unit": "MJy/sr"}, "not the surface brightness"),
    "strength": ({"strength": 2.0}, {}, "has no strength"),
    "positive": ({"positive": True}, {}, "leave --positive out"),
    "sky": ({"sky": "fit"}, {}, "subtract the sky with --sky"),
    "by hand": ({"amplitude": 1.0, "scale": 0.1, "slope": 3.0}, {}, "has no amplitude"),
    "vi": ({"method": "vi"}, {}, "has no density"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name, weights):
    fields, frame, words = REFUSED[name]
    with pytest.raises(UsageError, match=words):
        deconvolve(seen(**frame), learned(weights, **fields))


def test_a_file_that_is_not_there():
    with pytest.raises(UsageError, match=r"no such file.*invprob priors lists"):
        deconvolve(seen(), learned("nothing.eqx"))


def test_what_is_unlike_the_training_set_is_said(weights):
    """Light of magnitude 12 where the brightest galaxy had 15, and noise of a level never seen."""
    obs = seen()
    found = deconvolve(replace(obs, data=1e5 * obs.data, variance=1e10 * obs.variance), learned(weights, max_steps=3))
    assert not found.report.in_range
    said = " ".join(found.report.range_warnings)
    assert "the noise of a latent pixel" in said and "the brightest galaxies of the training set 15" in said


def test_a_psf_that_is_wider_than_any_of_the_training_is_said(weights):
    wide = replace(seen(), psf=PSF.gaussian(6.0, size=31))
    for psf, inside in ((seen().psf, True), (wide.psf, False)):
        training = replace(load(Path(weights))[1], widest=4.0)
        problem = build_problem(replace(seen(), psf=psf), learned(weights))
        assert (not any("latent pixels wide" in line for line in unlike_noise(problem, training, 1.0))) == inside


TABLE = {"side": 64, "share": [1.0, 0.1, 0.01], "value": [0.0, 0.1, 0.3]}


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory) -> str:
    """A prior that knows how asymmetric its training set was."""
    training = replace(TRAINING, card={**TRAINING.card, "asymmetry": TABLE})
    return saved(tmp_path_factory.mktemp("weights"), training)


def sources(*fluxes: float):
    """A column of sources, four pixels apart."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    data = sum(f * np.exp(-((y - 5 - 4 * i) ** 2 + (x - 10) ** 2) / 8) for i, f in enumerate(fluxes))
    return replace(seen(), data=data + np.random.default_rng(0).normal(0, 1, SHAPE))


def test_what_is_more_asymmetric_than_the_training_set_is_said(looked_at, tmp_path):
    """And written, in a batch as for one; the control is as bright and symmetric."""
    even, lopsided = sources(0, 100, 0), sources(100, 50, 50)
    config = learned(looked_at)
    plain, found = deconvolve(even, config), deconvolve(lopsided, config)
    assert plain.report.in_range and plain.report.asymmetry_share > 0.1 > plain.report.asymmetry
    assert not found.report.in_range and found.report.asymmetry_share < 0.05
    assert "range_warnings" not in plain.report
    assert "the brightest object is more asymmetric" in found.report.range_warnings[0]
    image = write_image(tmp_path / "image.fits", lopsided.data)
    result = CliRunner().invoke(app, ["deconvolve", str(image), "--prior", looked_at, "-o", str(tmp_path / "out.fits")])
    assert "warning: the brightest object is more asymmetric" in result.stderr
    with fits.open(tmp_path / "out.fits") as file:
        assert file[0].header["ASYMM"] == pytest.approx(found.report.asymmetry, rel=1e-3)
    for alone, of_many in zip((plain, found), deconvolve_many([even, lopsided], config), strict=True):
        assert of_many.report.asymmetry == pytest.approx(alone.report.asymmetry, rel=1e-3)


def test_an_image_that_does_not_fit_is_said(weights, tmp_path):
    """A cosmic ray, which no PSF makes, by its pixel, and a source too bright for the prior; the control has none."""
    obs = seen()
    data = obs.data.copy()
    data[4, 6] += 60.0
    struck = replace(obs, data=data)
    config = learned(weights)
    plain, found = deconvolve(obs, config), deconvolve(struck, config)
    assert plain.report.in_range and plain.report.fit_p_value > 0.05
    assert not found.report.in_range and found.report.fit_p_value < 0.01
    assert (found.report.peak_residual_x, found.report.peak_residual_y) == (7, 5)
    said = found.report.range_warnings[0]
    assert "does not fit the data" in said and "chi-square is" in said and "sigma at pixel (7, 5)" in said
    wide = deconvolve(sources(0, 300, 0), config).report.range_warnings[0]
    assert "as wide as the PSF is" in wide and "sigma at pixel (11, 10)" in wide
    assert not deconvolve_many([struck], config)[0].report.in_range
    image = write_image(tmp_path / "image.fits", data)
    result = CliRunner().invoke(app, ["deconvolve", str(image), "--prior", weights, "-o", str(tmp_path / "out.fits")])
    assert "warning: the image does not fit the data" in result.stderr
    assert "p of the residuals" in result.stderr


def test_a_dark_image_has_no_asymmetry(looked_at):
    dark = replace(seen(), data=np.full(SHAPE, -50.0))
    assert "asymmetry" not in deconvolve(dark, learned(looked_at, max_steps=3)).report


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_ones_can_be_read(name):
    path = shipped_weights(name)
    _, training = load(path)
    assert training.name == name and len(training.hash) == 64
    assert path.stat().st_size < 8e6
    assert name in [entry["name"] for entry in list_recipes()]


def test_a_zero_point_is_read_from_unit_and_header(tmp_path):
    from invprob.io.read.read_fits import read_fits

    path = write_image(tmp_path / "a.fits", unit="nJy")
    assert read_fits(path).frame.zeropoint == pytest.approx(31.4, abs=0.01)
    assert read_fits(path, zeropoint=27.0).frame.zeropoint == 27.0
    path = write_image(tmp_path / "b.fits", unit="adu")
    assert read_fits(path).frame.zeropoint is None
    with fits.open(path, mode="update") as file:
        file["SCI"].header["MAGZERO"] = 25.9
    assert read_fits(path).frame.zeropoint == 25.9
    assert Frame(SHAPE).zeropoint is None


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_of_a_shipped_prior(name):
    path = shipped_weights(name)
    card = model_card(path)
    assert card["sha256"] == load(path)[1].hash and card["range"]["zero point"] == 25.937
    for section in ("scores", "calibration", "failures"):
        assert card[section], section
    assert (
        card["calibration"]["status"] in ("passed", "failed") and calibration_of(path) == card["calibration"]["status"]
    )
    shown = CliRunner().invoke(app, ["priors", name])
    assert shown.exit_code == 0 and card["sha256"] in shown.stdout
    assert any(line.startswith("    PSF of 8 pixels, S/N 100: relative error 0.") for line in shown.stdout.splitlines())


def test_the_card_of_a_file(weights):
    shown = CliRunner().invoke(app, ["priors", weights, "--json"])
    assert json.loads(shown.stdout)["range"]["zero point"] == 25.0
    wrong = CliRunner().invoke(app, ["priors", "tv"])
    assert wrong.exit_code == 2 and "'tv' is no learned prior: give one" in wrong.stderr


def test_the_card_of_other_weights_is_refused(weights):
    beside = Path(weights).with_suffix(".json")
    beside.write_text(json.dumps({"sha256": "0" * 64}))
    try:
        with pytest.raises(InputError, match="card of other weights"):
            model_card(Path(weights))
    finally:
        beside.unlink()


def test_what_is_measured_changes_the_hash_of_the_card(weights):
    """And a file of that name that is no card of a prior, such as one of `invprob calibrate`, does not."""
    beside, hashes = Path(weights).with_suffix(".json"), [model_card(Path(weights))["card sha256"]]
    try:
        for text in (json.dumps({"sha256": load(Path(weights))[1].hash, "failures": ["all"]}), "{}", "[1]", "no JSON"):
            beside.write_text(text)
            hashes.append(model_card(Path(weights))["card sha256"])
    finally:
        beside.unlink()
    assert hashes[1] != hashes[0] and set(hashes[2:]) == {hashes[0]}
