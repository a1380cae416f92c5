"""Data fission: two independent parts, and the strength whose image of one predicts the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.evidence.fission import RTOL, STRENGTHS, Fission, _minimum, split_data, strength_by_fission
from invprob.optimize.solvers import ProximalGradient
from invprob.posterior import Posterior

SHAPE = (150, 160)
SIZE = SHAPE[0] * SHAPE[1]


def laplace_field(scale: float = 2.0, sigma: float = 1.0):
    """A truth of Laplace numbers, and the likelihood of noisy data of each."""
    keys = jax.random.split(jax.random.key(3), 3)
    truth = scale * jax.random.laplace(keys[0], SHAPE)
    variance = sigma**2 * jnp.exp(0.5 * jax.random.normal(keys[1], SHAPE))
    data = truth + jnp.sqrt(variance) * jax.random.normal(keys[2], SHAPE)
    return truth, likelihoods.Gaussian(operators.Identity(SHAPE), data, Diagonal(variance))


def products(first, second, truth):
    """Mean squares and mean product of the errors of two likelihoods, in their own standard deviations."""
    u, v = (part.noise.inv_sqrt(part.data - truth) for part in (first, second))
    return [float(jnp.mean(w)) for w in (u * u, v * v, u * v)]


@pytest.mark.parametrize("share", [0.7, 2.0])
def test_independent_parts_of_the_stated_noise(share):
    truth, whole = laplace_field()
    first, second = split_data(whole, jax.random.key(0), share)
    square, other, product = products(first, second, truth)
    assert abs(square - 1) < 4 * np.sqrt(2 / SIZE) and abs(other - 1) < 4 * np.sqrt(2 / SIZE)
    assert abs(product) < 4 / np.sqrt(SIZE)


def test_a_wrong_share_would_be_noticed():
    """The first part of one share and the second of another have noise in common."""
    truth, whole = laplace_field()
    first = split_data(whole, jax.random.key(0), 0.7)[0]
    second = split_data(whole, jax.random.key(0), 0.8)[1]
    assert abs(products(first, second, truth)[2]) > 4 / np.sqrt(SIZE)


def test_the_information_adds_up():
    _, whole = laplace_field()
    parts = split_data(whole, jax.random.key(1))
    ones = jnp.ones(SHAPE)
    np.testing.assert_allclose(sum(part.noise.inv(ones) for part in parts), whole.noise.inv(ones), rtol=1e-12)
    together = sum(part.noise.inv(part.data) for part in parts)
    np.testing.assert_allclose(together, whole.noise.inv(whole.data), rtol=1e-9, atol=1e-9)


def test_the_mask_is_kept():
    _, whole = laplace_field()
    valid = jax.random.uniform(jax.random.key(2), SHAPE) > 0.3
    bad = jnp.where(valid, whole.data, jnp.nan)
    masked = likelihoods.Gaussian(whole.operator, bad, Diagonal(whole.noise.variance), valid)
    for part in split_data(masked, jax.random.key(1)):
        np.testing.assert_array_equal(part.valid, valid)
        assert float(part.num_data) == float(masked.num_data) == valid.sum()
        assert np.isfinite(float(part.chi2(jnp.zeros(SHAPE))))


def soft(data, threshold):
    return np.sign(data) * np.maximum(np.abs(data) - threshold, 0)


def build(likelihood, strength):
    return Posterior(likelihood, priors.Laplace(1 / strength, SHAPE))


def found(likelihood, **options) -> Fission:
    return strength_by_fission(build, likelihood, lambda post: ProximalGradient(rtol=RTOL), **options)


def test_strength_of_a_laplace_field():
    """Scores are those of the closed form, and the strength is near the one that is best against the truth."""
    truth, whole = laplace_field()
    notes = []
    result = found(whole, num_splits=1, seed=4, note=notes.append)
    first, second = split_data(whole, jax.random.fold_in(jax.random.key(4), 0))
    assert [s for s, _ in result.scores] == list(STRENGTHS) and len(notes) == len(STRENGTHS)
    for strength, score in result.scores:
        image = soft(np.asarray(first.data), strength * np.asarray(first.noise.variance))
        wanted = float(np.mean((second.data - image) ** 2 / second.noise.variance))
        assert score == pytest.approx(wanted, rel=2e-3), strength
    grid = np.geomspace(0.05, 5, 100)
    away = [np.mean((soft(np.asarray(whole.data), s * whole.noise.variance) - truth) ** 2) for s in grid]
    oracle = grid[np.argmin(away)]
    assert oracle / 1.5 < result.strength < 1.5 * oracle, oracle
    assert not result.at_bound


def test_at_the_bound():
    """Where there is nothing but noise the strongest predicts best."""
    _, whole = laplace_field(scale=0.0)
    result = found(whole, strengths=(4.0, 2.0, 1.0, 0.5), num_splits=1)
    assert result.at_bound and result.strength == pytest.approx(4.0)


def test_the_seed():
    _, whole = laplace_field()
    some = {"strengths": (1.0, 0.5, 0.25), "num_splits": 1}
    assert found(whole, seed=1, **some) == found(whole, seed=1, **some)
    assert found(whole, seed=1, **some).scores != found(whole, seed=2, **some).scores


@pytest.mark.parametrize("best", [0.8, 1.0, 1.3])
def test_between_the_strengths_tried(best):
    """The lowest point of a parabola in the logarithm is found exactly; an end is not left."""
    strengths = [4.0, 2.0, 1.0, 0.5, 0.25]
    scores = [(s, 1 + 0.3 * np.log(s / best) ** 2) for s in strengths]
    assert _minimum(scores) == pytest.approx(best)
    assert _minimum(scores[:2]) == pytest.approx(2.0)
    assert _minimum([*scores, (0.1, float("nan"))]) == pytest.approx(best)
