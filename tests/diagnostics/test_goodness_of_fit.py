"""The p-values of residuals: those of white noise, no smaller of a right model, and small where it is wrong."""

import jax
import numpy as np
import pytest

from invprob.covariance import dense, dense_operator
from invprob.diagnostics.goodness_of_fit import goodness_of_fit
from invprob.testing import small_problem

SHAPE, NUM_CASES = (24, 26), 1000
Y, X = np.mgrid[-7:8, -6:7]


def lopsided(fwhm: float) -> np.ndarray:
    """A PSF that is not symmetric, so that it has a direction."""
    sigma = fwhm / 2.355
    core = np.exp(-(X**2 + Y**2) / (2 * sigma**2))
    return core + 0.5 * np.exp(-((X - 2) ** 2 + (Y - 1) ** 2) / (2 * sigma**2))


def uneven(rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.normal(0, 0.4, SHAPE))


def masked(residual: np.ndarray) -> np.ndarray:
    out = residual.copy()
    out[5:8, 3:20] = np.nan
    return out


def three(fit) -> list[float]:
    return [fit.chi2, fit.structure, fit.peak]


@pytest.mark.parametrize("fwhm", [1.0, 3.0, 5.0])
def test_white_noise_has_uniform_p_values(fwhm):
    rng = np.random.default_rng(0)
    variance = uneven(rng)
    fits = [
        goodness_of_fit(masked(rng.standard_normal(SHAPE)), variance, lopsided(fwhm)) for _ in range(NUM_CASES)
    ]  # fmt: skip
    p = np.array([[*three(fit), fit.p_value] for fit in fits])
    for limit in (0.5, 0.1):
        rate, error = (p < limit).mean(0), np.sqrt(limit * (1 - limit) / NUM_CASES)
        np.testing.assert_allclose(rate[:2], limit, atol=3.5 * error)
        assert (rate[2:] < limit + 3.5 * error).all()
    assert (p[:, 3] < 0.01).mean() < 0.01 + 3.5 * np.sqrt(0.01 / NUM_CASES)


def test_a_point_source_is_seen_where_it_is_and_as_large_as_it_is():
    variance, psf = uneven(np.random.default_rng(1)), lopsided(3.0)
    seen = np.zeros(SHAPE)
    seen[3:18, 7:20] = 9.0 * psf / np.sqrt(variance[3:18, 7:20])
    fit = goodness_of_fit(seen, variance, psf)
    assert fit.where == (10, 13)
    assert fit.sigmas == pytest.approx(9.0 * np.sqrt(np.sum(psf**2 / variance[3:18, 7:20])), rel=1e-4)
    assert goodness_of_fit(-seen, variance, psf).sigmas == pytest.approx(-fit.sigmas)
    assert goodness_of_fit(seen, 100 * variance, 7 * psf).sigmas == pytest.approx(fit.sigmas)


def test_without_a_psf_it_is_the_largest_residual():
    residual = masked(np.random.default_rng(2).standard_normal(SHAPE))
    residual[11, 4] = -7.0
    fit = goodness_of_fit(residual, np.ones(SHAPE))
    assert fit.where == (11, 4) and fit.sigmas == pytest.approx(-7.0)
    assert fit.peak == pytest.approx(np.isfinite(residual).sum() * 2.56e-12, rel=0.01)


def test_what_is_as_wide_as_the_psf_is_noticed_below_the_noise():
    """A faint pattern over all of the data, which chi-square alone does not see."""
    rng, psf = np.random.default_rng(3), lopsided(4.0)
    pattern = 0.35 * np.sin(np.arange(SHAPE[0]) / 3)[:, None] * np.ones(SHAPE)
    p = np.array([three(goodness_of_fit(rng.standard_normal(SHAPE) + pattern, np.ones(SHAPE), psf)) for _ in range(50)])
    assert (p[:, 1] < 0.01).mean() > 0.8 and (p[:, 0] < 0.01).mean() < 0.5


def test_fewer_degrees_of_freedom_make_the_same_residual_larger():
    residual = 0.95 * np.random.default_rng(4).standard_normal(SHAPE)
    plain, fewer = goodness_of_fit(residual, np.ones(SHAPE)), goodness_of_fit(residual, np.ones(SHAPE), dof=500.0)
    assert fewer.chi2 < 0.05 < plain.chi2 and fewer.structure == plain.structure


def residuals_at_the_mean(noise: float, number: int = 300):
    """Of posterior means of Gaussian posteriors, with noise louder by a factor than is told."""
    post = small_problem(side=12)
    like = post.likelihood
    sigma = np.sqrt(np.asarray(like.noise.variance, float))
    a = np.asarray(dense_operator(like.operator), float).reshape(sigma.size, -1)
    valid = np.asarray(like.valid).ravel()
    s = np.asarray(dense(post.prior.covariance), float).reshape(a.shape[1], a.shape[1])
    predicted = a @ s @ a.T
    total = predicted + np.diag(np.where(valid, sigma.ravel() ** 2, 1e12))
    gain = predicted @ np.linalg.inv(total)
    keys = jax.random.split(jax.random.key(0), number)
    truths = np.asarray(jax.vmap(post.prior.sample)(keys), float).reshape(number, -1)
    loud = noise * sigma.ravel() * np.random.default_rng(0).standard_normal((number, sigma.size))
    data = np.where(valid, truths @ a.T + loud, 0.0)
    away = np.where(valid, (data - data @ gain.T) / sigma.ravel(), np.nan)
    dof = valid.sum() - np.trace(gain[np.ix_(valid, valid)])
    kernel = np.exp(-0.5 * (np.arange(-1, 2)[:, None] ** 2 + np.arange(-1, 2) ** 2))
    return [goodness_of_fit(r.reshape(sigma.shape), sigma**2, kernel, dof) for r in away]


def test_a_right_model_is_not_accused():
    p = np.array([three(fit) for fit in residuals_at_the_mean(1.0)])
    assert ((p < 0.05).mean(0) < 0.05 + 3 * np.sqrt(0.05 / len(p))).all()
    assert 0.3 < np.median(p[:, 0]) < 0.7


def test_louder_noise_is_noticed():
    p = np.array([fit.chi2 for fit in residuals_at_the_mean(1.4)])
    assert (p < 0.01).mean() > 0.8
