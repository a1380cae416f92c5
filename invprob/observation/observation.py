"""What was observed: data, noise, mask and PSF (`Observation`).

A plain host object of NumPy arrays that can be pickled and never enters a traced function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from invprob.errors import InputError, NoUsablePixelsError
from invprob.observation.frame import Frame
from invprob.observation.psf import PSF


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
