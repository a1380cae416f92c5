"""Read a point spread function and find how finely it is sampled."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from invprob.errors import InputError
from invprob.io.read import header as cards
from invprob.io.read import noise
from invprob.io.read.hdus import Library, Spec
from invprob.io.read.specification import first_image, record, same_plane
from invprob.observation import InputFile
from invprob.observation.psf import PSF, SAME_SCALE, snapped_oversampling


def read_psf(
    spec: str | Path,
    *,
    data_pixel_scale: float | None = None,
    pixel_scale: float | None = None,
    normalize: bool = False,
    without_pixel: bool = False,
) -> PSF:
    """Read a PSF from a FITS file.

    Parameters
    ----------
    spec
        ``FILE``, ``FILE[EXT]`` or ``FILE[EXT,plane]``; without an extension PSF, else the first image.
    data_pixel_scale
        Side of a pixel of the data it is for, in arcsec.
    pixel_scale
        Side of a PSF pixel in arcsec, instead of what its header says.
    normalize
        Divide by the sum.
    without_pixel
        The image does not include the response of its own pixel.

    Returns
    -------
    PSF
        Sampled at the data's pixel where nothing is known of its scale.

    Raises
    ------
    InputError
        When the file cannot be used, or the PSF is coarser than the data.
    """
    with Library() as library:
        return load_psf(library, Spec.parse(spec), None, (), data_pixel_scale, pixel_scale, normalize, without_pixel)[0]


def load_psf(
    library: Library, spec: Spec, plane, planes, data_scale, given_scale, normalize, without_pixel
) -> tuple[PSF, InputFile]:
    """A PSF, its sampling relative to the data's pixel, and the record of its file."""
    file = library.open(spec.path)
    index, own = (first_image(file, *noise.PSF_NAMES), None) if spec.extension is None else file.find(spec)
    own = same_plane(file, index, own, plane, planes)
    header = file.header(index)
    array = file.read(index, own, "PSF")
    where, warnings = f"{file.path}[{file.label(index)}]", []
    scale = cards.pixel_scale_of(header, cards.world(header)[0])[0]
    scale = cards.positive(header, *cards.SCALE_CARDS) or scale
    if given_scale is not None:
        scale = positive_number("the PSF's pixel scale", given_scale)
        if data_scale is None:
            raise InputError("the PSF's pixel scale is given, the image's is not known: give --pixel-scale as well")
    oversampling = cards.oversampling_of(header)
    if scale and data_scale:
        oversampling = data_scale / scale
    elif scale and oversampling is None:
        warnings.append(
            f"the PSF's pixel is {scale:g}\", the image's is not known: the PSF was taken to be sampled at "
            "the image's pixel; --pixel-scale says otherwise"
        )
    try:
        ratio = snapped_oversampling(oversampling or 1.0)
        psf = PSF.from_image(
            array,
            pixel_scale=scale,
            oversampling=ratio,
            includes_pixel=not without_pixel,
            normalize=normalize,
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if scale and data_scale and 1e-3 < abs(data_scale / scale / ratio - 1) <= SAME_SCALE and ratio == 1:
        warnings.append(
            f"the PSF's pixel ({scale:g}\") was taken to be the image's ({data_scale:.5g}\"): they differ "
            "by a header's rounding"
        )
    psf = replace(psf, warnings=(*warnings, *psf.warnings))
    return psf, record("psf", file, index, own, array)


def positive_number(what: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{what} must be a positive number, not {value}")
    return float(value)
