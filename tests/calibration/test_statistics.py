"""The tests of calibration are right: uniform p-values where all is calibrated, small ones where it is not."""

import numpy as np
import pytest
from scipy import stats

from invprob.calibration import statistics
from invprob.errors import UsageError


def uniform_p_values(p_values):
    """Largest excess of small p-values in binomial standard errors, and the p-value of a KS test of them all."""
    p_values = np.asarray(p_values)
    alphas = np.array([0.01, 0.05, 0.1, 0.5])
    parts = (p_values[:, None] <= alphas).mean(axis=0)
    errors = np.sqrt(alphas * (1 - alphas) / len(p_values))
    return ((parts - alphas) / errors).max(), stats.kstest(p_values, "uniform").pvalue


# --- ranks -----------------------------------------------------------------------------------------------------


def test_ranks_by_hand():
    rng = np.random.default_rng(0)
    draws = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    assert statistics.ranks(np.array([2.5, 0.0]), draws, rng).tolist() == [2, 0]
    assert statistics.ranks(np.array([9.0, 6.5]), draws, rng).tolist() == [3, 2]


def bounded(rng, cases=2000, num_draws=19):
    """Truths and draws of a number that is often at its bound."""
    values = np.maximum(rng.standard_normal((num_draws + 1, cases)), 0)
    return values[0], values[1:]


def test_ties_are_broken_at_random():
    rng = np.random.default_rng(1)
    truth, draws = bounded(rng)
    test = statistics.uniformity(2000, 19)
    assert test.p_value(statistics.ranks(truth, draws, rng)) > 0.01
    assert test.p_value(np.sum(draws < truth, axis=0)) < 1e-4, "ties that are not broken are not noticed"


def test_ranks_in_a_pool_are_those_of_each_member():
    rng = np.random.default_rng(2)
    pool = rng.standard_normal((7, 5))
    place = statistics.ranks_in_pool(pool, rng)
    for member in range(7):
        others = np.delete(pool, member, axis=0)
        np.testing.assert_array_equal(place[member], statistics.ranks(pool[member], others, rng))
    tied = statistics.ranks_in_pool(np.zeros((7, 3000)), rng)
    assert (np.sort(tied, axis=0) == np.arange(7)[:, None]).all()
    assert stats.chisquare(np.bincount(tied[0], minlength=7)).pvalue > 0.001


# --- uniformity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cases", "num_draws"), [(20, 19), (100, 99), (37, 50)])
def test_p_values_of_uniform_ranks_are_uniform(cases, num_draws):
    rng = np.random.default_rng(3)
    test = statistics.uniformity(cases, num_draws)
    excess, p = uniform_p_values([test.p_value(rng.integers(0, num_draws + 1, cases)) for _ in range(1000)])
    assert excess < 4
    assert p > 1e-3


def normal_ranks(rng, bias, width, cases=100, num_draws=99):
    """Ranks of a truth whose posterior is standard normal, when it is biased or scattered more or less than that."""
    return rng.binomial(num_draws, stats.norm.cdf(bias + width * rng.standard_normal(cases)))


@pytest.mark.parametrize(("bias", "width", "power"), [(0.5, 1.0, 0.95), (0.0, 1.4, 0.9), (0.0, 0.7, 0.9)])
def test_power_for_a_bias_and_for_a_wrong_width(bias, width, power):
    rng = np.random.default_rng(4)
    test = statistics.uniformity(100, 99)
    assert np.mean([test.p_value(normal_ranks(rng, bias, width)) < 0.05 for _ in range(300)]) > power


def test_the_statistics_by_their_definitions():
    rng = np.random.default_rng(5)
    cases, num_draws = 30, 19
    rank = rng.integers(0, 20, cases)
    counts = np.bincount(rank, minlength=20)
    extreme, smooth = (float(s[0]) for s in statistics._statistics(counts[None]))
    tails = []
    for k in range(1, 20):
        law, below = stats.binom(cases, k / 20), np.sum(rank < k)
        tails.append(2 * min(law.cdf(below), law.sf(below - 1)))
    assert np.exp(-extreme) == pytest.approx(min(tails))
    u = rank - num_draws / 2
    first = u.sum() / np.sqrt((num_draws + 1) ** 2 / 12 - 1 / 12)
    all_squares = (np.arange(20) - 9.5) ** 2
    second = ((u**2) - all_squares.mean()).sum() / all_squares.std()
    assert smooth == pytest.approx((first**2 + second**2) / cases)


def test_the_band_holds_whole_curves():
    rng = np.random.default_rng(6)
    points, low, high = statistics.uniformity(100, 99).band(0.95)
    below = np.array([np.mean(rng.integers(0, 100, 100) < 100 * points[:, None] - 0.5, axis=1) for _ in range(2000)])
    inside = ((below >= low) & (below <= high)).all(axis=1).mean()
    assert abs(inside - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000) + 0.005


@pytest.mark.parametrize(("cases", "num_draws", "what"), [(5, 99, "5 cases"), (100, 3, "3 draws")])
def test_too_few(cases, num_draws, what):
    with pytest.raises(UsageError, match=f"{what} was asked for; at least"):
        statistics.uniformity(cases, num_draws)


# --- coverage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_draws", [19, 50, 99])
@pytest.mark.parametrize("level", [0.05, 0.68, 0.95])
def test_the_expected_part_inside_is_the_level(level, num_draws):
    assert statistics.inside(np.arange(num_draws + 1), num_draws, level).mean() == pytest.approx(level, abs=1e-12)


def test_the_central_interval_of_99_draws():
    inside = statistics.inside(np.arange(100), 99, 0.68)
    np.testing.assert_allclose(inside, (np.arange(100) >= 16) & (np.arange(100) < 84), atol=1e-12)


def correlated(rng, cases, width=1.0, num_draws=19, elements=30):
    """Coverage and its rank for strongly correlated elements, truths scattered ``width`` times as much as draws."""
    rng_ties, parts, places = np.random.default_rng(7), [], []
    for _ in range(cases):
        pool = rng.standard_normal((num_draws + 1, 1)) + 0.5 * rng.standard_normal((num_draws + 1, elements))
        part, place = statistics.group_coverage(width * pool[0], pool[1:], statistics.LEVELS, rng_ties)
        parts.append(part)
        places.append(place)
    return np.array(parts), np.array(places)


def test_coverage_of_a_correlated_group():
    parts, places = correlated(np.random.default_rng(8), 1000)
    errors = parts.std(axis=0) / np.sqrt(1000)
    assert (np.abs(parts.mean(axis=0) - statistics.LEVELS) < 4 * errors).all()
    levels = np.array(statistics.LEVELS)
    assert (errors > 2 * np.sqrt(levels * (1 - levels) / 30_000)).all(), "the elements are hardly correlated"
    test = statistics.uniformity(1000, 19)
    assert all(test.p_value(place) > 0.005 for place in places.T)


@pytest.mark.parametrize("width", [0.7, 1.4])
def test_coverage_of_a_group_notices_a_wrong_width(width):
    _, places = correlated(np.random.default_rng(9), 300, width)
    assert statistics.uniformity(300, 19).p_value(places[:, 0]) < 1e-3


def test_binomial_coverage():
    assert statistics.binomial_p(68, 100, 0.68) == pytest.approx(1)
    assert statistics.binomial_p(75, 100, 0.68) == pytest.approx(stats.binomtest(75, 100, 0.68).pvalue)
    every = np.array([statistics.binomial_p(k, 100, 0.95) for k in range(101)])
    law = stats.binom.pmf(np.arange(101), 100, 0.95)
    assert all(law[every <= alpha].sum() <= alpha for alpha in (0.001, 0.01, 0.05, 0.3))


# --- TARP ------------------------------------------------------------------------------------------------------


def linear_world(rng, cases, num_draws=19, bias=0.0, width=1.0):
    """Truths and draws of three correlated numbers of different units, each seen in noise."""
    mixing = np.array([[1.0, 0, 0], [20.0, 10.0, 0], [0.003, 0.001, 0.01]])
    truths = rng.standard_normal((cases, 3))
    mean = 0.5 * (truths + rng.standard_normal((cases, 3)))
    draws = mean[:, None] + bias + width * np.sqrt(0.5) * rng.standard_normal((cases, num_draws, 3))
    return truths @ mixing.T, draws @ mixing.T


def test_tarp_p_values_are_uniform():
    rng, test = np.random.default_rng(10), statistics.uniformity(100, 19)
    excess, p = uniform_p_values(
        [test.p_value(statistics.tarp_ranks(*linear_world(rng, 100), rng)) for _ in range(400)]
    )
    assert excess < 4
    assert p > 1e-3


@pytest.mark.parametrize("wrong", [{"bias": 0.7}, {"width": 0.6}, {"width": 1.6}])
def test_tarp_notices(wrong):
    rng, test = np.random.default_rng(11), statistics.uniformity(300, 19)
    assert test.p_value(statistics.tarp_ranks(*linear_world(rng, 300, **wrong), rng)) < 1e-3


def test_tarp_does_not_depend_on_units():
    rng = np.random.default_rng(12)
    truths, draws = linear_world(rng, 50)
    scale = np.array([1e-6, 3.0, 1e9])
    one, two = (statistics.tarp_ranks(truths * s, draws * s, np.random.default_rng(0)) for s in (np.ones(3), scale))
    np.testing.assert_array_equal(one, two)


# --- single numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chi-square", "normal", "mean"])
def test_p_values_of_numbers_are_uniform(name):
    noise = np.random.default_rng(13).standard_normal((2000, 30))
    p_values = {
        "chi-square": [statistics.chi_square_p(np.sum(n**2), 30) for n in noise],
        "normal": [statistics.normal_p(n.sum() / np.sqrt(30)) for n in noise],
        "mean": [statistics.mean_p(n)[1] for n in noise],
    }[name]
    excess, p = uniform_p_values(p_values)
    assert excess < 4
    assert p > 1e-3


def test_p_values_of_numbers_notice():
    noise = np.random.default_rng(14).standard_normal(1000)
    assert statistics.chi_square_p(1.3 * np.sum(noise**2), 1000) < 1e-6
    assert statistics.mean_p(noise + 0.3)[1] < 1e-6
    assert statistics.normal_p(-6.0) < 1e-6
    assert statistics.mean_p(np.ones(20))[1] < 1e-6
    assert statistics.mean_p(np.zeros(20)) == (0.0, 1.0)


# --- Holm ------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.9, 0.8]), [1, 1])


def test_holm_keeps_the_rate_of_false_alarms():
    p_values = np.random.default_rng(15).random((4000, 12))
    alarms = np.mean([statistics.holm(p).min() <= 0.05 for p in p_values])
    assert abs(alarms - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 4000)
    assert np.mean([p.min() <= 0.05 for p in p_values]) > 0.4  # uncorrected
