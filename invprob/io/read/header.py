"""Headers: the cards of an image with its primary's, the unit, and the pixel scale."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

SCALE_CARDS = ("PIXSCALE", "PIXELSCL", "PIXSCL", "SECPIX", "SECPIX1", "PIXSCAL1")
OVERSAMPLING_CARDS = ("OVERSAMP", "OVERSMP", "OVERSAMPLE")
ZEROPOINT_CARDS = ("MAGZERO", "ABMAGZP")  # others are of counts in an exposure as often as of the image's unit
STEP_CARDS = ("PSF_SAMP", "PSFSAMP")  # PSFEx: the sampling step in data pixels

_STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM"
    r"|EXTNAME|EXTVER|EXTLEVEL|NEXTEND|INHERIT|Z(HECKSUM|DATASUM|PCOUNT|GCOUNT|SIMPLE|TENSION)"
)
_STORAGE = ("BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "ZHECKSUM", "ZDATASUM", "DATAMIN", "DATAMAX")
_WORLD = re.compile(
    r"(WCSAXES|(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)\d|(CD|PC)\d_\d|(PV|PS)\d_\d+|LONPOLE|LATPOLE)[A-Z]?"
    r"|(A|B|AP|BP)_(\d_\d|ORDER|DMAX)"
)
_THIRD = re.compile(
    r"NAXIS[3-9]"
    r"|((CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)[3-9]|(CD|PC)([3-9]_\d|\d_[3-9])|PV[3-9]_\d+)[A-Z]?"
)


def card(header: fits.Header, *names: str) -> Any:
    """Value of the first of `names` that is there and can be understood, else None."""
    for name in names:
        try:
            value = header.get(name)
        except (fits.VerifyError, ValueError):
            continue
        if value is not None and not isinstance(value, fits.card.Undefined):
            return value
    return None


def positive(header: fits.Header, *names: str) -> float | None:
    """Value of the first card of `names` that is a positive number, else None."""
    for name in names:
        value = card(header, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
            return float(value)
    return None


def image_header(header: fits.Header, primary: fits.Header | None) -> fits.Header:
    """Cards of a two-dimensional image, followed by those of the primary that it does not have.

    Cards about storage (scaling, checksums), about axes beyond the second, and such as cannot be written
    back are left out; so are the primary's own structure and world coordinates.
    """
    out = fits.Header()
    for c in header.cards:
        if c.keyword not in _STORAGE and not _THIRD.fullmatch(c.keyword):
            _append(out, c)
    if int(card(header, "NAXIS") or 2) > 2:
        out["NAXIS"] = 2
        if int(card(header, "WCSAXES") or 0) > 2:
            out["WCSAXES"] = 2
    for c in primary.cards if primary is not None else ():
        commentary = c.keyword in ("COMMENT", "HISTORY")
        own = not _STRUCTURE.fullmatch(c.keyword) and not _WORLD.fullmatch(c.keyword)
        if own and c.keyword and (commentary or c.keyword not in out) and "FITS (Flexible Image" not in str(c.value):
            _append(out, c)
    return out


def _append(header: fits.Header, c: fits.Card) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            c.verify("silentfix")
            c = fits.Card.fromstring(c.image)
            c.verify("exception")
    except Exception:  # a card that cannot be written back
        return
    header.append(c, bottom=True)


def world(header: fits.Header, hdus: fits.HDUList | None = None) -> tuple[WCS | None, str | None]:
    """Celestial world coordinates of a two-dimensional header, and what is wrong with them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(header, fobj=hdus)
            if not wcs.has_celestial:
                return None, None
            # `celestial` loses a TPV distortion: only where there are other axes to lose
            return (wcs if wcs.naxis == 2 else wcs.celestial), None
    except Exception as error:  # wcslib has many
        text = " ".join(str(error).split())[:100]
        return (
            None,
            f"the world coordinates of the header cannot be understood ({text}): they are passed through",
        )


def pixel_scale_of(header: fits.Header, wcs: WCS | None) -> tuple[float | None, str | None]:
    """Side of a pixel in arcsec, from the world coordinates or else from a card, and a warning."""
    if wcs is not None:
        sides = np.asarray(proj_plane_pixel_scales(wcs)) * [u.Unit(x).to(u.arcsec) for x in wcs.wcs.cunit]
        if np.all(np.isfinite(sides)) and np.all(sides > 0):
            scale, warning = float(np.sqrt(sides[0] * sides[1])), None
            if abs(sides[0] / sides[1] - 1) > 0.01:
                warning = f'pixels are not square ({sides[0]:.4g}" x {sides[1]:.4g}"): {scale:.4g}" was taken'
            return scale, warning
    return positive(header, *SCALE_CARDS), None


def unit_of(header: fits.Header) -> tuple[str, str | None]:
    """BUNIT as it is, and a warning when astropy does not know it."""
    unit = str(card(header, "BUNIT") or "").strip()
    if not unit:
        return "", None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for style in ("fits", None):
            try:
                u.Unit(unit, format=style)
                return unit, None
            except (ValueError, TypeError):
                continue
    return unit, f"BUNIT {unit!r} is not a unit that astropy knows: it is passed through as it is"


def zeropoint_of(header: fits.Header, unit: str) -> float | None:
    """AB magnitude of one unit of flux: of a unit that has one by itself, else from a card."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed: Any = u.Unit(unit)
            return float((1 * parsed).to(u.ABmag, u.zero_point_flux(3631 * u.Jy)).value)
        except (ValueError, TypeError, u.UnitConversionError):
            value = card(header, *ZEROPOINT_CARDS)
    good = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if good else None


def oversampling_of(header: fits.Header) -> float | None:
    """PSF pixels on a side of a data pixel, as a PSF's own header tells."""
    step = positive(header, *STEP_CARDS)
    return positive(header, *OVERSAMPLING_CARDS) or (1 / step if step else None)
