"""What is known of the noise: maps of several kinds as a variance, masks as bad pixels, sky statistics."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from astropy.io import fits
from jaxtyping import Bool, Float

VARIANCE, STD, INVERSE = "variance", "standard deviation", "inverse variance"

NOISE_NAMES = {
    "VAR": VARIANCE,
    "VARIANCE": VARIANCE,
    "ERR": STD,
    "ERROR": STD,
    "STD": STD,
    "RMS": STD,
    "SIGMA": STD,
    "UNCERT": STD,
    "IVAR": INVERSE,
    "INVVAR": INVERSE,
    "WHT": INVERSE,
    "WEIGHT": INVERSE,
}
"""Kind of noise map by extension name, in the order in which they are looked for."""

LOOSE_WEIGHTS = ("WHT", "WEIGHT")
"""Names whose maps are often relative weights (drizzled exposure times) and not inverse variances."""

MASK_NAMES = ("DQ", "MASK", "BPM", "BADPIX", "FLAGS", "FLAG")
PSF_NAMES = ("PSF", "KERNEL")
OTHER_NAMES = ("CTX", "CON", "EXP", "EXPMAP", "CHI2", "MODEL", "RESID", "D2IMARR", "WCSDVARR", "AREA")
"""Extensions that are not the image, whatever their shape."""

LSST_BAD = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "INTRP", "UNMASKEDNAN")
"""Planes of an LSST mask whose pixels are not used. DETECTED and the deblender's planes are about the sky."""

_LSST_BITS = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "NO_DATA": 8}
_UTYPES = {"VARIANCEUNCERTAINTY": VARIANCE, "STDDEVUNCERTAINTY": STD, "INVERSEVARIANCE": INVERSE}
_KEYWORDS = {"var": VARIANCE, "std": STD, "ivar": INVERSE}


def split_kind(text: str) -> tuple[str, str | None]:
    """Take ``:var``, ``:std`` or ``:ivar`` off the end of a specification."""
    match = re.fullmatch(r"(.*):(var|std|ivar)", text)
    return (match[1], _KEYWORDS[match[2]]) if match else (text, None)


def kind_of(name: str, header: fits.Header, path: str = "") -> str:
    """Kind of a noise map: from UTYPE, the extension's name, a word of the file's name; else a variance."""
    utype = str(header.get("UTYPE", "")).upper()
    if utype in _UTYPES:
        return _UTYPES[utype]
    if name.upper() in NOISE_NAMES:
        return NOISE_NAMES[name.upper()]
    for text in (name, Path(path).name):
        for word in re.split(r"[^A-Z]+", text.upper()):
            if word in NOISE_NAMES:
                return NOISE_NAMES[word]
    return VARIANCE


def to_variance(values: Float[np.ndarray, "y x"], kind: str) -> Float[np.ndarray, "y x"]:
    """Variance from a noise map; not a number where the map gives a pixel no weight."""
    values = np.asarray(values, dtype=np.float64)
    good = np.isfinite(values) & (values > 0)
    safe = np.where(good, values, 1.0)
    variance = {VARIANCE: safe, STD: safe**2, INVERSE: 1 / safe}[kind]
    return np.where(good, variance, np.nan)


def bad_pixels(values: np.ndarray, header: fits.Header, telescope: str, explicit: bool):
    """Bad pixels of a mask and what had to be assumed.

    Parameters
    ----------
    values
        Mask or data-quality array.
    header
        Its header. ``MP_*`` keys name the bits of an LSST mask, of which `LSST_BAD` are bad.
    telescope
        TELESCOP; JWST and Roman mark with bit 0 (DO_NOT_USE), everywhere else a non-zero value is bad.
    explicit
        Whether the user named this mask; then bits that have no names are not second-guessed.

    Returns
    -------
    mask : bool array, True = bad
    warning : str or None
    """
    bits = {k[3:]: v for k, v in header.items() if k.startswith("MP_") and isinstance(v, int)}
    if np.issubdtype(values.dtype, np.floating):
        return ~(values == 0), None  # NaN is bad as well
    if bits:
        return _any_bit(values, bits), None
    if telescope.upper() in ("JWST", "ROMAN"):
        return (values & values.dtype.type(1)) != 0, None
    detected = 1 << _LSST_BITS["DETECTED"]
    if not explicit and str(header.get("EXTNAME", "")).upper() == "MASK" and int(values.max()) >= detected:
        return _any_bit(values, _LSST_BITS), (
            "MASK has bit planes but no MP_* cards that name them: LSST's usual numbers were taken "
            "(0 BAD, 1 SAT, 2 INTRP, 3 CR, 4 EDGE, 8 NO_DATA are bad); a mask given by --mask is bad where "
            "not zero"
        )
    return values != 0, None


def _any_bit(values: np.ndarray, bits: dict[str, int]) -> Bool[np.ndarray, "y x"]:
    value = 0
    for name in LSST_BAD:
        if name in bits and 0 <= bits[name] < 8 * values.dtype.itemsize:
            value |= 1 << bits[name]
    return (values.astype(np.int64) & np.int64(value)) != 0


def sky_statistics(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Level and scatter of the sky: median and scaled MAD of the values left by clipping at three sigma.

    The scatter of the background itself is taken, not of differences between neighbours: drizzled and
    resampled images have correlated noise, which differences underestimate. Faint unresolved sources are
    included.

    Parameters
    ----------
    values
        Finite pixel values, at least one.

    Returns
    -------
    level, sigma
        `sigma` is zero when all values are equal.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    values = values[:: 1 + values.size // 2_000_000]
    for _ in range(50):
        level = float(np.median(values))
        sigma = _scatter(values - level)
        kept = values[np.abs(values - level) <= 3 * sigma]
        if kept.size == values.size or kept.size < 5 or np.ptp(kept) == 0:  # counts, most of them zero
            break
        values = kept
    return level, sigma


def _scatter(deviations: np.ndarray) -> float:
    """Scaled MAD; where more than half of the pixels are equal, the next wider measure that is not zero."""
    mad = 1.482602218505602 * float(np.median(np.abs(deviations)))
    if mad > 0:
        return mad
    low, high = np.percentile(deviations, [15.865525, 84.134475])
    return float(high - low) / 2 or float(deviations.std())
