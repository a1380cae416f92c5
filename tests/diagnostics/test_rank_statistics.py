"""R-hat and effective sample sizes against another implementation, known chains and chains that do not mix."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from invprob.diagnostics import rank_statistics as module
from invprob.diagnostics.rank_statistics import (
    bulk_ess,
    e_bfmi,
    mean_ess,
    rank_normalized_rhat,
    rank_statistics,
    rhat_by_chance,
    tail_ess,
)
from invprob.errors import InputError
from tests.diagnostics.chains import autoregressive, drifting, independent, shifted, stuck, two_modes, wider


def theirs(draws):
    """Draws with the axes as arviz-stats has them."""
    return np.moveaxis(draws, (0, 1), (-2, -1))


@pytest.mark.parametrize("rho", [0.0, 0.9, -0.7])
@pytest.mark.parametrize("shape", [(4, 100, 3, 8), (3, 101, 24), (2, 7, 24), (2, 4, 24)])
def test_agrees_with_arviz(shape, rho):
    draws = autoregressive(rho, shape)
    draws[..., :4] = np.round(2 * draws[..., :4])  # ties
    draws[..., 4] = np.exp(40 * draws[..., 4])
    draws[..., 5] = 1e-25 * draws[..., 5]
    there = theirs(draws)
    # their bound for a draw that does not vary is absolute, and a mean of 1e-25 falls below it
    compared = np.arange(shape[-1]) != 5
    with np.errstate(all="ignore"):
        pairs = {
            "rhat": (rank_normalized_rhat(draws), array_stats.rhat(there)),
            "bulk": (bulk_ess(draws), array_stats.ess(there, method="bulk")),
            "tail": (tail_ess(draws), array_stats.ess(there, method="tail", prob=(0.05, 0.95))),
            "mean": (mean_ess(draws)[..., compared], array_stats.ess(there, method="mean")[..., compared]),
        }
    for name, (ours, reference) in pairs.items():
        moved = np.isfinite(reference)
        assert moved.mean() > 0.9 and ours.shape == reference.shape
        np.testing.assert_allclose(ours[moved], reference[moved], rtol=1e-6, err_msg=name)


def test_one_chain_agrees_with_arviz():
    draws = autoregressive(0.5, (1, 301, 20))
    np.testing.assert_allclose(bulk_ess(draws), array_stats.ess(theirs(draws), method="bulk"), rtol=1e-6)
    halves = np.concatenate([draws[:, :150], draws[:, -150:]])
    ranked = array_stats.rhat(theirs(halves), method="z_scale")
    assert np.corrcoef(rank_normalized_rhat(draws), ranked)[0, 1] > 0.2  # theirs splits the halves once more
    assert (rank_normalized_rhat(drifting(independent((1, 1000, 20)))) > 1.02).all()


def test_all_at_once_is_each_alone(monkeypatch):
    draws = autoregressive(0.6, (4, 60, 5, 7))
    monkeypatch.setattr(module, "CHUNK", 1000)
    whole = rank_statistics(draws)
    monkeypatch.undo()
    np.testing.assert_array_equal(whole.rhat, rank_normalized_rhat(draws))
    np.testing.assert_array_equal(whole.bulk_ess, bulk_ess(draws))
    np.testing.assert_array_equal(whole.tail_ess, tail_ess(draws))
    assert whole.within_ess.shape == (5, 7)
    assert float(rank_normalized_rhat(draws[..., 2, 3])) == whole.rhat[2, 3]


@pytest.mark.parametrize("rho", [0.9, 0.5, 0.0, -0.5])
def test_effective_size_of_autoregressive_chains(rho):
    draws = autoregressive(rho, (4, 2500, 30))
    true, folded = 10000 * (1 - rho) / (1 + rho), 10000 * (1 - rho**2) / (1 + rho**2)
    for found in (mean_ess(draws), rank_statistics(draws).bulk_ess):
        error = found.std() / np.sqrt(found.size)
        assert abs(found.mean() - true) < 4 * error + 0.02 * true
    # the folded draws have a correlation near the square, so that antithetic chains are no better in their scale
    assert abs(rank_statistics(draws).within_ess.mean() / min(true, folded) - 1) < 0.15


def test_antithetic_chains_have_more_up_to_a_bound():
    draws = autoregressive(-0.95, (4, 1000, 10))
    np.testing.assert_allclose(mean_ess(draws), 4000 * np.log10(4000))


def test_error_of_the_mean_is_what_the_effective_size_says():
    draws = autoregressive(0.8, (4, 500, 1000))
    pulls = draws.mean((0, 1)) / (draws.std((0, 1)) / np.sqrt(mean_ess(draws)))
    assert abs(pulls.std() - 1) < 4 / np.sqrt(2 * 1000)
    naive = draws.mean((0, 1)) / (draws.std((0, 1)) / np.sqrt(2000))
    assert naive.std() > 2.5


def test_what_never_moved_and_what_is_not_finite():
    draws = independent((4, 100, 5))
    draws[..., 0] = 3.0
    draws[..., 1] = np.arange(4.0)[:, None]  # every chain stays where it began
    draws[2, 50, 2] = np.nan
    draws[2, 50, 3] = np.inf
    found = rank_statistics(draws)
    assert found.never_moved.tolist() == [True, False, False, False, False]
    assert found.not_finite.tolist() == [False, False, True, True, False]
    assert np.isinf(found.rhat[[0, 2, 3]]).all() and found.rhat[1] > 1e6 and found.rhat[4] < 1.1
    for ess in (found.bulk_ess, found.tail_ess, bulk_ess(draws), tail_ess(draws), mean_ess(draws)):
        assert ess[[0, 2, 3]].tolist() == [0, 0, 0] and ess[4] > 200 and 0 < ess[1] < 10
    np.testing.assert_array_equal(found.rhat, rank_normalized_rhat(draws))


def test_two_values():
    draws = np.sign(independent((4, 200, 50)))
    assert (rank_normalized_rhat(draws) < 1.05).all()  # the folded draws are all equal and say nothing
    assert (bulk_ess(draws) > 400).all()
    np.testing.assert_array_equal(tail_ess(draws > 0), tail_ess(draws))


def test_units_and_monotone_maps_change_nothing():
    draws = autoregressive(0.5, (4, 200, 10))
    np.testing.assert_allclose(mean_ess(1e-30 * draws), mean_ess(draws), rtol=1e-9)
    np.testing.assert_allclose(mean_ess(draws + 100), mean_ess(draws), rtol=1e-6)
    np.testing.assert_array_equal(bulk_ess(np.exp(draws)), bulk_ess(draws))
    kept = draws.astype(np.float32)
    np.testing.assert_array_equal(bulk_ess(kept), bulk_ess(kept.astype(float)))


@pytest.mark.parametrize("change", [stuck, shifted, wider, drifting, two_modes])
def test_rhat_sees_chains_that_do_not_mix(change):
    good = independent((4, 1000, 50))
    assert (rank_normalized_rhat(good) < 1.01).all()
    assert (rank_normalized_rhat(change(good)) > 1.01).all()


def test_only_the_folded_rhat_sees_a_different_scale():
    draws = wider(independent((4, 1000, 50)))
    assert (rank_normalized_rhat(draws) > 1.05).all()
    assert (array_stats.rhat(theirs(draws), method="z_scale") < 1.01).all()


def test_ranks_see_a_shift_under_heavy_tails():
    draws = np.random.default_rng(1).standard_cauchy((4, 1000, 50))
    assert (rank_normalized_rhat(draws) < 1.01).all() and (bulk_ess(draws) > 3000).all()
    assert (rank_normalized_rhat(shifted(draws, 2.0)) > 1.03).all()
    assert np.median(array_stats.rhat(theirs(shifted(draws, 2.0)), method="split")) < 1.01


def test_the_effective_size_inside_the_chains_does_not_see_them_apart():
    good = autoregressive(0.6, (4, 1000, 50))
    apart = rank_statistics(two_modes(good))
    assert np.median(apart.bulk_ess) < 10
    assert np.median(apart.within_ess) > 0.5 * np.median(rank_statistics(good).within_ess)


def test_the_effective_size_inside_short_chains_is_not_too_large():
    """Deviations from a half chain's own mean alone would give a correlation time of 16.8 where it is 19."""
    found = rank_statistics(autoregressive(0.9, (4, 1000, 400)))
    assert abs(np.mean(4000 / found.within_ess) - 19) < 1


@pytest.mark.parametrize(("rho", "draws"), [(0.0, 250), (0.6, 300)])
def test_scatter_of_rhat(rho, draws):
    """The part of the quantities above the limit for one in fifty: about one in a hundred, as an R-hat is the larger
    of two that are nearly independent, and their smaller effective size is taken for both."""
    found = rank_statistics(autoregressive(rho, (4, draws, 3000), seed=3))
    limit = rhat_by_chance(found.within_ess, 8, draws // 2, 0.01)
    part = np.mean(found.rhat > limit)
    assert 0.003 < part < 0.02
    careless = rhat_by_chance(np.full(3000, 4.0 * draws), 8, draws // 2, 0.01)
    assert rho == 0 or np.mean(found.rhat > careless) > 0.1


def test_energies():
    energies = autoregressive(0.9, (4, 20000))
    np.testing.assert_allclose(e_bfmi(energies), array_stats.bfmi(energies), rtol=1e-9)
    assert np.abs(e_bfmi(energies) / (2 * (1 - 0.9)) - 1).max() < 0.1
    assert np.abs(e_bfmi(independent((4, 20000))) / 2 - 1).max() < 0.1
    energies[1], energies[2, 5] = 1.0, np.nan
    assert e_bfmi(energies)[1:3].tolist() == [0, 0]


@pytest.mark.parametrize("measure", [rank_normalized_rhat, bulk_ess, tail_ess, mean_ess, rank_statistics])
def test_bad_draws(measure):
    with pytest.raises(InputError, match=r"shape \(chain, draw, ...\) .* got float64 of shape \(5,\)"):
        measure(np.zeros(5))
    with pytest.raises(InputError, match="real numbers, got complex128"):
        measure(np.zeros((4, 100), complex))
    with pytest.raises(InputError, match="at least 4 draws of a chain, got 3"):
        measure(np.zeros((4, 3, 2)))


def test_bad_energies():
    with pytest.raises(InputError, match=r"shape \(chain, draw\) .* got \(5,\)"):
        e_bfmi(np.zeros(5))
