"""Tests of calibration, each with a p-value that is right for the sizes it is used at: ranks, coverage, TARP, Holm.

If the truth is drawn from the prior and the draws from the posterior, the truth is one more draw. All that is tested
here follows from that: in a set of one truth and L draws, any ordering puts the truth at each of the L + 1 places with
the same probability. Nothing here knows an image or JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from invprob.errors import UsageError

LEVELS = (0.68, 0.95)
REPLICAS = 100_000  # of the null distribution
SMALLEST_P = 4 / REPLICAS  # of the test of uniformity, about
FEWEST_CASES, FEWEST_DRAWS = 10, 19
_BATCH = 2_000_000  # counts held at once while the null distribution is simulated


def ranks(
    truth: Float[np.ndarray, ...], draws: Float[np.ndarray, "draw ..."], rng: np.random.Generator
) -> Int[np.ndarray, ...]:
    """Number of draws below the truth, ties broken at random: uniform on 0 .. L when all is calibrated.

    Parameters
    ----------
    truth
        Numbers of the truth.
    draws
        The same of L draws, along the leading axis.
    rng
        Breaks ties, such as those of pixels at a bound.

    References
    ----------
    Talts et al. 2018, arXiv:1804.06788.
    """
    below, equal = np.sum(draws < truth, axis=0), np.sum(draws == truth, axis=0)
    return below + rng.integers(0, equal + 1)


def ranks_in_pool(pool: Float[np.ndarray, "member element"], rng: np.random.Generator) -> Int[np.ndarray, ...]:
    """For each element the rank of every member among the others, ties broken at random."""
    order = np.argsort(pool, axis=0)
    if np.any(np.diff(np.take_along_axis(pool, order, axis=0), axis=0) == 0):
        order = np.lexsort((rng.random(pool.shape), pool), axis=0)
    out = np.empty_like(order)
    np.put_along_axis(out, order, np.arange(len(pool))[:, None], axis=0)
    return out


def inside(rank: Int[np.ndarray, ...], num_draws: int, level: float) -> Float[np.ndarray, ...]:
    """Probability that the truth lies in the central interval of this level, given its rank.

    Rank r stands for the part ``[r, r + 1] / (L + 1)`` of the posterior's distribution function. A part that the end
    of the interval cuts counts by its share inside, so that the expectation is the level for any number of draws.
    """
    cells = num_draws + 1
    low, high = 0.5 * (1 - level) * cells, 0.5 * (1 + level) * cells
    return np.clip(np.minimum(rank + 1, high) - np.maximum(rank, low), 0, 1)


def group_coverage(
    truth: Float[np.ndarray, " element"],
    draws: Float[np.ndarray, "draw element"],
    levels: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " level"], Int[np.ndarray, " level"]]:
    """Part of a group of numbers inside their central intervals, and the rank of this part among that of the draws.

    The numbers of a group, such as the pixels of one image, are correlated, so that the part scatters more than a
    binomial. Its rank needs no model of that: each draw has a part of its own, from the intervals of all the others
    and the truth. The rank is uniform when all is calibrated, and low for errors that are too small.

    References
    ----------
    Modrák et al. 2023, arXiv:2211.02383, on ranks of quantities that depend on the data.
    """
    place = ranks_in_pool(np.concatenate([truth[None], draws]), rng)
    members, elements = place.shape
    # how many elements of each member have each rank
    cells = (np.arange(members)[:, None] * members + place).ravel()
    counts = np.bincount(cells, minlength=members**2).reshape(members, members)
    shares = np.stack([inside(np.arange(members), len(draws), level) for level in levels], axis=1)
    parts = counts @ shares / elements
    return parts[0], ranks(parts[0], parts[1:], rng)


@dataclass(frozen=True)
class Uniformity:
    """The test that ranks are uniform, for one number of cases and draws; made by `uniformity`.

    The statistic is the smaller p-value of two: of the largest deviation of the ranks' distribution function, each
    point in its own binomial probability (Säilynoja et al. 2022), which sees any shape; and of Neyman's smooth test of
    order two, the mean and the mean square of the ranks, which sees a bias and a wrong width best. Its own distribution
    is simulated for uniform discrete ranks, so that the p-value is right for any number of cases and draws.

    Parameters
    ----------
    num_cases, num_draws
        Number N of ranks, and their largest value L.
    extremes, smooths, smallest
        The two statistics and their smaller p-value under uniform ranks, each sorted.

    References
    ----------
    Säilynoja, Bürkner & Vehtari 2022, Statistics and Computing 32, 32. Neyman 1937, Skandinavisk Aktuarietidskrift 20,
    149.
    """

    num_cases: int
    num_draws: int
    extremes: Float[np.ndarray, " replica"]
    smooths: Float[np.ndarray, " replica"]
    smallest: Float[np.ndarray, " replica"]

    def p_value(self, rank: Int[np.ndarray, " case"]) -> float:
        """Probability of ranks as uneven as these, or more so, when all is calibrated."""
        counts = np.bincount(np.asarray(rank), minlength=self.num_draws + 1)
        extreme, smooth = _statistics(counts[None])
        smallest = min(_tail(self.extremes, extreme)[0], _tail(self.smooths, smooth)[0])
        as_small = np.searchsorted(self.smallest, smallest * (1 + 1e-9), side="right")
        return float((1 + as_small) / (1 + len(self.smallest)))

    def band(self, level: float = 0.95) -> tuple[Float[np.ndarray, " step"], ...]:
        """Where the ranks' distribution function stays with this probability, at all points at once.

        Returns
        -------
        points, lower, upper
            Fractions ``k / (L + 1)``, and the band around the part of the ranks below k.
        """
        pointwise = np.exp(-np.quantile(self.extremes, level))
        points = np.arange(1, self.num_draws + 1) / (self.num_draws + 1)
        law = stats.binom(self.num_cases, points)
        return points, law.ppf(pointwise / 2) / self.num_cases, law.isf(pointwise / 2) / self.num_cases


@lru_cache(maxsize=16)
def uniformity(num_cases: int, num_draws: int) -> Uniformity:
    """The test of uniform ranks for N cases of L draws.

    Raises
    ------
    UsageError
        For fewer cases or draws than the tests can work with.
    """
    for name, number, fewest in (("cases", num_cases, FEWEST_CASES), ("draws", num_draws, FEWEST_DRAWS)):
        if number < fewest:
            raise UsageError(f"a calibration of {number} {name} was asked for; at least {fewest} are needed")
    rng, cells = np.random.default_rng(20220322), num_draws + 1
    step = max(1, _BATCH // cells)
    parts = []
    for first in range(0, REPLICAS, step):
        number = min(step, REPLICAS - first)
        parts.append(_statistics(rng.multinomial(num_cases, np.full(cells, 1 / cells), size=number)))
    extremes, smooths = (np.concatenate(part) for part in zip(*parts, strict=True))
    sorted_extremes, sorted_smooths = np.sort(extremes), np.sort(smooths)
    smallest = np.minimum(_tail(sorted_extremes, extremes), _tail(sorted_smooths, smooths))
    return Uniformity(num_cases, num_draws, sorted_extremes, sorted_smooths, np.sort(smallest))


def _tail(ordered: Float[np.ndarray, " replica"], value: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Part of the replicas that are as large or larger, up to rounding."""
    above = len(ordered) - np.searchsorted(ordered, value - 1e-9 * np.abs(value), side="left")
    return np.maximum(above, 1) / len(ordered)


def _statistics(counts: Int[np.ndarray, "n cell"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The two statistics of `Uniformity` from how many cases have each rank; large is uneven."""
    cells, total = counts.shape[1], int(counts[0].sum())
    table, polynomials = _log_tails(total, cells), _polynomials(cells)
    below = np.cumsum(counts[:, :-1], axis=1)
    extreme = -table[np.arange(cells - 1), below].min(axis=1)
    return extreme, np.sum((counts @ polynomials) ** 2, axis=1) / total


@lru_cache(maxsize=4)
def _log_tails(total: int, cells: int) -> Float[np.ndarray, "step count"]:
    """Logarithm of the two-sided probability that so many of all ranks lie below a point."""
    count, points = np.arange(total + 1), np.arange(1, cells)[:, None] / cells
    tail = np.minimum(stats.binom.cdf(count, total, points), stats.binom.sf(count - 1, total, points))
    return np.log(2 * np.maximum(tail, np.finfo(float).tiny))


def _polynomials(cells: int) -> Float[np.ndarray, "cell 2"]:
    """The first two orthonormal polynomials of a rank; under uniform ranks of mean zero and unit variance."""
    rank = np.arange(cells) / (cells - 1) - 0.5
    square = rank**2 - np.mean(rank**2)
    return np.stack([rank / np.std(rank), square / np.std(square)], axis=1)


def tarp_ranks(
    truths: Float[np.ndarray, "case summary"],
    draws: Float[np.ndarray, "case draw summary"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " case"]:
    """How many draws lie nearer to a random point than the truth does: uniform when all is calibrated.

    The credibility of a case is this number over L. Summaries are scaled to the same spread, that of all truths and
    draws. The point of a case is the truth or a draw of the next case: independent of the truth, and where images of
    the prior are. As it is picked without regard to which of them is the truth, the ranks of all cases are independent.

    References
    ----------
    Lemos, Coogan, Hezaveh & Perreault-Levasseur 2023, ICML, arXiv:2302.03026.
    """
    pool = np.concatenate([truths[:, None], draws], axis=1)
    spread = pool.std(axis=(0, 1))
    pool = (pool - pool.mean(axis=(0, 1))) / np.where(spread > 0, spread, 1)
    picked = pool[np.arange(len(pool)), rng.integers(0, pool.shape[1], len(pool))]
    distance = np.linalg.norm(pool - np.roll(picked, -1, axis=0)[:, None], axis=2)
    return ranks(distance[:, 0], distance[:, 1:].T, rng)


def chi_square_p(total: float, dof: int) -> float:
    """Two-sided probability of a sum of squares of ``dof`` standard normal numbers."""
    return float(min(1.0, 2 * min(stats.chi2.cdf(total, dof), stats.chi2.sf(total, dof))))


def normal_p(z: float) -> float:
    """Two-sided probability of a standard normal number."""
    return float(2 * stats.norm.sf(abs(z)))


def mean_p(values: Float[np.ndarray, " case"]) -> tuple[float, float]:
    """Mean of independent numbers in units of its standard error, and its two-sided p-value for an expectation of zero.

    Student's test: right for numbers that are near to normal, or many.
    """
    mean = float(np.mean(values))
    scatter = max(float(np.std(values, ddof=1)), np.finfo(float).eps * abs(mean))
    t = mean / scatter * float(np.sqrt(len(values))) if scatter > 0 else 0.0
    return t, float(2 * stats.t.sf(abs(t), len(values) - 1))


def binomial_p(count: int, total: int, level: float) -> float:
    """Two-sided exact probability of ``count`` of ``total`` at this level."""
    return float(stats.binomtest(count, total, level).pvalue)


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " test"]:
    """p-values corrected for their number: all hold at once, whatever their dependence.

    The k-th smallest of m is multiplied by ``m - k + 1``, and made no smaller than the one before.

    References
    ----------
    Holm 1979, Scandinavian Journal of Statistics 6, 65.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(raised, 1)
    return out
