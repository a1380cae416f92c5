"""What the reader refuses, and what it says."""

import os

import numpy as np
import pytest
from astropy.io import fits

from invprob.errors import InputError, NoUsablePixelsError, UsageError
from invprob.io.read.hdus import MAX_PIXELS, Spec
from invprob.io.read.read_fits import read_fits
from tests.io.fits_samples import SHAPE, SIGMA, write


@pytest.fixture
def sky():
    """An empty image: noise of `SIGMA`."""
    return np.random.default_rng(1).normal(0, SIGMA, SHAPE).astype(np.float32)


def raw_header(*cards):
    text = "".join(f"{c:<80}" for c in (*cards, "END"))
    return text.ljust(2880 * (1 + len(text) // 2880)).encode()


def test_what_is_no_fits_file(tmp_path):
    cases = {
        "empty": (b"", "empty"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        "z": (b"\x1f\x9d\x90abc", "gunzip"),
        "html": (b"<html>404</html>", "web page"),
        "text": (b"hello", "does not begin with SIMPLE"),
        "noend": (b"SIMPLE  =                    T".ljust(80) * 100, "no END card"),
        "hdf": (b"\x89HDF\r\n", "HDF5"),
        "bitpix": (
            raw_header("SIMPLE  = T", "BITPIX  = 7", "NAXIS   = 2", "NAXIS1  = 2", "NAXIS2  = 2"),
            ".",
        ),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_fits(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_fits(tmp_path / "none.fits")
    with pytest.raises(InputError, match="directory"):
        read_fits(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_fits(tmp_path / "pipe")
    with pytest.raises(InputError):
        read_fits("https://example.org/a.fits")
    with pytest.raises(InputError):
        read_fits("x" * 5000)
    with pytest.raises(InputError):
        read_fits("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky))
    os.chmod(path, 0)
    with pytest.raises(InputError, match="cannot be read"):
        read_fits(path)


def test_a_header_that_claims_too_much(tmp_path):
    claim = (
        "SIMPLE  =                    T",
        "BITPIX  =                  -64",
        "NAXIS   =                    2",
    )
    size = ("NAXIS1  =               100000", "NAXIS2  =               100000")
    (tmp_path / "a.fits").write_bytes(raw_header(*claim, *size) + b"\0" * 2880)
    with pytest.raises(InputError, match="truncated: it claims 100000 x 100000"):
        read_fits(tmp_path / "a.fits")


def test_a_sparse_file_that_is_too_large(tmp_path):
    side = 2 * int(MAX_PIXELS**0.5)
    cards = (
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    2",
    )
    header = raw_header(*cards, f"NAXIS1  = {side:20d}", f"NAXIS2  = {side:20d}")
    with open(tmp_path / "a.fits", "wb") as f:
        f.write(header)
        f.truncate(len(header) + side * side)
    with pytest.raises(InputError, match="cut out a region"):
        read_fits(tmp_path / "a.fits")


def test_truncation_matters_only_where_it_is_read(tmp_path, sky):
    path = tmp_path / "a.fits"
    write(path, ("SCI", sky), ("EXTRA", np.zeros((50, 50))))
    path.write_bytes(path.read_bytes()[:-4000])
    assert any("HDU 2 is truncated" in w for w in read_fits(path).warnings)
    with pytest.raises(InputError, match="is truncated"):
        read_fits(f"{path}[EXTRA]")


def test_no_image(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])], name="T")
    path = write(tmp_path / "t.fits", table)
    with pytest.raises(InputError, match="tables only"):
        read_fits(path)
    with pytest.raises(InputError, match="holds no image"):
        read_fits(f"{path}[T]")
    with pytest.raises(InputError, match="headers only"):
        read_fits(write(tmp_path / "h.fits"))
    with pytest.raises(InputError, match="no image of two axes"):
        read_fits(write(tmp_path / "s.fits", ("SCI", np.ones(5))))
    with pytest.raises(InputError, match="no HDU 7"):
        read_fits(f"{path}[7]")


def test_images_without_information(tmp_path):
    for name, array, error, message in (
        ("constant", np.ones((4, 4)), InputError, "--noise-std"),
        ("one", np.ones((1, 1)), InputError, "--noise-std"),
        ("nan", np.full((4, 4), np.nan), NoUsablePixelsError, "16 not a number"),
    ):
        fits.writeto(tmp_path / name, array)
        with pytest.raises(error, match=message):
            read_fits(tmp_path / name)
    assert read_fits(tmp_path / "constant", noise_std=1).shape == (4, 4)


def test_shapes_must_agree(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky), ("VAR", sky[1:]), ("DQ", np.zeros((3, 3), np.int16)))
    with pytest.raises(InputError, match="mask must have the image's shape"):
        read_fits(path)
    with pytest.raises(InputError, match="variance must have the image's shape"):
        read_fits(path, mask="none")
    assert read_fits(path, mask="none", variance="none").shape == SHAPE


def test_options_that_do_not_fit(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky))
    with pytest.raises(UsageError):
        read_fits(path, noise_std=1.0, variance="x.fits")
    with pytest.raises(UsageError):
        read_fits(path, dtype="int32")
    with pytest.raises(InputError, match="noise standard deviation"):
        read_fits(path, noise_std=0.0)
    with pytest.raises(InputError, match="the image itself"):
        read_fits(path, variance=path)


def test_numbers_that_float32_cannot_hold(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky * 1e-25), ("ERR", np.full(SHAPE, SIGMA * 1e-25)))
    assert read_fits(path).valid.all()
    with pytest.raises(InputError, match="float64"):
        read_fits(path, dtype="float32")


def test_specifications(tmp_path):
    assert Spec.parse("a.fits") == Spec("a.fits")
    assert Spec.parse("a.fits[2]") == Spec("a.fits", 2)
    assert Spec.parse("a.fits[SCI,2]") == Spec("a.fits", "SCI", 2)
    assert Spec.parse("[PSF]", "a.fits") == Spec("a.fits", "PSF")
    (tmp_path / "a[1].fits").touch()
    assert Spec.parse(tmp_path / "a[1].fits") == Spec(str(tmp_path / "a[1].fits"))
    for bad in ("a.fits[]", "a.fits[1,2,3]", "a.fits[SCI,-1]", "[SCI]"):
        with pytest.raises(InputError, match="write FILE"):
            Spec.parse(bad)
