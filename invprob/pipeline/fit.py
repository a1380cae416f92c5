"""Whether a result fits its data, as the header says it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from invprob.diagnostics.goodness_of_fit import goodness_of_fit
from invprob.observation import Observation
from invprob.results import Estimate

Found = TypeVar("Found", bound=Estimate)


def with_fit(found: Found, observation: Observation) -> Found:
    """With the p-values of its residuals, and where it fits worst; as it is where none of them is a number."""
    if found.residual is None or not np.isfinite(found.residual).any():
        return found
    psf = None if observation.psf is None else observation.psf.on(observation.frame)
    fit = goodness_of_fit(found.residual, observation.variance, psf, found.effective_dof)
    cards = {
        "FITPVAL": (fit.p_value, "p of residuals as large of a right model"),
        "FITCHI2": (fit.chi2, "of their chi-square"),
        "FITMATCH": (fit.structure, "of all of them as wide as the PSF"),
        "FITPEAK": (fit.peak, "of the largest as wide as the PSF"),
        "RESPEAK": (fit.sigmas, "[sigma] largest residual as wide as the PSF"),
        "RESPEAKX": (fit.where[1] + 1, "its pixel of the data, from 1"),
        "RESPEAKY": (fit.where[0] + 1, "its pixel of the data, from 1"),
    }
    return replace(found, cards={**found.cards, **cards})


__all__ = ["Found", "with_fit"]
