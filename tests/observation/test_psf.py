"""Point spread functions: checks, centring, and kernels against integrals."""

import math
import pickle

import numpy as np
import pytest

from invprob.errors import InputError
from invprob.observation import Frame
from invprob.observation.psf import PSF, snapped_oversampling

FRAME = Frame((20, 20), pixel_scale=0.2)


def blocks(kernel, s):
    """Sums over s x s latent pixels."""
    n, m = kernel.shape
    return kernel.reshape(n // s, s, m // s, s).sum((1, 3))


@pytest.mark.parametrize("factor", [3, 5])
def test_block_sums_give_the_psf_back(factor):
    psf = PSF.moffat(4.0, 3.5, size=41)
    kernel = psf.on(FRAME.refine(factor))
    assert kernel.shape == (41 * factor, 41 * factor)
    np.testing.assert_allclose(blocks(kernel, factor), psf.image, atol=1e-9 * psf.image.max())


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("oversampling", [1.0, 2.0, 2.5, 4.0])
def test_any_sampling_gives_the_kernel_of_the_latent_pixel(factor, oversampling):
    """The integral over latent pixels is known for a Gaussian."""
    psf = PSF.gaussian(4.0, oversampling=oversampling, size=2 * math.ceil(10 * oversampling) + 1)
    kernel = psf.on(FRAME.refine(factor))
    exact = PSF.gaussian(4.0, oversampling=factor, size=kernel.shape[0]).image
    assert kernel.shape[0] % 2 == 1
    np.testing.assert_allclose(kernel, exact, atol=1e-6 * exact.max())
    assert kernel.sum() == pytest.approx(psf.total, rel=1e-12)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_point_samples_get_the_latent_pixel(factor):
    sigma, n = 2.0, 31
    x = np.arange(n) - n // 2
    line = np.exp(-(x**2) / (2 * sigma**2))
    image = np.outer(line, line)
    psf = PSF.from_image(image, normalize=True, includes_pixel=False)
    kernel = psf.on(FRAME.refine(factor))
    exact = PSF.gaussian(sigma * 2.3548200450309493, oversampling=factor, size=kernel.shape[0]).image
    np.testing.assert_allclose(kernel, exact, atol=1e-6 * exact.max())


def test_same_pixel_is_left_untouched():
    psf = PSF.from_image(0.98 * PSF.gaussian(3.0, oversampling=2.0).image, oversampling=2.0)
    assert psf.on(FRAME.refine(2)) is psf.image
    assert psf.total == pytest.approx(0.98)


def test_offsets_below_a_pixel_survive_resampling():
    x = np.arange(41) - 20
    image = np.exp(-((x[:, None] - 0.3) ** 2 + (x - -0.2) ** 2) / 8)
    kernel = PSF.from_image(image, normalize=True).on(FRAME.refine(4))
    y, x = np.indices(kernel.shape) - np.array(kernel.shape)[:, None, None] // 2
    assert (kernel * y).sum() == pytest.approx(4 * 0.3, abs=1e-3)
    assert (kernel * x).sum() == pytest.approx(4 * -0.2, abs=1e-3)


def test_oversampling_from_pixel_scales():
    assert PSF.gaussian(0.8, pixel_scale=0.05).oversampling_on(FRAME) == 4.0
    image = PSF.gaussian(0.8, pixel_scale=0.05).image
    assert PSF.from_image(image, pixel_scale=0.05).oversampling_on(FRAME) == 4.0
    assert PSF.from_image(image).oversampling_on(FRAME) == 1.0
    assert snapped_oversampling(0.2596 / 0.262) == 1.0
    assert snapped_oversampling(2.5) == 2.5
    with pytest.raises(InputError, match="--psf-pixel-scale"):
        PSF.from_image(image, pixel_scale=0.3).on(FRAME)


@pytest.mark.parametrize(("total", "ok"), [(0.89, False), (0.9, True), (0.98, True), (1.05, True), (1.06, False)])
def test_sum_is_used_as_given_or_refused(total, ok):
    image = PSF.gaussian(3.0).image * (total * (1 + 1e-12) if total == 0.9 else total * (1 - 1e-12))
    if ok:
        assert PSF.from_image(image).total == pytest.approx(total)
    else:
        with pytest.raises(InputError, match="--normalize-psf"):
            PSF.from_image(image)
    assert PSF.from_image(image, normalize=True).total == pytest.approx(1)


def test_off_centre_psf_is_recentred_without_losing_flux():
    image = np.roll(PSF.gaussian(3.0, size=31).image, (2, -1), (0, 1))
    psf = PSF.from_image(image)
    assert psf.shape == (35, 33)
    assert np.unravel_index(psf.image.argmax(), psf.shape) == (17, 16)
    assert psf.total == pytest.approx(image.sum())
    assert "(y, x) = (-2, +1) pixels" in psf.warnings[0]


@pytest.mark.parametrize("peak", [15, 16])
def test_even_arrays_become_odd_about_their_peak(peak):
    image = np.zeros((32, 32))
    core = PSF.gaussian(3.0, size=21).image
    image[peak - 10 : peak + 11, peak - 10 : peak + 11] = core
    psf = PSF.from_image(image)
    assert psf.shape == (33, 33) and psf.image.argmax() == 16 * 33 + 16
    assert "even-sized" in psf.warnings[0] and f"({peak}, {peak})" in psf.warnings[0]


def test_noise_on_a_finely_sampled_peak_does_not_move_it():
    image = PSF.gaussian(20.0, size=101).image.copy()
    image[50, 53] *= 1.2
    psf = PSF.from_image(image, normalize=True)
    assert psf.shape == (101, 101) and psf.warnings == ()


def test_corner_origin_is_named():
    with pytest.raises(InputError, match="fftshift"):
        PSF.from_image(np.fft.ifftshift(PSF.gaussian(3.0, size=31).image))


def test_cut_off_psf_warns():
    assert "cut off" in PSF.from_image(PSF.gaussian(8.0, size=11).image).warnings[0]
    assert PSF.from_image(PSF.gaussian(3.0, size=25).image).warnings == ()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((3, 3, 3)), "two-dimensional"),
        (np.full((3, 3), np.nan), "not a finite number"),
        (np.zeros((3, 3)), "no positive flux"),
        (np.ones((0, 3)), "no pixels"),
        (np.broadcast_to(1.0, (1, 5000)), "image of the sky"),
    ],
)
def test_what_is_no_psf(image, message):
    with pytest.raises(InputError, match=message):
        PSF.from_image(image)


@pytest.mark.parametrize("fwhm", [3.0, 6.0, 15.0, 40.0])
def test_fwhm(fwhm):
    """Of the profile with its pixel: a pixel adds its variance."""
    sigma2 = fwhm**2 / (8 * np.log(2)) + 1 / 12
    assert PSF.gaussian(fwhm).fwhm == pytest.approx(np.sqrt(8 * np.log(2) * sigma2), rel=5e-3)


def test_fwhm_in_arcsec_and_moffat():
    psf = PSF.moffat(0.7, 3.5, pixel_scale=0.02)
    assert psf.fwhm_arcsec == pytest.approx(0.7, rel=5e-3)
    assert PSF.gaussian(3.0).fwhm_arcsec is None
    assert psf.total == pytest.approx(1)


def test_models_refuse_nonsense():
    for make in (lambda: PSF.gaussian(0), lambda: PSF.moffat(3, 1.0), lambda: PSF.gaussian(3, size=4)):
        with pytest.raises(InputError):
            make()


def test_a_single_pixel_is_a_psf():
    assert PSF.from_image([[1.0]]).on(FRAME).shape == (1, 1)


def test_pickle_keeps_the_psf():
    psf = PSF.gaussian(3.0, oversampling=2.0)
    again = pickle.loads(pickle.dumps(psf))
    np.testing.assert_array_equal(again.on(FRAME.refine(3)), psf.on(FRAME.refine(3)))
    assert not psf.image.flags.writeable
