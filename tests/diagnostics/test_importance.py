"""Pareto-smoothed importance sampling against another implementation and known tails."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from invprob.diagnostics.importance import khat_threshold, psis
from invprob.errors import InputError


def pareto(k, size, seed=0):
    """Log-weights whose exponentials have the tail index k."""
    return k * np.random.default_rng(seed).exponential(size=size)


@pytest.mark.parametrize("efficiency", [1.0, 0.3, 2.0])
@pytest.mark.parametrize("size", [25, 100, 224, 226, 1000, 20000])
def test_agrees_with_arviz(size, efficiency):
    for k in (0.05, 0.3, 0.7, 1.5):
        weights = pareto(k, size)
        smoothed, khat = array_stats.psislw(-weights, r_eff=efficiency)
        found = psis(weights - 1234.5, efficiency)
        assert abs(found.khat - khat) < 1e-6
        np.testing.assert_allclose(found.log_weights, smoothed, atol=1e-6)


def test_shape_of_known_tails():
    for k in (0.2, 0.5, 0.9):
        found = np.array([psis(pareto(k, 100_000, seed)).khat for seed in range(20)])
        # 948 tail draws: the standard error of the shape is (1 + k) / sqrt(948); k is drawn to 1/2 by 1 %
        assert abs(found.mean() - k) < 4 * (1 + k) / np.sqrt(948 * 20) + 0.01


def gaussians(scale, size=4000, seed=0):
    """Log-weights of N(0, 1) for draws of N(0, scale^2), and the draws; k is ``1 - scale^2``, or negative."""
    x = scale * np.random.default_rng(seed).standard_normal(size)
    return -(x**2) / 2 + (x / scale) ** 2 / 2, x


def test_a_narrow_proposal_is_found_out():
    wide, narrow = psis(gaussians(1.5)[0]), psis(gaussians(0.35)[0])
    assert wide.reliable and wide.khat < 0.3
    assert not narrow.reliable and narrow.khat > 0.7


def test_smoothed_weights_are_better():
    """The second moment from draws of N(0, 0.7^2): k is 0.51."""
    plain, smooth = [], []
    for seed in range(300):
        weights, x = gaussians(0.7, 1000, seed)
        plain.append(np.average(x**2, weights=np.exp(weights)))
        smooth.append(np.exp(psis(weights).log_weights) @ x**2)
    assert np.mean((np.array(smooth) - 1) ** 2) < np.mean((np.array(plain) - 1) ** 2)


def test_weights_are_normalized_and_keep_their_order():
    weights = pareto(0.6, 500)
    found = psis(weights)
    assert abs(np.exp(found.log_weights).sum() - 1) < 1e-12
    order = np.argsort(weights)
    assert (np.diff(found.log_weights[order]) >= 0).all()
    assert 1 < found.ess < 500
    small = order[: 500 - int(3 * np.sqrt(500))]
    shifts = found.log_weights[small] - weights[small]
    assert np.ptp(shifts) < 1e-12


def test_the_input_is_left_alone():
    weights = pareto(0.6, 100)
    kept = weights.copy()
    psis(weights)
    np.testing.assert_array_equal(weights, kept)


def test_threshold():
    assert khat_threshold(100) == 0.5
    assert abs(khat_threshold(1000) - 2 / 3) < 1e-12
    assert khat_threshold(10_000) == 0.7
    assert psis(pareto(0.1, 400)).threshold == khat_threshold(400)


def test_equal_weights():
    found = psis(np.full(100, -3.0) + 1e-13 * np.arange(100))
    assert found.khat == -np.inf and found.reliable and abs(found.ess - 100) < 1e-9
    np.testing.assert_allclose(found.log_weights, -np.log(100), atol=1e-9)


def test_a_tail_of_equal_weights_cannot_be_fitted():
    weights = pareto(0.3, 400)
    weights[:100] = weights.max()
    found = psis(weights)
    assert found.khat == np.inf and not found.reliable
    np.testing.assert_allclose(found.log_weights - weights, (found.log_weights - weights)[0])


def test_shipped_weights_zero():
    weights = np.where(np.arange(400) < 390, -np.inf, pareto(0.3, 400))
    found = psis(weights)
    assert np.isfinite(found.khat)
    assert (np.isneginf(found.log_weights) == np.isneginf(weights)).all()
    assert psis(np.where(np.arange(400) < 397, -np.inf, 0.0)).khat == np.inf


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(24), r"at least 25 log-weights .* got the shape \(24,\)"),
        (np.zeros((4, 100)), r"along one axis, got the shape \(4, 100\)"),
        (np.where(np.arange(50) < 2, np.nan, 0.0), "2 of 50 log-weights are not a number"),
        (np.where(np.arange(50) < 1, np.inf, 0.0), "1 of 50 log-weights are not a number or infinite"),
        (np.full(50, -np.inf), "all importance weights are zero"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(InputError, match=message):
        psis(weights)


@pytest.mark.parametrize("efficiency", [0.0, -1.0, np.nan, np.inf])
def test_bad_efficiency(efficiency):
    with pytest.raises(InputError, match="relative efficiency"):
        psis(pareto(0.3, 100), efficiency)
