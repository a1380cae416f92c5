"""What the unit of an image says about its pixels."""

from __future__ import annotations

import re
import warnings
from typing import Any

import astropy.units as u

_PER_AREA = re.compile(r"/\s*(sr|arcsec|arcmin|deg|sq|square|beam)|\b(sr|arcsec|arcmin|deg)\s*(\^|\*\*)?\(?-[12]", re.I)


def is_surface_brightness(unit: str) -> bool:
    """Whether a unit is one of brightness per solid angle (or per beam), not of flux in a pixel.

    Where a pixel is divided, its surface brightness is the mean of the parts, its flux their sum.

    Parameters
    ----------
    unit
        BUNIT as the file has it; one that astropy does not know is searched for the words.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed: Any = u.Unit(unit or "", parse_strict="silent")  # type: ignore[call-arg]
        except (ValueError, TypeError):
            return bool(_PER_AREA.search(unit))
    parsed = getattr(parsed, "physical_unit", parsed)  # magnitudes per square arcsecond
    if isinstance(parsed, u.UnrecognizedUnit):
        return bool(_PER_AREA.search(unit))
    area = 0.0
    for base, power in zip(parsed.bases, parsed.powers, strict=True):
        if base == u.beam or base.is_equivalent(u.sr):
            area += float(power)
        elif base.is_equivalent(u.rad):
            area += float(power) / 2
    return area == -1
