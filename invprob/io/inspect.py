"""What the reader understood of a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from invprob.io.read import header as cards
from invprob.io.read import noise
from invprob.io.read.hdus import Library, Spec, image_shape, is_image
from invprob.io.read.read_fits import read_fits
from invprob.observation import PSF, Observation


def inspect_file(path: str | Path, **options: Any) -> dict[str, Any]:
    """What `read_fits` understands of a file, in numbers and words that JSON can hold.

    Parameters
    ----------
    path, options
        As `invprob.io.read.read_fits.read_fits` takes them.

    Returns
    -------
    dict
        ``file, extension, shape, dtype, unit, pixel_scale`` (arcsec), ``wcs`` (projection, centre in
        degrees), ``masked_fraction, noise`` (source, median sigma), ``sky`` (level and scatter), ``psf``
        (shape, FWHM in its own and in data pixels and in arcsec, sum, oversampling), ``hdus, warnings``.

    Raises
    ------
    InputError, NoUsablePixelsError
        As `invprob.io.read.read_fits.read_fits` does.
    """
    observation = read_fits(path, **options)
    with Library() as library:
        file = library.open(Spec.parse(path).path)
        hdus = [
            {
                "index": i,
                "name": file.hdu(i).name,
                "version": file.hdu(i).ver,
                "kind": type(file.hdu(i)).__name__,
                "shape": list(image_shape(file.hdu(i))) if is_image(file.hdu(i)) else None,
            }
            for i in range(len(file.hdus))
        ]
        world = _world(observation, file.hdus)
    image = observation.inputs[0]
    level, scatter = noise.sky_statistics(observation.data[observation.valid])
    return {
        "file": str(image.path),
        "extension": image.extension,
        "shape": list(observation.shape),
        "dtype": image.dtype,
        "unit": observation.frame.unit,
        "pixel_scale": observation.frame.pixel_scale,
        "wcs": world,
        "masked_fraction": float(1 - observation.valid.mean()),
        "noise": {
            "source": observation.noise_source,
            "median_sigma": math.sqrt(np.median(observation.variance[observation.valid])),
        },
        "sky": {"level": level, "scatter": scatter},
        "psf": None if observation.psf is None else _psf(observation.psf, observation),
        "hdus": hdus,
        "warnings": list(observation.warnings),
    }


def _world(observation: Observation, hdus) -> dict[str, Any] | None:
    """Projection and the coordinates of the image's centre."""
    header = observation.frame.header
    if header is None or (wcs := cards.world(header, hdus)[0]) is None:
        return None
    ny, nx = observation.shape
    centre = wcs.all_pix2world([[(nx - 1) / 2, (ny - 1) / 2]], 0)[0][[wcs.wcs.lng, wcs.wcs.lat]]
    return {
        "projection": ", ".join(str(cards.card(header, f"CTYPE{i}") or "") for i in (1, 2)),
        "centre": [float(c) if math.isfinite(c) else None for c in centre],
        "system": wcs.wcs.radesys or None,
    }


def _psf(psf: PSF, observation: Observation) -> dict[str, Any]:
    oversampling = psf.oversampling_on(observation.frame)
    scale = observation.frame.pixel_scale
    width = psf.fwhm / oversampling
    return {
        "shape": list(psf.shape),
        "fwhm_pixels": psf.fwhm,
        "fwhm_data_pixels": width,
        "fwhm_arcsec": psf.fwhm_arcsec if scale is None else width * scale,
        "sum": psf.total,
        "oversampling": oversampling,
        "includes_pixel": psf.includes_pixel,
    }
