"""How well chains mix: rank-normalized split R-hat and effective sample sizes, for many quantities at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft, special, stats

from invprob.errors import InputError

MIN_DRAWS = 4
TAILS = (0.05, 0.95)
CHUNK = 2**20
"""Numbers that are worked on at a time: quantities are taken in chunks of about so many draws."""


@dataclass(frozen=True)
class Worst:
    """The worst value of several quantities, and its index; the index of one quantity alone is empty."""

    value: float
    at: tuple[int, ...]

    @property
    def place(self) -> str:
        """The index in words."""
        inside = ", ".join(str(i) for i in self.at)
        return f" at ({inside})" if len(self.at) > 1 else f" at {inside}" if self.at else ""


@dataclass(frozen=True, eq=False)
class RankStatistics:
    """How well the chains mix in each of several quantities; every array has the quantities' shape.

    Parameters
    ----------
    rhat
        As by `rank_normalized_rhat`.
    bulk_ess, tail_ess
        As by `bulk_ess` and `tail_ess`.
    within_ess
        What the autocorrelation inside the half chains alone makes of the number of draws, the smaller one of the
        rank-normalized and of the folded draws: chains that stand apart do not lower it. It gives the scatter that
        R-hat has by chance, see `rhat_by_chance`.
    never_moved
        Where all draws of all chains are equal. R-hat is inf there, the effective sample sizes are 0.
    not_finite
        Where a draw is not finite. R-hat is inf there, the effective sample sizes are 0.
    """

    rhat: Float[np.ndarray, " *n"]
    bulk_ess: Float[np.ndarray, " *n"]
    tail_ess: Float[np.ndarray, " *n"]
    within_ess: Float[np.ndarray, " *n"]
    never_moved: Bool[np.ndarray, " *n"]
    not_finite: Bool[np.ndarray, " *n"]

    @property
    def worst_rhat(self) -> Worst:
        """The largest R-hat."""
        return worst(self.rhat)

    @property
    def worst_bulk_ess(self) -> Worst:
        """The smallest bulk effective sample size."""
        return worst(self.bulk_ess, -self.bulk_ess)

    @property
    def worst_tail_ess(self) -> Worst:
        """The smallest tail effective sample size."""
        return worst(self.tail_ess, -self.tail_ess)

    @property
    def median_bulk_ess(self) -> float:
        """The median of the bulk effective sample sizes."""
        return float(np.median(self.bulk_ess))

    @property
    def median_tail_ess(self) -> float:
        """The median of the tail effective sample sizes."""
        return float(np.median(self.tail_ess))


def worst(values: np.ndarray, badness: np.ndarray | None = None) -> Worst:
    """The value that is worst: the largest one, or that of the largest badness."""
    at = np.unravel_index(np.argmax(values if badness is None else badness), values.shape)
    return Worst(float(values[at]), tuple(int(i) for i in at))


def rank_statistics(draws: Float[np.ndarray, "chain draw ..."]) -> RankStatistics:
    """`rank_normalized_rhat`, `bulk_ess` and `tail_ess` of the same draws, with the sorting done once."""

    draws = _checked(draws)

    def measure(x: np.ndarray) -> tuple[np.ndarray, ...]:
        halves = _halves(x)
        bulk, folded = _normal_scores(halves), _normal_scores(_folded(halves))
        seen, seen_folded = _Autocovariance(bulk), _Autocovariance(folded)
        within = np.fmin(seen.within_ess(), seen_folded.within_ess())
        return np.fmax(_rhat(bulk), _rhat(folded)), seen.ess(), _tail_ess(x), np.nan_to_num(within, nan=0.0)

    numbers = _each(draws, measure, (np.inf, 0.0, 0.0, 0.0))
    finite = np.asarray(np.isfinite(draws).all(axis=(0, 1)))
    return RankStatistics(*numbers, never_moved=finite & _constant(draws, (0, 1)), not_finite=np.logical_not(finite))


def rank_normalized_rhat(draws: Float[np.ndarray, "chain draw ..."]) -> Float[np.ndarray, " *n"]:
    """The larger of the rank-normalized split R-hat and of the folded one.

    With M half chains of N draws, ``R^2 = (N - 1)/N + Var(chain means) / Mean(chain variances)`` of the normal scores
    ``Phi^-1((rank - 3/8) / (M N + 1/4))`` of the draws, and of those of ``|x - median|``, which show chains of
    different scale.

    Parameters
    ----------
    draws
        At least 4 draws of each chain; all further axes are quantities. Of one chain the halves are compared.

    Returns
    -------
    array
        One number for each quantity. Inf where all draws are equal (it never moved, so nothing is known of it) and
        where one is not finite.

    Notes
    -----
    Equal draws share the mean of their ranks. The middle draw of an odd number is left out.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter & Buerkner 2021, Bayesian Analysis 16, 667.
    """

    def measure(x: np.ndarray) -> tuple[np.ndarray, ...]:
        halves = _halves(x)
        return (np.fmax(_rhat(_normal_scores(halves)), _rhat(_normal_scores(_folded(halves)))),)

    return _each(draws, measure, (np.inf,))[0]


def bulk_ess(draws: Float[np.ndarray, "chain draw ..."]) -> Float[np.ndarray, " *n"]:
    """Effective number of independent draws, over all chains, for the body of the distribution.

    That of the normal scores of the draws, ``M N / tau`` with the autocorrelation time ``tau = 1 + 2 sum_t rho_t``, the
    sum ended by Geyer's initial monotone positive sequence.

    Parameters
    ----------
    draws
        At least 4 draws of each chain; all further axes are quantities.

    Returns
    -------
    array
        One number for each quantity; at most ``S log10 S`` of S draws, more than S where they are antithetic. Zero
        where all draws are equal and where one is not finite.

    References
    ----------
    Vehtari et al. 2021, Bayesian Analysis 16, 667; Geyer 1992, Statistical Science 7, 473.
    """
    return _each(draws, lambda x: (_Autocovariance(_normal_scores(_halves(x))).ess(),), (0.0,))[0]


def tail_ess(draws: Float[np.ndarray, "chain draw ..."]) -> Float[np.ndarray, " *n"]:
    """The smaller of the effective sample sizes of the 5 % and the 95 % quantile; else as `bulk_ess`.

    That of a quantile q is the one of the indicator ``x <= q``, in full where the indicator does not vary.
    """
    return _each(draws, lambda x: (_tail_ess(x),), (0.0,))[0]


def mean_ess(draws: Float[np.ndarray, "chain draw ..."]) -> Float[np.ndarray, " *n"]:
    """The effective sample size for the mean, of the draws as they are; else as `bulk_ess`.

    The Monte-Carlo error of the mean is the standard deviation over the root of it, if the variance is finite.
    """
    return _each(draws, lambda x: (_Autocovariance(_halves(x)).ess(),), (0.0,))[0]


def e_bfmi(energies: Float[np.ndarray, "chain draw"]) -> Float[np.ndarray, " chain"]:
    """The energy's estimated Bayesian fraction of missing information, for each chain of a Hamiltonian sampler.

    ``sum_i (E_i - E_{i-1})^2 / (n - 1) / Var(E)``: near 2 where each momentum draw reaches all energies, small where
    the energy wanders so slowly that the tails are not reached.

    Parameters
    ----------
    energies
        The Hamiltonian at each draw.

    Returns
    -------
    array
        One number for each chain, 0 where the energy is constant or not finite.

    References
    ----------
    Betancourt 2016, arXiv:1604.00695.
    """
    energies = np.asarray(energies, float)
    if energies.ndim != 2 or energies.shape[1] < MIN_DRAWS:
        raise InputError(
            f"E-BFMI needs energies of shape (chain, draw) with at least {MIN_DRAWS} draws, got {energies.shape}"
        )
    with np.errstate(all="ignore"):
        fraction = np.mean(np.diff(energies, axis=1) ** 2, axis=1) / np.var(energies, axis=1, ddof=1)
    return np.where(np.isfinite(fraction), fraction, 0.0)


def rhat_by_chance(
    ess: Float[np.ndarray, " *n"], num_halves: int, half: int, probability: float
) -> Float[np.ndarray, " *n"]:
    """The R-hat that chains which do mix exceed with a given probability.

    Where the half chains have one mean, ``N Var(chain means) / (tau Mean(chain variances))`` follows the F distribution
    with M - 1 and nu degrees of freedom, so that ``R^2 = 1 - 1/N + F M / ESS``: its scatter, like its excess over one,
    is of the order of M / (2 ESS).

    Parameters
    ----------
    ess
        Effective sample size over all chains, see `RankStatistics.within_ess`.
    num_halves, half
        Number M of half chains, and draws N in each.
    probability
        Of a larger R-hat, for one quantity.

    Notes
    -----
    ``nu = ESS / 5``, from the scatter of the estimated tau: the relative standard deviation that was measured on
    autoregressive chains is 0.12 at an ESS of 500, 0.10 at 800 and 0.09 at 1000, and an estimate with nu degrees of
    freedom has sqrt(2 / nu).
    """
    quantile = stats.f.isf(probability, num_halves - 1, np.asarray(ess) / 5)
    return np.sqrt(1 - 1 / half + quantile * num_halves / np.asarray(ess))


def _checked(draws: np.ndarray) -> np.ndarray:
    """Draws as an array with the axes chain and draw in front.

    Raises
    ------
    InputError
        Where there are no such axes, or fewer than 4 draws.
    """
    draws = np.asarray(draws)
    if draws.ndim < 2 or draws.shape[0] < 1 or draws.dtype.kind not in "biuf":
        raise InputError(
            f"draws have the shape (chain, draw, ...) and real numbers, got {draws.dtype} of shape {draws.shape}"
        )
    if draws.shape[1] < MIN_DRAWS:
        raise InputError(f"convergence needs at least {MIN_DRAWS} draws of a chain, got {draws.shape[1]}: draw more")
    return draws


def _each(
    draws: np.ndarray, measure: Callable[[np.ndarray], tuple[np.ndarray, ...]], failed: tuple[float, ...]
) -> tuple[np.ndarray, ...]:
    """What `measure` gives for chunks ``(quantity, chain, draw)``, in the quantities' shape.

    Where a quantity never moved or is not finite its numbers are those of ``failed``.
    """
    draws = _checked(draws)
    found = []
    for x in _chunks(draws):
        with np.errstate(all="ignore"):  # of rows that are overwritten
            values = measure(x)
        good = np.isfinite(x).all(axis=(1, 2)) & ~_constant(x)
        found.append(tuple(np.where(good, v, f) for v, f in zip(values, failed, strict=True)))
    return tuple(np.concatenate(part).reshape(draws.shape[2:]) for part in zip(*found, strict=True))


def _chunks(draws: np.ndarray) -> Iterator[np.ndarray]:
    flat = draws.reshape(*draws.shape[:2], -1)
    size = flat.shape[2]
    step = max(1, CHUNK // (flat.shape[0] * flat.shape[1]))
    for first in range(0, max(size, 1), step):
        yield np.ascontiguousarray(np.moveaxis(flat[:, :, first : first + step], 2, 0), float)


def _constant(x: np.ndarray, axes: tuple[int, int] = (1, 2)) -> np.ndarray:
    return x.max(axis=axes) == x.min(axis=axes)


def _halves(x: np.ndarray) -> np.ndarray:
    """Each chain as two; the middle draw of an odd number is left out."""
    half = x.shape[2] // 2
    return np.concatenate([x[:, :, :half], x[:, :, -half:]], axis=1)


def _folded(halves: np.ndarray) -> np.ndarray:
    return np.abs(halves - np.median(halves.reshape(len(halves), -1), axis=1)[:, None, None])


def _normal_scores(halves: np.ndarray) -> np.ndarray:
    """``Phi^-1((rank - 3/8) / (S + 1/4))``, equal draws with the mean of their ranks."""
    flat = halves.reshape(len(halves), -1)
    size = flat.shape[1]
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    scores = np.empty_like(flat)
    np.put_along_axis(scores, order, special.ndtri((np.arange(1, size + 1) - 0.375) / (size + 0.25))[None], axis=1)
    if tied.any():
        scores[tied] = special.ndtri((stats.rankdata(flat[tied], axis=1) - 0.375) / (size + 0.25))
    return scores.reshape(halves.shape)


def _rhat(halves: np.ndarray) -> np.ndarray:
    n = halves.shape[2]
    between, within = halves.mean(axis=2).var(axis=1, ddof=1), halves.var(axis=2, ddof=1).mean(axis=1)
    return np.sqrt((n - 1) / n + between / within)


def _tail_ess(x: np.ndarray) -> np.ndarray:
    def of(quantile: np.ndarray) -> np.ndarray:
        below = _halves((x <= quantile[:, None, None]).astype(float))
        return np.where(_constant(below), below[0].size, _Autocovariance(below).ess())

    lower, upper = np.quantile(x.reshape(len(x), -1), TAILS, axis=1)
    return np.minimum(of(lower), of(upper))


class _Autocovariance:
    """Autocovariances of half chains, ``(quantity, chain, draw)``, about their own means, averaged over the chains."""

    def __init__(self, halves: np.ndarray):
        _, m, n = halves.shape
        means = halves.mean(axis=2, keepdims=True)
        size = fft.next_fast_len(2 * n, real=True)
        spectrum = np.fft.rfft(halves - means, size, axis=2)
        power = np.mean(spectrum.real**2 + spectrum.imag**2, axis=1)
        self.lags = np.fft.irfft(power, size, axis=1)[:, :n] / n
        self.between = means[..., 0].var(axis=1, ddof=1)
        self.size, self.half = m * n, n

    def ess(self) -> np.ndarray:
        """From ``rho_t = 1 - (W - s_t) / var+``, the variance var+ with that between the chains."""
        variance, n = self.lags[:, :1], self.half
        total = variance + self.between[:, None]
        rho = 1 - (variance * n / (n - 1) - self.lags) / total
        rho[:, 0] = 1  # the correlation at no lag; the estimate above is 1 - 1/n
        return self.size / self._time(rho)

    def within_ess(self) -> np.ndarray:
        """From ``rho_t = (s_t + c) / (s_0 + c)``: c, the variance of a chain's mean that its autocorrelation gives,
        makes up for deviations that are taken from that mean."""
        variance = self.lags[:, :1]
        c = self._time(self.lags / variance)[:, None] * variance / self.half
        return self.size / self._time((self.lags + c) / (variance + c))

    def _time(self, rho: np.ndarray) -> np.ndarray:
        """The autocorrelation time, from sums of neighbours ``rho_2k + rho_2k+1`` while they are positive, each at most
        the last one; the first even lag beyond them counts once where it is positive."""
        count = max(0, (self.half - 3) // 2)
        pairs = rho[:, : 2 * (self.half // 2)].reshape(len(rho), -1, 2).sum(axis=2)
        positive = pairs[:, :count] > 0
        end = positive.cumprod(axis=1).sum(axis=1)
        monotone = np.minimum.accumulate(pairs, axis=1)
        body = np.sum(monotone, axis=1, where=np.arange(pairs.shape[1]) < end[:, None])
        row = np.arange(len(rho))
        last, last_pair = rho[row, 2 * end], pairs[row, end]
        time = -1 + 2 * body + np.where((last > 0) | (last_pair >= 0), last, 0.0)
        return np.maximum(time, 1 / np.log10(self.size))


__all__ = [
    "RankStatistics", "Worst", "bulk_ess", "e_bfmi", "mean_ess", "rank_normalized_rhat", "rank_statistics",
    "rhat_by_chance", "tail_ess", "worst",
]  # fmt: skip
