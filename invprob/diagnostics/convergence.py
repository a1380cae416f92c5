"""Whether chains of draws may be believed: what is known of them, and what is asked of them.

The first are `ChainDiagnostics`, the second `ConvergenceCriteria`.

R-hat and effective sample sizes are those of `invprob.diagnostics.rank_statistics`, importance weights those of
`invprob.diagnostics.importance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from invprob.diagnostics.importance import ParetoSmoothed, psis
from invprob.diagnostics.rank_statistics import (
    RankStatistics,
    Worst,
    bulk_ess,
    e_bfmi,
    mean_ess,
    rank_normalized_rhat,
    rank_statistics,
    rhat_by_chance,
    tail_ess,
    worst,
)
from invprob.errors import InputError, UsageError

STRAY = 1e-3  # part of the quantities whose effective sample size may be too small by the scatter of its estimate ...
FLOOR = 0.5  # ... but not smaller than this part of what is needed


@dataclass(frozen=True, eq=False)
class ChainDiagnostics:
    """What is known of the draws of a sampler.

    Parameters
    ----------
    groups
        How well each named group of quantities mixes.
    num_chains, num_draws
        Number of chains, and of draws in each.
    e_bfmi
        One for each chain, see `invprob.diagnostics.rank_statistics.e_bfmi`; None where the sampler is not Hamiltonian.
    divergent, transitions
        How many of the transitions diverged; both zero where the sampler does not say.
    acceptance
        Mean acceptance of each chain, None where the sampler has none.
    """

    groups: Mapping[str, RankStatistics]
    num_chains: int
    num_draws: int
    e_bfmi: Float[np.ndarray, " chain"] | None = None
    divergent: int = 0
    transitions: int = 0
    acceptance: Float[np.ndarray, " chain"] | None = None

    @property
    def worst_rhat(self) -> float:
        """The largest R-hat of all groups."""
        return max(g.worst_rhat.value for g in self.groups.values())

    @property
    def min_bulk_ess(self) -> float:
        """The smallest bulk effective sample size of all groups."""
        return min(g.worst_bulk_ess.value for g in self.groups.values())

    @property
    def min_tail_ess(self) -> float:
        """The smallest tail effective sample size of all groups."""
        return min(g.worst_tail_ess.value for g in self.groups.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What limits these numbers."""
        if self.num_chains > 1:
            return ()
        return (
            "one chain: R-hat compares its halves and cannot show what the chain never reached; run 4 (num_chains)",
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """What is known, in words."""
        return (*(self._about(name, group) for name, group in self.groups.items()), *self._about_run(), *self.notes)

    def _about(self, name: str, g: RankStatistics) -> str:
        r, b, t = g.worst_rhat, g.worst_bulk_ess, g.worst_tail_ess
        if g.rhat.size == 1:
            return f"{name}: R-hat {r.value:.3f}, ESS {b.value:.0f} (bulk) and {t.value:.0f} (tail)"
        return (
            f"{name}: R-hat up to {r.value:.3f}{r.place}; bulk ESS from {b.value:.0f}{b.place}, median "
            f"{g.median_bulk_ess:.0f}; tail ESS from {t.value:.0f}{t.place}, median {g.median_tail_ess:.0f}"
        )

    def _about_run(self) -> Iterator[str]:
        if self.e_bfmi is not None:
            yield f"E-BFMI {_listed(self.e_bfmi)}"
        if self.transitions:
            yield f"{self.divergent} of {self.transitions} transitions diverged"
        if self.acceptance is not None:
            yield f"acceptance {_listed(self.acceptance)}"


def assess(
    groups: Mapping[str, Float[np.ndarray, "chain draw ..."]],
    *,
    energies: Float[np.ndarray, "chain draw"] | None = None,
    divergent: Bool[np.ndarray, "chain draw"] | None = None,
    acceptance: Float[np.ndarray, "chain draw"] | None = None,
) -> ChainDiagnostics:
    """What is known of the draws of a sampler. Independent exact draws need none of it.

    Parameters
    ----------
    groups
        Draws of named groups of quantities (``"pixels"``, ``"flux"``), all with the same chains and draws, at least 4.
        The group of one number for each draw has the shape ``(chain, draw)``.
    energies
        The Hamiltonian at each draw.
    divergent
        Whether the transition to each draw diverged.
    acceptance
        Acceptance probability of each transition, or the mean of each chain.

    Raises
    ------
    InputError
        Where the shapes do not agree, or a group is empty.
    """
    if not groups:
        raise InputError("no quantities were given: name at least one group of draws")
    arrays = {name: np.asarray(draws) for name, draws in groups.items()}
    first = next(iter(arrays))
    chains_and_draws = arrays[first].shape[:2]
    for name, draws in arrays.items():
        if draws.shape[:2] != chains_and_draws:
            raise InputError(
                f"{name} has the shape {draws.shape}, {first} {arrays[first].shape}: chains and draws differ"
            )
        if draws.size == 0:
            raise InputError(f"{name} has the shape {draws.shape}: it holds no draws, leave it out")
    for name, given in (("energies", energies), ("divergent", divergent)):
        if given is not None and np.shape(given) != chains_and_draws:
            raise InputError(f"{name} has the shape {np.shape(given)}, the draws need {chains_and_draws}")
    if acceptance is not None and np.shape(acceptance)[:1] != chains_and_draws[:1]:
        raise InputError(f"acceptance has the shape {np.shape(acceptance)}, needed is one row for each chain")
    return ChainDiagnostics(
        groups={name: rank_statistics(draws) for name, draws in arrays.items()},
        num_chains=chains_and_draws[0],
        num_draws=chains_and_draws[1],
        e_bfmi=None if energies is None else e_bfmi(energies),
        divergent=0 if divergent is None else int(np.sum(np.asarray(divergent, bool))),
        transitions=0 if divergent is None else int(np.size(divergent)),
        acceptance=None
        if acceptance is None
        else np.asarray(acceptance, float).reshape(chains_and_draws[0], -1).mean(1),
    )


@dataclass(frozen=True)
class ConvergenceCriteria:
    """What draws have to satisfy before their result counts as converged.

    Parameters
    ----------
    max_rhat
        Largest R-hat. Where R-hat scatters more than that between chains that do mix, its scatter is allowed instead.
    min_ess
        Smallest bulk and tail effective sample size, over all chains. One quantity of a group in a thousand may have
        less, none less than half of it.
    min_bfmi
        Smallest E-BFMI of a chain.
    max_divergent
        Largest part of the transitions that may diverge.
    chance
        Probability that chains that mix are refused for the worst R-hat of all their quantities.

    Notes
    -----
    R-hat. Of the n quantities of all groups one is refused whose R-hat exceeds both ``max_rhat`` and
    `invprob.diagnostics.rank_statistics.rhat_by_chance` at the probability ``chance / (2 n)``; this bound on the chance
    holds however the quantities depend on each other (Bonferroni; an R-hat is the larger of two). The scatter is that
    of the effective sample size that the autocorrelation *inside* the half chains gives, which chains that stand apart
    do not lower, and of no less than ``min_ess``. For 4 chains and 10^4 quantities the limit is 1.026 at an effective
    sample size of 1000, 1.012 at 2000, and 1.01 from 2500. A bare 1.01 would refuse 10^4 quantities of 4 x 250
    independent draws every time.

    Effective sample sizes. Their estimates scatter: at a true value of 1000 one in 10^4 is below 600, at 550 one in
    seventy below 400. A bare minimum of 400 over 10^4 quantities is met by true values from 1000, with one in a
    thousand set aside by those from 700. What that lets through has a Monte-Carlo error of at most 7 % of its standard
    deviation where 5 % is asked for.

    Measured at the defaults, 10^4 quantities. False alarms: 0 of 300 runs of 4 x 250 independent draws (a bare minimum
    of 400 would have refused 12). Found, where one of the 10^4 is bad and has 4 x 250 draws: a chain that is stuck
    100 %, one of twice or half the scatter 99.9 % and 99.6 %, one whose mean is off by half a standard deviation 50 %
    (ten such quantities 99.9 %; one with 4 x 500 draws 99.8 %, with 4 x 1000 100 %), autoregressive chains of
    coefficient 0.99 100 %.

    The acceptance is not asked for: it says nothing about convergence.
    """

    max_rhat: float = 1.01
    min_ess: float = 400.0
    min_bfmi: float = 0.3
    max_divergent: float = 0.0
    chance: float = 0.005

    def __post_init__(self):
        if not (self.max_rhat > 1 and self.min_ess > 0 and 0 <= self.max_divergent <= 1 and 0 < self.chance < 1):
            raise UsageError(
                f"{self}: needed are max_rhat above 1, min_ess above 0, max_divergent and chance from 0 to 1"
            )

    def judge(self, quality: ChainDiagnostics) -> tuple[str, ...]:
        """What fails, in words, one line each; empty where everything is as it has to be."""
        lines = [line for name, group in quality.groups.items() for line in self._mixing(name, group, quality)]
        return (*lines, *self._energy(quality), *self._divergences(quality))

    def rhat_limit(self, group: RankStatistics, quality: ChainDiagnostics) -> Float[np.ndarray, " *n"]:
        """The largest R-hat that is allowed of each quantity of a group."""
        quantities = sum(g.rhat.size for g in quality.groups.values())
        ess = np.maximum(group.within_ess, self.min_ess)
        by_chance = rhat_by_chance(ess, 2 * quality.num_chains, quality.num_draws // 2, self.chance / (2 * quantities))
        return np.maximum(self.max_rhat, by_chance)

    def _mixing(self, name: str, group: RankStatistics, quality: ChainDiagnostics) -> Iterator[str]:
        yield from _unusable(name, group.not_finite, "not finite", "take smaller steps")
        yield from _unusable(
            name,
            group.never_moved,
            "all equal",
            "the chains never moved; take smaller steps, or leave out what is fixed",
        )
        usable = ~(group.not_finite | group.never_moved)
        limit = self.rhat_limit(group, quality)
        excess = np.where(usable, group.rhat - limit, -np.inf)
        if np.any(excess > 0):
            at = worst(group.rhat, excess)
            yield (
                f"R-hat {at.value:.3f} of {name}{at.place}, at most {limit[at.at]:.3f} allowed{_number(excess > 0)}: "
                "run longer (num_warmup, num_samples)"
            )
        for which, ess in (("bulk", group.bulk_ess), ("tail", group.tail_ess)):
            yield from self._ess(f"{which} ESS", name, np.where(usable, ess, np.inf))

    def _ess(self, which: str, name: str, ess: np.ndarray) -> Iterator[str]:
        low = ess < self.min_ess
        if np.sum(low) <= int(STRAY * ess.size) and np.all(ess >= FLOOR * self.min_ess):
            return
        at = worst(ess, -ess)
        factor = self.min_ess / at.value
        advice = (
            f"draw {np.ceil(10 * factor) / 10:.1f} times as many (num_samples)"
            if factor < 10
            else "the chains do not mix; longer warm-up (num_warmup), or coordinates in which the posterior is rounder"
        )
        yield f"{which} {at.value:.0f} of {name}{at.place}, at least {self.min_ess:g} needed{_number(low)}: {advice}"

    def _energy(self, quality: ChainDiagnostics) -> Iterator[str]:
        for i, fraction in enumerate(() if quality.e_bfmi is None else quality.e_bfmi):
            if not fraction >= self.min_bfmi:
                yield (
                    f"E-BFMI {fraction:.2f} of chain {i + 1} of {quality.num_chains}, at least {self.min_bfmi:g} needed"
                    ": the energies are not explored; whiten the coordinates, or take a prior with lighter tails"
                )

    def _divergences(self, quality: ChainDiagnostics) -> Iterator[str]:
        if quality.divergent > self.max_divergent * quality.transitions:
            allowed = f"at most {100 * self.max_divergent:g} %" if self.max_divergent else "none"
            yield (
                f"{quality.divergent} of {quality.transitions} transitions diverged, {allowed} allowed: take smaller "
                "steps (a higher target acceptance)"
            )


def _unusable(name: str, where: np.ndarray, what: str, advice: str) -> Iterator[str]:
    if np.any(where):
        yield f"the draws of {name}{worst(where).place} are {what}{_number(where)}: {advice}"


def _number(where: np.ndarray) -> str:
    return f" ({np.sum(where)} of {where.size} fail)" if where.size > 1 else ""


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{v:.2f}" for v in values)


@dataclass(frozen=True, eq=False)
class RunningMoments:
    """Mean and variance of draws that are seen one batch at a time and not kept, in double precision.

    Parameters
    ----------
    count
        Number of draws seen.
    mean
        Their mean.
    squares
        Sum of the squared deviations from it.

    References
    ----------
    Chan, Golub & LeVeque 1983, The American Statistician 37, 242; Welford 1962, Technometrics 4, 419.
    """

    count: int = 0
    mean: Float[np.ndarray, " *n"] = field(default_factory=lambda: np.zeros(()))
    squares: Float[np.ndarray, " *n"] = field(default_factory=lambda: np.zeros(()))

    def add(self, batch: Float[np.ndarray, "draw ..."]) -> RunningMoments:
        """With the draws of a batch, which has them along its first axis."""
        batch = np.asarray(batch, float)
        if batch.ndim == 0:
            raise InputError("a batch has the shape (draw, ...), got a single number: put it in a list")
        if len(batch) == 0:
            return self
        mean = batch.mean(0)
        return self.merge(RunningMoments(len(batch), mean, np.sum((batch - mean) ** 2, axis=0)))

    def merge(self, other: RunningMoments) -> RunningMoments:
        """With the draws that another one has seen."""
        if self.count == 0 or other.count == 0:
            return self if other.count == 0 else other
        if self.mean.shape != other.mean.shape:
            raise InputError(f"draws of shape {other.mean.shape} do not go with those of shape {self.mean.shape}")
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + apart**2 * (self.count * other.count / count)
        return RunningMoments(count, mean, squares)

    @property
    def variance(self) -> Float[np.ndarray, " *n"]:
        """Variance with n - 1 in the denominator.

        Raises
        ------
        InputError
            For fewer than 2 draws.
        """
        if self.count < 2:
            raise InputError(f"a variance needs at least 2 draws, got {self.count}")
        return self.squares / (self.count - 1)

    @property
    def std(self) -> Float[np.ndarray, " *n"]:
        """Root of the variance."""
        return np.sqrt(self.variance)


__all__ = [
    "ChainDiagnostics",
    "ConvergenceCriteria",
    "ParetoSmoothed",
    "RankStatistics",
    "RunningMoments",
    "Worst",
    "assess",
    "bulk_ess",
    "e_bfmi",
    "mean_ess",
    "psis",
    "rank_normalized_rhat",
    "tail_ess",
]  # fmt: skip
