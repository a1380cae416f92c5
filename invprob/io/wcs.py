"""World coordinates of a refined grid: the header of the data -> the header of ``s x s`` smaller pixels.

With 1-based pixel positions, whose centres are whole numbers, the refined position is

    p' = s (p - 1/2) + 1/2

so that CRPIX moves with it, the scale (CD, or CDELT where there is PC) is divided by s, projection parameters
(PV, PS) stay, and what is a function of pixels (SIP, the IRAF physical system LTV/LTM) is rescaled.
"""

from __future__ import annotations

import re
import warnings as python_warnings
from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

# a WCS keyword: first axis number, second index if any, letter of an alternate description
_AXIS = re.compile(
    r"^(?P<name>CTYPE|CRVAL|CUNIT|CRPIX|CDELT|CROTA|CNAME|CRDER|CSYER|CZPHS|CPERI)(?P<i>\d+)(?P<alt>[A-Z]?)$"
)
_MATRIX = re.compile(r"^(?P<name>CD|PC)(?P<i>\d{1,2})_(?P<j>\d{1,2})(?P<alt>[A-Z]?)$")
_OLD_MATRIX = re.compile(r"^(?P<name>CD|PC)(?P<i>\d{3})(?P<j>\d{3})(?P<alt>)$")
_PARAMETER = re.compile(r"^(?P<name>PV|PS)(?P<i>\d+)_(?P<j>\d+)(?P<alt>[A-Z]?)$")
_WHOLE = re.compile(
    r"^(WCSNAME|LONPOLE|LATPOLE|RADESYS|EQUINOX|SPECSYS|SSYSOBS|SSYSSRC|VELOSYS|ZSOURCE|VELANGL|RESTFRQ|RESTWAV)[A-Z]?$"
    r"|^(RADECSYS|EPOCH|TIMESYS|MJD-OBS|MJD-AVG|MJD-BEG|MJD-END|MJDREF|DATE-OBS|DATE-AVG|DATE-BEG|DATE-END|DATEREF)$"
    r"|^(OBSGEO-[XYZLBH]|DSUN_OBS|HGLN_OBS|HGLT_OBS|CRLN_OBS|CRLT_OBS|RSUN_REF|TRUEPIXSCAL|RESTFREQ|VELREF)$"
)
_SIP = re.compile(r"^(?P<name>A|B|AP|BP)_(?P<p>\d+)_(?P<q>\d+)$")
_SIP_WHOLE = re.compile(r"^(A|B|AP|BP)_(ORDER|DMAX)$")
_PHYSICAL = re.compile(r"^(LTV(?P<i>\d)|LTM(?P<k>\d)_(?P<j>\d))$")
_IRAF = re.compile(r"^(WCSDIM|WAXMAP\d*|WAT(?P<i>\d)_\d{3})$")
_SCALE = re.compile(r"^(PIXSCALE|PIXSCAL|PIXSCL|SECPIX|PIXSCAL[12]|SECPIX[12])$")
_AREA = re.compile(r"^(PIXAR_SR|PIXAR_A2)$")
# functions of pixels that live in other extensions or in records: not rescaled, dropped
_LOOKUP = re.compile(
    r"^((CPDIS|CQDIS|CPERR|CQERR|D2IMDIS|D2IMERR)\d+[A-Z]?|(DP|DQ|D2IM)\d+[A-Z]?(\..*)?|DVERR[A-Z]?|AXISCORR|D2IMEXT|D2IMARR)$"
)
_PLATE = re.compile(r"^(AMD[XY]\d+|CNPIX[12]|PPO\d|PLTRA[HMS]|PLTDEC(SN|[DMS])|PLTSCALE|XPIXELSZ|YPIXELSZ)$")
_TOLERANCE = 1e-6


def is_coordinate(keyword: str) -> bool:
    """Whether a card describes where the pixels are (world coordinates, pixel scale, reference frame)."""
    patterns = (_AXIS, _MATRIX, _OLD_MATRIX, _PARAMETER, _WHOLE, _SIP, _SIP_WHOLE, _PHYSICAL, _IRAF)
    patterns += (_SCALE, _AREA, _LOOKUP)
    return keyword.startswith("WCSAXES") or any(p.match(keyword) for p in patterns)


def coordinates(header: fits.Header) -> fits.Header:
    """Only the cards of `header` that say where the pixels are."""
    return fits.Header([card for card in header.cards if is_coordinate(card.keyword)])


def refine_header(header: fits.Header, factor: int = 1) -> tuple[fits.Header, tuple[str, ...]]:
    """The header of a grid with ``factor x factor`` smaller pixels on the same footprint.

    All descriptions are refined, the primary one and the alternates (``CRPIX1A``, the physical ``CRPIX1P``).
    Axes from the third on (of a cube of which one plane was taken) are dropped. So are distortions that are
    tables or records (``CPDIS``, ``D2IM``, ``-TAB``), and a description that cannot be refined; what is kept
    is compared with the original at points over the image and agrees to 1e-6 pixel.

    Parameters
    ----------
    header
        Header of the data grid. It is not changed.
    factor
        Refined pixels on a side of a data pixel; with 1 the header is only reduced to two axes.

    Returns
    -------
    header
        Header of the refined grid, with NAXIS1 and NAXIS2 of its shape where the input has them.
    warnings
        What was dropped and why, one sentence each.

    Notes
    -----
    With CD the scale is ``CD / s``, and CDELT and CROTA, which the standard then ignores, are dropped;
    otherwise it is ``CDELT / s`` alone. SIP coefficients become ``A_p_q s^(1 - p - q)``.

    References
    ----------
    Greisen & Calabretta 2002, A&A 395, 1061; Calabretta & Greisen 2002, A&A 395, 1077;
    Shupe et al. 2005, ASP Conf. 347, 491.
    """
    notes: list[str] = []
    flat = _reduce(header, notes)
    try:
        fine = _scale(flat, int(factor))
        bad = [alt for alt in _alternates(flat) if not _agree(flat, fine, int(factor), alt)]
        if not all(np.isfinite(c.value) for c in fine.cards if isinstance(c.value, float)):
            bad = bad or [""]
    except (TypeError, ValueError, ZeroDivisionError):  # a card that should be a number is not
        bad, fine = list(_alternates(flat)), flat.copy()
    for alt in bad:
        notes.append(f"the world coordinate system {alt or '(primary)'} cannot be used and was dropped")
        for keyword in {c.keyword for c in fine.cards if _belongs(c.keyword, alt)}:
            fine.remove(keyword, remove_all=True)
    return fine, tuple(notes)


def shift_header(header: fits.Header, below: int, left: int) -> fits.Header:
    """The header of a grid with so many more pixels below and left of it.

    Positions are moved in every description that the header has (``CRPIX``, alternates included, and ``LTV``).
    """
    out = header.copy()
    for keyword in dict.fromkeys(header):
        found = _AXIS.match(keyword) or _PHYSICAL.match(keyword)
        if found and found["i"] in ("1", "2") and keyword.startswith(("CRPIX", "LTV")):
            out[keyword] = _number(header, keyword) + (left if found["i"] == "1" else below)
    return out


def _match(keyword: str) -> re.Match[str] | None:
    """The parts of a keyword that has an axis number."""
    for pattern in (_AXIS, _MATRIX, _OLD_MATRIX, _PARAMETER):
        if found := pattern.match(keyword):
            return found
    return None


def _belongs(keyword: str, alt: str) -> bool:
    """Whether a keyword is part of the description with the letter `alt`."""
    if found := _match(keyword):
        return found["alt"] == alt
    if keyword.startswith("WCSAXES"):
        return keyword == "WCSAXES" + alt
    return alt == "" and bool(_SIP.match(keyword) or _SIP_WHOLE.match(keyword))


def _alternates(header: fits.Header) -> list[str]:
    """Letters of the descriptions that the header has; the primary one is the empty string."""
    found = {m["alt"] for c in header.cards if (m := _match(c.keyword)) and m["name"] in _DEFINING}
    return sorted(found)


_DEFINING = {"CTYPE", "CRVAL", "CRPIX", "CDELT", "CD", "PC"}


def _reduce(header: fits.Header, notes: list[str]) -> fits.Header:
    """A copy without third axes and without the distortions that cannot be rescaled."""
    out = fits.Header()
    dropped: set[str] = set()
    coupled = False
    table = False
    for card in _readable(header):
        keyword = str(card.keyword)
        found = _match(keyword)
        if found:
            numbers = [int(found["i"])] + ([int(found["j"])] if found["name"] in ("CD", "PC") else [])
            if max(numbers) > 2:
                coupled |= len(numbers) == 2 and numbers[0] <= 2 and bool(card.value)
                continue
            table |= found["name"] == "CTYPE" and str(card.value).strip().endswith("-TAB")
        elif re.match(r"^NAXIS[3-9]\d*$", keyword):
            continue
        elif _LOOKUP.match(keyword) or _PLATE.match(keyword):
            dropped.add("lookup" if _LOOKUP.match(keyword) else "plate")
            continue
        elif re.match(r"^(LTV|LTM\d_|LTM|WAT)[3-9]", keyword):
            continue
        out.append(card, end=True)
    for keyword in [k for k in out if k.startswith("WCSAXES") or k in ("WCSDIM", "NAXIS")]:
        if out[keyword] not in (0, 1, 2):
            out[keyword] = 2
    if "lookup" in dropped:
        notes.append("distortions held as tables (CPDIS, D2IM) were dropped: sky positions lose them")
    if "plate" in dropped and not any(k.startswith("CTYPE") for k in out):
        notes.append("the plate solution (AMDX, AMDY) was dropped: the output has no world coordinates")
    if coupled:
        notes.append("the third axis of the cube is coupled to the sky axes: positions may be shifted")
    if table:
        notes.append("coordinates held in a table (-TAB) were dropped")
        for keyword in {c.keyword for c in out.cards if _belongs(c.keyword, "")}:
            out.remove(keyword, remove_all=True)
    return out


def _readable(header: fits.Header) -> Iterator[fits.Card]:
    """The cards that can be parsed."""
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        for card in map(copy, header.cards):
            try:
                card.verify("silentfix+exception")
                _ = card.value, card.comment
            except (fits.VerifyError, ValueError):
                continue
            yield card


def _number(header: Any, keyword: str, default: float | None = None) -> float:
    """The value of a card that has to be a number."""
    value = header[keyword] if default is None else header.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{keyword} is not a number")
    return float(value)


def _scale(header: fits.Header, s: int) -> fits.Header:
    """The cards of a two-axis header on the grid refined by `s`."""
    out = header.copy()
    for keyword in ("NAXIS1", "NAXIS2"):
        if keyword in out:
            out[keyword] = int(_number(header, keyword)) * s
    for alt in _alternates(header):
        keys = [c.keyword for c in header.cards if (m := _match(c.keyword)) and m["alt"] == alt]
        has_cd = any(k.startswith("CD") and not k.startswith("CDELT") for k in keys)
        for i in (1, 2):
            crpix, cdelt = f"CRPIX{i}{alt}", f"CDELT{i}{alt}"
            # the standard's defaults, CRPIX 0 and CDELT 1, are those of the data grid: write them out
            out[crpix] = s * (_number(header, crpix, 0.0) - 0.5) + 0.5
            if has_cd:
                for unused in (cdelt, f"CROTA{i}{alt}"):
                    out.remove(unused, ignore_missing=True)
            else:
                out[cdelt] = _number(header, cdelt, 1.0) / s
        for keyword in keys:
            if has_cd and _match(keyword)["name"] == "CD":  # type: ignore[index]
                out[keyword] = _number(header, keyword) / s
    for keyword in list(dict.fromkeys(c.keyword for c in header.cards)):
        if found := _SIP.match(keyword):
            out[keyword] = _number(header, keyword) * float(s) ** (1 - int(found["p"]) - int(found["q"]))
        elif keyword.endswith("_DMAX") and _SIP_WHOLE.match(keyword):
            out[keyword] = _number(header, keyword) * s
        elif _SCALE.match(keyword) and isinstance(header[keyword], int | float):
            out[keyword] = _number(header, keyword) / s
        elif _AREA.match(keyword) and isinstance(header[keyword], int | float):
            out[keyword] = _number(header, keyword) / s**2
    if any(_PHYSICAL.match(c.keyword) for c in header.cards):
        for i in (1, 2):
            out[f"LTV{i}"] = s * (_number(header, f"LTV{i}", 0.0) - 0.5) + 0.5
            for j in (1, 2):
                if i == j or f"LTM{i}_{j}" in header:
                    out[f"LTM{i}_{j}"] = s * _number(header, f"LTM{i}_{j}", float(i == j))
    return out


def _agree(header: fits.Header, refined: fits.Header, s: int, alt: str) -> bool:
    """Whether both headers put the same points at the same place, to 1e-6 data pixel."""
    ny, nx = (int(_number(header, k, 100)) for k in ("NAXIS2", "NAXIS1"))
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5)))
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        try:
            coarse, fine = (WCS(h, key=alt or " ", naxis=2) for h in (header, refined))
            here = np.array(coarse.all_pix2world(x, y, 0))
            there = np.array(fine.all_pix2world(s * (x + 0.5) - 0.5, s * (y + 0.5) - 0.5, 0))
            step = np.array(coarse.all_pix2world(x + 1e-2, y + 1e-2, 0))
        except Exception:  # wcslib raises many kinds; a description it rejects is of no use
            return False
    apart, pixel = np.abs(there - here), np.abs(step - here).max(axis=1, keepdims=True) * 1e2
    finite = np.isfinite(apart) & np.isfinite(pixel)
    finite &= apart < 359.0  # 0 and 360 degrees are one place
    same = np.isnan(here) == np.isnan(there)
    return bool(same.all() and (apart <= _TOLERANCE * pixel)[finite].all())
