"""Write a result as one multi-extension FITS file from whose header the run can be repeated."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import warnings
from collections.abc import Iterable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from invprob.errors import OutputError
from invprob.files import atomic_write, check_writable
from invprob.io.extensions import image_extensions
from invprob.io.keywords import KEYWORDS, cards_of
from invprob.io.read.cards import put
from invprob.io.wcs import is_coordinate
from invprob.observation import Frame, InputFile, Observation
from invprob.results import Estimate, Samples
from invprob.results.report import VOCABULARY, Report

FORMAT = 2  # version of the layout and the keywords; files before the second have no card of it
PACKAGES = ("jax", "jaxlib", "equinox", "lineax", "optax", "numpy", "astropy")  # whose versions are recorded
_STRUCTURE = re.compile(
    r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|NEXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|BUNIT|END|EXTNAME"
    r"|EXTVER|EXTLEVEL|INHERIT|CHECKSUM|DATASUM|ZHECKSUM|ZDATASUM|CONTINUE|PTYPE\d+|PSCAL\d+|PZERO\d+|TFIELDS"
    r"|T(TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|BCOL|DIM)\d+|Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+"
    r"|QUANTIZ|DITHER0|SIMPLE|EXTEND|TENSION|PCOUNT|GCOUNT|BLANK)|FZALGOR|FZTILE|DATAMIN|DATAMAX)$"
)
_WHEN = ("DATE-", "MJD-", "TIMESYS", "OBSGEO")
_FIRST = (KEYWORDS["program"], "invprob")  # of the cards of a run
INPUT_RECORDS = ("input_role", "input_file", "input_extension", "input_sha256")
_INPUT = ("COMMENT", "Cards of the input image:")  # after them


def write_fits(
    result: Estimate,
    path: str | os.PathLike[str],
    *,
    observation: Observation | None = None,
    frame: Frame | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    more: Report | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a result as one FITS file.

    | extension | content |
    |---|---|
    | PRIMARY | no data; provenance, then the cards of the input image |
    | SCI | the estimate: flux per latent pixel on exactly the footprint of the data |
    | ERR | its standard deviation; where there is none the card NOERR says how to get one |
    | CONTRACTION | 1 - variance / variance under the prior: what the data say, and what the prior |
    | CONTRACTION_STARLET | the same for the starlet coefficients of the image (scale, y, x), finest first |
    | DQ | bit 1: no valid datum lies over this latent pixel |
    | MODEL | noiseless data that the estimate predicts, on the grid of the data |
    | RESID | (data - model) / sigma, NaN where no datum is valid |
    | PSF | the kernel used, at the latent pixel |
    | DRAWS | draws of the posterior (draw, y, x), float32 |
    | LOW68, HIGH68, ... | ends of central intervals of each pixel, per cent |
    | DIFFUSE, POINTS | the images that add up to SCI, of a prior of several |

    Parts that the result does not have are left out. The same result gives the same bytes (no date).

    Parameters
    ----------
    result
        What an inference gave.
    path
        File to write; with the ending ``.gz`` it is compressed.
    observation
        The data, for the cards, the inputs and the noise; None for a result made by hand.
    frame
        The latent grid; default that of the result.
    config
        The configuration, of what JSON can hold. It is stored with its SHA-256.
    seed, device
        Seed of the random numbers and the device of the run, in words.
    more
        Further records for the header.
    overwrite
        Whether a file that exists may be replaced; an input file never is.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    OutputError
        When the file exists or cannot be written, or the result has no image, one of the wrong shape, or
        values that are not finite. No file is left behind.
    """
    path = Path(path)
    check_output(path, observation.inputs if observation else (), overwrite)
    frame = frame or result.frame or (observation.frame if observation else None)
    _check(result, frame, path)
    with warnings.catch_warnings():
        # what is wrong with the cards of the input is said once below, not by astropy card by card
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        notes: list[str] = list(observation.warnings) if observation else []
        said = len(notes)
        hdus = image_extensions(result, frame, observation, notes)
        primary = _provenance(result, frame, observation, config, seed, device, more or Report())
        _append_inputs(primary, frame, notes)
        hdulist = fits.HDUList([fits.PrimaryHDU(header=primary), *hdus])
        hdulist.update_extend()
        _save(hdulist, path, overwrite)
    for note in notes[said:]:
        warnings.warn(f"{path.name}: {note}", stacklevel=2)
    return path


def _save(hdulist: fits.HDUList, path: Path, overwrite: bool) -> None:
    """Write the file, compressed where its name says so, or leave what there was."""
    for hdu in list[Any](hdulist):
        hdu.add_checksum(when="by invprob")  # astropy would write the time: the bytes are to be the same
    with atomic_write(path, overwrite) as stream:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
                hdulist.writeto(packed)
        else:
            hdulist.writeto(stream)


def check_output(path: str | os.PathLike[str], inputs: Iterable[InputFile], overwrite: bool = False) -> None:
    """Refuse, before any work is done, an output that could not be written or is an input of the run.

    Raises
    ------
    OutputError
        With what is in the way.
    """
    path = Path(path)
    check_writable(path, overwrite)
    for source in inputs:
        if path.exists() and os.path.exists(source.path) and os.path.samefile(path, source.path):
            raise OutputError(f"{path} is an input of this run and is not replaced: choose another name")


def config_text(config: Mapping[str, Any]) -> str:
    """A configuration as one line of JSON, the same for equal configurations."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # quotes and ampersands, which readers of long FITS strings stumble over, occur only inside JSON's strings
    return text.replace("'", "\\u0027").replace("&", "\\u0026")


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of `config_text`, as the card CONFHASH has it."""
    return hashlib.sha256(config_text(config).encode()).hexdigest()


def package_version(package: str) -> str:
    """Version of an installed package, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _check(result: Estimate, frame: Frame | None, path: Path) -> None:
    """Refuse a result that would make a wrong file."""
    if result.image is None:
        raise OutputError(f"{path} was not written: the result has no image")
    if frame is not None:
        shape = tuple(frame.factor * n for n in frame.data_shape)
        draws = result.draws if isinstance(result, Samples) else None
        latent = {
            name: getattr(result, name) for name in ("image", "std", "contraction", "comparison", "inpainted")
        } | dict(result.parts)
        if draws is not None:
            latent["draws"] = draws[0]
        if result.contraction_starlet is not None:
            latent["contraction_starlet"] = result.contraction_starlet[0]
        for name, array in latent.items():
            if array is not None and np.shape(array) != shape:
                raise OutputError(
                    f"{path} was not written: {name} has shape {np.shape(array)}, not {shape} as the frame"
                )
        for name, array in {"model": result.model, "residual": result.residual}.items():
            if array is not None and np.shape(array) != tuple(frame.data_shape):
                raise OutputError(
                    f"{path} was not written: {name} has shape {np.shape(array)}, the data {frame.data_shape}"
                )
    for name in ("image", "std", "contraction", "contraction_starlet", "comparison", "model", "residual"):
        array = getattr(result, name)
        if array is None:
            continue
        array = np.asarray(array)
        bad = np.isinf(array) if name == "residual" else ~np.isfinite(array)
        if bad.any():
            raise OutputError(
                f"{path} was not written: {int(bad.sum())} values of the {name} are not finite"
                f" (the run's status: {result.status.value})"
            )


def _provenance(
    result: Estimate,
    frame: Frame | None,
    observation: Observation | None,
    config: Mapping[str, Any] | None,
    seed: int | None,
    device: str | None,
    more: Report,
) -> fits.Header:
    """What has to be known to judge the result and to repeat the run."""
    dof = result.effective_dof
    facts: dict[str, Any] = {
        "program": _FIRST[1], "version": package_version("invprob"), "file_format": FORMAT,
        "refine": frame.factor if frame else None, "status": result.status.name, "advice": result.status.value,
        "solver": result.solver, "reason": result.reason, "steps": result.steps, "chi2": result.chi2,
        "num_data": result.num_data, "reduced_chi2": result.reduced_chi2, "effective_dof": dof,
        "chi2_per_dof": result.chi2 / dof if dof else None,
        "noise_source": observation.noise_source if observation else None,
    }  # fmt: skip
    if result.std is None:
        facts["no_std"] = result.no_std or "this method gives no error"
    if isinstance(result, Samples) and result.draws is not None:
        facts["num_draws"] = len(result.draws)
    run = {"seed": seed, "device": device, "python_version": platform.python_version()}
    run |= {f"{name}_version": package_version(name) for name in PACKAGES}
    header = fits.Header()
    for keyword, value, comment in cards_of(_recorded(facts) | result.report | more | _recorded(run)):
        put(header, keyword, value, comment)
    for i, source in enumerate(observation.inputs if observation else (), 1):
        parts = (source.role, source.path, source.extension, source.sha256)
        for name, value in zip(INPUT_RECORDS, parts, strict=True):
            put(header, f"{KEYWORDS[name]}{i}", value, VOCABULARY[name][1])
    if config is not None:
        put(header, KEYWORDS["configuration_sha256"], config_hash(config), "")
        header[KEYWORDS["configuration"]] = config_text(config)
    return header


def _append_inputs(primary: fits.Header, frame: Frame | None, notes: list[str]) -> None:
    """The warnings, and after a comment the cards of the input image; what is wrong with them is a further warning."""
    inputs = _input_cards(frame, {str(k) for k in primary}, notes)
    for i, note in enumerate(notes, 1):
        put(primary, f"{KEYWORDS['warnings']}{i}", note, "")
    if inputs:
        primary.append(fits.Card(*_INPUT), end=True)
        primary.extend(inputs, unique=False, end=True)


def _recorded(facts: Mapping[str, Any]) -> Report:
    """The records of what is known."""
    return Report.of(**{name: value for name, value in facts.items() if value is not None})


def _input_cards(frame: Frame | None, ours: set[str], notes: list[str]) -> list[fits.Card]:
    """The cards of the input that tell of the observation, not of the layout of the file or its pixels.

    Those of the run that made the input, where it was made here, are left out too.
    """
    if frame is None or frame.header is None:
        return []
    kept: list[fits.Card] = []
    dropped: list[str] = []
    earlier = False
    for original in frame.header.cards:
        keyword = "an unreadable card"
        try:
            keyword = str(original.keyword)
            position = is_coordinate(keyword) and not keyword.startswith(_WHEN)
            if (keyword, original.value) in (_FIRST, _INPUT):
                earlier = keyword == _FIRST[0]
                continue
            if earlier or keyword in ours or position or _STRUCTURE.match(keyword):
                continue
            card = copy(original)
            card.verify("silentfix+exception")
            image = str(card)
            if not image.isascii() or not image.isprintable():
                raise ValueError
            card = fits.Card.fromstring(image)
            _ = card.value, card.comment
        except (fits.VerifyError, ValueError, UnicodeError):
            dropped.append(keyword)
            continue
        if keyword or str(card.value).strip():
            kept.append(card)
    if dropped:
        names = ", ".join(dict.fromkeys(dropped))
        notes.append(f"cards of the input that break the FITS standard were not copied: {names}")
    return kept
