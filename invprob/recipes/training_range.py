"""In what a problem, or its image, is unlike the training set of a learned prior."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from invprob.errors import UsageError
from invprob.observation import Frame
from invprob.posterior import Problem
from invprob.priors.learned import Training
from invprob.recipes.model_card import facts_of
from invprob.results import Estimate
from invprob.results.report import Report
from invprob.units import is_surface_brightness

MISFIT, LEAST = 0.01, 1e-300  # p of the residuals below which an image does not fit, and p is said to be zero
RARE = 0.05  # part of the training set that is like an image, below which the image is unlike it
SLACK = 1.15  # by which a pixel scale may leave the range of the training set


def check_scale(frame: Frame, training: Training, name: str) -> None:
    """Refuse latent pixels of another scale than those of the training set.

    Raises
    ------
    UsageError
        With the refinement that would fit.
    """
    if training.pixel_scales is None:
        return
    low, high = training.pixel_scales
    if frame.pixel_scale is None:
        raise UsageError(
            f"prior {name!r} is for pixels of {low:g} to {high:g} arcsec, and the file does not tell its own: "
            "give it with --pixel-scale"
        )
    scale = frame.pixel_scale / frame.factor
    if low / SLACK <= scale <= high * SLACK:
        return
    best = max(1, round(frame.pixel_scale / np.sqrt(low * high)))
    hint = f"give --refine {best}"
    if not low / SLACK <= frame.pixel_scale / best <= high * SLACK:
        hint = "its pixels are too fine: bin them, or take another prior"
    raise UsageError(
        f"prior {name!r} is for latent pixels of {low:g} to {high:g} arcsec, not {scale:.4g} (pixels of "
        f"{frame.pixel_scale:.4g} in {frame.factor}): {hint}"
    )


def flux_scale(frame: Frame, training: Training, name: str) -> tuple[float, str]:
    """What one unit of flux of the data is in that of the training set, and how this is known.

    Raises
    ------
    UsageError
        When it is not known.
    """
    if is_surface_brightness(frame.unit):
        raise UsageError(
            f"prior {name!r} needs fluxes of pixels, not the surface brightness {frame.unit!r}: multiply by "
            "the area of a pixel"
        )
    if training.zeropoint is not None and frame.zeropoint is not None:
        return 10 ** (-0.4 * (frame.zeropoint - training.zeropoint)), f"zero point {frame.zeropoint:.3f}"
    if frame.unit and frame.unit == training.unit:
        return 1.0, "taken to be the same"
    of = f" of zero point {training.zeropoint:g}" if training.zeropoint is not None else ""
    raise UsageError(
        f"prior {name!r} is for fluxes in {training.unit or 'its own unit'}{of}, and that of one unit of "
        f"the image ({frame.unit or 'no unit'}) is not known: give its AB magnitude with --zeropoint"
    )


def unlike_noise(problem: Problem, training: Training, flux: float) -> Iterator[str]:
    """In what the noise and the PSF are unlike those that a denoiser was trained with."""
    noise = float(problem.noise_unit) * flux
    if not training.smallest <= noise <= training.largest:
        yield (
            f"the noise of a latent pixel, {noise:.3g} {training.unit}, is outside the {training.smallest:g} to "
            f"{training.largest:g} that the prior was trained with"
        )
    if problem.exposure.kernel is not None:
        width = _fwhm(problem.exposure.kernel)
        if width > training.widest:
            yield f"the PSF is {width:.0f} latent pixels wide, the prior was trained with at most {training.widest:.0f}"


def too_bright(problem: Problem, training: Training, flux: float) -> Iterator[str]:
    """Whether an image is brighter than the training set."""
    simulated = facts_of(training).get("simulated")
    brightest = None if simulated is None else simulated["brightest"]
    if brightest is not None and training.zeropoint is not None:
        area = np.prod([s.stop - s.start for s in problem.frame.footprint])
        total = problem.mean_image() * area * flux
        limit = 10 ** (-0.4 * (brightest - training.zeropoint))
        if total > 2 * limit:
            magnitude = training.zeropoint - 2.5 * np.log10(total)
            yield f"the image is of magnitude {magnitude:.1f}, the brightest galaxies of the training set {brightest:g}"


def misfit(estimate: Estimate) -> str | None:
    """How an image does not fit: what of its residuals is the least likely, and where; None where it fits."""
    fit = estimate.report
    p_value = fit.get("fit_p_value")
    if p_value is None or not p_value < MISFIT:
        return None
    p = f"= {p_value:.0e}" if p_value > LEAST else f"< {LEAST:.0e}"
    said = f"the image does not fit the data: its residuals have p {p}"
    if fit.fit_p_chi2 > min(fit.fit_p_matched, fit.fit_p_peak):
        where = f"{fit.peak_residual:.1f} sigma at pixel ({fit.peak_residual_x}, {fit.peak_residual_y})"
        return f"{said}, the largest that is as wide as the PSF is {where}"
    residual = np.nan_to_num(np.asarray(estimate.residual))
    y, x = (int(n) for n in np.unravel_index(np.abs(residual).argmax(), residual.shape))
    where = f"{residual[y, x]:.1f} sigma at pixel ({x + 1}, {y + 1})"
    return f"{said}, chi-square is {estimate.reduced_chi2:.2f} per datum, the largest of a pixel is {where}"


def asymmetry_of(image: np.ndarray, table: dict[str, Any] | None) -> tuple[Report, list[str]]:
    """How asymmetric the brightest object of an image is, how rare this is in the training set, and what to say of it.

    A best image is smoother than what it is of, and so less asymmetric: rarer than is said. Nothing where the
    training set's asymmetry is not known.
    """
    if not table:
        return Report(), []
    from invprob.measure.moments import asymmetry, main_object

    brightest = main_object(image, table["side"])
    if brightest is None:
        return Report(), []
    value = asymmetry(brightest)
    share = float(np.interp(value, table["value"], table["share"]))
    rest = f"all but {100 * share:.2g} % of the training set"
    line = f"the brightest object is more asymmetric ({value:.2f}) than {rest}"
    return Report.of(asymmetry=value, asymmetry_share=share), [line] if share < RARE else []


def _fwhm(kernel: np.ndarray) -> float:
    """Diameter in pixels of the part above half of the peak."""
    return float(2 * np.sqrt((kernel > 0.5 * kernel.max()).sum() / np.pi))


__all__ = ["asymmetry_of", "check_scale", "flux_scale", "misfit", "too_bright", "unlike_noise"]
