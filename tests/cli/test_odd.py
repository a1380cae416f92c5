"""Files that trouble a FITS reader, through the command: read and deconvolved, or one line and an exit code."""

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from invprob.io.readback import read_images
from tests.io.read.test_odd import CODES, ODD, READ, REFUSED, absent
from tests.small import HAND_TOML

TINY = {
    "one pixel": np.full((1, 1), 3.0),
    "one row": np.arange(7.0)[None],
    "one column": np.arange(7.0)[:, None],
    "5 x 5": np.arange(25.0).reshape(5, 5),
    "5 x 7": np.arange(35.0).reshape(5, 7),
    "constant": np.full((8, 9), 4.0),
    "zero": np.zeros((8, 8)),
    "one valid pixel": np.where(np.arange(36.0).reshape(6, 6) == 14, 5.0, np.nan),
    "three valid pixels": np.where(np.arange(36.0).reshape(6, 6) % 13 == 1, 5.0, np.nan),
}


@pytest.fixture
def settings(tmp_path) -> str:
    """A configuration with the prior's strength by hand, and no draws."""
    path = tmp_path / "settings.toml"
    path.write_text(HAND_TOML)
    return str(path)


def command(*arguments: str):
    """Run the command in this process."""
    return CliRunner().invoke(app, ["deconvolve", *arguments])


@absent
@pytest.mark.parametrize("name", READ)
def test_an_odd_file_is_denoised(name, settings, tmp_path):
    out = tmp_path / "out.fits"
    result = command(str(ODD / name), "--psf", "none", "--config", settings, "--rtol", "1e-3", "-o", str(out))
    assert result.exit_code == 0, result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    _, warning = READ[name]
    said = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert any(warning in line for line in said)
    order = result.stderr.splitlines()
    assert order.index(said[0]) < next(i for i, line in enumerate(order) if line.startswith("solving"))
    with fits.open(out, checksum=True) as hdus:
        assert hdus["SCI"].data.shape == hdus["MODEL"].data.shape
        assert np.isfinite(hdus["SCI"].data).all()
        assert "NOERR" in hdus[0].header and "ERR" not in hdus


@absent
@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_file_is_refused(name, settings, tmp_path):
    out = tmp_path / "out.fits"
    result = command(str(ODD / name), "--psf", "none", "--config", settings, "-o", str(out))
    error, fragment = REFUSED[name]
    assert result.exit_code == CODES[error]
    assert [fragment in line for line in result.stderr.splitlines()] == [True]
    assert {p.name for p in tmp_path.iterdir()} == {"settings.toml"}


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_or_empty_image(name, tmp_path):
    """Everything works, the search for the strength included."""
    data = TINY[name]
    path, out = tmp_path / "tiny.fits", tmp_path / "out.fits"
    fits.PrimaryHDU(data).writeto(path)
    result = command(str(path), "--psf", "none", "--noise-std", "0.5", "--num-samples", "2", "-o", str(out))
    assert result.exit_code == 0, result.stderr
    header = fits.getheader(out)
    images = read_images(out)
    assert images["SCI"].shape == data.shape
    assert (images["ERR"] > 0).all() and np.isfinite(images["SCI"]).all()
    np.testing.assert_array_equal(images["DQ"] == 1, np.isnan(data))
    assert all(0 < header[name] < np.inf for name in ("PRIORAMP", "PRIORSCL", "PRIORSLP"))


def test_pure_noise(tmp_path):
    """Data without a signal: the run ends well, and the estimate is far smaller than the noise."""
    path, out = tmp_path / "noise.fits", tmp_path / "out.fits"
    fits.PrimaryHDU(np.random.default_rng(3).normal(0, 2.0, (24, 24))).writeto(path)
    result = command(str(path), "--psf", "none", "--noise-std", "2", "--num-samples", "8", "-o", str(out))
    assert result.exit_code == 0, result.stderr
    images = read_images(out)
    assert images["SCI"].std() < 1.0
    assert 0.7 < fits.getheader(out)["CHI2EDOF"] < 1.3
