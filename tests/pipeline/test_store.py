"""A run whose draws go into a store: all of them there, few in the FITS file, and nothing after an interruption."""

import json

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from invprob.config import Config
from invprob.errors import OutputError
from invprob.io.read.read_fits import read_fits
from invprob.io.readback import read_images
from invprob.io.store import read_draws
from invprob.pipeline import draws as draws_module
from invprob.pipeline.draws import every_for_few, fewer
from invprob.pipeline.run import Interrupted, replay, run
from invprob.progress import Listener
from invprob.results import Samples, Status
from tests.small import HAND, HAND_TOML, write_image

CHAINS = Config.make(
    prior="tv", method="sample", num_samples=40, num_chains=2, num_warmup=5, sky="fit", dtype="float32",
    input={"image": "image.fits"},
)  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with an image in it; ten draws are few."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(draws_module, "FEW", 10)
    write_image(tmp_path / "image.fits", bad=[(5, 6)])
    return tmp_path


def names(place):
    return {p.name for p in place.iterdir()}


def test_all_draws_are_in_the_store_and_few_in_the_file(place):
    result, observation = run(CHAINS, "out.fits", draws_out="draws.zarr")
    run(CHAINS, "alone.fits")
    stored, images, alone = read_draws("draws.zarr"), read_images("out.fits"), read_images("alone.fits")
    assert stored.posterior["image"].shape == (2, 20, 18, 20) and stored.posterior["sky"].shape == (2, 20)
    np.testing.assert_array_equal(stored.images, result.draws)
    np.testing.assert_array_equal(stored.images, alone.pop("DRAWS"))
    np.testing.assert_array_equal(images.pop("DRAWS"), stored.posterior["image"][:, 3::4].reshape(10, 18, 20))
    assert set(images) == set(alone)
    for name, array in images.items():
        np.testing.assert_array_equal(array, alone[name])
    head, said = fits.getheader("out.fits"), stored.attributes
    assert (head["DRAWSTOR"], head["DRAWTHIN"], head["NDRAWS"]) == ("draws.zarr", 4, 10)
    assert "DRAWSTOR" not in fits.getheader("alone.fits")
    assert (said["configuration_sha256"], said["convergence_check"], said["seed"]) == (
        head["CONFHASH"],
        head["CONVCHK"],
        0,
    )
    assert said["status"] == head["STATUS"] == "NOT_MIXED" and "ESS" in said["convergence_check"]
    assert said["report"]["sky"] == pytest.approx(stored.posterior["sky"].mean(), rel=1e-5)
    assert said["inputs"][0]["sha256"] == observation.inputs[0].sha256
    assert replay("out.fits").identical
    assert names(place) == {"image.fits", "out.fits", "alone.fits", "draws.zarr"}


def test_independent_draws_are_one_chain(place):
    config = Config.make(**HAND, method="sample", num_samples=30, sky="fit", input={"image": "image.fits"})
    result, _ = run(config, "out.fits", draws_out="draws.zarr")
    stored, report = read_draws("draws.zarr"), result.report
    assert stored.posterior["image"].shape == (1, 30, 18, 20) and not stored.sample_stats
    np.testing.assert_allclose(stored.images, result.draws, rtol=1e-6)
    sky = stored.posterior["sky"]
    assert np.sqrt(np.mean((sky - report.sky) ** 2)) == pytest.approx(report.sky_std, rel=1e-12)
    assert set(result.to_arviz()["posterior"].data_vars) == {"image", "sky"}
    assert len(read_images("out.fits")["DRAWS"]) == 10
    assert replay("out.fits").identical


class Stop:
    """Ctrl-C at the n-th line of progress."""

    def __init__(self, number):
        self.left = number

    def __call__(self, _):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_no_store_and_goes_on_with_the_same_numbers(place):
    run(CHAINS, "whole.fits", draws_out="whole.zarr")
    with pytest.raises(Interrupted):
        run(CHAINS, "out.fits", draws_out="draws.zarr", listener=Listener(step=Stop(2)))
    assert names(place) == {"image.fits", "out.fits.state", "whole.fits", "whole.zarr"}
    run(CHAINS, "out.fits", draws_out="draws.zarr")
    whole, resumed = read_draws("whole.zarr"), read_draws("draws.zarr")
    for name, values in whole.posterior.items():
        np.testing.assert_array_equal(resumed.posterior[name], values)
    assert names(place) == {"image.fits", "out.fits", "draws.zarr", "whole.fits", "whole.zarr"}


@pytest.mark.parametrize("stop", [OutputError("no room"), KeyboardInterrupt()])
def test_a_store_that_fails_at_the_end_does_not_take_the_draws_with_it(place, monkeypatch, stop):
    def fail(*_, **__):
        raise stop

    monkeypatch.setattr("invprob.io.store._write", fail)
    with pytest.raises(type(stop)):
        run(CHAINS, "out.fits", draws_out="draws.zarr")
    if isinstance(stop, KeyboardInterrupt):
        assert names(place) == {"image.fits"}
        return
    assert names(place) == {"image.fits", "out.fits"}
    assert len(read_images("out.fits")["DRAWS"]) == 40 and "DRAWSTOR" not in fits.getheader("out.fits")


def test_the_command(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    (place / "hand.toml").write_text(HAND_TOML)
    options = ["deconvolve", "image.fits", "--config", "hand.toml", "--method", "sample", "--num-samples", "30"]
    command = [*options, "-o", "out.fits", "--draws-out", "draws.zarr"]
    said = CliRunner().invoke(app, [*command, "--json"])
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["draws_out"] == "draws.zarr"
    assert "writing 30 draws to draws.zarr" in said.stderr
    first = read_draws("draws.zarr").images
    assert CliRunner().invoke(app, [*command, "--seed", "1"]).exit_code == 73
    again = CliRunner().invoke(app, [*command, "--seed", "1", "--overwrite"])
    assert again.exit_code == 0 and "all draws are in draws.zarr, at most 100 of them in out.fits" in again.stderr
    second = read_draws("draws.zarr").images
    assert first.shape == second.shape and (first != second).mean() > 0.9


@pytest.mark.parametrize(
    ("number", "chains", "every", "left"),
    [(40, 2, 4, 10), (8, 2, 1, 8), (10, 1, 1, 10), (11, 1, 2, 5), (80, 20, 4, 20), (44, 4, 5, 8)],
)
def test_few_draws_are_of_every_chain(place, number, chains, every, left):
    draws = np.arange(float(number)).reshape(number, 1, 1)
    result = Samples(None, Status.CONVERGED, "", "", 1, 1.0, 1, draws=draws, num_chains=chains)
    assert every_for_few(result) == every
    kept = fewer(result, every).draws.ravel()
    assert len(kept) == left
    counts = np.bincount((kept // (number // chains)).astype(int), minlength=chains)
    assert len(set(counts)) == 1 and counts[0] >= 1


def test_a_header_of_such_a_run_as_input(place):
    """The cards of an earlier run are not passed on to the output of the next one."""
    run(CHAINS, "out.fits", draws_out="draws.zarr")
    plain = Config.make(**HAND, num_samples=0, input={"image": "out.fits[SCI]", "noise_std": 1.0, "psf": "[PSF]"})
    assert read_fits("out.fits[SCI]", noise_std=1.0, psf="[PSF]").frame.header["DRAWSTOR"] == "draws.zarr"
    run(plain, "second.fits")
    assert "DRAWSTOR" not in fits.getheader("second.fits") and "DRAWTHIN" not in fits.getheader("second.fits")
