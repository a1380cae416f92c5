"""Read what `write_fits` wrote: the record of the run and the images, and compare two such files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from invprob.errors import InputError
from invprob.io.keywords import KEYWORDS, read_records
from invprob.io.write import FORMAT, INPUT_RECORDS, PACKAGES
from invprob.observation import InputFile

BEYOND = ("calibration_sha256", "calibration_passed", "calibration_cases", "draws_store", "draws_thinning")
"""Records that a run does not make of itself: of a calibration card, and of a store of all draws."""


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record of the run that made a file.

    Parameters
    ----------
    path
        A file of `write_fits`.

    Returns
    -------
    dict
        ``version``, ``config`` (parsed; None where the file has none), ``config_hash``, ``inputs`` (a tuple
        of `InputFile`), ``seed``, ``device`` and ``prior_hash``, that of a learned prior's weights (None where not
        recorded), ``python``, ``versions``
        (package -> version), ``format`` (of the layout of the file), ``report`` (records of a calibration card and of a
        store of draws), ``status``, ``solver``, ``steps`` and ``warnings``.

    Raises
    ------
    InputError
        When there is no such file, it is not one of ours, or its configuration was changed.
    """
    with _open(path) as hdus:
        header = hdus[0].header
        text = header.get(KEYWORDS["configuration"])
        config = None
        if text is not None:
            if hashlib.sha256(text.encode()).hexdigest() != header.get(KEYWORDS["configuration_sha256"]):
                raise InputError(f"the configuration in the header of {path} was changed: it does not match its hash")
            config = json.loads(text)
        own = read_records(header, "version", "file_format", "configuration_sha256", "seed", "device", "python_version")
        own |= read_records(header, "weights_sha256", "status", "solver", "steps", "warnings", *INPUT_RECORDS)
        inputs = zip(*(own.get(name) for name in INPUT_RECORDS), strict=True)
        return {
            "version": own.get("version"),
            "format": own.get("file_format", 1),
            "config": config,
            "config_hash": own.get("configuration_sha256"),
            "inputs": tuple(InputFile(*parts) for parts in inputs),
            "seed": own.get("seed"),
            "device": own.get("device"),
            "prior_hash": own.get("weights_sha256"),
            "python": own.get("python_version"),
            "versions": {
                name: header[KEYWORDS[f"{name}_version"]] for name in PACKAGES if KEYWORDS[f"{name}_version"] in header
            },
            "report": read_records(header, *BEYOND),
            "status": own.get("status"),
            "solver": own.get("solver"),
            "steps": own.get("steps"),
            "warnings": own.get("warnings"),
        }


def check_format(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Refuse to repeat the run of a file whose layout is older than that of this version.

    Parameters
    ----------
    path
        A file of `write_fits`.
    record
        What `read_provenance` gave for it.

    Raises
    ------
    InputError
        With the version of invprob that wrote it.
    """
    if record["format"] != FORMAT:
        age = "older" if record["format"] < FORMAT else "newer"
        raise InputError(
            f"{path} has format {record['format']}, which is {age} than the {FORMAT} of this version: repeat its run "
            f"with invprob {record['version']}, which wrote it, or deconvolve again"
        )


def read_images(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file of `write_fits` by the name of their extension, in the machine's byte order.

    Raises
    ------
    InputError
        When there is no such file, it is not one of ours, or it is damaged.
    """
    with _open(path) as hdus:
        try:
            arrays = {hdu.name: np.asarray(hdu.data) for hdu in hdus[1:] if hdu.data is not None}
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged, perhaps truncated ({error}): get the whole file") from error
        return {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}


def compare_fits(a: str | os.PathLike[str], b: str | os.PathLike[str], rtol: float = 0.0) -> list[str]:
    """How two files of `write_fits` differ.

    Parameters
    ----------
    a, b
        The file and the one it is compared with.
    rtol
        Largest difference allowed, in units of the largest absolute value of the extension of `b`.

    Returns
    -------
    list of str
        One line for each extension that differs; empty for the same bytes (see `same_bytes`) and where all
        arrays agree within `rtol`.

    Raises
    ------
    InputError
        When a file does not exist or is not one of ours.
    """
    if same_bytes(a, b):
        return []
    one, two = read_images(a), read_images(b)
    lines = [f"{name}: only in {a if name in one else b}" for name in [*one, *two] if (name in one) != (name in two)]
    for name in (n for n in one if n in two):
        x, y = one[name].astype(float), two[name].astype(float)
        if x.shape != y.shape:
            lines.append(f"{name}: shape {x.shape} against {y.shape}")
            continue
        if (np.isnan(x) != np.isnan(y)).any():
            lines.append(f"{name}: not a number at different pixels ({int((np.isnan(x) != np.isnan(y)).sum())})")
            continue
        away = float(np.nanmax(np.abs(x - y), initial=0.0))
        scale = float(np.nanmax(np.abs(y), initial=0.0)) or 1.0
        if not away <= rtol * scale:
            lines.append(f"{name}: largest difference {away / scale:.2g} of the largest value, allowed {rtol:.2g}")
    return lines


def same_bytes(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether two files hold the same bytes.

    Raises
    ------
    InputError
        When a file cannot be read.
    """
    digests = []
    for path in (a, b):
        try:
            with open(path, "rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    return digests[0] == digests[1]


def _open(path: str | os.PathLike[str]) -> Any:
    """Open a file and make sure that it is one of ours."""
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist or is not a file: give a file that invprob wrote")
    try:
        hdus: Any = fits.open(path, memmap=False, lazy_load_hdus=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as FITS: give a file that invprob wrote") from error
    if hdus[0].header.get(KEYWORDS["program"]) != "invprob":
        hdus.close()
        raise InputError(f"{path} was not written by invprob: its header has no record of a run")
    return hdus
