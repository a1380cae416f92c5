"""Read observations and point spread functions from FITS files as astronomers have them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from invprob.errors import InputError, NoUsablePixelsError, UsageError
from invprob.io.read import header as cards
from invprob.io.read import noise
from invprob.io.read.hdus import Library, Spec, planes_of
from invprob.io.read.psf import load_psf, positive_number, read_psf
from invprob.io.read.specification import first_image, image_hdu, record, same_plane
from invprob.observation import PSF, Frame, InputFile, Observation

__all__ = ["read_fits", "read_psf"]

SKY_LIMIT = 5.0  # sigmas of one pixel


def read_fits(
    path: str | Path,
    *,
    psf: str | Path | PSF | None = None,
    variance: str | Path | None = None,
    noise_std: float | None = None,
    mask: str | Path | None = None,
    normalize_psf: bool = False,
    psf_without_pixel: bool = False,
    pixel_scale: float | None = None,
    psf_pixel_scale: float | None = None,
    zeropoint: float | None = None,
    dtype: str = "float64",
) -> Observation:
    """Read an image with its noise, mask and PSF.

    Extensions are found by EXTNAME: SCI, ERR, DQ (HST, JWST); IMAGE, MASK, VARIANCE (LSST, with the bits of the mask
    named by its own ``MP_*`` cards); SCI, VAR, MASK; WHT, IVAR; otherwise the first image. Files may be fpacked or
    gzipped.

    Parameters
    ----------
    path
        ``FILE``, ``FILE[EXT]`` or ``FILE[EXT,plane]``: extension by name or number, plane of a cube from 0.
        The same plane of a variance, mask or PSF cube of as many planes is used.
    psf
        Specification like `path`, ``[EXT]`` for an extension of the same file, a `PSF`, ``"none"`` for no PSF
        (denoise), or None for the file's own PSF extension where it has one.
    variance
        Specification of a noise map, ``"none"`` to ignore the file's own. Its kind (variance, standard deviation,
        inverse variance) is told by its name (VAR, ERR, RMS, WHT, IVAR, ...) or by ``:var``, ``:std`` or ``:ivar`` at
        the end; else it is a variance.
    noise_std
        Standard deviation of the noise in every pixel, instead of a map.
    mask
        Specification of a mask, non-zero = bad; ``"none"`` to ignore the file's own.
    normalize_psf
        Divide the PSF by its sum. Otherwise a sum from 0.9 to 1.05 is used as given.
    psf_without_pixel
        The PSF is sampled from the optical PSF, without the response of its pixel.
    pixel_scale, psf_pixel_scale
        Side of a data and of a PSF pixel in arcsec, instead of what the headers say.
    zeropoint
        AB magnitude of one unit of flux, instead of what unit and header say; learned priors need it.
    dtype
        ``"float64"`` or ``"float32"``: type of data and variance.

    Returns
    -------
    Observation
        In the file's unit. Pixels that are masked, not a number or without weight are not valid.

    Raises
    ------
    InputError
        When a file cannot be used, in one line that says what to do; `NoUsablePixelsError` when no pixel is left.
    UsageError
        When `variance` and `noise_std` are both given.

    Notes
    -----
    Without any noise information the standard deviation is that of the sky (`noise.sky_statistics`), with a warning.
    Weights called WHT that disagree with the scatter of the sky by more than a factor of three are taken as relative:
    drizzled images often have exposure times there.

    Examples
    --------
    >>> observation = read_fits("ground.fits")  # doctest: +SKIP
    >>> observation = read_fits("hsc.fits[SCI,2]", psf="psf.fits")  # doctest: +SKIP
    """
    if np.dtype(dtype) not in (np.dtype("float32"), np.dtype("float64")):
        raise UsageError(f"dtype must be float32 or float64, not {dtype}")
    if variance is not None and noise_std is not None:
        raise UsageError("give a variance map or one noise standard deviation, not both")
    with Library() as library:
        return _Reader(library, str(path)).observation(
            psf, variance, noise_std, mask, normalize_psf, psf_without_pixel, pixel_scale, psf_pixel_scale, zeropoint,
            dtype,
        )  # fmt: skip


class _Reader:
    """One reading: the image first, then what belongs to it."""

    def __init__(self, library: Library, path: str):
        self.library = library
        self.warnings: list[str] = []
        self.inputs: list[InputFile] = []
        self.spec = Spec.parse(path)
        self.file = file = library.open(self.spec.path)
        if self.spec.extension is None:
            self.index, self.plane = image_hdu(file), None
        else:
            self.index, self.plane = file.find(self.spec)
        self.hdu = file.hdu(self.index)
        header = file.header(self.index)  # before the data: reading them changes it
        image = file.read(self.index, self.plane)
        self.data, self.planes = np.asarray(image, dtype=np.float64), planes_of(self.hdu)
        self.inputs.append(record("image", file, self.index, self.plane, image))
        primary = file.header(0) if self.index else None
        self.header = cards.image_header(header, primary)

    def observation(
        self, psf, variance, noise_std, mask, normalize, without_pixel, pixel_scale, psf_scale, zeropoint, dtype
    ) -> Observation:
        scale = self.scale(pixel_scale)
        unit, warning = cards.unit_of(self.header)
        self.note(warning)
        bad = self.mask(mask)
        var, source = self.noise(variance, noise_std, bad)
        kernel = self.psf(psf, scale, psf_scale, normalize, without_pixel)
        if zeropoint is not None and not np.isfinite(zeropoint):
            raise InputError(f"the zero point must be a finite number of magnitudes, not {zeropoint}")
        zeropoint = cards.zeropoint_of(self.header, unit) if zeropoint is None else float(zeropoint)
        frame = Frame(self.data.shape, scale, unit, self.header, zeropoint=zeropoint)  # type: ignore[arg-type]
        self.count(bad, var)
        valid = np.isfinite(self.data) & np.isfinite(var) & ~bad
        self.sky(valid, var)
        with np.errstate(over="ignore"):
            data = self.data.astype(dtype, copy=False)
            var = np.broadcast_to(var.astype(dtype, copy=False), valid.shape)
        if (valid & ~(np.isfinite(data) & np.isfinite(var) & (var > 0))).any():
            raise InputError(f"numbers as small or large as in {self.file.path} do not fit {dtype}: use float64")
        return Observation.from_arrays(
            data,
            var,
            mask=~valid,
            psf=kernel,
            frame=frame,
            noise_source=source,
            warnings=tuple(dict.fromkeys([*self.library.warnings, *self.warnings])),
            inputs=tuple(self.inputs),
        )

    def note(self, warning: str | None) -> None:
        if warning:
            self.warnings.append(warning)

    def scale(self, given: float | None) -> float | None:
        if given is not None:
            return positive_number("the pixel scale", given)
        wcs, warning = cards.world(self.header, self.file.hdus)
        self.note(warning)
        scale, warning = cards.pixel_scale_of(self.header, wcs)
        self.note(warning)
        return scale

    def companion(self, what: str, spec: str | Path | None, names: tuple[str, ...]):
        """Array, header, name and explicit? of a map that goes with the image; None where there is none."""
        if spec is None:
            file, plane = self.file, None
            found = file.named(*names, ver=self.hdu.ver)
            found = [i for i in found if i != self.index]
            if not found:
                return None
            index = found[0]
        else:
            parsed = Spec.parse(spec, self.spec.path)
            file = self.library.open(parsed.path)
            if parsed.extension is None:
                index, plane = first_image(file, *names, self.hdu.name, ver=self.hdu.ver), None
            else:
                index, plane = file.find(parsed)
            if file is self.file and index == self.index:
                raise InputError(f"{spec} is the image itself: name the extension of the {what} with FILE[EXT]")
        plane = same_plane(file, index, plane, self.plane, self.planes)
        array = file.read(index, plane, what)
        if array.shape != self.data.shape:
            raise InputError(
                f"{file.path}[{file.label(index)}] has shape {array.shape}, the image {self.data.shape}: "
                f"the {what} must have the image's shape; give another with --{what}, or --{what} none"
            )
        self.inputs.append(record(what, file, index, plane, array))
        return array, file.header(index), file.hdu(index).name, file.path

    def mask(self, spec) -> np.ndarray:
        found = None if str(spec) == "none" else self.companion("mask", spec, noise.MASK_NAMES)
        if found is None:
            return np.zeros(self.data.shape, bool)
        telescope = str(cards.card(self.header, "TELESCOP") or "")
        bad, warning = noise.bad_pixels(found[0], found[1], telescope, spec is not None)
        self.note(warning)
        return bad

    def noise(self, spec, noise_std, bad) -> tuple[np.ndarray, str]:
        if noise_std is not None:
            return np.asarray(positive_number("the noise standard deviation", noise_std) ** 2), "given (noise_std)"
        usable = self.data[np.isfinite(self.data) & ~bad]
        kind, found = None, None
        if str(spec) != "none":
            if spec is not None:
                spec, kind = noise.split_kind(str(spec))
            found = self.companion("variance", spec, tuple(noise.NOISE_NAMES))
        if found is not None:
            array, header, name, path = found
            kind = kind or noise.kind_of(name, header, path if spec is not None else "")
            var = noise.to_variance(array, kind)
            where = f"{name or path} ({kind})"
            if spec is None and name in noise.LOOSE_WEIGHTS:
                var, where = self.weights(var, where, bad)
            return var, where
        if not usable.size:
            self.count(bad, np.asarray(1.0))
        _, sigma = noise.sky_statistics(usable)
        if not sigma > 0:
            raise InputError(
                f"{self.file.path} has no noise map, and its pixels are all equal, so that the noise cannot "
                "be estimated: give --noise-std or --variance"
            )
        self.note(
            f"the file has no noise map: a standard deviation of {sigma:.4g} per pixel was estimated from "
            "the sky; faint sources raise it and photon noise of bright ones is not in it; --noise-std or "
            "--variance is better"
        )
        return np.asarray(sigma**2), "estimated from the sky"

    def weights(self, var, where, bad):
        """Weights that do not agree with the scatter of the sky are relative ones."""
        good = np.isfinite(var) & np.isfinite(self.data) & ~bad
        if not good.any():
            return var, where
        _, scatter = noise.sky_statistics(self.data[good])
        claimed = math.sqrt(np.median(var[good]))
        if not scatter > 0 or 1 / 3 <= claimed / scatter <= 3:
            return var, where
        self.note(
            f"{where} gives a standard deviation of {claimed:.3g}, the sky scatters by {scatter:.3g}: the "
            "weights were taken as relative and scaled to the sky; --variance '[WHT]' takes them as they are"
        )
        return var * (scatter / claimed) ** 2, "WHT (relative weights, scaled to the sky)"

    def psf(self, spec, scale, psf_scale, normalize, without_pixel) -> PSF | None:
        if isinstance(spec, PSF):
            self.warnings += [w for w in spec.warnings if w not in self.warnings]
            return spec
        if spec is not None and str(spec) == "none":
            return None
        if spec is None or str(spec) == "auto":
            found = [i for i in self.file.named("PSF", ver=self.hdu.ver) if i != self.index]
            if not found:
                self.note("there is no PSF, so the image is denoised and not deconvolved: give one with --psf")
                return None
            parsed = Spec(self.spec.path, found[0])
        else:
            parsed = Spec.parse(spec, self.spec.path)
        psf, used = load_psf(self.library, parsed, self.plane, self.planes, scale, psf_scale, normalize, without_pixel)
        self.inputs.append(used)
        self.warnings += psf.warnings
        return psf

    def count(self, bad, var) -> None:
        """Raise, with the reasons, when no pixel is left."""
        finite, weighed = np.isfinite(self.data), np.broadcast_to(np.isfinite(var), self.data.shape)
        if not (finite & weighed & ~bad).any():
            raise NoUsablePixelsError(
                f"{self.file.path} has no usable pixel: of {bad.size}, {int(bad.sum())} are masked, "
                f"{int((~finite).sum())} not a number and {int((~weighed).sum())} without noise: check the "
                "mask and the noise map (--mask, --variance, --noise-std)"
            )

    def sky(self, valid, var) -> None:
        level, sigma = noise.sky_statistics(self.data[valid])
        sigma = max(sigma, math.sqrt(np.median(np.broadcast_to(var, valid.shape)[valid])))
        if abs(level) > SKY_LIMIT * sigma:
            self.note(
                f"a sky level of about {level:.4g} seems to be present ({abs(level) / sigma:.0f} sigma of a "
                "pixel): --sky fit models it, --sky VALUE subtracts a known one"
            )
