"""Whether a result fits its data, as the header says it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from invprob.infer.fit import judge_fit
from invprob.observation import Observation
from invprob.result import Estimate

Found = TypeVar("Found", bound=Estimate)


def with_fit(found: Found, observation: Observation) -> Found:
    """With the p-values of its residuals, and where it fits worst; as it is where none of them is a number."""
    if found.residual is None or not np.isfinite(found.residual).any():
        return found
    psf = None if found.kernel is None else on_the_data(found.kernel, found.frame.factor)
    fit = judge_fit(found.residual, observation.variance, psf, found.effective_dof)
    cards = {
        "FIT": (fit.p_value, "p of residuals as large of a right model"),
        "FITCHI2": (fit.chi2, "of their chi-square"),
        "FITSTRU": (fit.structure, "of all of them as wide as the PSF"),
        "FITPEAK": (fit.peak, "of the largest as wide as the PSF"),
        "RESPEAK": (fit.sigmas, "[sigma] largest residual as wide as the PSF"),
        "RESPEAKX": (fit.where[1] + 1, "its pixel of the data, from 1"),
        "RESPEAKY": (fit.where[0] + 1, "its pixel of the data, from 1"),
    }
    return replace(found, cards={**found.cards, **cards})


def on_the_data(kernel: Float[np.ndarray, "ky kx"], factor: int) -> Float[np.ndarray, "Ky Kx"]:
    """A kernel summed over the pixels of the data, of odd sides; centred to half a latent pixel."""
    sides = [2 * -(-n // (2 * factor)) + 1 for n in kernel.shape]
    before = [factor * (side // 2) + factor // 2 - n // 2 for side, n in zip(sides, kernel.shape, strict=True)]
    after = [factor * s - n - b for s, n, b in zip(sides, kernel.shape, before, strict=True)]
    wide = np.pad(kernel, list(zip(before, after, strict=True)))
    return wide.reshape(sides[0], factor, sides[1], factor).sum((1, 3))


__all__ = ["on_the_data", "with_fit"]
