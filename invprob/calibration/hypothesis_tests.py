"""From the cases of an experiment to its tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from invprob.calibration import statistics
from invprob.calibration.draws import Case
from invprob.calibration.results import ALPHA, Check, Coverage, Curve
from invprob.errors import InputError, UsageError

CURVE = tuple(round(0.05 * i, 2) for i in range(1, 20))  # levels of a coverage curve


@dataclass(frozen=True)
class Outcome:
    """One case, its groups of numbers reduced to their coverage.

    Parameters
    ----------
    truth, draws
        By name, the numbers of the truth and of the draws.
    ranks
        By name, the rank of the truth: of each number, and of the coverage of each group at each level.
    covered
        By name of a group, the part of it covered at each of the levels `LEVELS` and `CURVE`.
    residuals
        See `invprob.calibration.residuals.Residuals`.
    """

    truth: Mapping[str, float]
    draws: Mapping[str, Float[np.ndarray, " draw"]]
    ranks: Mapping[str, int]
    covered: Mapping[str, Float[np.ndarray, " level"]]
    residuals: Any


@dataclass(frozen=True)
class Verdict:
    """What the card says of the cases; the fields are those of `Calibration`."""

    checks: tuple[Check, ...]
    coverages: tuple[Coverage, ...]
    curves: Mapping[str, Curve]
    ranks: Mapping[str, tuple[int, ...]]


def outcome(case: Case, number: int, rng: np.random.Generator) -> Outcome:
    """The outcome of one case.

    Raises
    ------
    InputError
        When a summary of the truth or of a draw is not finite.
    UsageError
        When a summary is neither a number nor a vector.
    """
    truth, draws, ranks, covered = {}, {}, {}, {}
    for name, values in sorted(case.summaries.items()):
        of_all = np.asarray(values, float)
        of_truth, of_draws = of_all[0], of_all[1:]
        _check(name, of_truth, of_draws, number)
        if of_truth.ndim:
            levels = (*statistics.LEVELS, *CURVE)
            covered[name], places = statistics.group_coverage(of_truth, of_draws, levels, rng)
            ranks.update({at_level(name, level): int(r) for level, r in zip(statistics.LEVELS, places, strict=False)})
        else:
            truth[name], draws[name] = float(of_truth), of_draws
            ranks[name] = int(statistics.ranks(of_truth, of_draws, rng))
    return Outcome(truth, draws, ranks, covered, case.residuals)


def _check(name: str, truth: np.ndarray, draws: np.ndarray, number: int) -> None:
    if truth.ndim > 1:
        raise UsageError(f"the summary '{name}' has shape {truth.shape}: give a number, or a vector for a group")
    for who, values in (("the truth", truth), ("the draws", draws)):
        if not np.all(np.isfinite(values)):
            raise InputError(
                f"case {number}: the summary '{name}' of {who} is not finite: check the sampler's convergence, and the "
                "prior for values that are not finite"
            )


def at_level(name: str, level: float) -> str:
    """The name of the coverage of a group."""
    return f"{name}, coverage {100 * level:g} %"


def judge(outcomes: Sequence[Outcome], test: statistics.Uniformity, rng: np.random.Generator) -> Verdict:
    """All tests of the cases, their p-values corrected for their number."""
    ranks = {name: np.array([o.ranks[name] for o in outcomes]) for name in outcomes[0].ranks}
    scalars, groups = sorted(outcomes[0].truth), sorted(outcomes[0].covered)
    covered = {name: np.stack([o.covered[name] for o in outcomes]) for name in groups}
    found = [
        ("rank", name, float(np.mean(ranks[name]) / test.num_draws), test.p_value(ranks[name])) for name in scalars
    ]
    for name in groups:
        for i, level in enumerate(statistics.LEVELS):
            full = at_level(name, level)
            found.append(("coverage", full, float(covered[name][:, i].mean()), test.p_value(ranks[full])))
    if scalars:
        truths = np.stack([[o.truth[name] for name in scalars] for o in outcomes])
        draws = np.stack([np.stack([o.draws[name] for name in scalars], axis=1) for o in outcomes])
        ranks["TARP"] = statistics.tarp_ranks(truths, draws, rng)
        found.append(("TARP", "TARP", float(np.mean(ranks["TARP"]) / test.num_draws), test.p_value(ranks["TARP"])))
    found += [("residual", *row) for row in _residuals([o.residuals for o in outcomes])]
    if len(found) * statistics.SMALLEST_P > ALPHA:
        most = int(ALPHA / statistics.SMALLEST_P)
        raise UsageError(f"{len(found)} tests were asked for, more than {most} cannot be told apart: summarize by less")
    corrected = statistics.holm([p for *_, p in found])
    checks = tuple(
        Check(name, kind, value, p, float(h)) for (kind, name, value, p), h in zip(found, corrected, strict=True)
    )
    return Verdict(
        checks,
        (
            *_group_coverages(covered, {c.name: c.p_value for c in checks}),
            *_scalar_coverages(ranks, scalars, test, rng),
        ),
        {name: _curve(values[:, len(statistics.LEVELS) :]) for name, values in covered.items()},
        {name: tuple(int(r) for r in values) for name, values in ranks.items()},
    )


def _residuals(residuals: Sequence[Any]) -> list[tuple[str, float, float]]:
    """Name, value and p-value of each check of the residuals."""
    chi2, dof = sum(float(r.chi2) for r in residuals), sum(int(r.num_data) for r in residuals)
    lag, pairs = sum(float(r.lag) for r in residuals), sum(float(r.num_pairs) for r in residuals)
    if not np.isfinite(chi2):
        raise InputError("the residuals of a draw are not finite: check the variance and the PSF of what is analysed")
    found = [("residual chi-square", chi2 / dof, statistics.chi_square_p(chi2, dof))]
    if pairs > 0:
        found.append(("residual lag-1 correlation", lag / pairs, statistics.normal_p(lag / np.sqrt(pairs))))
    for name in sorted(residuals[0].scores):
        t, p = statistics.mean_p(np.array([float(r.scores[name]) for r in residuals]))
        found.append((f"residual along {name}", t, p))
    return found


def _group_coverages(covered: Mapping[str, np.ndarray], p_values: Mapping[str, float]) -> list[Coverage]:
    found = []
    for name, values in covered.items():
        for i, level in enumerate(statistics.LEVELS):
            error = float(values[:, i].std(ddof=1) / np.sqrt(len(values)))
            found.append(Coverage(name, level, float(values[:, i].mean()), error, p_values[at_level(name, level)]))
    return found


def _scalar_coverages(ranks, scalars, test: statistics.Uniformity, rng: np.random.Generator) -> list[Coverage]:
    found = []
    for name in scalars:
        place = rng.random(test.num_cases)  # within the rank's part of the distribution, so that the count is binomial
        for level in statistics.LEVELS:
            count = int(np.sum(place < statistics.inside(ranks[name], test.num_draws, level)))
            error = float(np.sqrt(level * (1 - level) / test.num_cases))
            p = statistics.binomial_p(count, test.num_cases, level)
            found.append(Coverage(name, level, count / test.num_cases, error, p))
    return found


def _curve(values: Float[np.ndarray, "case level"]) -> Curve:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return Curve(CURVE, tuple(map(float, values.mean(axis=0))), tuple(map(float, error)))
