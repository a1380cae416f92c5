"""Whether a result fits its data, as its report says it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from invprob.diagnostics.goodness_of_fit import goodness_of_fit
from invprob.observation import Observation
from invprob.results import Estimate
from invprob.results.report import Report

Found = TypeVar("Found", bound=Estimate)


def with_fit(found: Found, observation: Observation) -> Found:
    """With the p-values of its residuals, and where it fits worst; as it is where none of them is a number."""
    if found.residual is None or not np.isfinite(found.residual).any():
        return found
    psf = None if observation.psf is None else observation.psf.on(observation.frame)
    fit = goodness_of_fit(found.residual, observation.variance, psf, found.effective_dof)
    said = Report.of(
        fit_p_value=fit.p_value, fit_p_chi2=fit.chi2, fit_p_matched=fit.structure, fit_p_peak=fit.peak,
        peak_residual=fit.sigmas, peak_residual_x=fit.where[1] + 1, peak_residual_y=fit.where[0] + 1,
    )  # fmt: skip
    return replace(found, report=found.report | said)


__all__ = ["Found", "with_fit"]
