"""`invprob measure`: quantities of sources with their errors, from the draws in an output."""

from __future__ import annotations

import json as json_module
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from invprob.cli.common import Quiet
from invprob.cli.console import reported, say
from invprob.errors import InputError, UsageError

if TYPE_CHECKING:
    from invprob.cli.tables import DrawsFile


@reported
def measure(
    file: Annotated[str, typer.Argument(help="An output of `invprob deconvolve --method sample`.")],
    at: Annotated[
        str | None, typer.Option(metavar="Y,X", help="Centre in latent pixels: row, then column, counted from zero.")
    ] = None,
    radec: Annotated[str | None, typer.Option(metavar="RA,DEC", help="Centre on the sky: ICRS degrees.")] = None,
    radius: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH",
            help="What is measured is within this radius of the centre: 1.5arcsec, or 12pix for latent pixels. "
            "Default: the whole image.",
        ),
    ] = None,
    aperture: Annotated[
        list[str] | None,
        typer.Option(metavar="LENGTH", help="Radius of a further circle whose flux is measured; as often as wanted."),
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(
            help="Several sources, each within --radius: a table (.ecsv, .csv, .fits) with columns ra and dec (ICRS "
            "degrees), or else x and y (latent pixels, counted from zero), and perhaps id."
        ),
    ] = None,
    intervals: Annotated[str, typer.Option(metavar="P,P,...", help="Percentages of the central intervals.")] = "68,95",
    pixel_scale: Annotated[
        float | None, typer.Option(help="Arcsec per latent pixel, if the file does not tell.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Table to write: .ecsv or .fits.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a table that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure flux, centroid, size and ellipticity with joint errors.

    Each draw of the posterior is measured as an image is; the value is the mean over the draws. Without --radius the
    whole image is measured. Without --at and --radec the centre of the circles is the centroid of all its light.
    """
    circle = None if radius is None else _length("--radius", radius)
    circles = [_length("--aperture", text) for text in aperture or ()]
    percentages = _numbers("--intervals", intervals)
    position = _pair("--at", at) if at is not None else _pair("--radec", radec) if radec is not None else None
    _check_options(at, radec, catalog, radius, pixel_scale)
    from invprob.cli import tables
    from invprob.measure.measure import measure_image, measure_sources, sources_table
    from invprob.measure.moments import inside

    if out is not None:
        tables.check_table(out, [file] if catalog is None else [file, str(catalog)], overwrite)
    drawn = tables.read_draws(file, pixel_scale)
    within = None if circle is None else _pixels("--radius", circle, drawn)
    options: dict[str, Any] = {
        "apertures": [_pixels("--aperture", length, drawn) for length in circles],
        "intervals": percentages,
        "pixel_scale": drawn.pixel_scale,
        "unit": drawn.unit,
    }
    if catalog is not None and within is not None:
        ids, centres = tables.read_catalogue(catalog, drawn)
        measured = measure_sources(drawn.draws, centres, radius=within, **options)
        table = sources_table(measured, ids)
    else:
        centre = position
        if radec is not None:
            (centre,) = drawn.pixel_of([position])
            if not inside(centre, drawn.draws.shape[1:]):
                raise UsageError(f"--radec {radec} is not in the image of {file}: give RA,DEC in degrees")
        one = measure_image(drawn.draws, centre=centre, radius=within, **options)
        ids, measured, table = [None], (one,), one.to_table()
    sky = tables.add_record(table, measured, drawn)
    if out is not None:
        tables.write_table(table, out, overwrite)
    for note in () if quiet else tables.notes(ids, measured):
        say(f"warning: {note}")
    if json:
        print(json_module.dumps(tables.as_json(ids, measured, drawn, sky), indent=1, allow_nan=False))
    else:
        print(tables.as_text(ids, measured, drawn, sky))


def _check_options(at: Any, radec: Any, catalog: Any, radius: Any, pixel_scale: float | None) -> None:
    """Refuse options that do not go together."""
    if sum(given is not None for given in (at, radec, catalog)) > 1:
        raise UsageError("--at, --radec and --catalog each say what to measure: give one of them")
    if catalog is not None and radius is None:
        raise UsageError("--catalog needs --radius: the light within it is measured for each source")
    if pixel_scale is not None and not 0 < pixel_scale < math.inf:
        raise UsageError(f"--pixel-scale {pixel_scale:g}: a number of arcsec above 0 is needed")


def _numbers(option: str, text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text}: numbers with commas between them are needed") from None


def _pair(option: str, text: str) -> tuple[float, float]:
    """Two numbers."""
    form = {"--at": "two numbers are needed, Y,X", "--radec": "two numbers are needed, RA,DEC in decimal degrees"}
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: {form[option]}") from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise UsageError(f"{option} {text}: {form[option]}")
    if option == "--radec" and not (-360 <= first <= 360 and -90 <= second <= 90):
        raise UsageError(f"--radec {text}: no such place; right ascension comes first, both in degrees")
    return first, second


def _length(option: str, text: str) -> tuple[float, str]:
    """A radius and its unit, which nobody should have to guess."""
    found = re.fullmatch(r"\s*(\S*?)\s*(pix|pixels?|px|arcsec|\")?\s*", text)
    try:
        value = float(found[1])  # type: ignore[index]
    except (TypeError, ValueError):
        raise UsageError(f"{option} {text}: a length such as 1.5arcsec or 12pix is needed") from None
    if not 0 < value < math.inf:
        raise UsageError(f"{option} {text}: a length above 0 is needed")
    if found[2] is None:  # type: ignore[index]
        raise UsageError(
            f"{option} {text}: say in which unit, {text.strip()}arcsec or {text.strip()}pix (latent pixels)"
        )
    return value, "arcsec" if found[2] in ("arcsec", '"') else "pix"  # type: ignore[index]


def _pixels(option: str, length: tuple[float, str], drawn: DrawsFile) -> float:
    """A length in latent pixels."""
    value, unit = length
    if unit == "pix":
        return value
    if drawn.pixel_scale is None:
        raise InputError(f"{drawn.path} does not tell its pixel scale: give {option} in pix, or give --pixel-scale")
    return value / drawn.pixel_scale
