"""`deconvolve` by chains: draws, errors and intervals of every prior, with what the header says of them."""

import numpy as np
import pytest
from astropy.io import fits

from invprob.config import Config
from invprob.errors import UsageError
from invprob.observation import PSF, Observation
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.deconvolve import deconvolve
from invprob.pipeline.run import replay, run
from invprob.results import Samples, Status
from tests.small import psf_image, write_image

SHAPE = (10, 11)
SIGMA = 0.5


def observation(seed=0, level=0.0):
    rng = np.random.default_rng(seed)
    y, x = np.indices(SHAPE)
    data = 30 * np.exp(-0.5 * ((y - 5) ** 2 + (x - 4) ** 2) / 2.0) + level
    return Observation.from_arrays(
        data + SIGMA * rng.standard_normal(SHAPE), np.full(SHAPE, SIGMA**2), psf=PSF(psf_image(fwhm=2.0, size=5))
    )


def settings(**fields):
    return Config.make(**{"prior": "tv", "method": "sample", "num_samples": 600, "dtype": "float32", **fields})


@pytest.fixture(scope="module")
def drawn():
    return deconvolve(observation(), settings(intervals=[68, 95]))


def test_mean_errors_and_intervals_come_from_the_draws(drawn):
    assert isinstance(drawn, Samples) and drawn.solver == "gibbs"
    assert drawn.draws.shape == (600, *SHAPE)
    np.testing.assert_allclose(drawn.image, drawn.draws.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(drawn.std, drawn.draws.std(0, ddof=1), rtol=1e-5)
    report = drawn.report
    assert report.flux_std == pytest.approx(drawn.draws.sum((1, 2)).std(ddof=1), rel=1e-3)
    assert report.flux == pytest.approx(drawn.image.sum(), rel=1e-5)
    assert set(drawn.intervals) == {"LOW68", "HIGH68", "LOW95", "HIGH95"}
    inside = (drawn.draws > drawn.intervals["LOW68"]) & (drawn.draws < drawn.intervals["HIGH68"])
    assert inside.mean() == pytest.approx(0.68, abs=0.002)
    assert np.all(drawn.intervals["LOW95"] < drawn.intervals["LOW68"])


def test_the_cards_say_how_well_the_chains_mix(drawn):
    report = drawn.report
    assert (report.sampler, report.num_chains, report.num_samples) == ("gibbs", 4, 600)
    assert 1 < report.max_rhat < 1.1 and report.min_ess_bulk > 100 and "min_ebfmi" not in report
    assert (report.convergence_check == "passed") == (drawn.status is Status.CONVERGED)


@pytest.mark.parametrize(
    ("fields", "sampler"),
    [
        ({"positive": True}, "hmc"),
        pytest.param({"prior": "starlet", "sky": "fit"}, "gibbs", marks=pytest.mark.slow),
        pytest.param({"prior": "gaussian", "sampler": "hmc"}, "hmc", marks=pytest.mark.slow),
    ],
)
def test_other_priors(fields, sampler):
    found = deconvolve(observation(level=3.0 if "sky" in fields else 0.0), settings(num_samples=80, **fields))
    report = found.report
    assert found.solver == sampler and found.std.shape == SHAPE and np.all(found.std > 0)
    assert 0.4 < found.chi2 / found.num_data < 1.5
    if "sky" in fields:
        assert report.sky == pytest.approx(3.0, abs=5 * report.sky_std + 0.5)
    if fields.get("positive"):
        assert found.draws.min() >= report.floor - 1e-4


def test_hyperparameters_are_sampled_with_the_image():
    """The noise that is said is twice what it is: the draws say so, and the fit is as good as it can be."""
    true = observation()
    louder = Observation.from_arrays(true.data, 4 * true.variance, psf=true.psf)
    asked = dict(prior="gaussian", strength="sample", noise_scale="sample", sky="fit")
    found = deconvolve(louder, settings(num_samples=600, num_warmup=60, **asked))
    report = found.report
    assert isinstance(found, Samples) and found.solver == "messenger"
    assert set(found.hyper) == {"log_amplitude", "log_scale", "log_slope", "log_noise"}
    assert all(draws.shape == (4, 150) for draws in found.hyper.values())
    noise = np.exp(found.hyper["log_noise"])
    assert report.noise_factor == pytest.approx(np.median(noise))
    assert report.noise_factor_p16 < 0.55 < report.noise_factor_p84 * 1.2
    assert report.prior_amplitude_p16 < report.prior_amplitude < report.prior_amplitude_p84
    assert found.draws.shape == (600, *SHAPE) and found.std.shape == SHAPE
    assert report.sky == pytest.approx(0.0, abs=5 * report.sky_std)
    posterior = found.to_arviz()["posterior"]
    assert set(posterior.data_vars) == {"image", "sky", *found.hyper}
    assert posterior["sky"].mean() == pytest.approx(report.sky, rel=1e-4)
    np.testing.assert_array_equal(posterior["image"].values.reshape(600, *SHAPE), found.draws)
    np.testing.assert_array_equal(posterior["log_noise"], found.hyper["log_noise"])


def test_the_strength_of_a_sparse_prior_is_sampled():
    """In units of the noise, with the noise at twice what it is, and with a sky beside the image."""
    true = observation()
    louder = Observation.from_arrays(true.data, 4 * true.variance, psf=true.psf)
    asked = dict(prior="tv", strength="sample", noise_scale="sample", sky="fit")
    found = deconvolve(louder, settings(num_samples=400, num_warmup=60, **asked))
    report = found.report
    assert isinstance(found, Samples) and found.solver == "strength"
    assert set(found.hyper) == {"log_strength", "log_noise"}
    strength = np.exp(found.hyper["log_strength"])
    assert report.prior_strength == pytest.approx(np.median(strength))
    assert report.prior_strength_p16 < report.prior_strength < report.prior_strength_p84
    assert report.strength_choice == "sampled with the image"
    assert report.noise_factor_p16 < 0.55 < 1.2 * report.noise_factor_p84
    assert found.draws.shape == (400, *SHAPE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strength": "sample", "prior": "lognormal"}, "prior 'lognormal' has none that can be sampled"),
        ({"strength": "sample", "prior": "tv", "positive": True}, "does not go with --positive"),
        (
            {"strength": "sample", "prior": "tv", "psf_error": 0.05},
            "psf_error does not go with prior 'tv'",
        ),
        ({"strength": "sample", "prior": "gaussian", "method": "map"}, "give --method sample"),
        ({"noise_scale": "sample", "prior": "gaussian"}, "goes with strength 'sample'"),
        ({"noise_scale": 0.0}, "number above zero"),
        (
            {"strength": "sample", "prior": "gaussian", "amplitude": 1.0, "scale": 0.1, "slope": 3.0},
            "give none by hand",
        ),
        ({"strength": "sample", "prior": "gaussian", "sampler": "hmc"}, "Hierarchy"),
    ],
)
def test_hyperparameters_that_cannot_be_sampled_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        deconvolve(observation(), settings(**fields))


def test_the_noise_may_be_scaled_by_hand():
    plain = settings(prior="gaussian", method="map", num_samples=0, amplitude=50.0, scale=0.1, slope=3.0)
    true = observation()
    louder = Observation.from_arrays(true.data, 4 * true.variance, psf=true.psf)
    scaled = deconvolve(true, plain.model_copy(update={"noise_scale": 2.0}))
    np.testing.assert_allclose(scaled.image, deconvolve(louder, plain).image, rtol=1e-5)
    assert np.abs(scaled.image - deconvolve(true, plain).image).max() > 0.1


def test_too_few_draws_are_written_with_their_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "image.fits")
    config = settings(num_samples=40, num_chains=2, intervals=[68], input={"image": "image.fits"})
    result, _ = run(config, "out.fits")
    assert result.status is Status.NOT_MIXED
    with fits.open("out.fits", checksum=True) as hdus:
        names = [hdu.name for hdu in hdus]
        assert {"SCI", "ERR", "DRAWS", "LOW68", "HIGH68"} <= set(names) and "NOERR" not in hdus[0].header
        assert hdus[0].header["STATUS"] == "NOT_MIXED" and "ESS" in hdus[0].header["CONVCHK"]
        assert hdus["DRAWS"].data.shape[0] == 40
    assert replay("out.fits").identical


def test_stamps_are_not_sampled_by_chains():
    with pytest.raises(UsageError, match="chains are run for one image at a time"):
        deconvolve_many([observation()], settings())
