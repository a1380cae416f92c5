"""A picture of a calibration: ranks, coverage, TARP, and every test."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from invprob.calibration.results import ALPHA, Calibration, Check
from invprob.calibration.statistics import Uniformity, uniformity
from invprob.plot.figures import save_figure

PASSED, FAILED, BAND = "#3b6fa0", "#c23b22", "#d9dee3"
SMALLEST = 1e-8  # p-values below are drawn at the edge
_STYLES = ("-", "--", "-.", ":")
_COLOURS = ("#3b6fa0", "#d98b2b", "#4c9a6a", "#8a5a9e", "#7f6a52", "#5bb0c0", "#b0578d", "#9a9a3c")
_MARKERS = "osD^v<>P"


def plot_calibration(
    calibration: Calibration,
    path: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    dpi: int = 150,
) -> Figure:
    """Draw the ranks' distribution, the coverage, the TARP curve and the p-values of all tests.

    The grey bands hold a whole curve with 95 % probability when all is calibrated. A test that failed is red.

    Parameters
    ----------
    calibration
        What `invprob.calibration.calibrate` gave, or a card that was read.
    path
        File to write (the ending chooses the format: png, pdf, svg); None only returns the figure.
    overwrite
        Whether a file that exists may be replaced.
    dpi
        Dots per inch of the file.

    Returns
    -------
    Figure
        A matplotlib figure on its own canvas; `matplotlib.pyplot` knows nothing of it.

    Raises
    ------
    UsageError
        When matplotlib cannot write the format.
    OutputError
        When the file exists or cannot be written.
    """
    test = uniformity(calibration.num_cases, calibration.num_draws)
    figure = Figure(figsize=(13, 7.8), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.9, 1))
    left, right = halves
    grid = left.add_gridspec(2, 2)
    _ranks(left.add_subplot(grid[0, :]), calibration, test)
    _coverage(left.add_subplot(grid[1, 0]), calibration)
    _tarp(left.add_subplot(grid[1, 1]), calibration, test)
    _tests(right.add_subplot(), calibration)
    figure.suptitle(_title(calibration), fontsize=12, color="black" if calibration.passed else FAILED)
    if path is not None:
        save_figure(figure, path, overwrite, dpi)
    return figure


def _title(calibration: Calibration) -> str:
    head = f"{calibration.num_cases} cases of {calibration.num_draws} draws"
    if calibration.passed:
        return f"Calibrated: {head}, all {len(calibration.checks)} tests passed"
    return f"Not calibrated: {head}, {len(calibration.caught_by)} of {len(calibration.checks)} tests failed"


def _of_kind(calibration: Calibration, kind: str) -> list[Check]:
    return [check for check in calibration.checks if check.kind == kind]


def _below(rank: Int[np.ndarray, " case"], num_draws: int) -> Float[np.ndarray, " step"]:
    """Part of the ranks below k, for k from 0 to L + 1."""
    counts = np.bincount(rank, minlength=num_draws + 1)
    return np.concatenate([[0.0], np.cumsum(counts) / len(rank)])


def _ranks(axes: Any, calibration: Calibration, test: Uniformity) -> None:
    points, low, high = test.band()
    axes.fill_between(points, low - points, high - points, color=BAND, lw=0, label="95 % of calibrated curves")
    axes.axhline(0, color="black", lw=0.6)
    grid = np.arange(calibration.num_draws + 2) / (calibration.num_draws + 1)
    for i, check in enumerate(_of_kind(calibration, "rank")):
        curve = _below(np.array(calibration.ranks[check.name]), calibration.num_draws) - grid
        label = check.name if check.passed else f"{check.name} (failed)"
        style = {"color": _COLOURS[i % 8], "lw": 1.2} if check.passed else {"color": FAILED, "lw": 1.8}
        axes.plot(grid, curve, _STYLES[0] if check.passed else _STYLES[i % 4], label=label, **style)
    low, high = axes.get_ylim()
    axes.set(xlim=(0, 1), ylim=(low, high + 0.35 * (high - low)), xlabel="rank of the truth / (L + 1)")
    axes.set_ylabel("part of the ranks below − uniform")
    axes.set_title("Ranks of the summaries")
    axes.legend(fontsize=8, loc="upper center", ncols=4, frameon=False)


def _coverage(axes: Any, calibration: Calibration) -> None:
    axes.axhline(0, color="black", lw=0.6)
    failed = {check.name for check in _of_kind(calibration, "coverage") if not check.passed}
    for i, (name, curve) in enumerate(calibration.curves.items()):
        level, value, error = (100 * np.array(v) for v in (curve.level, curve.value, curve.error))
        bad = any(check.startswith(f"{name},") for check in failed)
        label = f"{name} (failed)" if bad else name
        axes.errorbar(
            level + 0.5 * (i - (len(calibration.curves) - 1) / 2), value - level, error, label=label, ms=3.5, lw=1,
            fmt=f"{_MARKERS[i % 8]}-", elinewidth=0.8, color=FAILED if bad else _COLOURS[i % 8],
        )  # fmt: skip
    low, high = axes.get_ylim()
    reach = max(high - low, 1.0)
    axes.set(xlim=(0, 100), ylim=(low - 0.1 * reach, high + 0.5 * reach), xlabel="level of the central interval (%)")
    axes.set_ylabel("truths inside − level (percentage points)")
    axes.set_title("Coverage of groups")
    if calibration.curves:
        axes.legend(fontsize=8, loc="upper left", framealpha=0.85)


def _tarp(axes: Any, calibration: Calibration, test: Uniformity) -> None:
    axes.set_title("TARP of all summaries")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="credibility", ylabel="expected coverage")
    axes.plot([0, 1], [0, 1], color="black", lw=0.6)
    if "TARP" not in calibration.ranks:
        return
    points, low, high = test.band()
    axes.fill_between(points, low, high, color=BAND, lw=0, label="95 % of calibrated curves")
    check = calibration.check("TARP")
    grid = np.arange(calibration.num_draws + 2) / (calibration.num_draws + 1)
    curve = _below(np.array(calibration.ranks["TARP"]), calibration.num_draws)
    colour = PASSED if check.passed else FAILED
    axes.plot(grid, curve, color=colour, lw=1.8, label=f"p = {check.p_value:.2g}")
    axes.legend(fontsize=8, loc="upper left", framealpha=0.85)


def _tests(axes: Any, calibration: Calibration) -> None:
    checks = calibration.checks[::-1]
    smallest = min(check.p_value for check in checks)
    low = max(min(1e-4, smallest), SMALLEST)
    for row, check in enumerate(checks):
        colour = PASSED if check.passed else FAILED
        ends = [max(p, low) for p in (check.p_value, check.corrected)]
        axes.plot(ends, [row, row], color=colour, lw=1, alpha=0.5)
        axes.plot(ends[0], row, "o", color=colour, ms=5, mfc="white", zorder=3)
        axes.plot(ends[1], row, "<" if check.corrected < low else "o", color=colour, ms=6, zorder=4)
    axes.axvspan(low / 10, ALPHA, color=FAILED, alpha=0.07, lw=0)
    axes.axvline(ALPHA, color=FAILED, lw=1, ls="--")
    axes.set(xscale="log", xlim=(low / 3, 2), ylim=(-0.7, len(checks) - 0.3))
    axes.set_xlabel("p-value: ○ alone, ● after Holm's correction", loc="right")
    axes.set_yticks(range(len(checks)), [check.name for check in checks], fontsize=8)
    for label, check in zip(axes.get_yticklabels(), checks, strict=True):
        label.set_color("black" if check.passed else FAILED)
    axes.set_title(f"All tests: ● at {ALPHA:g} or less fails", loc="right")
