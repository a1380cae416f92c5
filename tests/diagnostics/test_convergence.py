"""The gate: what it says, what it lets pass by chance and what it stops; means and variances of a stream."""

import subprocess
import sys

import numpy as np
import pytest

from invprob.diagnostics.convergence import (
    ChainDiagnostics,
    ConvergenceCriteria,
    RankStatistics,
    RunningMoments,
    assess,
)
from invprob.errors import InputError, UsageError
from tests.diagnostics.chains import autoregressive, independent, shifted, stuck, two_modes, wider

MANY = 10_000


def perfect(size):
    """The numbers of quantities that mix as well as can be."""
    many, no = np.full(size, 1e4), np.zeros(size, bool)
    return RankStatistics(
        rhat=np.ones(size), bulk_ess=many, tail_ess=many, within_ess=many, never_moved=no, not_finite=no
    )


def quality(num_chains=4, num_draws=1000, **known):
    """A quality without fault but for what is given."""
    return ChainDiagnostics({"pixels": perfect((10, 10)), **known.pop("groups", {})}, num_chains, num_draws, **known)


def with_one(group, at, **values):
    """A group with other numbers at one index."""
    arrays = {name: getattr(group, name).copy() for name in ("rhat", "bulk_ess", "tail_ess", "within_ess")}
    for name, value in values.items():
        arrays[name][at] = value
    return RankStatistics(**arrays, never_moved=group.never_moved, not_finite=group.not_finite)


# --- rates -----------------------------------------------------------------------------------------------------


def test_many_independent_quantities_pass():
    found = assess({"pixels": independent((4, 250, 100, 100))})
    assert ConvergenceCriteria().judge(found) == ()
    rhat = found.groups["pixels"].rhat
    assert np.sum(rhat > 1.01) > 5, "the scatter of R-hat has to be allowed for: a bare 1.01 would refuse these"
    assert found.worst_rhat == rhat.max() > 1.01


def refused(draws, among=MANY, gate=None):
    """For each quantity, whether the gate refuses it as one of many others that are without fault."""
    gate = gate or ConvergenceCriteria()
    bad = assess({"bad": draws})
    group, size = bad.groups["bad"], bad.groups["bad"].rhat.size
    crowd = ChainDiagnostics({"bad": group, "others": perfect(among - size)}, bad.num_chains, bad.num_draws)
    least = 0.5 * gate.min_ess  # one in a thousand may have less than min_ess
    return (group.rhat > gate.rhat_limit(group, crowd)) | (np.minimum(group.bulk_ess, group.tail_ess) < least)


@pytest.mark.parametrize("change", [stuck, wider, two_modes], ids=lambda f: f.__name__)
def test_one_bad_quantity_among_many_is_found(change):
    assert refused(change(independent((4, 250, 400)))).mean() > 0.99


def test_one_shifted_quantity_among_many_is_found_with_enough_draws():
    assert refused(shifted(independent((4, 1000, 300)))).mean() > 0.99
    few = refused(shifted(independent((4, 250, 300)))).mean()
    assert 0.3 < few < 0.8, "with 250 draws it is no rarer than the worst of 10^4 that mix: ten of them are needed"
    assert (1 - few) ** 10 < 0.01


def test_slow_chains_are_found():
    assert refused(autoregressive(0.99, (4, 250, 300))).mean() > 0.99
    assert refused(autoregressive(0.99, (4, 2000, 100))).mean() > 0.99


@pytest.mark.parametrize("change", [stuck, shifted, wider, two_modes], ids=lambda f: f.__name__)
def test_bad_chains_fail_in_words(change):
    lines = ConvergenceCriteria().judge(assess({"pixels": change(independent((4, 250, 20, 20)))}))
    assert lines and all(":" in line and len(line) < 200 for line in lines)
    assert any(line.startswith("R-hat 1.") and "of pixels at (" in line for line in lines)


def test_the_limit_grows_with_the_number_of_quantities_and_falls_with_their_effective_size():
    gate = ConvergenceCriteria()

    def limit(size, **numbers):
        group = with_one(perfect(size), 0, **numbers)
        return gate.rhat_limit(group, ChainDiagnostics({"pixels": group}, 4, 1000))[0]

    assert limit(MANY) == 1.01
    assert abs(limit(MANY, within_ess=1000.0) - 1.0262) < 1e-3
    assert (
        1.01
        == limit(1, within_ess=2000.0)
        < limit(1, within_ess=1000.0)
        < limit(100, within_ess=1000.0)
        < limit(MANY, within_ess=1000.0)
    )
    assert limit(MANY, within_ess=2000.0) < limit(MANY, within_ess=1000.0)
    assert limit(MANY, within_ess=3.0) == limit(MANY, within_ess=400.0) < 1.08


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_independent_quantities_pass_always(seed):
    assert ConvergenceCriteria().judge(assess({"pixels": independent((4, 250, MANY), seed)})) == ()


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "draws"), [(0.6, 800), (0.8, 1800), (-0.5, 250)])
def test_many_correlated_quantities_pass(rho, draws):
    """An effective size of 800 (3000 for the antithetic chains) is enough for 10^4 of them."""
    found = assess({"pixels": autoregressive(rho, (4, draws, MANY))})
    assert ConvergenceCriteria().judge(found) == ()
    assert np.mean(found.groups["pixels"].rhat > 1.01) > 1e-3


@pytest.mark.slow
def test_how_much_is_found():
    rates = {
        (change.__name__, draws): refused(change(independent((4, draws, 2000), seed=9))).mean()
        for change in (stuck, shifted, wider)
        for draws in (250, 500, 1000)
    }
    assert min(rate for (name, draws), rate in rates.items() if name != "shifted" or draws > 250) > 0.99, rates
    assert rates["shifted", 250] > 0.45


# --- words -----------------------------------------------------------------------------------------------------


def test_nothing_to_say():
    assert ConvergenceCriteria().judge(quality()) == ()
    assert quality().notes == ()


def test_rhat_in_words():
    bad = with_one(with_one(perfect((10, 10)), (3, 4), rhat=1.083), (5, 5), rhat=1.02)
    assert ConvergenceCriteria().judge(quality(groups={"starlet scale 3": bad})) == (
        "R-hat 1.083 of starlet scale 3 at (3, 4), at most 1.010 allowed (2 of 100 fail): run longer (num_warmup, "
        "num_samples)",
    )
    flux = with_one(perfect(()), (), rhat=np.inf)
    assert (
        ConvergenceCriteria()
        .judge(quality(groups={"flux": flux}))[0]
        .startswith("R-hat inf of flux, at most 1.010 allowed: run")
    )


def test_the_line_is_about_the_quantity_furthest_above_its_limit():
    slow = with_one(with_one(perfect(100), 3, rhat=1.020, within_ess=800.0), 7, rhat=1.015)
    (line,) = ConvergenceCriteria().judge(quality(groups={"stars": slow}))
    assert line.startswith("R-hat 1.015 of stars at 7, at most 1.010 allowed (1 of 100 fail)")


def test_effective_sizes_in_words():
    group = with_one(perfect(20), 3, bulk_ess=212.0, tail_ess=30.0)
    assert ConvergenceCriteria().judge(quality(groups={"scale 1": group})) == (
        "bulk ESS 212 of scale 1 at 3, at least 400 needed (1 of 20 fail): draw 1.9 times as many (num_samples)",
        "tail ESS 30 of scale 1 at 3, at least 400 needed (1 of 20 fail): the chains do not mix; longer warm-up "
        "(num_warmup), or coordinates in which the posterior is rounder",
    )


def test_one_in_a_thousand_may_have_a_small_effective_size():
    group = with_one(perfect(2999), 5, bulk_ess=210.0)
    group = with_one(group, 6, bulk_ess=390.0)
    assert ConvergenceCriteria().judge(quality(groups={"pixels": group})) == ()
    (line,) = ConvergenceCriteria().judge(quality(groups={"pixels": with_one(group, 7, bulk_ess=399.0)}))
    assert line.startswith("bulk ESS 210 of pixels at 5, at least 400 needed (3 of 2999 fail)")
    (line,) = ConvergenceCriteria().judge(quality(groups={"pixels": with_one(perfect(2999), 5, tail_ess=199.0)}))
    assert line.startswith("tail ESS 199 of pixels at 5")
    assert ConvergenceCriteria().judge(quality(groups={"pixels": with_one(perfect(999), 5, tail_ess=399.0)}))


def test_draws_that_never_moved_or_are_not_finite():
    draws = independent((4, 500, 6, 6))
    draws[..., 2, 3] = 0.0
    draws[1, 7, 5, 5] = np.nan
    assert ConvergenceCriteria().judge(assess({"pixels": draws, "sky": np.ones((4, 500))})) == (
        "the draws of pixels at (5, 5) are not finite (1 of 36 fail): take smaller steps",
        "the draws of pixels at (2, 3) are all equal (1 of 36 fail): the chains never moved; take smaller steps, or "
        "leave out what is fixed",
        "the draws of sky are all equal: the chains never moved; take smaller steps, or leave out what is fixed",
    )


def test_energies_and_divergences_in_words():
    bad = quality(e_bfmi=np.array([1.0, 0.12, 0.9, 0.31]), divergent=3, transitions=4000)
    assert ConvergenceCriteria().judge(bad) == (
        "E-BFMI 0.12 of chain 2 of 4, at least 0.3 needed: the energies are not explored; whiten the coordinates, or "
        "take a prior with lighter tails",
        "3 of 4000 transitions diverged, none allowed: take smaller steps (a higher target acceptance)",
    )
    lenient = ConvergenceCriteria(min_bfmi=0.1, max_divergent=1e-3)
    assert lenient.judge(bad) == ()
    assert "at most 0.1 % allowed" in lenient.judge(quality(divergent=5, transitions=4000))[0]


def test_quality_in_words():
    energies, divergent = independent((1, 400)), np.zeros((1, 400), bool)
    divergent[0, 3] = True
    found = assess(
        {"pixels": independent((1, 400, 2, 2)), "flux": independent((1, 400))},
        energies=energies, divergent=divergent, acceptance=np.full((1, 400), 0.8),
    )  # fmt: skip
    pixels, flux, energy, diverged, acceptance, note = found.lines
    assert pixels.startswith("pixels: R-hat up to 1.0") and "bulk ESS from " in pixels and ", median " in pixels
    assert flux.startswith("flux: R-hat ") and " at " not in flux
    assert energy.startswith("E-BFMI ") and diverged == "1 of 400 transitions diverged"
    assert acceptance == "acceptance 0.80" and found.acceptance.tolist() == pytest.approx([0.8])
    assert note.startswith("one chain: R-hat compares its halves") and (note,) == found.notes
    assert found.min_bulk_ess == min(g.bulk_ess.min() for g in found.groups.values())
    assert found.min_tail_ess == min(g.tail_ess.min() for g in found.groups.values())


def test_where_the_worst_is():
    draws = independent((4, 500, 5, 6))
    draws[..., 4, 1] = autoregressive(0.99, (4, 500))
    group = assess({"pixels": draws}).groups["pixels"]
    assert group.worst_bulk_ess.at == group.worst_tail_ess.at == group.worst_rhat.at == (4, 1)
    assert group.worst_bulk_ess.value == group.bulk_ess[4, 1] < 100 < 1500 < group.median_bulk_ess
    assert group.median_tail_ess > 1500 and group.worst_rhat.value == group.rhat.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": {}}, "no quantities were given"),
        ({"groups": {"a": np.zeros((4, 10)), "b": np.zeros((4, 11, 2))}}, r"b has the shape \(4, 11, 2\), a \(4, 10\)"),
        ({"groups": {"a": np.zeros((4, 10, 0))}}, r"a has the shape \(4, 10, 0\): it holds no draws"),
        ({"groups": {"a": np.zeros(10)}}, r"the shape \(chain, draw, ...\)"),
        ({"groups": {"a": np.zeros((4, 3))}}, "at least 4 draws"),
        ({"groups": {"a": np.zeros((4, 10))}, "energies": np.zeros(10)}, r"energies has the shape \(10,\)"),
        ({"groups": {"a": np.zeros((4, 10))}, "divergent": np.zeros((4, 9))}, r"divergent has the shape \(4, 9\)"),
        ({"groups": {"a": np.zeros((4, 10))}, "acceptance": 0.8}, r"acceptance has the shape \(\)"),
    ],
)
def test_what_does_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        assess(arguments.pop("groups"), **arguments)


@pytest.mark.parametrize("given", [{"max_rhat": 1.0}, {"min_ess": 0}, {"chance": 0.0}, {"max_divergent": -0.1}])
def test_a_gate_that_cannot_be(given):
    with pytest.raises(UsageError, match=f"{next(iter(given))}=.* needed are max_rhat above 1"):
        ConvergenceCriteria(**given)


def test_no_jax_is_imported():
    code = "import sys, invprob.diagnostics.convergence; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# --- streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(7, 1, 0, 92), (100,), (1,) * 100])
def test_stream_is_numpy(sizes):
    draws = independent((100, 3, 5)) + 1e6
    stream = RunningMoments()
    for batch in np.split(draws, np.cumsum(sizes)[:-1]):
        stream = stream.add(batch)
    assert stream.count == 100
    np.testing.assert_allclose(stream.mean, draws.mean(0), rtol=1e-14)
    np.testing.assert_allclose(stream.variance, draws.var(0, ddof=1), rtol=1e-8)
    np.testing.assert_allclose(stream.std, draws.std(0, ddof=1), rtol=1e-8)
    naive = (draws.astype(np.float32) ** 2).mean(0) - draws.astype(np.float32).mean(0) ** 2
    assert np.abs(naive / draws.var(0) - 1).max() > 0.1


def test_streams_merge():
    draws = independent((100, 4)).astype(np.float32)
    parts = [RunningMoments().add(part) for part in (draws[:30], draws[30:31], draws[31:])]
    whole = parts[0].merge(RunningMoments()).merge(parts[1].merge(parts[2]))
    np.testing.assert_allclose(whole.variance, draws.astype(float).var(0, ddof=1), rtol=1e-12)
    assert whole.mean.dtype == np.float64 and parts[0].count == 30
    assert RunningMoments().merge(parts[0]) is parts[0]
    assert float(RunningMoments().add(draws[:, 0]).mean) == pytest.approx(draws[:, 0].mean(), abs=1e-6)


def test_bad_streams():
    with pytest.raises(InputError, match="at least 2 draws, got 1"):
        _ = RunningMoments().add(np.zeros((1, 3))).variance
    with pytest.raises(InputError, match=r"draws of shape \(4,\) do not go with those of shape \(3,\)"):
        RunningMoments().add(np.zeros((2, 3))).add(np.zeros((2, 4)))
    with pytest.raises(InputError, match="got a single number"):
        RunningMoments().add(np.float64(3))
