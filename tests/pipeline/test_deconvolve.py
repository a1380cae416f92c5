"""`deconvolve` on arrays: sky, units, inpainting, draws, and what does not fit together."""

from dataclasses import replace

import numpy as np
import pytest

from invprob import priors
from invprob.config import Config
from invprob.errors import UsageError
from invprob.io.read.read_fits import read_fits
from invprob.observation import Observation
from invprob.pipeline.deconvolve import deconvolve
from invprob.progress import Listener
from invprob.results import Estimate, Samples, Status
from tests.small import HAND, SHAPE, SIGMA, observation, scene, settings, write_image

LEVEL = 37.0


def with_sky(obs: Observation, level: float = LEVEL) -> Observation:
    return replace(obs, data=obs.data + level)


@pytest.fixture(scope="module")
def plain() -> Estimate:
    return deconvolve(observation(), settings(refine=2, num_samples=16))


def test_shapes(plain):
    assert isinstance(plain, Estimate) and not isinstance(plain, Samples)
    assert plain.status is Status.CONVERGED
    assert plain.image.shape == plain.std.shape == plain.inpainted.shape == tuple(2 * n for n in SHAPE)
    assert plain.model.shape == plain.residual.shape == SHAPE
    assert plain.image.dtype == np.float64 and not plain.inpainted.any()
    assert plain.num_data == SHAPE[0] * SHAPE[1]
    np.testing.assert_allclose(plain.residual, (observation().data - plain.model) / SIGMA, atol=1e-9)
    assert plain.chi2 == pytest.approx((plain.residual**2).sum())


def test_a_known_sky_is_subtracted():
    """The image is that of the data without the sky; the model is compared with the data, the sky in it."""
    plain = deconvolve(observation(), settings(refine=2, rtol=1e-13))
    found = deconvolve(with_sky(observation()), settings(refine=2, rtol=1e-13, sky=LEVEL))
    np.testing.assert_allclose(found.image, plain.image, atol=1e-6)
    np.testing.assert_allclose(found.model, plain.model + LEVEL, atol=1e-6)
    np.testing.assert_allclose(found.residual, plain.residual, atol=1e-6)
    assert "sky" not in found.report


def field(seed: int, amplitude: float, scale: float, slope: float) -> np.ndarray:
    """A draw of the prior on a grid much larger than the data, cut to 24 x 24."""
    k = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(96)[None])
    power = amplitude * (1 + (k / scale) ** 2) ** (-slope / 2)
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal((96, 96)))
    return np.fft.irfft2(np.sqrt(power) * white, s=(96, 96))[:24, :24]


def test_a_sky_is_fitted():
    """On draws of the prior the level is found within its error, and is in the model but not in the image."""
    prior = {"amplitude": 300.0, "scale": 0.1, "slope": 4.0}
    pulls, spread = [], []
    for seed in range(10):
        noise = np.random.default_rng(100 + seed).normal(0, SIGMA, (24, 24))
        data = field(seed, **prior) + LEVEL + noise
        found = deconvolve(Observation.from_arrays(data, SIGMA**2), settings(sky="fit", num_samples=24, **prior))
        sky, error = found.report.sky, found.report.sky_std
        pulls.append((sky - LEVEL) / error)
        spread.append(error)
        np.testing.assert_allclose(found.model + found.residual * SIGMA, data, atol=1e-9)
        np.testing.assert_allclose(found.model, found.image + sky, atol=1e-9)
    assert max(spread) < LEVEL / 4
    assert np.abs(pulls).max() < 4 and 0.4 < np.std(pulls) < 1.8, pulls


def test_flux_is_summed_and_brightness_averaged():
    """The same numbers in a flux and in a surface-brightness unit."""
    config = settings(refine=2, rtol=1e-13)
    flux = deconvolve(observation(unit="electron/s"), config)
    # the same prior in each unit: in brightness a latent pixel holds the mean, four times as much
    mean = deconvolve(observation(unit="MJy/sr"), config.model_copy(update={"amplitude": 16 * config.amplitude}))
    np.testing.assert_allclose(mean.image, 4 * flux.image, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean.model, flux.model, rtol=1e-5, atol=1e-5)
    # what is beyond the frame takes and gives some light
    data = observation().data
    assert flux.model.sum() == pytest.approx(data.sum(), rel=0.02)
    assert flux.image.sum() == pytest.approx(data.sum(), rel=0.15)
    assert mean.image.mean() == pytest.approx(data.mean(), rel=0.15)


def test_masked_pixels_are_inpainted(tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[8:11, 4:7] = True
    bad = list(zip(*np.nonzero(mask), strict=True))
    wild = scene()
    wild[mask] = 1e7  # never looked at
    obs = read_fits(write_image(tmp_path / "a.fits", wild, bad=bad))
    found = deconvolve(obs, settings(num_samples=1024))
    np.testing.assert_array_equal(found.inpainted, mask)
    assert np.isnan(found.residual[mask]).all() and np.isfinite(found.residual[~mask]).all()
    # the map of evidence says so in units of the prior, whose variance is the mean of its spectrum
    frame = found.frame.shape
    prior = priors.GaussianField(frame, priors.PowerLaw(HAND["amplitude"], HAND["scale"], HAND["slope"]))
    full = np.fft.irfft2(np.asarray(prior.covariance.power), s=frame)[0, 0]
    np.testing.assert_allclose(found.contraction, 1 - found.std**2 / full, rtol=1e-4, atol=1e-6)
    assert np.median(found.contraction[mask]) < np.median(found.contraction[~mask])
    whole = deconvolve(observation(), settings(num_samples=1024))
    # 1.21 of what it is with data, by 4096 draws; the ratio of two errors of 1024 draws scatters by 3 %
    assert 1.1 < np.median(found.std[mask] / whole.std[mask]) < 1.32
    assert 0.97 < np.median(found.std[~mask] / whole.std[~mask]) < 1.05
    assert np.abs((found.image - whole.image)[mask] / found.std[mask]).max() < 4
    other = deconvolve(read_fits(write_image(tmp_path / "b.fits", scene(), bad=bad)), settings())
    np.testing.assert_array_equal(found.image, other.image)


def test_denoising(tmp_path):
    """Without a PSF the estimate is nearer to the truth than the data, as far as its errors say."""
    prior = {"amplitude": 30.0, "scale": 0.1, "slope": 4.0}
    truth = field(3, **prior)
    data = truth + np.random.default_rng(4).normal(0, SIGMA, truth.shape)
    obs = read_fits(write_image(tmp_path / "a.fits", data), psf="none")
    assert obs.psf is None
    found = deconvolve(obs, settings(num_samples=32, **prior))
    assert found.kernel is None
    away = found.image - truth
    assert (away**2).sum() < 0.5 * ((data - truth) ** 2).sum()
    assert 0.6 < (np.abs(away) < found.std).mean() < 0.76


def test_noise_options(tmp_path):
    """A larger noise gives a smoother image and larger errors; a map that says the same gives the same."""
    from astropy.io import fits

    path = write_image(tmp_path / "a.fits")
    fits.PrimaryHDU(np.full(SHAPE, 3.0)).writeto(tmp_path / "std.fits")
    config = settings(num_samples=4)
    one = deconvolve(read_fits(path), config)
    three = deconvolve(read_fits(path, noise_std=3.0), config)
    same = deconvolve(read_fits(path, variance=f"{tmp_path / 'std.fits'}:std"), config)
    np.testing.assert_array_equal(three.image, same.image)
    np.testing.assert_array_equal(three.std, same.std)
    assert np.median(three.std / one.std) > 1.1
    assert np.abs(np.diff(three.image)).sum() < np.abs(np.diff(one.image)).sum()
    strong = np.zeros(SHAPE)
    strong[4, 5] = 1
    fits.PrimaryHDU(strong).writeto(tmp_path / "mask.fits")
    masked = deconvolve(read_fits(path, mask=tmp_path / "mask.fits"), config)
    np.testing.assert_array_equal(masked.inpainted, strong == 1)


def test_samples(plain):
    found = deconvolve(observation(), settings(refine=2, num_samples=16, method="sample"))
    assert isinstance(found, Samples) and found.draws.shape == (16, *plain.image.shape)
    np.testing.assert_array_equal(found.image, plain.image)
    np.testing.assert_array_equal(found.std, plain.std)
    np.testing.assert_allclose(np.sqrt(((found.draws - found.image) ** 2).mean(0)), found.std, rtol=1e-9)
    pull = (found.draws.mean(0) - found.image) / found.std * np.sqrt(16)
    assert 0.8 < pull.std() < 1.2
    assert len(np.unique(found.draws[:, 3, 3])) == 16


def test_without_draws(plain):
    found = deconvolve(observation(), settings(refine=2))
    assert found.std is None and found.effective_dof is None and "--num-samples" in found.no_std
    np.testing.assert_array_equal(found.image, plain.image)


def test_errors_of_the_flux(plain):
    """The error of the sum is not that of independent pixels."""
    flux, error = plain.report.flux, plain.report.flux_std
    assert flux == pytest.approx(plain.image.sum())
    truth = scene(sigma=0.0).sum()
    assert abs(flux - truth) < 4 * error
    assert error < 0.2 * truth


def test_single_precision():
    double = deconvolve(observation(), settings(num_samples=4))
    single = deconvolve(observation(), settings(num_samples=4, dtype="float32", rtol=1e-5))
    assert single.image.dtype == np.float32 and single.status is Status.CONVERGED
    assert np.abs(single.image - double.image).max() < 0.02 * np.abs(double.image).max()


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_strength_multiplies_the_inverse_amplitude(factor):
    found = deconvolve(observation(), settings(strength=factor))
    same = deconvolve(observation(), settings(amplitude=settings().amplitude / factor))
    np.testing.assert_allclose(found.image, same.image, rtol=1e-9, atol=1e-9)
    assert found.report.prior_amplitude == pytest.approx(settings().amplitude / factor)
    assert f"inverse amplitude times {factor:g}" in found.report.strength_choice


def test_the_strength_is_found_from_the_data():
    """Without numbers by hand; a factor changes what was found by just that factor."""
    found = deconvolve(observation(), Config.make(num_samples=8))
    assert np.isfinite(found.report.log_evidence)
    assert 0.8 < found.chi2 / found.effective_dof < 1.2
    weak = deconvolve(observation(), Config.make(num_samples=0, strength=0.5))
    assert weak.report.prior_amplitude == pytest.approx(2 * found.report.prior_amplitude)
    assert weak.chi2 < found.chi2


@pytest.mark.parametrize("unit", [1e-12, 1e9])
def test_the_unit_of_the_data_does_not_matter(unit):
    """Fluxes in erg/s and in counts are deconvolved alike, the search for the strength included."""
    config = Config.make(num_samples=0)
    obs = observation()
    found = deconvolve(obs, config)
    scaled = deconvolve(replace(obs, data=unit * obs.data, variance=unit**2 * obs.variance), config)
    np.testing.assert_allclose(scaled.image / unit, found.image, rtol=0, atol=0.02 * np.abs(found.image).max())


def test_the_listener():
    notes, steps, draws = [], [], []
    listener = Listener(note=notes.append, step=steps.append, draw=lambda done, total: draws.append((done, total)))
    deconvolve(observation(), settings(num_samples=9), listener=listener)
    assert any("solving for" in n for n in notes) and any("drawing 9" in n for n in notes)
    assert all("reduced chi-square" in str(s) for s in steps) and steps[-1].reduced_chi2 > 0
    assert draws == [(8, 9), (9, 9)]


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ({"prior": "nope"}, "no prior is called 'nope'"),
        ({"solver": "nope"}, "no solver is called 'nope'"),
        ({"solver": "wiener"}, "solver 'wiener' does not fit"),
        ({"method": "sample", "num_samples": 0}, "num_samples of at least 1"),
        ({"slope": None}, "go together"),
    ],
)
def test_what_does_not_fit(fields, fragment):
    with pytest.raises(UsageError, match=fragment):
        deconvolve(observation(), settings(**fields))


def test_solvers_agree():
    auto = deconvolve(observation(), settings(rtol=1e-10))
    for name in ("cg", "lbfgs"):
        found = deconvolve(observation(), settings(solver=name, rtol=1e-10))
        assert np.abs(found.image - auto.image).max() < 1e-3 * np.abs(auto.image).max(), name
        assert found.solver != "" and found.reason == "chosen by the caller"
