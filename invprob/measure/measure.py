"""Flux, centroid, size and ellipticity of sources, with joint errors: each draw of an image is measured as an image is.

The posterior of a quantity g(x) is the distribution of g over the draws of x. No error is propagated and no pixel is
taken to be independent of its neighbours.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import astropy.units as u
import numpy as np
from jaxtyping import Float

from invprob.errors import InputError, UsageError
from invprob.measure.measurement import Measurement, sources_table, summarize
from invprob.measure.moments import adaptive_ellipticity, centroid, circle, half_light_radius, inside
from invprob.units import is_surface_brightness

__all__ = ["Measurement", "measure_image", "measure_sources", "sources_table"]

MIN_DRAWS = 8
_UNDEFINED = {
    "r50": "the flux is not positive or its centroid is not in the image",
    "e1": "the flux is not positive or the adaptive moments do not converge",
}
_UNDEFINED |= {"x": _UNDEFINED["r50"], "y": _UNDEFINED["r50"], "e2": _UNDEFINED["e1"]}


def measure_image(
    draws: Float[np.ndarray, "draw y x"],
    *,
    centre: tuple[float, float] | None = None,
    radius: float | None = None,
    apertures: Sequence[float] = (),
    intervals: Sequence[float] = (68, 95),
    pixel_scale: float | None = None,
    unit: str = "",
) -> Measurement:
    r"""Measure an image of which there are draws.

    | name | quantity, for each draw f |
    |---|---|
    | flux | sum of f within ``radius`` of the centre, over the whole image without |
    | aperture_1, ... | sum of f within each radius of ``apertures`` of the centre |
    | x, y | centroid ``sum(x f) / sum(f)`` of the light that ``flux`` counts, in latent pixels counted from zero |
    | r50 | smallest radius about this centroid that holds half of ``flux``, of the same light |
    | e1, e2 | ellipticity of the adaptive moments M of f about there |

    Parameters
    ----------
    draws
        Draws of the latent image: flux (or surface brightness) of each latent pixel.
    centre
        (y, x) of all apertures, in latent pixels counted from zero; a pixel reaches half a pixel from its centre.
        Default: the centroid of the mean of the draws.
    radius
        Of the circle that is measured, in latent pixels. Default: the whole image.
    apertures
        Radii of further circles, in latent pixels.
    intervals
        Percentages of the central intervals.
    pixel_scale
        Side of a latent pixel in arcsec; with it r50 is in arcsec, and surface brightness is integrated to flux.
    unit
        BUNIT of the image.

    Returns
    -------
    Measurement
        A quantity that is undefined in more than 5 % of the draws is NaN, in fewer it is that of the others; `notes`
        say so.

    Raises
    ------
    InputError
        When there are fewer than 8 draws, or values that are not finite.
    UsageError
        When an argument is out of range, or the image has no light and apertures need a centre.

    Notes
    -----
    Pixels are weighted by the exact area of their overlap with a circle. What lies outside of the image counts as zero.

    With ``theta`` from +x to +y (the pixels' axes, not those of the sky), ``a`` and ``b`` the axes of M,

    .. math::
        e_1 = \frac{M_{xx} - M_{yy}}{M_{xx} + M_{yy}} = \frac{a^2 - b^2}{a^2 + b^2} \cos 2\theta, \qquad
        e_2 = \frac{2 M_{xy}}{M_{xx} + M_{yy}}.

    M is the covariance of the elliptical Gaussian window whose weighted second moments of the light, about its
    weighted centroid, are M / 2. For a Gaussian source it is the source's own covariance; the window keeps the noise
    far from the source out. A pixel's own width is part of M. The circle of ``radius`` does not cut the light off
    here, since that would make an off-centre source elliptical; the window must not move or grow by more than it.

    References
    ----------
    Bernstein & Jarvis 2002, AJ 123, 583, section 3.1; Hirata & Seljak 2003, MNRAS 343, 459, section 2.1.
    """
    draws = _checked(draws, radius, apertures, intervals, pixel_scale)
    if centre is None:
        centre = centroid(draws.mean(axis=0, dtype=np.float64)) or (math.nan, math.nan)
        if math.isnan(centre[0]) and (radius is not None or len(apertures)):
            raise UsageError("the image has no positive flux whose centroid could be the centre: give the centre")
    elif not inside(centre := _position(centre), draws.shape[1:]):
        raise UsageError(
            f"the centre {_pair(centre)} is not in the image of {draws.shape[1]} x {draws.shape[2]} pixels"
        )
    return _measure(draws, centre, radius, apertures, intervals, pixel_scale, unit)


def measure_sources(
    draws: Float[np.ndarray, "draw y x"],
    centres: Iterable[tuple[float, float]],
    *,
    radius: float,
    apertures: Sequence[float] = (),
    intervals: Sequence[float] = (68, 95),
    pixel_scale: float | None = None,
    unit: str = "",
) -> tuple[Measurement, ...]:
    """Measure several sources, each within ``radius`` of its (y, x); the other arguments are those of `measure_image`.

    A source whose centre is not in the image is all NaN, with a note.
    """
    if radius is None:
        raise UsageError("several sources need the radius in which each is measured: radius=R")
    draws = _checked(draws, radius, apertures, intervals, pixel_scale)
    return tuple(
        _measure(draws, _position(centre), radius, apertures, intervals, pixel_scale, unit) for centre in centres
    )


def _checked(draws: Any, radius, apertures, intervals, pixel_scale) -> np.ndarray:
    """The draws as an array, after a check of all arguments."""
    draws = np.asarray(draws)
    if draws.ndim != 3 or 0 in draws.shape[1:]:
        raise UsageError(f"draws have shape {draws.shape}; (draw, y, x) is needed")
    if len(draws) < MIN_DRAWS:
        raise InputError(
            f"{len(draws)} draws are too few for an error: at least {MIN_DRAWS} are needed, 100 are better; make more"
            " with --num-samples"
        )
    if not np.isfinite(draws).all():
        raise InputError(f"{int((~np.isfinite(draws)).sum())} values of the draws are not finite: make them again")
    for name, values in {"radius": [radius], "aperture": apertures, "pixel_scale": [pixel_scale]}.items():
        for value in values:
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} = {value}: a number above 0 is needed")
    for percent in intervals:
        if not 0 < percent < 100:
            raise UsageError(f"an interval of {percent:g} %: a percentage between 0 and 100 is needed, such as 68")
    return draws


def _measure(draws: np.ndarray, centre, radius, apertures, intervals, pixel_scale, unit: str) -> Measurement:
    """One source, after the checks."""
    factor, flux_unit, *notes = _flux_unit(unit, pixel_scale)
    names, units, descriptions = _quantities(radius, apertures, flux_unit, pixel_scale)
    rows, shape = np.full((len(draws), len(names)), np.nan), draws.shape[1:]
    if radius is None or inside(centre, shape):
        for i, r in enumerate(apertures, 1):
            rows[:, i] = np.einsum("nyx,yx->n", *_cut(draws, centre, r)[:2], dtype=np.float64) * factor
            notes += _beyond(f"aperture_{i}", shape, centre, r)
        notes += [] if radius is None else _beyond("the measured circle", shape, centre, radius)
        near, weight, (y0, x0) = _cut(draws, centre, radius)
        around, _, (v0, w0) = _cut(draws, centre, None if radius is None else 4 * radius)
        for row, light, image in zip(rows, near, around, strict=True):
            light = weight * light
            row[0] = light.sum() * factor
            if (position := centroid(light)) is not None:
                y, x = row[-4], row[-5] = position[0] + y0, position[1] + x0
                row[-3] = half_light_radius(light, position)
                sigma = row[-3] / math.sqrt(2 * math.log(2))
                found = adaptive_ellipticity(image, (y - v0, x - w0), sigma, radius or max(shape))
                row[-2:] = (math.nan, math.nan) if found is None else found
        rows[:, -3] *= pixel_scale or 1
        values, covariance, ends, more = summarize(rows, names, intervals, _UNDEFINED)
    else:
        more = [f"the centre {_pair(centre)} is not in the image: nothing was measured"]
        values, covariance = rows[0], np.full((len(names),) * 2, np.nan)
        ends = {percent: np.full((2, len(names)), np.nan) for percent in intervals}
    return Measurement(
        names, units, descriptions, values, covariance, ends, len(draws), centre, radius, tuple(apertures),
        (*notes, *more),
    )  # fmt: skip


def _quantities(radius, apertures, flux_unit: str, pixel_scale: float | None) -> tuple[tuple[str, ...], ...]:
    """Names, units and descriptions."""

    def within(r: float) -> str:
        return f"flux within {r:g} pixels{f' ({r * pixel_scale:.4g} arcsec)' if pixel_scale else ''} of the centre"

    about = {"flux": "flux of the whole image" if radius is None else within(radius)}
    about |= {f"aperture_{i}": within(r) for i, r in enumerate(apertures, 1)}
    units = [flux_unit] * len(about) + ["pix", "pix", "arcsec" if pixel_scale else "pix", "", ""]
    about |= {
        "x": "centroid: column, counted from zero",
        "y": "centroid: row, counted from zero",
        "r50": "radius about the centroid that holds half of the flux",
        "e1": "(a^2 - b^2) / (a^2 + b^2), along the columns' axis x",
        "e2": "(a^2 - b^2) / (a^2 + b^2), at 45 degrees from x to y",
    }
    return tuple(about), tuple(units), tuple(about.values())


def _cut(draws: np.ndarray, centre, radius: float | None) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """The draws around a circle, the weight of the pixels, and (y, x) of the first; the whole image without radius."""
    shape = draws.shape[1:]
    if radius is None:
        return draws, np.ones(shape), (0, 0)
    y0, x0 = (max(math.floor(c - radius), 0) for c in centre)
    y1, x1 = (min(math.ceil(c + radius) + 1, n) for c, n in zip(centre, shape, strict=True))
    weight = circle((y1 - y0, x1 - x0), (centre[0] - y0, centre[1] - x0), radius)
    return draws[:, y0:y1, x0:x1], weight, (y0, x0)


def _beyond(name: str, shape, centre, radius: float) -> list[str]:
    """The note on a circle that reaches over the edge of the image."""
    part = 1 - float(circle(shape, centre, radius).sum()) / (math.pi * radius**2)
    return [f"{name}: {100 * part:.2g} % of its area is outside of the image and counts as zero"] * (part > 1e-6)


def _flux_unit(unit: str, pixel_scale: float | None) -> tuple[Any, ...]:
    """What a sum over pixels is multiplied with, the unit it then has, and a note where this is not a flux."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed: Any = u.Unit(unit)
            bases = list(zip(parsed.bases, parsed.powers, strict=True))
        except (ValueError, TypeError, AttributeError):
            parsed, bases = None, []
    summed = f"({unit}) pix" if parsed is None else (parsed * u.pix).to_string()
    if not is_surface_brightness(unit):
        return 1.0, summed if any(base == u.pix and power == -1 for base, power in bases) else unit
    solid = [(b, p) for b, p in bases if b.is_equivalent(u.rad) or b.is_equivalent(u.sr)]
    if pixel_scale is None or not solid:
        why = "the pixel scale is not known" if solid else "the solid angle of its unit is not known"
        return 1.0, summed, f"fluxes are sums over pixels in {summed}, not integrals: {why}"
    inverse_area: Any = math.prod((b**p for b, p in solid), start=u.dimensionless_unscaled)
    pixel: Any = u.Quantity(pixel_scale**2, "arcsec2")
    return float((pixel * inverse_area).to_value(u.dimensionless_unscaled)), (parsed / inverse_area).to_string()


def _position(centre: Any) -> tuple[float, float]:
    """(y, x) as two numbers."""
    if np.shape(centre) != (2,):
        raise UsageError(f"the centre {centre!r} has to be two numbers, (y, x) in latent pixels")
    return float(centre[0]), float(centre[1])


def _pair(position: tuple[float, float]) -> str:
    return f"(y, x) = ({position[0]:.2f}, {position[1]:.2f})"
