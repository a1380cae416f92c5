"""A simulated pair: a galaxy field as a space telescope shows it, and as a ground-based one observes it.

The scene is drawn from a seed, made of a barred spiral galaxy with knots along its arms, smaller companions
and stars. No data of any telescope are used, so that what is made here is free of every right.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from jaxtyping import Float, Int
from scipy.signal import fftconvolve

from invprob.errors import OutputError, UsageError
from invprob.files import atomic_write, check_writable
from invprob.observation import PSF, Frame, Observation
from invprob.simulate.scene import Scene, block_sum

DEAD, COLUMN, COSMIC_RAY = 1, 2, 4  # bits of DQ
BETA = 3.5  # of the Moffat profile of the seeing
REACH = 2.3  # half-width of the kernels in FWHM
MAG_ZERO = 27.0  # AB magnitude of one electron per second
SKY = 251.0  # electron/s per square arcsec: 21 mag per square arcsec
LARGEST = 4096  # fine pixels on a side


@dataclass(frozen=True)
class Pair:
    """A truth and its observation from the ground, on pixels of which each of the latter holds factor x factor.

    Parameters
    ----------
    truth
        The scene as seen with the target PSF (that of a space telescope, pixel included): flux per fine pixel, in
        electron/s, without noise. No light lies outside.
    kernel
        The seeing at the fine pixel, that pixel included, of unit sum and odd shape.
    psf
        The same at the data pixel.
    model
        The data without noise: the block sums of truth convolved with kernel, in electron/s per data pixel.
    data, variance
        The observation and its noise variance. Data that are not usable hold wild values or NaN.
    dq
        Data quality: sum of 1 (dead), 2 (bad column) and 4 (cosmic ray); zero where good.
    factor
        Fine pixels on a side of a data pixel.
    pixel_scale
        Side of a data pixel in arcsec.
    header
        World coordinates of the data.
    cards
        What was simulated: keyword -> (value, comment).
    """

    truth: Float[np.ndarray, "fy fx"]
    kernel: Float[np.ndarray, "ky kx"]
    psf: Float[np.ndarray, "py px"]
    model: Float[np.ndarray, "y x"]
    data: Float[np.ndarray, "y x"]
    variance: Float[np.ndarray, "y x"]
    dq: Int[np.ndarray, "y x"]
    factor: int
    pixel_scale: float
    header: fits.Header = field(repr=False)
    cards: Mapping[str, tuple[Any, str]] = field(repr=False)

    def observation(self) -> Observation:
        """The observation, with the kernel at the fine pixel as its PSF."""
        header = self.header.copy()
        header.extend([(k, *v) for k, v in self.cards.items()])
        frame = Frame(self.data.shape, self.pixel_scale, "electron/s", header)  # type: ignore[arg-type]
        fine = self.pixel_scale / self.factor
        psf = PSF(self.kernel, pixel_scale=fine, oversampling=float(self.factor))
        return Observation.from_arrays(self.data, self.variance, self.dq != 0, psf, frame, noise_source="simulated")


def simulate_pair(
    seed: int = 0, *, size: int = 64, factor: int = 4, seeing: float = 0.7, pixel_scale: float = 0.2,
    snr: float = 600.0, masked: float = 0.03,
) -> Pair:  # fmt: skip
    r"""Simulate a field of galaxies as seen from space, and its observation from the ground.

    Parameters
    ----------
    seed
        Of scene, defects and noise, which are drawn independently: another ``snr`` leaves the scene as it is.
    size
        Data pixels on a side, at least 16.
    factor
        Fine pixels on a side of a data pixel.
    seeing
        FWHM of the seeing, a Moffat profile with beta = 3.5, in arcsec.
    pixel_scale
        Side of a data pixel in arcsec.
    snr
        Signal-to-noise ratio of the whole scene, ``sqrt(sum(model^2 / variance))`` over all pixels. It sets the
        exposure time.
    masked
        Fraction of the pixels that are lost: part of a column, dead pixels (NaN) and cosmic rays. With any, two more
        pixels are NaN that the mask does not name.

    Returns
    -------
    Pair
        The same arguments give the same numbers.

    Raises
    ------
    UsageError
        When an argument does not fit.

    Notes
    -----
    With truth :math:`t`, kernel :math:`k` and the sum over the blocks of fine pixels in a data pixel,

    .. math:: m = \sum_\mathrm{block} k * t, \qquad d \sim N\left(m, (m + s) / T\right),

    where :math:`s` is the brightness of the sky (already subtracted from the data) and :math:`T` the exposure time.
    The target PSF is that of a 2.4 m telescope with a central obscuration of 0.33 at 814 nm, broadened by charge
    diffusion to a FWHM of 0.1 arcsec or two fine pixels, whichever is larger: the truth has next to no power beyond
    the Nyquist frequency of its pixels.

    Examples
    --------
    >>> pair = simulate_pair(seed=1, size=32)
    >>> pair.data.shape, pair.truth.shape
    ((32, 32), (128, 128))
    """
    _check(seed, size, factor, seeing, pixel_scale, snr, masked)
    fine = pixel_scale / factor
    scene_rng, defect_rng, noise_rng = (np.random.default_rng([seed, i]) for i in range(3))
    truth = Scene(size * factor, fine, scene_rng).image()
    kernel = _moffat(seeing, fine)
    model = block_sum(fftconvolve(truth, kernel, mode="same"), factor)
    sky = SKY * pixel_scale**2
    rate = np.maximum(model, 0) + sky
    exposure = snr**2 / float(np.sum(model**2 / rate))
    variance = rate / exposure
    data = model + np.sqrt(variance) * noise_rng.standard_normal(model.shape)
    dq = _defects(data, variance, masked, defect_rng)
    cards = _observation_cards(seed, exposure, sky) | {
        "SEEING": (seeing, "[arcsec] FWHM"),
        "MOFFBETA": (BETA, "slope of the Moffat profile"),
        "SNR": (float(snr), "sqrt(sum(model^2 / variance))"),
        "FACTOR": (factor, "fine pixels on a side of a data pixel"),
        "MASKED": (float(masked), "fraction of the pixels lost, as asked for"),
        "SIMSEED": (seed, "seed of the simulation"),
    }
    header = _world((size, size), pixel_scale, scene_rng)
    return Pair(
        truth, kernel, _moffat(seeing, pixel_scale), model, data, variance, dq, factor, pixel_scale, header, cards
    )


def _observation_cards(seed: int, exposure: float, sky: float) -> dict[str, tuple[Any, str]]:
    """What a header says of an observation."""
    return {
        "OBJECT": (f"SIMULATED-{seed}", "a field that does not exist"),
        "TELESCOP": ("SIMULATED", ""),
        "FILTER": ("i", ""),
        "EXPTIME": (exposure, "[s] exposure time"),
        "GAIN": (1.0, "[electron/ADU]"),
        "MAGZERO": (MAG_ZERO, "[mag] AB, of 1 electron/s"),
        "SKYLEVEL": (sky, "[electron/s] sky per data pixel, subtracted"),
    }


def write_pair(pair: Pair, directory: str | os.PathLike[str], *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write a pair as ``ground.fits`` and ``hubble.fits``, in float32; the same pair gives the same bytes.

    | file | extensions |
    |---|---|
    | ground.fits | SCI, VAR, DQ; PSF (at the data pixel), KERNEL (at the fine pixel) |
    | hubble.fits | SCI: the truth, without noise |

    Parameters
    ----------
    pair
        What `simulate_pair` gave.
    directory
        Where to; made when it does not exist.
    overwrite
        Whether files that exist may be replaced.

    Returns
    -------
    ground, hubble
        The files written.

    Raises
    ------
    OutputError
        When a file exists or cannot be written; then none is written.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot make the directory {directory}: {reason}; choose another with -o") from error
    ground, hubble = directory / "ground.fits", directory / "hubble.fits"
    for path in (ground, hubble):
        check_writable(path, overwrite)
    scale, fine = pair.pixel_scale, pair.pixel_scale / pair.factor
    unit = ("BUNIT", "electron/s", "flux per pixel")
    dq = _hdu("DQ", pair.dq.astype("int16"), pair.header, scale)
    for bit, what in ((DEAD, "DEAD"), (COLUMN, "BADCOL"), (COSMIC_RAY, "COSMIC")):
        dq.header[f"DQBIT{bit.bit_length()}"] = (what, f"value {bit}")
    parts = [
        _hdu("SCI", pair.data, pair.header, scale, unit),
        _hdu("VAR", pair.variance, pair.header, scale, ("BUNIT", "electron2/s2", "noise variance")),
        dq,
        _hdu("PSF", pair.psf, None, scale, ("CONTENT", "seeing at the data pixel", "")),
        _hdu("KERNEL", pair.kernel, None, fine, ("CONTENT", "seeing at the fine pixel", "")),
    ]
    _write(ground, "observation from the ground", parts, pair.cards, overwrite)
    world = _refined(pair.header, pair.factor)
    kept = {k: v for k, v in pair.cards.items() if k in ("OBJECT", "TELESCOP", "FILTER", "MAGZERO", "SIMSEED")}
    _write(hubble, "truth, without noise", [_hdu("SCI", pair.truth, world, fine, unit)], kept, overwrite)
    return ground, hubble


def _check(seed, size, factor, seeing, pixel_scale, snr, masked) -> None:
    whole = {"seed": (seed, 0, 2**63), "size": (size, 16, LARGEST), "factor": (factor, 1, 16)}
    for name, (value, low, high) in whole.items():
        if int(value) != value or not low <= value <= high:
            raise UsageError(f"{name} is {value}; a whole number from {low} to {high} is needed")
    for name, value in {"seeing": seeing, "pixel_scale": pixel_scale, "snr": snr}.items():
        if not 0 < value < np.inf:
            raise UsageError(f"{name} is {value}; a number above zero is needed")
    if not 0 <= masked <= 0.5:
        raise UsageError(f"masked is {masked}; a fraction from 0 to 0.5 is needed")
    if size * factor > LARGEST:
        raise UsageError(f"{size} x {factor} fine pixels on a side are too many: {LARGEST} at most")
    if not 1.5 * pixel_scale / factor <= seeing <= size * pixel_scale / 4:
        raise UsageError(
            f"a seeing of {seeing} arcsec needs fine pixels of {seeing / 1.5:.3g} arcsec at most and a field of "
            f"{4 * seeing:.3g} at least: they are {pixel_scale / factor:.3g} and {size * pixel_scale:.3g}"
        )


def _moffat(fwhm: float, pixel: float) -> Float[np.ndarray, "ky kx"]:
    size = 2 * int(np.ceil(REACH * fwhm / pixel)) + 1
    return np.array(PSF.moffat(fwhm, BETA, pixel_scale=pixel, size=size).image)


def _defects(data, variance, masked: float, rng: np.random.Generator) -> Int[np.ndarray, "y x"]:
    """Spoil `data` in place; returns the bits that say where, but for two pixels that are NaN."""
    dq = np.zeros(data.shape, dtype=np.int16)
    n, wanted = data.shape[0], round(masked * data.size)
    if wanted == 0:
        return dq
    side = rng.choice([-1, 1])
    column = int(n / 2 + side * rng.uniform(0.15, 0.3) * n)
    rows = slice(0, min(int(0.6 * n), wanted // 2 + 1))
    dq[rows, column] |= COLUMN
    data[rows, column] = -20 * np.sqrt(variance[rows, column])
    for _ in range(max(1, wanted // 8)):
        at = tuple(rng.integers(0, n, 2))
        dq[at] |= DEAD
        data[at] = np.nan
    for _ in range(wanted):
        if np.count_nonzero(dq) >= wanted:
            break
        y, x, angle, length = *rng.uniform(0, n, 2), rng.uniform(0, np.pi), rng.uniform(1, 6)
        charge = 10 ** rng.uniform(1.5, 2.5)
        for t in np.arange(0, length, 0.5):
            i, j = int(y + t * np.sin(angle)), int(x + t * np.cos(angle))
            if 0 <= i < n and 0 <= j < n and not dq[i, j]:
                dq[i, j] |= COSMIC_RAY
                data[i, j] += charge * np.sqrt(variance[i, j])
    good = np.flatnonzero(dq == 0)
    data.flat[rng.choice(good, 2, replace=False)] = np.nan
    return dq


def _world(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> fits.Header:
    """A gnomonic projection, turned by some degrees."""
    angle, step = np.radians(rng.uniform(8, 35)), scale / 3600
    header = fits.Header()
    header["WCSAXES"] = 2
    for i, (name, pole) in enumerate((("RA---TAN", 150.0), ("DEC--TAN", 2.0)), 1):
        header[f"CTYPE{i}"] = name
        header[f"CUNIT{i}"] = "deg"
        header[f"CRPIX{i}"] = (shape[2 - i] + 1) / 2
        header[f"CRVAL{i}"] = round(pole + rng.uniform(0, 0.4), 6)
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), -step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = -step * np.sin(angle), step * np.cos(angle)
    header["RADESYS"] = "ICRS"
    return header


def _refined(header: fits.Header, factor: int) -> fits.Header:
    """The world coordinates of the fine pixels."""
    out = header.copy()
    for i in (1, 2):
        out[f"CRPIX{i}"] = factor * (header[f"CRPIX{i}"] - 0.5) + 0.5  # type: ignore[operator]
        for j in (1, 2):
            out[f"CD{i}_{j}"] = header[f"CD{i}_{j}"] / factor  # type: ignore[operator]
    return out


def _hdu(name: str, array, world: fits.Header | None, scale: float, *cards) -> fits.ImageHDU:
    array = array if array.dtype.kind == "i" else array.astype("float32")
    hdu = fits.ImageHDU(array, header=world, name=name)
    for keyword, value, comment in (*cards, ("PIXSCALE", scale, "[arcsec] side of a pixel")):
        hdu.header[keyword] = (value, comment)
    return hdu


def _write(path: Path, content: str, parts: list[fits.ImageHDU], cards, overwrite: bool) -> None:
    primary = fits.PrimaryHDU()
    primary.header["CONTENT"] = f"simulated {content}"
    primary.header["ORIGIN"] = ("invprob simulate", "no data of any telescope; CC0, public domain")
    for keyword, value in cards.items():
        primary.header[keyword] = value
    hdus = fits.HDUList([primary, *parts])
    hdus.update_extend()
    with warnings.catch_warnings(), atomic_write(path, overwrite) as stream:
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        for hdu in list[Any](hdus):
            hdu.add_checksum(when="by invprob")  # astropy would write the time: the bytes are to be the same
        hdus.writeto(stream)
