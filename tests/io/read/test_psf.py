"""Point spread functions as they are read with an image."""

import numpy as np
import pytest

from invprob.errors import InputError
from invprob.io.read.read_fits import read_fits
from invprob.observation import PSF
from tests.io.fits_samples import SHAPE, SIGMA, about, psf_image, wcs_header, write


@pytest.fixture
def sky():
    """An empty image: noise of `SIGMA`."""
    return np.random.default_rng(1).normal(0, SIGMA, SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    ("cards", "options", "oversampling"),
    [
        ({}, {}, 1),
        ({"PIXSCALE": 0.05}, {}, 4),
        ({"PIXELSCL": 0.1}, {}, 2),
        ({"OVERSAMP": 4}, {}, 4),
        ({"PSF_SAMP": 0.5}, {}, 2),
        ({}, {"psf_pixel_scale": 0.08}, 2.5),
        ({"PIXSCALE": 0.05}, {"pixel_scale": 0.1}, 2),
        ({"PIXSCALE": 0.201}, {}, 1),
        (wcs_header(0.1), {}, 2),
    ],
)
def test_psf_sampling(tmp_path, sky, cards, options, oversampling):
    path = write(tmp_path / "a.fits", ("SCI", sky, wcs_header()), ("PSF", psf_image(4, 61), cards))
    psf = read_fits(path, **options).psf
    assert psf is not None and psf.oversampling == pytest.approx(oversampling)


def test_psf_problems(tmp_path, sky):
    def psf_of(array, cards=None, **options):
        path = tmp_path / "p.fits"
        path.unlink(missing_ok=True)
        return read_fits(write(path, ("SCI", sky, wcs_header()), ("PSF", array, cards or {})), noise_std=1.0, **options)

    with pytest.raises(InputError, match=r"\[PSF\]: .*--normalize-psf"):
        psf_of(psf_image() * 2)
    assert psf_of(psf_image() * 2, normalize_psf=True).psf.total == pytest.approx(1)
    with pytest.raises(InputError, match="--psf-pixel-scale"):
        psf_of(psf_image(), {"PIXSCALE": 0.4})
    with pytest.raises(InputError, match="not a finite"):
        psf_of(psf_image() * np.nan)
    assert about(psf_of(np.roll(psf_image(size=31), 1, 0)), "re-centred by (y, x) = (-1, +0)")
    assert not psf_of(psf_image(), psf_without_pixel=True).psf.includes_pixel
    assert psf_of(psf_image(), psf="none").psf is None
    with pytest.raises(InputError, match="no extension X"):
        psf_of(psf_image(), psf="[X]")


def test_psf_scale_without_the_images(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky), ("PSF", psf_image(), {"PIXSCALE": 0.1}))
    obs = read_fits(path)
    assert about(obs, "--pixel-scale") and obs.psf is not None and obs.psf.oversampling == 1
    with pytest.raises(InputError, match="--pixel-scale as well"):
        read_fits(path, psf_pixel_scale=0.1)


def test_a_psf_object_is_taken(tmp_path, sky):
    psf = PSF.gaussian(2.0)
    assert read_fits(write(tmp_path / "a.fits", ("SCI", sky)), psf=psf).psf is psf
