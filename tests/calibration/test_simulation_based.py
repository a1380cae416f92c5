"""Exact draws are found to be calibrated, and what is wrong on purpose is named."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invprob import likelihoods, operators, priors
from invprob.calibration import HostDraw, PureDraw, calibrate, image_summaries, statistics, with_data
from invprob.calibration.hypothesis_tests import Outcome, judge
from invprob.calibration.residuals import Residuals, directions, residual_checks
from invprob.covariance import Diagonal
from invprob.errors import CapabilityError, InputError, UsageError
from invprob.likelihoods import AbstractLikelihood
from invprob.posterior import Posterior
from tests.calibration.worlds import FWHM, DenseDraws, prior_draws, psf, world

KEY = jax.random.key(0)
SMALL = {"num_cases": 20, "num_draws": 19}


def small(**options):
    """A world in which a case costs little."""
    return world(side=8, **options)


def experiment(analysed=None, **options):
    """A calibration of exact draws of the posterior analysed, by default that of the world."""
    post = world()
    analysed = post if analysed is None else analysed
    return calibrate(post, PureDraw(DenseDraws.of(analysed)), KEY, analysed=analysed, **options)


@pytest.fixture(scope="module")
def calibrated():
    return experiment()


# --- what is right ---------------------------------------------------------------------------------------------


def test_exact_draws_are_calibrated(calibrated):
    assert calibrated.passed, calibrated.caught_by
    pixels = calibrated.coverage("pixels", 0.68)
    assert 0.66 < pixels.value < 0.70
    assert pixels.error < 0.005
    for name in ("flux", "size", "e1", "e2", "brightest pixel", "starlet energy 1", "TARP"):
        assert len(calibrated.ranks[name]) == 100
        assert min(calibrated.ranks[name]) >= 0 and max(calibrated.ranks[name]) <= 99
    curve = calibrated.curves["pixels"]
    assert np.all(np.abs(np.array(curve.value) - curve.level) < 5 * np.array(curve.error) + 1e-3)


@pytest.mark.slow
def test_exact_draws_are_calibrated_in_500_cases():
    found = experiment(num_cases=500)
    assert found.passed, found.caught_by
    pixels = found.coverage("pixels", 0.68)
    assert abs(pixels.value - 0.68) < 4 * pixels.error
    assert pixels.error < 0.002


def test_every_p_value_is_uniform_when_all_is_calibrated():
    post = small()
    draw = PureDraw(DenseDraws.of(post))
    found = [calibrate(post, draw, key, **SMALL) for key in jax.random.split(KEY, 30)]
    p_values = np.array([[check.p_value for check in c.checks] for c in found])
    fits = {check.name: stats.kstest(p, "uniform").pvalue for check, p in zip(found[0].checks, p_values.T, strict=True)}
    assert min(fits.values()) > 1e-4, fits
    alarms = np.mean(p_values <= 0.1)
    between = (p_values <= 0.1).mean(axis=1).std() / np.sqrt(len(found))
    assert abs(alarms - 0.1) < 4 * between
    assert sum(not c.passed for c in found) <= 4


def test_an_image_and_a_sky_level_by_a_sampler_on_the_host():
    post = small(sky=True)

    def summaries(x):
        return {"sky": x["sky"], "flux": jnp.sum(x["image"])}

    found = calibrate(post, DenseDraws.of(post), KEY, summaries=summaries, image_of=lambda x: x, **SMALL)
    assert found.passed, found.caught_by
    assert {"sky", "flux"} <= set(found.ranks)
    assert found.settings["run"] == "HostDraw"
    assert found.settings["sampler"] == "DenseDraws"


# --- what is wrong on purpose ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [pytest.param(1.3, marks=pytest.mark.slow), 1 / 1.3])
def test_a_wrong_noise_variance_is_caught_by_chi_square(factor):
    found = experiment(world(noise=factor))
    assert found.caught_by[0] == "residual chi-square"


def test_a_psf_that_is_too_wide_is_caught_by_its_own_statistic(calibrated):
    found = experiment(world(fwhm=1.05 * FWHM))
    assert found.caught_by[0] == "residual along PSF width"
    assert found.check("residual along PSF width").statistic < -6
    assert abs(calibrated.check("residual along PSF width").statistic) < 4


@pytest.mark.parametrize("width", [0.9, 1.1])
def test_error_bars_of_a_wrong_size_are_caught_by_coverage(width):
    post = small()
    found = calibrate(post, PureDraw(DenseDraws.of(post, width)), KEY, num_cases=100, num_draws=19)
    assert "pixels, coverage 68 %" in found.caught_by
    assert (found.coverage("pixels", 0.68).value > 0.68) is (width > 1)


def test_draws_that_ignore_the_data_are_caught_by_the_residuals_alone():
    found = calibrate(small(), PureDraw(prior_draws), KEY, num_cases=50, num_draws=19)
    assert "residual chi-square" in found.caught_by
    assert all(name.startswith("residual") for name in found.caught_by)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("control", "test"),
    [({"noise": 1 / 1.3}, "residual chi-square"), ({"fwhm": 1.05 * FWHM}, "residual along PSF width")],
)
def test_the_power_of_the_controls(control, test):
    analysed, post = world(**control), world()
    draw = PureDraw(DenseDraws.of(analysed))
    found = [calibrate(post, draw, key, analysed=analysed) for key in jax.random.split(KEY, 30)]
    assert all(test in c.caught_by for c in found)


# --- how it is run ---------------------------------------------------------------------------------------------


def test_a_case_does_not_depend_on_the_others_nor_on_how_it_is_run():
    post = small()
    sampler = DenseDraws.of(post)
    ways = ((PureDraw(sampler), 20), (PureDraw(sampler), 12), (PureDraw(sampler, batch=4), 12), (HostDraw(sampler), 12))
    runs = [calibrate(post, draw, KEY, num_cases=cases, num_draws=19) for draw, cases in ways]
    names = [name for name in runs[0].ranks if name != "TARP"]
    assert len(names) > 10
    for name in names:
        assert all(run.ranks[name] == runs[0].ranks[name][:12] for run in runs[1:])
    other = calibrate(post, PureDraw(sampler), jax.random.key(1), **SMALL)
    assert other.ranks["flux"] != runs[0].ranks["flux"]


def test_progress_and_reproducibility():
    post, seen = small(), []
    draw = PureDraw(DenseDraws.of(post))
    first = calibrate(post, draw, KEY, progress=lambda done, total: seen.append((done, total)), **SMALL)
    assert seen == [(i + 1, 20) for i in range(20)]
    assert calibrate(post, draw, KEY, **SMALL).sha256 == first.sha256


def test_truths_for_a_prior_that_cannot_be_drawn_from():
    field = small()
    mute = Posterior(field.likelihood, priors.TotalVariation(field.structure.shape, 1.0))
    draw = PureDraw(DenseDraws.of(field))
    with pytest.raises(CapabilityError, match="TotalVariation cannot be drawn from"):
        calibrate(mute, draw, KEY, analysed=field, **SMALL)
    by_function = calibrate(mute, draw, KEY, truths=field.prior.sample, analysed=field, **SMALL)
    stacked = jax.vmap(field.prior.sample)(jax.random.split(jax.random.key(5), 20))
    by_array = calibrate(mute, draw, KEY, truths=np.asarray(stacked), analysed=field, **SMALL)
    assert by_function.passed and by_array.passed
    assert by_function.ranks["flux"] != by_array.ranks["flux"]
    biased = calibrate(mute, draw, KEY, truths=3 * stacked, analysed=field, **SMALL)
    assert not biased.passed
    with pytest.raises(UsageError, match=r"truths of shape \(19, 16, 16\) were given"):
        calibrate(mute, draw, KEY, truths=stacked[1:], analysed=field, **SMALL)


def test_summaries_of_ones_own():
    post = small()

    def middle(image):
        return {"middle": image[8, 8], "row": image[8]}

    found = calibrate(post, PureDraw(DenseDraws.of(post)), KEY, summaries=middle, **SMALL)
    assert set(found.ranks) == {"middle", "row, coverage 68 %", "row, coverage 95 %", "TARP"}
    assert {c.name for c in found.coverages} == {"middle", "row"}


class Poissonian(AbstractLikelihood):
    """A likelihood that is not Gaussian."""

    operator: operators.AbstractOperator

    def log_prob(self, x):
        return jnp.zeros(())

    def residual(self, x):
        return self.operator(x)

    def simulate(self, key, x):
        return self.operator(x)

    def fisher(self, x):
        raise NotImplementedError

    def chi2(self, x):
        return jnp.zeros(())

    @property
    def num_data(self):
        return 1


def test_what_cannot_be_calibrated():
    post = small()
    draw = PureDraw(DenseDraws.of(post))
    with pytest.raises(CapabilityError, match="needs a Gaussian likelihood"):
        calibrate(Posterior(Poissonian(post.likelihood.operator), post.prior), draw, KEY)
    with pytest.raises(UsageError, match=r"data of shape \(8, 8\) are simulated"):
        calibrate(post, draw, KEY, analysed=world(side=9))
    like = post.likelihood
    whole = likelihoods.Gaussian(like.operator, like.data, Diagonal(like.noise.variance))
    with pytest.raises(UsageError, match="not valid in the simulated world"):
        calibrate(post, draw, KEY, analysed=Posterior(whole, post.prior))
    with pytest.raises(UsageError, match="5 cases was asked for"):
        calibrate(post, draw, KEY, num_cases=5)
    with pytest.raises(UsageError, match="give image_of"):
        calibrate(small(sky=True), prior_draws, KEY, **SMALL)
    with pytest.raises(UsageError, match="give a number, or a vector"):
        calibrate(post, draw, KEY, summaries=lambda image: {"all": image}, **SMALL)


def test_more_tests_than_can_be_told_apart():
    names = [f"number {i}" for i in range(300)]
    nothing = Residuals(jnp.ones(()), 1, jnp.zeros(()), jnp.ones(()), {})
    one = Outcome(
        dict.fromkeys(names, 0.0), dict.fromkeys(names, np.arange(19.0)), dict.fromkeys(names, 0), {}, nothing
    )
    with pytest.raises(UsageError, match="summarize by less"):
        judge([one] * 20, statistics.uniformity(20, 19), np.random.default_rng(0))


@pytest.mark.parametrize("kind", [PureDraw, HostDraw])
def test_a_sampler_that_gives_something_else(kind):
    post = small()
    with pytest.raises(UsageError, match=r"draws of shape \(7, 16, 16\); \(19, 16, 16\) is needed"):
        calibrate(post, kind(lambda p, key, n: prior_draws(p, key, 7)), KEY, **SMALL)
    with pytest.raises(InputError, match=r"case 0: the summary '.*' of the draws is not finite"):
        calibrate(post, kind(lambda p, key, n: prior_draws(p, key, n) * jnp.nan), KEY, **SMALL)


# --- data and residuals ----------------------------------------------------------------------------------------


def test_data_are_replaced():
    post = small()
    data = jnp.ones((8, 8))
    replaced = with_data(post, data)
    np.testing.assert_array_equal(replaced.likelihood.data, data)
    assert eqx.tree_equal(with_data(replaced, post.likelihood.data), post)
    with pytest.raises(UsageError, match=r"data of shape \(3,\)"):
        with_data(post, jnp.ones(3))


def test_the_residuals_by_hand():
    post = with_data(small(), jax.random.normal(KEY, (8, 8)))
    draws = prior_draws(post, KEY, 5)
    found = residual_checks(post, draws)
    like, valid = post.likelihood, np.asarray(post.likelihood.valid)
    sigma = np.sqrt(np.asarray(like.noise.variance))
    residuals = [np.where(valid, np.asarray(like.data - like.operator(x)) / sigma, 0) for x in draws]
    last, lag, pairs = residuals[-1], 0.0, 0
    assert float(found.chi2) == pytest.approx(np.sum(last**2))
    assert int(found.num_data) == valid.sum() < 64
    for y in range(8):
        for x in range(8):
            for b, a in ((y + 1, x), (y, x + 1)):
                if b < 8 and a < 8 and valid[y, x] and valid[b, a]:
                    lag, pairs = lag + last[y, x] * last[b, a], pairs + 1
    assert float(found.lag) == pytest.approx(lag)
    assert int(found.num_pairs) == pairs
    along = [np.sum(r / sigma) / np.sqrt(np.sum(valid / sigma**2)) for r in residuals]
    assert float(found.scores["sky level"]) == pytest.approx(np.mean(along))


def test_the_directions_are_those_of_the_errors_they_name():
    image = small().prior.sample(KEY)
    grid = image.shape

    def model(fwhm=FWHM, offset=(0.0, 0.0)):
        return operators.Convolve(psf(fwhm), grid)(operators.Shift(offset, grid)(image))

    named = directions(model())
    errors = {
        "PSF width": model(fwhm=1.01 * FWHM) - model(),
        "shift y": model() - model(offset=(0.01, 0.0)),
        "shift x": model() - model(offset=(0.0, 0.01)),
    }
    for name, error in errors.items():
        inner, direction = error[1:-1, 1:-1], named[name][1:-1, 1:-1]
        cosine = float(jnp.sum(inner * direction) / jnp.linalg.norm(inner) / jnp.linalg.norm(direction))
        assert cosine > 0.9, name
    assert set(directions(model().ravel())) == {"gain", "sky level"}


# --- summaries -------------------------------------------------------------------------------------------------


def blob(sigma_y, sigma_x, angle=0.0, side=41):
    axis = np.arange(side) - side // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    a, b = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return jnp.asarray(np.exp(-0.5 * (a**2 / sigma_x**2 + b**2 / sigma_y**2)))


def test_the_moments_of_a_gaussian():
    window = 0.25 * 41
    along, across = (1 / (1 / s**2 + 1 / window**2) for s in (4.0, 2.0))
    ellipticity = (along - across) / (along + across)
    look = jax.jit(image_summaries)
    found = look(blob(2.0, 4.0))
    assert float(found["size"]) == pytest.approx(along + across, rel=1e-3)
    assert float(found["e1"]) == pytest.approx(ellipticity, rel=1e-3)
    assert float(found["e2"]) == pytest.approx(0, abs=1e-6)
    turned = look(blob(2.0, 4.0, np.pi / 4))
    assert float(turned["e1"]) == pytest.approx(0, abs=1e-6)
    assert float(turned["e2"]) == pytest.approx(ellipticity, rel=1e-3)
    assert float(found["flux"]) == pytest.approx(2 * np.pi * 8, rel=1e-3)
    assert float(found["brightest pixel"]) == 1


def test_summaries_of_noise_nothing_and_a_large_image():
    look = jax.jit(image_summaries)
    noise = look(jax.random.normal(KEY, (20, 24)))
    assert all(bool(jnp.all(jnp.isfinite(value))) for value in noise.values())
    nothing = look(jnp.zeros((20, 24)))
    assert all(bool(jnp.all(value == 0)) for value in nothing.values())
    assert jax.eval_shape(image_summaries, jnp.ones((100, 90)))["pixels"].shape == (1024,)
