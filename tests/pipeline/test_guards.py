"""What says that a result is not to be trusted: half of the data given the other half, and another prior."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from invprob.config import Config
from invprob.errors import UsageError
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.check import with_other_prior
from invprob.pipeline.deconvolve import deconvolve
from tests.small import observation, settings, write_image

DRAWN = {"method": "sample", "num_samples": 50, "fission_test": True}


def trailed():
    """The observation with a satellite's trail of one pixel's width, which no PSF makes."""
    obs = observation()
    data = obs.data.copy()
    data[np.arange(18), np.arange(18)] += 60.0
    return replace(obs, data=data)


def test_half_of_the_data_predicts_the_other_half():
    assert deconvolve(observation(), settings(**DRAWN)).report.heldout_p_value > 0.01


def test_a_trail_is_not_predicted():
    report = deconvolve(trailed(), settings(**DRAWN)).report
    assert report.heldout_p_value < 0.01 and report.heldout_p_chi2 < 0.01


def test_noise_that_is_too_small_is_noticed():
    obs = observation()  # half the noise; at 0.7 of it p is above 0.01 in one split of the data of two
    assert deconvolve(replace(obs, variance=obs.variance / 4), settings(**DRAWN)).report.heldout_p_value < 0.01


def test_the_difference_of_two_priors(tmp_path):
    image, out = write_image(tmp_path / "image.fits"), tmp_path / "out.fits"
    options = ["--prior", "starlet", "--compare-prior", "gaussian", "-o", str(out)]
    result = CliRunner().invoke(app, ["deconvolve", str(image), *options])
    assert result.exit_code == 0 and "differs from the image of prior gaussian by" in result.stderr, result.output
    with fits.open(out) as file:
        swap, header = file["COMPARED"].data, file[0].header
        one = file["SCI"].data
    config = Config.make(prior="starlet", compare_prior="gaussian")
    from invprob.io.read.read_fits import read_fits

    other = deconvolve(read_fits(image), with_other_prior(config))
    np.testing.assert_allclose(swap, (one - other.image) / other.std, rtol=1e-3, atol=1e-3)
    assert header["CMPPRIOR"] == "gaussian"
    assert header["CMPMAX"] == pytest.approx(np.abs(swap).max(), rel=1e-4)


def test_another_strength_of_the_same_scene_is_a_large_difference():
    """A prior that smears the sources is told from one that does not."""
    config = settings(compare_prior="gaussian", prior="tv", amplitude=None, scale=None, slope=None)
    smeared = deconvolve(observation(), config.model_copy(update={"strength": 300.0}))
    plain = deconvolve(observation(), config)
    assert smeared.report.compare_rms > 2 * plain.report.compare_rms


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fission_test": True}, "fission_test goes with method 'sample'"),
        ({"compare_prior": "gaussian"}, "is the prior of the run itself"),
        ({"compare_prior": "starlet"}, "or --compare-prior gaussian instead of 'starlet'"),
        ({"compare_prior": "nothing", "method": "sample"}, "no prior is called 'nothing'"),
        ({"compare_prior": "gaussian", "prior": "starlet", "sky": "fit"}, "subtract it with --sky LEVEL"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        deconvolve(observation(), Config.make(**fields))


def test_they_are_for_one_image_at_a_time():
    with pytest.raises(UsageError, match="one image at a time"):
        deconvolve_many(
            [observation()], settings(prior="starlet", compare_prior="gaussian", amplitude=None, scale=None, slope=None)
        )
