"""What a user can do wrong: one line on stderr, the documented exit code, and nothing left behind."""

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from tests.small import HAND_TOML, psf_image, scene, write_image

NOTES = ("warning: ", "solving ", "drawing ", "choosing ")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with an image and a configuration in it, and the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("INVPROB_DEBUG", raising=False)
    write_image(tmp_path / "image.fits")
    (tmp_path / "hand.toml").write_text(HAND_TOML)
    return tmp_path


def refused(code: int, *arguments: str, command: str = "deconvolve") -> str:
    """The one line on stderr of a command that ends with this code and changes no file."""
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*") if p.is_file() and "cache" not in p.parts}
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == code, (result.stderr, result.exception)
    lines = [line for line in result.stderr.splitlines() if not line.startswith(NOTES)]
    assert len(lines) == 1 and lines[0].startswith("invprob: "), result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    after = {p: p.stat().st_mtime_ns for p in Path().rglob("*") if p.is_file() and "cache" not in p.parts}
    assert after == before
    return lines[0]


APPROXIMATE = ("--num-samples", "50", "--method")
SAMPLE = ("--method", "sample", "--num-samples", "8")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--nope"], "no such option: --nope"),
        (["second.fits"], "unexpected extra argument"),
        (["--num-samples", "x"], "'--num-samples'"),
        (["--strength", "foo"], "--strength takes 'auto', 'fission', 'sample' or a number, not 'foo'"),
        (["--strength", "0"], "strength = 0.0"),
        (["--strength", "inf"], "strength = inf"),
        (["--sky", "some"], "--sky takes 'none', 'fit' or a number"),
        (["--sky", "nan"], "sky = nan"),
        (["--refine", "0"], "refine = 0"),
        (["--method", "nope"], "'map', 'sample', 'vi' or 'laplace'"),
        (["--method", "vi", "--family", "nope"], "no family is called 'nope'; there are auto, metric, "),
        (["--family", "metric"], "family 'metric' is one of method 'vi': give --method vi, not map"),
        (["--method", "vi", "--num-chains", "2"], "num_chains = 2 is for method 'sample': leave it out"),
        (["--method", "laplace", "--sampler", "nuts"], "sampler = 'nuts' is for method 'sample'"),
        (["--method", "vi", "--solver", "cg"], "solver = 'cg' is for method 'map'"),
        (["--method", "vi", "--num-samples", "0"], "method 'vi' needs num_samples of at least 25, not 0"),
        (
            [*APPROXIMATE, "vi", "--family", "flow"],
            "family 'flow' does not fit: Flow is for latents of 2 to 400",
        ),
        (
            [*APPROXIMATE, "vi", "--family", "metric", "--prior", "tv"],
            "family 'metric' does not fit: approximations by MetricGaussian need a prior that is white noise",
        ),
        ([*APPROXIMATE, "laplace", "--prior", "tv"], "has kinks or bounds, the maximum lies on them"),
        ([*APPROXIMATE, "laplace", "--positive"], "there is no curvature there; take method 'vi' or 'sample'"),
        (["--method", "vi", "--strength", "sample"], "draws hyperparameters together with the image: give --method"),
        (["--method", "sample", "--num-samples", "0"], "num_samples of at least 1"),
        (["--prior", "nope"], "no prior is called 'nope'; there are gaussian, lognormal, "),
        (["--strength", "fission"], "strength 'fission' is for priors of one strength"),
        (
            [*SAMPLE, "--prior", "starlet", "--sampler", "exact"],
            "sampler 'exact' does not fit: exact draws",
        ),
        ([*SAMPLE, "--prior", "starlet", "--positive", "--sampler", "gibbs"], "not LowerBound: use hmc"),
        (["--method", "sample", "--sampler", "nope"], "no sampler is called 'nope'; there are auto, exact, "),
        (["--method", "sample", "--intervals", "68,x"], "--intervals takes percentages such as 68,95, not '68,x'"),
        (["--method", "sample", "--intervals", "168"], "percentages between 0 and 100"),
        (["--intervals", "68"], "intervals come from draws: give --method sample, vi or laplace"),
        (["--num-chains", "0"], "num_chains = 0"),
        (["--prior", "lognormal", "--positive"], "--positive does not go with this prior"),
        (["--prior", "starlet", "--solver", "cg"], "solver 'cg' does not fit: conjugate gradients need"),
        (["--floor", "-1"], "floor = -1.0"),
        (["--solver", "nope"], "no solver is called 'nope'; there are auto, wiener, cg, twogrid, admm, "),
        (["--solver", "wiener"], "solver 'wiener' does not fit: the Wiener filter needs a circulant operator"),
        (["--dtype", "float16"], "'float32' or 'float64'"),
        (["--rtol", "2"], "rtol = 2.0"),
        (["--max-steps", "0"], "max_steps = 0"),
        (["--seed", "-1"], "seed = -1"),
        (["--noise-std", "-1"], "input.noise_std = -1.0"),
        (["--noise-std", "1", "--variance", "[VAR]"], "not both"),
        (
            ["--draws-out", "draws.zarr"],
            "a store of draws needs draws, which method 'map' has not: give --method sample",
        ),
        ([*SAMPLE, "--draws-out", "a.zarr", "-o", "a.zarr"], "the store of draws a.zarr cannot be or hold a.zarr"),
        ([*SAMPLE, "--draws-out", "a.png", "--plot", "a.png"], "the store of draws a.png cannot be or hold a.png"),
        (["--plot", "out.nope"], "out.nope: matplotlib cannot write 'nope'"),
    ],
)
def test_usage(options, fragment, place):
    line = refused(2, "image.fits", "--config", "hand.toml", *options)
    assert fragment in line


def test_no_image(place):
    assert "no image given" in refused(2)
    assert "see `" in refused(2, command="nope")


@pytest.mark.parametrize("given", ["amplitude = 1.0", "scale = 0.1\nslope = 2.0"])
def test_a_part_of_the_strength(given, place):
    (place / "part.toml").write_text(given)
    assert "amplitude, scale and slope go together" in refused(2, "image.fits", "--config", "part.toml")


@pytest.mark.parametrize("what", ["all masked", "not a number", "no variance"])
def test_no_usable_pixel(what, place):
    data = np.full((6, 7), np.nan) if what == "not a number" else np.ones((6, 7))
    write_image(place / "bad.fits", data, bad=list(np.ndindex(6, 7)) if what == "all masked" else ())
    options = []
    if what == "no variance":
        fits.PrimaryHDU(np.zeros((6, 7))).writeto(place / "var.fits")
        options = ["--variance", "var.fits"]
    line = refused(64, "bad.fits", "--config", "hand.toml", *options)
    assert "no usable pixel" in line and "--mask" in line


def test_bad_input(place):
    options = ("--config", "hand.toml")
    assert "none.fits" in refused(65, "none.fits", *options)
    assert "NOPE" in refused(65, "image.fits[NOPE]", *options)
    (place / "text.fits").write_text("no image\n" * 400)
    assert "text.fits" in refused(65, "text.fits", *options)
    assert "none.toml: cannot be read" in refused(65, "image.fits", "--config", "none.toml")
    (place / "bad.toml").write_text("refine = ")
    assert "not TOML" in refused(65, "image.fits", "--config", "bad.toml")
    fits.PrimaryHDU(np.ones((5, 5))).writeto(place / "small.fits")
    for name in ("variance", "mask"):
        line = refused(65, "image.fits", *options, f"--{name}", "small.fits")
        assert "(5, 5)" in line and "(18, 20)" in line


def test_bad_psf(place):
    options = ("image.fits", "--config", "hand.toml", "--psf")
    write_image(place / "without.fits", psf=None)
    assert "--psf none" in refused(65, "without.fits", "--config", "hand.toml")
    assert "none.fits" in refused(65, *options, "none.fits")
    kernel = psf_image()
    fits.PrimaryHDU(3 * kernel).writeto(place / "three.fits")
    assert "--normalize-psf" in refused(65, *options, "three.fits")
    kernel[4, 4] = np.nan
    fits.PrimaryHDU(kernel).writeto(place / "nan.fits")
    refused(65, *options, "nan.fits")
    refused(65, *options, "nan.fits", "--normalize-psf")
    fits.PrimaryHDU(np.zeros((9, 9))).writeto(place / "zero.fits")
    refused(65, *options, "zero.fits", "--normalize-psf")


def test_outputs_that_cannot_be_written(place, monkeypatch):
    """Seen before anything is computed."""
    monkeypatch.setattr("invprob.pipeline.run.deconvolve", None)
    options = ("image.fits", "--config", "hand.toml")
    (place / "there.fits").write_text("")
    (place / "there.png").write_text("")
    (place / "folder").mkdir()
    assert "--overwrite" in refused(73, *options, "-o", "there.fits")
    assert "--overwrite" in refused(73, *options, "-o", "new.fits", "--plot", "there.png")
    assert "nowhere does not exist" in refused(73, *options, "-o", "nowhere/out.fits")
    assert "nowhere does not exist" in refused(73, *options, "--plot", "nowhere/out.png")
    assert "not an ordinary file" in refused(73, *options, "-o", "folder", "--overwrite")
    assert "is an input of this run" in refused(73, *options, "-o", "image.fits", "--overwrite")
    assert "both" in refused(2, *options, "-o", "same.png", "--plot", "same.png")
    store = (*options, *SAMPLE, "-o", "new.fits", "--draws-out")
    assert "--overwrite" in refused(73, *store, "folder")
    assert "folder is not a store of draws and is not replaced" in refused(73, *store, "folder", "--overwrite")
    assert "there.fits is not a store of draws" in refused(73, *store, "there.fits", "--overwrite")
    assert "nowhere does not exist" in refused(73, *store, "nowhere/draws.zarr")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything may be written by root")
def test_a_folder_without_permission(place):
    (place / "locked").mkdir(mode=0o500)
    assert "no permission" in refused(73, "image.fits", "--config", "hand.toml", "-o", "locked/out.fits")


def test_not_converged(place):
    """Written all the same, with what to do."""
    arguments = ["deconvolve", "image.fits", "--config", "hand.toml", "--max-steps", "2", "-o", "out.fits", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 70
    last = result.stderr.splitlines()[-1]
    assert last.startswith("invprob: out.fits is written, but: ") and "raise max_steps" in last
    header = fits.getheader(place / "out.fits")
    assert (header["STATUS"], header["STEPS"]) == ("MAX_STEPS", 2)
    assert '"status": "MAX_STEPS"' in result.stdout and "raise max_steps" in result.stdout


@pytest.mark.parametrize(
    ("raised", "code", "fragment"),
    [
        (ZeroDivisionError("in the\nmiddle"), 1, "unexpected ZeroDivisionError: in the middle"),
        (MemoryError(), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_in_the_middle_of_a_run(raised, code, fragment, place, monkeypatch):
    def fail(*_, **__):
        raise raised

    for where in ("deconvolve", "write_fits"):
        with monkeypatch.context() as patch:
            patch.setattr(f"invprob.pipeline.run.{where}", fail)
            assert fragment in refused(code, "image.fits", "--config", "hand.toml", "-o", f"{where}.fits")


def test_debug_shows_the_traceback(place, monkeypatch):
    monkeypatch.setattr("invprob.pipeline.run.deconvolve", None)
    monkeypatch.setenv("INVPROB_DEBUG", "")
    result = CliRunner().invoke(app, ["--debug", "deconvolve", "image.fits", "--config", "hand.toml"])
    assert isinstance(result.exception, TypeError)


def test_quiet(place):
    """Nothing on stderr but errors, warnings included."""
    fits.PrimaryHDU(scene()).writeto(place / "plain.fits")  # without noise and PSF: several warnings
    options = ("--config", "hand.toml", "--psf", "none", "--overwrite", "-o", "out.fits")
    loud = CliRunner().invoke(app, ["deconvolve", "plain.fits", *options])
    quiet = CliRunner().invoke(app, ["deconvolve", "plain.fits", *options, "--quiet"])
    assert (loud.exit_code, quiet.exit_code) == (0, 0)
    assert "warning: " in loud.stderr and (quiet.stderr, quiet.stdout) == ("", "")


def test_replay_of_what_is_no_output(place):
    for name in ("image.fits", "none.fits", "hand.toml"):
        assert name in refused(65, name, command="replay")


def test_inspect_of_what_is_no_image(place):
    assert "hand.toml" in refused(65, "hand.toml", command="inspect")
