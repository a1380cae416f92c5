"""What was observed: data, noise, mask and PSF (`Observation`), and where the pixels are (`Frame`).

Both are plain host objects. They hold NumPy arrays and headers, can be pickled, and never enter a traced
function: two equal world coordinate systems would be two different constants to a compiler.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from invprob.errors import InputError, NoUsablePixelsError

if TYPE_CHECKING:
    from astropy.io import fits

    from invprob.psf import PSF


@dataclass(frozen=True)
class Frame:
    """A pixel grid on the sky: its shape, unit, pixel scale and input header.

    A frame starts as that of the data. `refine` divides each data pixel into ``factor x factor`` latent ones,
    `pad` adds a border of modelled sky. The header is always that of the *data* grid; the writer derives the
    refined world coordinate system from it.

    Parameters
    ----------
    data_shape
        Shape of the data, ``(y, x)``.
    pixel_scale
        Side of a data pixel in arcsec; None where the file does not tell.
    unit
        BUNIT as the file has it, ``""`` where it has none.
    header
        FITS header of the data image, None for arrays that came from no file.
    factor
        Latent pixels on a side of a data pixel.
    border
        Latent pixels added ``(below, above)`` along y and ``(left, right)`` along x.
    zeropoint
        AB magnitude of one unit of flux, None where it is not known.
    """

    data_shape: tuple[int, int]
    pixel_scale: float | None = None
    unit: str = ""
    header: fits.Header | None = field(default=None, repr=False, compare=False)
    factor: int = 1
    border: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    zeropoint: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the whole grid, border included."""
        (b, a), (l, r) = self.border
        ny, nx = self.data_shape
        return (b + self.factor * ny + a, l + self.factor * nx + r)

    @property
    def footprint(self) -> tuple[slice, slice]:
        """Slices that cut the data's footprint out of an array of `shape`."""
        (b, _), (l, _) = self.border
        ny, nx = self.data_shape
        return slice(b, b + self.factor * ny), slice(l, l + self.factor * nx)

    def refine(self, factor: int) -> Frame:
        """The frame with each pixel divided into ``factor x factor``; refine before `pad`."""
        if factor < 1 or int(factor) != factor:
            raise InputError(f"refine needs a whole number from 1 upwards, not {factor}")
        if self.border != ((0, 0), (0, 0)):
            raise InputError("refine the frame before it is padded: frame.refine(s).pad(psf)")
        return replace(self, factor=self.factor * int(factor))

    def pad(self, psf: PSF) -> Frame:
        """The frame with a border of at least the PSF's reach, up to a size that the FFT likes."""
        ky, kx = psf.on(self).shape
        return self.pad_by(ky // 2, kx // 2)

    def pad_by(self, reach_y: int, reach_x: int | None = None, multiple: int | None = None) -> Frame:
        """The frame with a border of at least so many latent pixels, up to a size that the FFT likes, or a multiple."""
        from scipy.fft import next_fast_len

        sides = []
        for n, reach in zip(self.shape, (reach_y, reach_y if reach_x is None else reach_x), strict=True):
            least = n + 2 * reach
            total = -(-least // (multiple or 1)) * (multiple or 1)
            if multiple is None:  # even: `rfft2` halves it exactly
                total = 2 * int(next_fast_len(-(-least // 2), real=True))  # type: ignore[arg-type]
            sides.append((reach, total - n - reach))
        return replace(self, border=(sides[0], sides[1]))

    def cropped(self) -> Frame:
        """The frame of the footprint alone."""
        return replace(self, border=((0, 0), (0, 0)))


@dataclass(frozen=True)
class InputFile:
    """A file that was read, for the record: path as given, part used, SHA-256 of the whole file.

    ``path[extension]`` reads the same part again. `shape` and `dtype` are those of the array as stored in the
    file (a plane, where `extension` names one), before it became floating point.
    """

    role: str
    path: str
    extension: str
    sha256: str
    shape: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True)
class Observation:
    """Calibrated data of one exposure or stamp, ready for inference.

    Parameters
    ----------
    data
        Image, in the unit of the frame. Zero where not valid.
    variance
        Noise variance of each pixel. One where not valid (it is never used there).
    valid
        True where a pixel is to be used.
    psf
        Point spread function, None for data that need no deconvolution.
    frame
        Where the pixels are.
    noise_source
        Where the variance comes from, in words ("VAR extension", "estimated from the sky", ...).
    warnings
        What the reader had to assume, one sentence each.
    inputs
        The files read.

    Raises
    ------
    InputError
        When the shapes differ or a valid pixel has no finite datum or positive variance.
    NoUsablePixelsError
        When no pixel is valid.
    """

    data: Float[np.ndarray, "y x"]
    variance: Float[np.ndarray, "y x"]
    valid: Bool[np.ndarray, "y x"]
    psf: PSF | None = None
    frame: Frame = None  # type: ignore[assignment]
    noise_source: str = "given"
    warnings: tuple[str, ...] = ()
    inputs: tuple[InputFile, ...] = ()

    def __post_init__(self):
        if self.data.ndim != 2:
            raise InputError(f"data have {self.data.ndim} axes; an image has two: choose a plane of a cube")
        for name in ("variance", "valid"):
            if getattr(self, name).shape != self.data.shape:
                shape = getattr(self, name).shape
                raise InputError(f"{name} has shape {shape}, the data {self.data.shape}: they must agree")
        if self.frame is None:
            object.__setattr__(self, "frame", Frame(self.data.shape))
        if self.frame.data_shape != self.data.shape:
            raise InputError(f"the frame is {self.frame.data_shape}, the data {self.data.shape}: they must agree")
        if not self.valid.any():
            raise NoUsablePixelsError("no usable pixel: all are masked, not a number or without a positive variance")
        good = np.isfinite(self.data) & np.isfinite(self.variance) & (self.variance > 0)
        if (self.valid & ~good).any():
            n = int((self.valid & ~good).sum())
            raise InputError(f"{n} valid pixels have no finite datum or no positive variance: mask them")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the data, ``(y, x)``."""
        return self.data.shape  # type: ignore[return-value]

    @classmethod
    def from_arrays(cls, data, variance, mask=None, psf=None, frame=None, **more) -> Observation:
        """An observation from plain arrays.

        Pixels that are masked (True = bad), not finite, or without a finite positive variance get no weight.
        ``variance`` may be a number.
        """
        data = np.asarray(data, dtype=np.result_type(np.asarray(data).dtype, np.float32))
        variance = np.broadcast_to(np.asarray(variance, dtype=data.dtype), data.shape)
        valid = np.isfinite(data) & np.isfinite(variance) & (variance > 0)
        if mask is not None:
            valid &= ~np.asarray(mask, dtype=bool)
        data = np.where(valid, data, 0).astype(data.dtype)
        variance = np.where(valid, variance, 1).astype(data.dtype)
        return cls(data, variance, valid, psf=psf, frame=frame, **more)  # type: ignore[arg-type]

    def astype(self, dtype) -> Observation:
        """The same observation with data and variance in another floating point type."""
        return replace(self, data=self.data.astype(dtype), variance=self.variance.astype(dtype))

    @property
    def name(self) -> str:
        """File name of the image, or ``"array"``."""
        images = [f.path for f in self.inputs if f.role == "image"]
        return Path(images[0]).name if images else "array"
