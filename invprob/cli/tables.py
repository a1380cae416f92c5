"""What `invprob measure` reads and writes: draws, catalogues, tables, and their text."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from jaxtyping import Float

from invprob.errors import InputError, UsageError
from invprob.files import atomic_write
from invprob.io.read import header as cards
from invprob.io.read.cards import escape, unescape
from invprob.io.read.hdus import sha256
from invprob.io.readback import read_images, read_provenance
from invprob.io.write import check_output, package_version
from invprob.measure.measurement import Measurement
from invprob.observation import InputFile

FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".fits": "fits", ".fit": "fits"}
Position = tuple[float, float]


@dataclass(frozen=True)
class DrawsFile:
    """The draws of a file, with what is needed to say where and in what unit."""

    path: str
    draws: Float[np.ndarray, "draw y x"]
    unit: str
    pixel_scale: float | None
    wcs: WCS | None
    sha256: str
    config_hash: str | None

    def pixel_of(self, sky: Sequence[Any]) -> list[Position]:
        """(y, x) in latent pixels of (RA, Dec) in degrees; NaN for what is not on this side of the sky."""
        if self.wcs is None:
            raise InputError(f"{self.path} has no sky coordinates: give the position in latent pixels")
        ra, dec = np.asarray(sky, dtype=float).T
        try:
            x, y = self.wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg"))
        except Exception as error:  # wcslib has many, among them a distortion that does not converge far outside
            why = " ".join(str(error).split())[:80]
            raise InputError(f"{self.path}: no pixel can be found for a position on the sky ({why})") from error
        return [(float(b), float(a)) for a, b in zip(x, y, strict=True)]

    def sky_of(self, measured: Sequence[Measurement]) -> list[Position] | None:
        """(RA, Dec) in ICRS degrees of the centroids, NaN where there is none; None without sky coordinates."""
        if self.wcs is None:
            return None
        x, y = (np.array([m[name][0] for m in measured]) for name in ("x", "y"))
        try:
            sky: Any = self.wcs.pixel_to_world(x, y)
            return [(float(s.ra.deg), float(s.dec.deg)) for s in sky.icrs]
        except Exception:  # as above; the position in pixels is there all the same
            return None


def read_draws(path: str, pixel_scale: float | None = None) -> DrawsFile:
    """The draws of an output of `invprob deconvolve --method sample`.

    Raises
    ------
    InputError
        When it is no such output.
    """
    images = read_images(path)
    if "DRAWS" not in images:
        raise InputError(
            f"{path} holds no draws (it has {', '.join(images) or 'no images'}): make it with `invprob deconvolve "
            "--method sample`"
        )
    header = fits.getheader(path, "SCI") if "SCI" in images else fits.Header()
    return DrawsFile(
        path=path,
        draws=images["DRAWS"],
        unit=unescape(str(cards.card(header, "BUNIT") or "")),
        pixel_scale=pixel_scale or cards.positive(header, "PIXSCALE"),
        wcs=cards.world(header)[0],
        sha256=sha256(path),
        config_hash=read_provenance(path)["config_hash"],
    )


def read_catalogue(path: Path, drawn: DrawsFile) -> tuple[list[Any], list[Position]]:
    """Ids (row numbers where there are none) and (y, x) in latent pixels."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--catalog {path}: a table that ends in {', '.join(FORMATS)} is needed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table: Any = Table.read(path, format=FORMATS[path.suffix.lower()])
            if path.suffix.lower() in (".fits", ".fit"):
                table.convert_bytestring_to_unicode()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path") from None
    except Exception as error:  # the readers raise nearly everything
        raise InputError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:120]}") from error
    names = {name.lower(): name for name in table.colnames}
    wanted = next((pair for pair in (("ra", "dec"), ("y", "x")) if all(name in names for name in pair)), None)
    if wanted is None:
        found = ", ".join(table.colnames) or "none"
        raise InputError(f"{path} needs columns ra and dec, or x and y; it has {found}: rename them")
    if len(table) == 0:
        raise InputError(f"{path} has no rows: there is nothing to measure")
    on_sky = wanted == ("ra", "dec")
    given = np.array([_plain_numbers(table[names[name]], path, u.deg if on_sky else None) for name in wanted])
    ids = table[names["id"]].tolist() if "id" in names else [None] * len(table)
    ids = [row if name is None else name for row, name in enumerate(ids, 1)]
    if not on_sky:
        return ids, [(float(y), float(x)) for y, x in given.T]
    if (wrong := np.abs(given[1]) > 90).any():
        raise InputError(f"{path}: the declination in row {int(np.argmax(wrong)) + 1} is beyond 90 degrees")
    return ids, drawn.pixel_of(list(given.T))


def _plain_numbers(column: Any, path: Path, unit: Any) -> np.ndarray:
    """A column of finite numbers, in a unit where it has one."""
    try:
        values: Any = np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
        if unit is not None and column.unit is not None:
            values = u.Quantity(values, column.unit).to_value(unit)
    except (ValueError, TypeError, u.UnitsError):
        raise InputError(f"{path}: column {column.name} has to be numbers" + (" in degrees" if unit else "")) from None
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(f"{path}: column {column.name} has no number in row {int(np.argmin(np.isfinite(values))) + 1}")
    return values


def add_record(table: Any, measured: Sequence[Measurement], drawn: DrawsFile) -> list[Position] | None:
    """Add to a table where it comes from, and the centroids on the sky, which are returned as well."""
    sky = drawn.sky_of(measured)
    record = {
        "program": "invprob", "version": package_version("invprob"), "input": drawn.path,
        "input_sha256": drawn.sha256, "config_hash": drawn.config_hash,
    }  # fmt: skip
    table.meta = record | dict(table.meta)
    if sky is not None and "name" in table.colnames:
        table.meta |= {"ra": sky[0][0], "dec": sky[0][1]}
    elif sky is not None:
        for i, name in enumerate(("ra", "dec")):
            about = f"{name} of the centroid, ICRS"
            table.add_column(u.Quantity([s[i] for s in sky], u.deg), name=name, index=3 + i)
            table[name].description = about
    return sky


def check_table(path: Path, inputs: Sequence[str], overwrite: bool) -> None:
    """Refuse, before any work is done, a table that could not be written."""
    if path.suffix.lower() not in (".ecsv", ".fits"):
        raise UsageError(f"-o {path}: a table that ends in .ecsv or .fits is needed")
    check_output(path, [InputFile("", name, "", "") for name in inputs], overwrite)


def write_table(table: Table, path: Path, overwrite: bool) -> None:
    """Write a table whole or not at all; the same table gives the same bytes."""
    with atomic_write(path, overwrite) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units and long cards that FITS does not know
        if path.suffix.lower() == ".ecsv":
            text = io.StringIO()
            table.write(text, format="ascii.ecsv")
            stream.write(text.getvalue().encode())
        else:
            _as_fits(table).writeto(stream)


def _as_fits(table: Any) -> fits.HDUList:
    """The record in the primary header, the table as MEASURE, the covariances (source, quantity, quantity) as COVAR."""
    meta, plain = table.meta, table.copy()
    plain.meta = {}
    for name in plain.colnames:
        if plain[name].dtype.kind == "U":  # FITS holds ASCII only
            plain[name] = [text.encode("ascii", "backslashreplace").decode() for text in plain[name]]
    primary, body = fits.PrimaryHDU(), fits.table_to_hdu(plain)
    body.name = "MEASURE"
    for name in plain.colnames:
        if plain[name].unit is not None:  # astropy drops those that the standard does not list, such as electron
            body.columns[name].unit = escape(str(plain[name].unit).replace(" / ", "/"))
    covariance = fits.ImageHDU(np.asarray(meta["covariance"], dtype=float), name="COVAR")
    record = {
        "PROGRAM": (meta["program"], "measured from draws"), "VERSION": (meta["version"], "of invprob"),
        "INFILE1": (meta["input"], ""), "INSHA1": (meta["input_sha256"], ""), "CONFHASH": (meta["config_hash"], ""),
        "NDRAWS": (meta["num_draws"], "draws measured"), "RADIUS": (meta["radius"], "[pix] latent; none: all"),
    }  # fmt: skip
    if "centre" in meta:
        record |= {"CENTREY": (meta["centre"][0], "[pix] from zero"), "CENTREX": (meta["centre"][1], "[pix] from zero")}
    if "ra" in meta:
        record |= {"RA": (meta["ra"], "[deg] centroid, ICRS"), "DEC": (meta["dec"], "[deg] centroid, ICRS")}
    record |= {f"APER{i}": (r, "[pix] latent") for i, r in enumerate(meta["apertures"], 1)}
    record |= {f"WARN{i}": (note, "") for i, note in enumerate(meta.get("notes", ()), 1)}
    for keyword, (value, comment) in record.items():
        value = escape(value) if isinstance(value, str) else value
        if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            primary.header[keyword] = (value, comment)
    for i, name in enumerate(meta["quantities"], 1):
        covariance.header[f"QUANT{i}"] = name
    hdus = fits.HDUList([primary, body, covariance])
    for hdu in list[Any](hdus):
        hdu.add_checksum(when="by invprob")  # astropy would write the time: the bytes are to be the same
    return hdus


def notes(ids: Sequence[Any], measured: Sequence[Measurement]) -> list[str]:
    """What has to be said, once where it is the same for all."""
    shared = [note for note in measured[0].notes if all(note in m.notes for m in measured)]
    own = [f"source {i}: {note}" for i, m in zip(ids, measured, strict=True) for note in m.notes if note not in shared]
    return [*shared, *own]


def as_json(ids: Sequence[Any], measured: Sequence[Measurement], drawn: DrawsFile, sky: list[Position] | None) -> Any:
    """All of it in types that JSON can hold; null for what is not a number."""

    def number(value: Any) -> Any:
        if isinstance(value, np.ndarray | list | tuple):
            return [number(v) for v in value]
        return None if value is None or not math.isfinite(value) else float(value)

    def source(i: int, m: Measurement) -> dict[str, Any]:
        quantities = {
            name: {
                "value": number(m.values[k]), "std": number(m.std[k]), "unit": m.units[k],
                "intervals": {f"{p:g}": number(ends[:, k]) for p, ends in m.intervals.items()},
                "description": m.descriptions[k],
            }
            for k, name in enumerate(m.names)
        }  # fmt: skip
        where = {} if sky is None else {"ra": number(sky[i][0]), "dec": number(sky[i][1])}
        return {
            **({} if ids[i] is None else {"id": ids[i]}), "centre": number(m.centre), **where, "quantities": quantities,
            "covariance": number(m.covariance), "notes": list(m.notes),
        }  # fmt: skip

    return {
        "file": drawn.path, "sha256": drawn.sha256, "config_hash": drawn.config_hash,
        "num_draws": measured[0].num_draws, "radius": measured[0].radius, "apertures": list(measured[0].apertures),
        "sources": [source(i, m) for i, m in enumerate(measured)],
    }  # fmt: skip


def as_text(ids: Sequence[Any], measured: Sequence[Measurement], drawn: DrawsFile, sky: list[Position] | None) -> str:
    """A table to read: a row for each quantity of one source, or for each of several sources."""
    first = measured[0]
    lines = [f"{drawn.path}: {first.num_draws} draws"]
    if ids == [None]:
        (y, x) = first.centre
        lines[0] += "" if math.isnan(y) else f"; centre y {y:.2f}, x {x:.2f}"
        if sky is not None and math.isfinite(sky[0][0]):
            lines[0] += f"; centroid RA {sky[0][0]:.6f}, Dec {sky[0][1]:+.6f}"
        rows = [["", "value", "std", *(f"{p:g} %" for p in first.intervals), "unit", ""]]
        for k, name in enumerate(first.names):
            value, std = first[name]
            ends = [f"{_digits(e[0, k], std)} to {_digits(e[1, k], std)}" for e in first.intervals.values()]
            rows.append([name, _digits(value, std), f"{std:.2g}", *ends, first.units[k], first.descriptions[k]])
        left = {0, len(rows[0]) - 2, len(rows[0]) - 1}
    else:
        rows = [["id", *(f"{n} [{unit}]" if unit else n for n, unit in zip(first.names, first.units, strict=True))]]
        for i, m in zip(ids, measured, strict=True):
            rows.append([str(i), *(f"{_digits(*m[name])} +- {m[name][1]:.2g}" for name in m.names)])
        left = {0}
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _digits(value: float, std: float) -> str:
    """A number to the second digit of its error."""
    if not math.isfinite(value):
        return "nan"
    if not (std > 0 and value):
        return f"{value:.6g}"
    places = math.floor(math.log10(abs(value))) - math.floor(math.log10(std)) + 2
    return f"{value:.{min(max(places, 2), 15)}g}"
