"""FITS files opened with care: what they claim is checked before a pixel is read."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from invprob.errors import InputError

MAX_PIXELS = 25_000_000  # of one plane: data, variance and mask in float64 with their temporaries take about 1 GB
MAX_DECOMPRESSED = 2**29  # bytes of a gzipped file
MAX_HEADER = 2**23  # bytes before the first END card
CHECKSUM_UP_TO = 2**28  # bytes: verifying reads all data

_OTHER_FORMATS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself: run `git lfs pull` to fetch it",
    b"\x1f\x9d": "compressed by the Unix `compress` (.Z): uncompress it first (`gunzip FILE`)",
    b"PK\x03\x04": "a zip archive: unzip it first",
    b"\x89HDF": "an HDF5 file: convert it to FITS",
    b"#ASDF": "an ASDF file: convert it to FITS",
    b"<!DOCTYPE": "a web page: the download went wrong",
    b"<html": "a web page: the download went wrong",
}
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass(frozen=True)
class Spec:
    """``FILE``, ``FILE[EXT]`` or ``FILE[EXT,plane]``, taken apart.

    `number` is a plane (from 0) of a cube, or an EXTVER where the extension is no cube.
    """

    path: str
    extension: str | int | None = None
    number: int | None = None

    @classmethod
    def parse(cls, text: str | Path, same_file: str | None = None) -> Spec:
        """Take `text` apart; ``[EXT]`` alone means an extension of `same_file`."""
        text = str(text)
        match = re.fullmatch(r"(.*?)\[([^\[\]]*)\]", text, flags=re.DOTALL)
        if match is None or os.path.exists(text):
            return cls(text)
        path, inside = match[1] or same_file, match[2].split(",")
        extension, number = inside[0].strip(), inside[1].strip() if len(inside) > 1 else None
        if not path or not extension or len(inside) > 2 or (number is not None and not number.isdigit()):
            raise InputError(
                f"{text}: write FILE[EXT] or FILE[EXT,plane], with the name or number of an extension and "
                "the number of a plane counted from 0"
            )
        return cls(
            path,
            int(extension) if extension.isdigit() else extension,
            None if number is None else int(number),
        )


@dataclass
class FitsFile:
    """An open file: its HDUs, the sizes they claim, and what astropy had to say."""

    path: str
    hdus: fits.HDUList
    missing: dict[int, int]
    """Bytes that each truncated HDU lacks."""
    sha256: str
    warnings: list[str] = field(default_factory=list)

    def hdu(self, index: int) -> Any:
        """An HDU by number (astropy's types are too loose to say more)."""
        return self.hdus[index]

    def images(self) -> list[int]:
        """Numbers of the HDUs that hold an image of two axes or more."""
        return [i for i, hdu in enumerate(self.hdus) if is_image(hdu) and len(image_shape(hdu)) >= 2]

    def named(self, *names: str, ver: int | None = None) -> list[int]:
        """Numbers of the images with one of `names`, in their order; those of EXTVER `ver` where there
        are."""
        found = [i for name in names for i in self.images() if self.hdu(i).name == name]
        same = [i for i in found if self.hdu(i).ver == ver]
        return same or found

    def label(self, index: int) -> str:
        """What to write in ``FILE[...]`` for an HDU: its name where that tells it apart."""
        hdu = self.hdu(index)
        names = [(self.hdu(i).name, self.hdu(i).ver) for i in range(len(self.hdus))]
        if hdu.name and [name for name, _ in names].count(hdu.name) == 1:
            return hdu.name
        unique = names.count((hdu.name, hdu.ver)) == 1
        if hdu.name and unique and is_image(hdu) and len(planes_of(hdu)) == 0:
            return f"{hdu.name},{hdu.ver}"
        return str(index)

    def find(self, spec: Spec) -> tuple[int, int | None]:
        """HDU number and plane that an explicit `spec` means."""
        hdus, ext, number = [self.hdu(i) for i in range(len(self.hdus))], spec.extension, spec.number
        if isinstance(ext, int):
            if ext >= len(hdus):
                raise InputError(f"{self.path} has no HDU {ext}: it has {self.contents()}")
            return ext, number
        found = [i for i, hdu in enumerate(hdus) if hdu.name.upper() == str(ext).upper()]
        if not found:
            raise InputError(f"{self.path} has no extension {ext}: it has {self.contents()}")
        if number is not None and not any(is_image(hdus[i]) and planes_of(hdus[i]) for i in found):
            same = [i for i in found if hdus[i].ver == number]
            if not same and number > 0:
                raise InputError(
                    f"{self.path}[{ext},{number}]: {ext} is no cube and has no version {number}; "
                    f"the file has {self.contents()}"
                )
            found, number = same or found, None
        if len(found) > 1:
            self.warnings.append(
                f"{self.path} has {len(found)} extensions {ext}: the first was taken; "
                f"choose with FILE[{self.label(found[1])}]"
            )
        return found[0], number

    def contents(self) -> str:
        """A short list of the HDUs."""
        rows = [f"{i} {hdu.name or '(no name)'}" for i, hdu in enumerate(self.hdus)]
        return ", ".join(rows[:12]) + (f", ... ({len(rows)} HDUs)" if len(rows) > 12 else "")

    def read(self, index: int, plane: int | None, what: str = "image") -> np.ndarray:
        """One plane of an image as astropy gives it (scaled), after a check of what it claims.

        Raises
        ------
        InputError
            When there is no image, it is truncated, too large, or a cube without a plane.
        """
        hdu, where = self.hdu(index), f"{self.path}[{self.label(index)}]"
        if not is_image(hdu):
            raise InputError(f"{where} holds no image ({_kind(hdu)}): choose one of {self.contents()}")
        shape, count = image_shape(hdu), planes_of(hdu)
        if len(shape) < 2:
            raise InputError(f"{where} has shape {shape}: an image has two axes")
        if index in self.missing:
            size = " x ".join(map(str, shape))
            raise InputError(
                f"{where} is truncated: it claims {size} pixels, and {self.missing[index]} bytes of them are "
                "missing: fetch the file again"
            )
        if len(count) > 1 or (count and plane is None):
            cube = " x ".join(map(str, count))
            hint = f"choose one with {self.path}[{self.label(index)},0]"
            raise InputError(
                f"{where} is a cube of {cube} planes, and the {what} must be one plane: "
                + (hint if len(count) == 1 else "cut out one plane first")
            )
        if not count and plane not in (None, 0):
            raise InputError(f"{where} has one plane: there is no plane {plane}")
        if count and plane is not None and plane >= count[0]:
            raise InputError(f"{where} has planes 0 to {count[0] - 1}: there is no plane {plane}")
        if shape[-1] * shape[-2] > MAX_PIXELS:
            raise InputError(
                f"{where} has {shape[-2]} x {shape[-1]} pixels, more than fit in memory at once: cut out a region"
            )
        key = [0] * (len(shape) - 2)
        if count and plane is not None:
            key[next(i for i, n in enumerate(shape[:-2]) if n > 1)] = plane
        try:
            return np.asarray(hdu.section[(*key, slice(None), slice(None))])
        except Exception as error:  # astropy and its decompressors raise nearly everything
            raise InputError(f"{where} cannot be read ({_line(error)}): the file is damaged") from error

    def header(self, index: int) -> fits.Header:
        """A copy of an HDU's header."""
        return self.hdu(index).header.copy()


class Library:
    """The files of one reading, each opened and hashed once; a context manager."""

    def __init__(self):
        self._stack, self._files = ExitStack(), {}

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *exception):
        self._stack.close()

    def open(self, path: str) -> FitsFile:
        """The file at `path`, opened now or before."""
        if path not in self._files:
            self._files[path] = self._stack.enter_context(open_fits(path))
        return self._files[path]

    @property
    def warnings(self) -> list[str]:
        """What all the files had to say."""
        return [w for f in self._files.values() for w in f.warnings]


def is_image(hdu: Any) -> bool:
    """Whether an HDU holds pixels (random groups and empty primaries do not)."""
    kinds = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
    if not isinstance(hdu, kinds) or isinstance(hdu, fits.GroupsHDU):
        return False
    shape = image_shape(hdu)
    return len(shape) > 0 and 0 not in shape


def image_shape(hdu: Any) -> tuple[int, ...]:
    """Shape of an image in numpy's order."""
    return tuple(int(n) for n in hdu.shape)


def planes_of(hdu: Any) -> tuple[int, ...]:
    """The axes beyond two that are longer than one."""
    return tuple(n for n in image_shape(hdu)[:-2] if n > 1)


@contextmanager
def open_fits(path: str) -> Iterator[FitsFile]:
    """Open a FITS file for reading, plain, fpacked or gzipped.

    Raises
    ------
    InputError
        In one line, whatever is wrong with the file.
    """
    source, length = _source(path)
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            missing = _missing(source(), length)
            verify = not missing and length <= CHECKSUM_UP_TO
            hdus = fits.open(source(), memmap=False, checksum=verify)
            n = len(hdus)  # reads every header
    except Exception as error:
        raise InputError(f"{path} is no FITS file that can be read: {_line(error)}") from error
    if n == 0:
        raise InputError(f"{path} holds no HDU: it is no FITS file")
    texts = [" ".join(str(w.message).split()) for w in caught]
    changed = re.findall(r"(?:Check|Data)sum verification failed for HDU \('(\w*)', \d+\)", "; ".join(texts))
    if changed:
        names = ", ".join(dict.fromkeys(changed))
        notes.append(f"{path}: the checksum of {names} does not match: the file was changed after it was written")
    damage = [t for t in dict.fromkeys(texts) if "extra bytes" in t or "corrupted" in t]
    notes += [f"{path}: {text}" for text in damage]
    for index, lack in missing.items():
        notes.append(f"{path}: HDU {index} is truncated by {lack} bytes")
    with hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield FitsFile(path, hdus, missing, sha256(path), notes)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, read in chunks."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _source(path: str) -> tuple[Callable[[], Any], int]:
    """What astropy is to open (made anew at each call), and its length; the file's first bytes are
    checked."""
    length, head = _beginning(path)
    for magic, text in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise InputError(f"{path} is {text}")
    opener = next((o for magic, o in _COMPRESSED.items() if head.startswith(magic)), None)
    source: Callable[[], Any] = partial(str, path)
    if opener is not None:
        data = _decompressed(path, opener)
        source, length, head = partial(io.BytesIO, data), len(data), data[:MAX_HEADER]
    if not head.startswith(b"SIMPLE  ="):
        raise InputError(f"{path} is not a FITS file: it does not begin with SIMPLE")
    if not any(head[i : i + 8] == b"END     " for i in range(0, len(head), 80)):
        raise InputError(f"{path} is damaged: its header has no END card")
    return source, length


def _beginning(path: str) -> tuple[int, bytes]:
    """Size and first bytes of a regular file."""
    try:
        status = os.stat(path)
        regular = stat.S_ISREG(status.st_mode)
        head = b""
        if regular:
            with open(path, "rb") as f:
                head = f.read(MAX_HEADER)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {_line(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory: give a FITS file")
    if not regular:  # reading a pipe or a device might never end
        raise InputError(f"{path} is not a regular file: give a FITS file on disk")
    if status.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): fetch it again")
    return status.st_size, head


def _decompressed(path: str, opener) -> bytes:
    data = bytearray()
    try:
        with opener(path, "rb") as f:
            while len(data) <= MAX_DECOMPRESSED and (chunk := f.read(1 << 20)):
                data += chunk
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} is damaged: its compressed data end early or are wrong ({_line(error)})") from None
    if len(data) > MAX_DECOMPRESSED:
        raise InputError(f"{path} holds more than {MAX_DECOMPRESSED >> 20} MB: decompress it first")
    return bytes(data)


def _missing(source, length: int) -> dict[int, int]:
    """Bytes that each HDU claims beyond the file's end, from the headers alone."""
    missing = {}
    with fits.open(source, memmap=False, disable_image_compression=True) as hdus:
        for i, hdu in enumerate(hdus):
            info = hdu.fileinfo()
            if info is not None and (lack := info["datLoc"] + int(hdu.size) - length) > 0:
                missing[i] = lack
    return missing


def _kind(hdu) -> str:
    if isinstance(hdu, fits.GroupsHDU):
        return "random groups of visibilities"
    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
        return "a table"
    return "a header only"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
