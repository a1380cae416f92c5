"""The image extensions of a result, with the cards that say where their pixels are and what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits

from invprob.io.read.cards import put
from invprob.io.wcs import coordinates, refine_header
from invprob.observation import Frame, Observation
from invprob.results import Estimate, Samples
from invprob.units import is_surface_brightness


def image_extensions(
    result: Estimate, frame: Frame | None, observation: Observation | None, notes: list[str]
) -> list[fits.ImageHDU]:
    """The image extensions that the result has."""
    unit = frame.unit if frame else ""
    latent, data = grid_header(frame, frame.factor if frame else 1, notes), grid_header(frame, 1, [])
    kind = "surface brightness" if is_surface_brightness(unit) else "flux per pixel"
    scale = frame.pixel_scale / frame.factor if frame and frame.pixel_scale else None
    inpainted = result.inpainted
    if inpainted is None and observation is not None:
        inpainted = np.kron(~observation.valid, np.ones((frame.factor if frame else 1,) * 2, dtype=bool))

    def hdu(name: str, array: Any, grid: fits.Header | None, dtype: str | None, *cards: tuple[str, Any, str]):
        array = np.asarray(array)
        dtype = dtype or ("float32" if array.dtype == np.float32 else "float64")
        made = fits.ImageHDU(np.ascontiguousarray(array, dtype=dtype), header=grid, name=name)
        for keyword, value, comment in cards:
            put(made.header, keyword, value, comment)
        return made

    bunit = (("BUNIT", unit, kind),) if unit else ()
    out = [hdu("SCI", result.image, latent, None, *bunit)]
    if result.std is not None:
        out.append(hdu("ERR", result.std, latent, None, *bunit))
    if result.contraction is not None:
        card = ("CONTENT", "1 - variance / prior variance", "1: the data say it; 0: the prior does")
        out.append(hdu("CONTRACTION", result.contraction, latent, "float32", card))
    if result.contraction_starlet is not None:
        out.append(hdu("CONTRACTION_STARLET", result.contraction_starlet, latent, "float32", *_scale_cards(result)))
    if result.comparison is not None:
        card = ("CONTENT", "(SCI - that of another prior) / error", "CMPPRIOR in the primary header")
        out.append(hdu("COMPARED", result.comparison, latent, "float32", card))
    if inpainted is not None:
        out.append(hdu("DQ", inpainted, latent, "int16", ("DQBIT1", "INPAINTED", "no valid datum lies over it")))
    if result.model is not None:
        out.append(hdu("MODEL", result.model, data, None, *bunit))
    if result.residual is not None:
        out.append(hdu("RESID", result.residual, data, None, ("CONTENT", "(data - model) / sigma", "NaN: not valid")))
    if result.kernel is not None:
        pixel = (("PIXSCALE", scale, "[arcsec] latent pixel"),) if scale else ()
        total = float(np.asarray(result.kernel, dtype=float).sum())
        out.append(hdu("PSF", result.kernel, None, None, *pixel, ("PIXSUM", total, "sum of the kernel")))
    if isinstance(result, Samples) and result.draws is not None:
        out.append(hdu("DRAWS", result.draws, latent, "float32", *bunit))
    if isinstance(result, Samples):
        out += [hdu(name, end, latent, "float32", *bunit) for name, end in result.intervals.items()]
    out += [hdu(name.upper(), part, latent, None, *bunit) for name, part in result.parts.items()]
    return out


def _scale_cards(result: Estimate) -> list[tuple[str, Any, str]]:
    """What the planes of CONTRACTION_STARLET are."""
    assert result.contraction_starlet is not None
    count = len(result.contraction_starlet)
    cards: list[tuple[str, Any, str]] = [("CONTENT", "1 - variance / prior variance", "of starlet coefficients")]
    for plane in range(1, count):
        cards.append((f"SCALE{plane}", 2 ** (plane - 1), f"latent pixels: the details of plane {plane}"))
    return [*cards, (f"SCALE{count}", 2 ** (count - 1), f"latent pixels: plane {count}, the smooth rest")]


def grid_header(frame: Frame | None, factor: int, notes: list[str]) -> fits.Header:
    """The cards that say where the pixels of a grid are."""
    out = fits.Header()
    if frame is None:
        return out
    if frame.header is not None:
        refined, more = refine_header(frame.header, factor)
        out = coordinates(refined)
        notes.extend(more)
    if frame.pixel_scale:
        out["PIXSCALE"] = (frame.pixel_scale / factor, "[arcsec] side of a pixel")
    return out
