"""The result of a calibration, and its card: one JSON document with its hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from invprob.errors import InputError
from invprob.files import atomic_write

ALPHA = 0.01  # a test fails at a corrected p-value of this or less
FORMAT = 1


@dataclass(frozen=True)
class Check:
    """One test.

    Parameters
    ----------
    name, kind
        What is tested; ``"rank"``, ``"coverage"``, ``"TARP"`` or ``"residual"``.
    statistic
        A number for the reader: the mean rank of the truth over L (0.5 expected), the part covered, the mean
        credibility (0.5), chi-square per datum (1), the correlation (0), or the mean in standard errors (0).
    p_value
        Probability of a result as extreme when all is calibrated.
    corrected
        The p-value corrected for the number of tests (Holm 1979).
    """

    name: str
    kind: str
    statistic: float
    p_value: float
    corrected: float

    @property
    def passed(self) -> bool:
        """Whether the corrected p-value is above `ALPHA`."""
        return self.corrected > ALPHA


@dataclass(frozen=True)
class Coverage:
    """Part of the truths inside the central intervals of a level.

    Parameters
    ----------
    name, level
        Summary or group, and nominal level.
    value, error
        Part covered, and its standard error: binomial for a number; for a group, whose members are correlated within a
        case, from the scatter between cases.
    p_value
        Exact binomial for a number; from the ranks for a group.
    """

    name: str
    level: float
    value: float
    error: float
    p_value: float


@dataclass(frozen=True)
class Curve:
    """Coverage of a group at many levels, with standard errors from the scatter between cases."""

    level: tuple[float, ...]
    value: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Parameters
    ----------
    num_cases, num_draws
        Number of cases, and of draws in each.
    checks
        All tests.
    coverages
        Coverage of each number and group at 68 and 95 %.
    curves
        Coverage curve of each group.
    ranks
        Ranks of the truth in all cases, by name.
    settings, versions
        What was run, and with which packages; plain JSON values.
    """

    num_cases: int
    num_draws: int
    checks: tuple[Check, ...]
    coverages: tuple[Coverage, ...]
    curves: Mapping[str, Curve]
    ranks: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return not self.caught_by

    @property
    def caught_by(self) -> tuple[str, ...]:
        """Names of the tests that failed, the most significant first."""
        failed = [check for check in self.checks if not check.passed]
        return tuple(check.name for check in sorted(failed, key=lambda check: check.p_value))

    def check(self, name: str) -> Check:
        """The test of this name."""
        return {check.name: check for check in self.checks}[name]

    def coverage(self, name: str, level: float) -> Coverage:
        """The coverage of this summary or group at this level."""
        return {(c.name, c.level): c for c in self.coverages}[name, level]

    @property
    def sha256(self) -> str:
        """SHA-256 of the card without its hash, in hexadecimal."""
        return hashlib.sha256(_canonical(self._card()).encode()).hexdigest()

    def _card(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "alpha": ALPHA,
            "passed": self.passed,
            "caught_by": list(self.caught_by),
            **{name: asdict(self)[name] for name in ("checks", "coverages", "curves", "ranks")},
            "num_cases": self.num_cases,
            "num_draws": self.num_draws,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }

    def to_json(self) -> str:
        """The card as JSON in its canonical form: sorted keys, no spaces; with the hash of all the rest."""
        return _canonical({**self._card(), "sha256": self.sha256})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """The calibration that a card describes.

        Raises
        ------
        InputError
            When the text is no card, or its hash is not that of its contents.
        """
        try:
            card = json.loads(text)
            found = cls(
                num_cases=card["num_cases"],
                num_draws=card["num_draws"],
                checks=tuple(Check(**entry) for entry in card["checks"]),
                coverages=tuple(Coverage(**entry) for entry in card["coverages"]),
                curves={
                    n: Curve(*(tuple(c[k]) for k in ("level", "value", "error"))) for n, c in card["curves"].items()
                },
                ranks={name: tuple(values) for name, values in card["ranks"].items()},
                settings=card["settings"],
                versions=card["versions"],
            )
            said = card["sha256"]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is no calibration card of format {FORMAT}: {error}") from None
        if found.sha256 != said:
            raise InputError(
                f"the calibration card says it has the hash {said}, its contents have {found.sha256}: it was changed "
                "after it was written; make it anew"
            )
        return found

    def write(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the card, whole or not at all.

        Raises
        ------
        OutputError
            When the file exists (and ``overwrite`` is False) or cannot be written.
        """
        with atomic_write(path, overwrite) as stream:
            stream.write(self.to_json().encode() + b"\n")

    def markdown(self) -> str:
        """The tests and the coverage as tables for people."""
        verdict = "passed" if self.passed else f"caught by {', '.join(self.caught_by)}"
        lines = [
            f"{self.num_cases} cases of {self.num_draws} draws: {verdict}", "",
            "| test | kind | statistic | p | p after Holm |", "|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| {c.name} | {c.kind} | {c.statistic:.4g} | {c.p_value:.2g} | {c.corrected:.2g} |" for c in self.checks
        ]
        lines += ["", "| coverage of | level | found | error |", "|---|---|---|---|"]
        lines += [
            f"| {c.name} | {100 * c.level:g} % | {100 * c.value:.1f} % | {100 * c.error:.1f} % |"
            for c in self.coverages
        ]
        return "\n".join(lines) + "\n"


def _canonical(card: Mapping[str, Any]) -> str:
    return json.dumps(card, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
