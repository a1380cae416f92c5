"""The Gaussian likelihood: valid data alone, linear and non-linear operators, and its TFP distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from invprob import likelihoods, operators
from invprob.covariance import Diagonal, Stationary, dense_operator
from invprob.likelihoods.tfp import distribution
from tests.cases import SHAPE, convolve, fresh, saturation, spectrum

OUT = (4, 5)
VALID = np.random.default_rng(1).random(OUT) > 0.3


def example(operator=None, valid=VALID):
    operator = convolve() if operator is None else operator
    data, variance = fresh(*OUT), jnp.exp(fresh(*OUT))
    if valid is not None:
        data, variance = (jnp.where(valid, a, jnp.nan) for a in (data, variance))
    return likelihoods.Gaussian(operator, data, Diagonal(variance), valid), data, variance


@pytest.mark.parametrize("valid", [VALID, None], ids=["masked", "complete"])
@pytest.mark.parametrize("make", [convolve, lambda: convolve() @ saturation()], ids=["linear", "non-linear"])
def test_log_prob_is_that_of_the_valid_data(make, valid):
    like, data, variance = example(make(), valid)
    x = fresh(*SHAPE)
    keep = np.ones(OUT, bool) if valid is None else valid
    mean = np.asarray(like.operator(x))
    wanted = scipy.stats.norm.logpdf(data[keep], mean[keep], np.sqrt(variance[keep])).sum()
    assert float(like.log_prob(x)) == pytest.approx(wanted, rel=1e-12)
    assert int(like.num_data) == keep.sum()
    chi2 = float(((data - mean) ** 2 / variance)[keep].sum())
    assert float(like.chi2(x)) == pytest.approx(chi2, rel=1e-12)
    np.testing.assert_array_equal(np.asarray(like.residual(x))[~keep], 0)


def test_masked_data_may_hold_anything():
    like, _, variance = example()
    x = fresh(*SHAPE)
    value, slope = jax.value_and_grad(like.log_prob)(x)
    assert np.isfinite(value) and np.isfinite(slope).all()
    by_variance = jax.grad(lambda v: likelihoods.Gaussian(like.operator, like.data, Diagonal(v), VALID).log_prob(x))
    assert np.isfinite(by_variance(variance)).all()
    given_with_the_noise = likelihoods.Gaussian(
        like.operator, jnp.full(OUT, jnp.nan), Diagonal(variance, VALID * 0 > 1)
    )
    assert float(given_with_the_noise.log_prob(x)) == 0
    both = likelihoods.Gaussian(like.operator, jnp.where(VALID, 1.0, jnp.nan), Diagonal(variance, VALID))
    assert np.isfinite(both.log_prob(x)) and np.isfinite(both.data).all()


def test_simulated_data_have_the_mean_and_the_variance():
    like, _, variance = example()
    x, n = fresh(*SHAPE), 4000
    draws = np.asarray(jax.vmap(lambda k: like.simulate(k, x))(jax.random.split(jax.random.key(0), n)))
    z = ((draws - np.asarray(like.operator(x))) / np.sqrt(variance))[:, VALID]
    assert np.abs(z.mean(0)).max() * np.sqrt(n) < 5
    assert np.abs((z**2).mean(0) - 1).max() * np.sqrt(n / 2) < 5
    assert (draws[:, ~VALID] == 0).all()


@pytest.mark.parametrize("make", [convolve, lambda: convolve() @ saturation()], ids=["linear", "non-linear"])
def test_fisher_is_the_dense_one(make):
    like, _, variance = example(make())
    x = fresh(*SHAPE)
    jacobian = np.asarray(jax.jacfwd(lambda v: like.operator(v.reshape(SHAPE)).ravel())(x.ravel()))
    weight = np.where(VALID, 1 / np.where(VALID, variance, 1), 0).ravel()
    np.testing.assert_allclose(dense_operator(like.fisher(x)), jacobian.T * weight @ jacobian, atol=1e-11)


@pytest.mark.parametrize("valid", [VALID, None], ids=["masked", "complete"])
def test_tfp_distribution(valid):
    like, _, _ = example(valid=valid)
    x = fresh(*SHAPE)
    wanted = float(like.log_prob(x))
    assert float(distribution(like, x).log_prob(like.data)) == pytest.approx(wanted, rel=1e-12)
    assert distribution(like, x).sample(seed=jax.random.key(0)).shape == OUT
    stationary = likelihoods.Gaussian(convolve(), fresh(*OUT), Stationary(spectrum(OUT), OUT))
    with pytest.raises(TypeError, match="Diagonal"):
        distribution(stationary, x)


def test_stationary_noise_is_normalized():
    noise = Stationary(spectrum(OUT), OUT)
    like = likelihoods.Gaussian(convolve(), fresh(*OUT), noise)
    x = fresh(*SHAPE)
    matrix = dense_operator(noise.operator)
    u = np.ravel(like.data - like.operator(x))
    wanted = scipy.stats.multivariate_normal.logpdf(u, np.zeros(u.size), (matrix + matrix.T) / 2)
    assert float(like.log_prob(x)) == pytest.approx(wanted, rel=1e-9)


def test_shapes_that_do_not_fit_say_both():
    with pytest.raises(ValueError, match=r"\(4, 5\), but the data have \(4, 4\)"):
        likelihoods.Gaussian(convolve(), jnp.ones((4, 4)), 1.0)
    with pytest.raises(ValueError, match=r"\(4, 5\), but the noise have \(5, 4\)|noise has"):
        likelihoods.Gaussian(convolve(), jnp.ones(OUT), Diagonal(jnp.ones((5, 4))))


def test_other_coordinates():
    like, _, _ = example()
    T, offset, c = operators.Multiply(fresh(*SHAPE)), fresh(*SHAPE), fresh(*SHAPE)
    assert float(like.pulled_back(T).chi2(c)) == pytest.approx(float(like.chi2(T(c))), rel=1e-10)
    assert float(like.pulled_back(T, offset).chi2(c)) == pytest.approx(float(like.chi2(offset + T(c))), rel=1e-10)
