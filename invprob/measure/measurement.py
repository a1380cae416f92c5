"""What was measured of a source, with the errors of all quantities together, and tables of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Column, Table
from jaxtyping import Float

from invprob.errors import UsageError

MAX_UNDEFINED = 0.05  # of the draws; a quantity that is undefined in more has no value


@dataclass(frozen=True)
class Measurement:
    """What was measured of one source, with the errors of all quantities together.

    Parameters
    ----------
    names, units, descriptions
        Of the quantities; see `measure_image`.
    values
        Mean over the draws of what was measured of each; NaN where `notes` say why.
    covariance
        Of the quantities over the draws.
    intervals
        Percentage -> lower and upper end, central quantiles over the draws.
    num_draws
        Number of draws.
    centre
        (y, x) of the apertures, in latent pixels counted from zero; NaN where none was needed and there is no light.
    radius, apertures
        Radii in latent pixels, as given.
    notes
        What has to be known to judge the numbers, one sentence each.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    descriptions: tuple[str, ...]
    values: Float[np.ndarray, " quantity"]
    covariance: Float[np.ndarray, "quantity quantity"]
    intervals: Mapping[float, Float[np.ndarray, "2 quantity"]]
    num_draws: int
    centre: tuple[float, float]
    radius: float | None = None
    apertures: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def std(self) -> Float[np.ndarray, " quantity"]:
        """Standard deviation of each quantity, the root of the covariance's diagonal."""
        return np.sqrt(np.diag(self.covariance))

    def __getitem__(self, name: str) -> tuple[float, float]:
        """Value and standard deviation of the quantity with this name."""
        i = self.names.index(name)
        return float(self.values[i]), float(self.std[i])

    def to_table(self) -> Table:
        """One row for each quantity; covariance, number of draws, centre and notes are in ``meta``."""
        columns = {"name": self.names, "value": self.values, "std": self.std}
        for percent, ends in self.intervals.items():
            columns |= {f"lower_{percent:g}": ends[0], f"upper_{percent:g}": ends[1]}
        columns |= {"unit": self.units, "description": self.descriptions}
        meta = _meta(self) | {"centre": list(self.centre), "covariance": self.covariance.tolist()}
        return Table({k: list(v) for k, v in columns.items()}, meta=meta | {"notes": list(self.notes)})


def sources_table(measurements: Sequence[Measurement], ids: Sequence[Any] | None = None) -> Table:
    """One row for each source: its id, centre, and each quantity with ``_std``, ``_lower_68``, ``_upper_68``, ...

    The covariances are in ``meta``, one for each row in the order of ``meta["quantities"]``.
    """
    if not measurements:
        raise UsageError("no source was measured: give at least one position")
    first = measurements[0]
    ids = list(range(1, len(measurements) + 1)) if ids is None else list(ids)
    centres = np.array([m.centre for m in measurements])
    columns = [Column(ids, "id"), Column(centres[:, 0], "centre_y", unit="pix")]
    columns.append(Column(centres[:, 1], "centre_x", unit="pix"))
    for i, name in enumerate(first.names):
        unit: Any = u.Unit(first.units[i], parse_strict="silent") if first.units[i] else None  # type: ignore[call-arg]
        about = first.descriptions[i]
        columns.append(Column([m.values[i] for m in measurements], name, unit=unit, description=about))
        columns.append(Column([m.std[i] for m in measurements], f"{name}_std", unit=unit))
        for percent in first.intervals:
            for end, word in enumerate(("lower", "upper")):
                ends = [m.intervals[percent][end, i] for m in measurements]
                columns.append(Column(ends, f"{name}_{word}_{percent:g}", unit=unit))
    columns.append(Column(["; ".join(m.notes) for m in measurements], "notes"))
    return Table(columns, meta=_meta(first) | {"covariance": [m.covariance.tolist() for m in measurements]})


def _meta(measurement: Measurement) -> dict[str, Any]:
    """What is the same for all sources, in plain types."""
    return {
        "num_draws": measurement.num_draws,
        "radius": measurement.radius,
        "apertures": list(measurement.apertures),
        "quantities": list(measurement.names),
    }


def summarize(
    rows: Float[np.ndarray, "draw quantity"],
    names: Sequence[str],
    intervals: Sequence[float],
    undefined: Mapping[str, str],
) -> tuple[np.ndarray, np.ndarray, dict[float, np.ndarray], list[str]]:
    """Means, covariance and intervals over the draws, and notes.

    Parameters
    ----------
    rows
        What was measured of each draw, NaN where undefined.
    names
        Of the quantities.
    intervals
        Percentages.
    undefined
        Why a quantity can be undefined, by its name.

    Notes
    -----
    A draw in which a quantity is undefined is left out for this quantity alone. Correlations are those of the draws in
    which all are defined, so that the covariance is positive semi-definite.
    """
    num_draws, n = rows.shape
    values, covariance = np.full(n, np.nan), np.full((n, n), np.nan)
    ends = {percent: np.full((2, n), np.nan) for percent in intervals}
    lost = np.isnan(rows).sum(axis=0)
    kept = lost <= MAX_UNDEFINED * num_draws
    said: dict[tuple[int, str], list[str]] = {}
    for name, count in zip(names, lost, strict=True):
        if count > 0:
            said.setdefault((int(count), undefined[name]), []).append(name)
    notes = [
        f"{', '.join(of)}: undefined in {count} of {num_draws} draws ({why}), "
        + ("so that there is no value" if count > MAX_UNDEFINED * num_draws else "which were left out")
        for (count, why), of in said.items()
    ]
    for percent in intervals:
        needed = math.ceil(200 / (100 - percent) - 1e-9)
        if num_draws < needed:
            notes.append(f"the {percent:g} % interval needs {needed} draws, there are {num_draws}: its ends are rough")
    if kept.any():
        good = rows[:, kept]
        values[kept] = np.nanmean(good, axis=0)
        for percent, pair in ends.items():
            pair[:, kept] = np.nanquantile(good, [0.5 - percent / 200, 0.5 + percent / 200], axis=0)
        joint = np.atleast_2d(np.cov(good[~np.isnan(good).any(axis=1)], rowvar=False))
        alone, own = np.sqrt(np.diag(joint)), np.nanstd(good, axis=0, ddof=1)
        scale = np.divide(own, alone, out=np.ones_like(own), where=alone > 0)
        covariance[np.ix_(kept, kept)] = joint * np.outer(scale, scale)
    return values, covariance, ends, notes
