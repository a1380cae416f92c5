"""`invprob calibrate`: a card of a configuration, its controls, and the header that refers to it."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.calibration import Calibration
from invprob.cli import app
from invprob.operators import Crop
from invprob.pipeline.calibrate import CORRELATED, Footprint, autocorrelation
from invprob.pipeline.run import replay
from tests.pipeline.test_learned import TRAINING, saved
from tests.small import HAND_TOML, write_image

CONFIG = HAND_TOML + '[input]\nimage = "image.fits"\n'
CASES = ["--cases", "100", "--draws", "39"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "image.fits", bad=[(5, 6)])
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="module")
def good_card(tmp_path_factory):
    """The card of an experiment in which nothing is wrong, and its picture."""
    folder = tmp_path_factory.mktemp("card")
    write_image(folder / "image.fits", bad=[(5, 6)])
    (folder / "c.toml").write_text(CONFIG)
    with contextlib.chdir(folder):
        done = calibrate("-o", "card.json", "--plot", "card.png", "--quiet")
    assert done.exit_code == 0, done.stderr
    return folder / "card.json"


def calibrate(*options):
    return CliRunner().invoke(app, ["calibrate", "c.toml", *CASES, *options])


def test_a_card_and_the_header_that_refers_to_it(place, good_card):
    card = Calibration.from_json(good_card.read_text())
    assert card.passed and card.num_cases == 100 and card.settings["prior"] == "gaussian"
    assert good_card.with_name("card.png").stat().st_size > 10_000
    shutil.copy(good_card, place)
    done = CliRunner().invoke(
        app, ["deconvolve", "--config", "c.toml", "--calibration", "card.json", "-o", "out.fits", "-q"]
    )
    assert done.exit_code == 0, done.stderr
    header = fits.getheader("out.fits")
    assert header["CALHASH"] == card.sha256 and header["CALPASS"] is True and header["CALCASES"] == 100
    assert replay("out.fits").identical


@pytest.mark.parametrize(("control", "caught"), [("noise", "residual chi-square"), ("psf", "residual along PSF width")])
def test_what_is_wrong_on_purpose_is_caught(place, control, caught):
    done = calibrate("--control", control, "-o", "card.json")
    assert done.exit_code == 70 and caught in done.stderr.splitlines()[-1]
    card = Calibration.from_json((place / "card.json").read_text())
    assert caught in card.caught_by and card.settings["control"] == control


@pytest.mark.slow
def test_a_sparse_prior(place):
    (place / "c.toml").write_text('prior = "tv"\ndtype = "float32"\n[input]\nimage = "image.fits"\n')
    done = calibrate("-o", "card.json", "--quiet")
    assert done.exit_code == 0, done.stderr


def test_draws_that_are_alike_are_noticed():
    """Images of a first-order process, of the autocorrelation time (1 + r) / (1 - r); independent ones have one."""

    def chain(r):
        def draws(post, key, number):
            def step(x, key):
                x = r * x + np.sqrt(1 - r**2) * jax.random.normal(key, (8, 8))
                return x, x

            return jax.lax.scan(step, jnp.zeros((8, 8)), jax.random.split(key, number))[1]

        return draws

    whole = Footprint(Crop((8, 8), (slice(0, 8), slice(0, 8))), False)
    times = {r: autocorrelation(chain(r), None, whole, jax.random.key(0))[0] for r in (0.0, 0.5, 0.9)}
    assert times[0.0] < CORRELATED < times[0.5] < 6 and 10 < times[0.9] < 40


@pytest.mark.slow
def test_a_chain_that_is_too_short_says_so(place, tmp_path):
    """A learned prior where the border has no data: the draws of a few sweeps are alike, and the fix is told."""
    weights = saved(tmp_path, TRAINING)
    (place / "c.toml").write_text(f'prior = "{weights}"\n[input]\nimage = "image.fits"\n')
    few = ["calibrate", "c.toml", "--cases", "10", "--draws", "19"]
    done = CliRunner().invoke(app, [*few, "--thin", "2", "-o", "card.json"])
    assert "draws of a chain that are 2 steps apart are alike" in done.stderr and "give --thin" in done.stderr
    card = Calibration.from_json((place / "card.json").read_text())
    assert card.settings["autocorrelation time in draws"] > CORRELATED


def refused(code, *options):
    done = calibrate(*options)
    lines = done.stderr.splitlines()
    assert done.exit_code == code and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_what_cannot_be_calibrated_says_so(place):
    assert "there are none, noise, psf" in refused(2, "--control", "nope")
    (place / "card.json").write_text("{}")
    assert "card.json exists" in refused(73, "-o", "card.json")
    (place / "c.toml").write_text('prior = "starlet"\npositive = true\n[input]\nimage = "image.fits"\n')
    assert "without --positive" in refused(2)
    (place / "c.toml").write_text("")
    assert "no image given" in refused(2)


def test_a_card_that_does_not_fit_is_refused(place, good_card):
    shutil.copy(good_card, place)
    run = ["deconvolve", "--config", "c.toml", "-o", "out.fits", "-q"]
    done = CliRunner().invoke(app, [*run, "--prior", "tv", "--calibration", "card.json"])
    assert done.exit_code == 2 and "card of prior 'gaussian', the run has prior 'tv'" in done.stderr
    card = json.loads((place / "card.json").read_text())
    (place / "changed.json").write_text(json.dumps({**card, "num_cases": 400}))
    done = CliRunner().invoke(app, [*run, "--calibration", "changed.json"])
    assert done.exit_code == 65 and "it was changed after it was written" in done.stderr
    assert not (place / "out.fits").exists()
    assert np.isfinite(card["checks"][0]["p_value"])
