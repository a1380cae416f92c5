"""The point spread function (`PSF`): checks, centring, and the kernel on a latent grid.

Two pixels matter. The *PSF's own pixel* is what its image is sampled with, and (by default) its values
contain the response of that pixel: they are fluxes per pixel, as a star's image has them. The *latent pixel*
is what the sky is modelled with. The convolution kernel must contain the response of the latent pixel,
because light is taken to be spread evenly over it; summing blocks of latent pixels then supplies the data
pixel exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from invprob.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from invprob.observation.frame import Frame

SUM_RANGE = (0.9, 1.05)  # cut-outs lose their wings; PSFEx models sum to 1.02
EDGE_LIMIT = 0.01  # of the peak
SAME_SCALE = 0.02  # headers round pixel scales: 0.262 stands for 0.2596 in one survey
LARGEST = 4000  # pixels on a side


@dataclass(frozen=True, eq=False)
class PSF:
    """A point spread function sampled on square pixels, centred on the middle pixel of an odd-shaped array.

    Make one with `from_image`, `gaussian` or `moffat`; these check and centre it.

    Parameters
    ----------
    image
        Flux per PSF pixel of a source of unit flux, odd shape ``(y, x)``.
    pixel_scale
        Side of a PSF pixel in arcsec, None where unknown.
    oversampling
        PSF pixels on a side of a data pixel. None: from the pixel scales of the PSF and of the frame it is
        used on where both are known, else 1.
    includes_pixel
        Whether the image contains the response of its own pixel (fluxes of a star's image, as usual) or is a
        set of point samples of the optical PSF.
    warnings
        What had to be assumed or looks wrong, one sentence each.

    Raises
    ------
    InputError
        When the image is no odd-shaped two-dimensional array of finite numbers with a positive sum.
    """

    image: Float[np.ndarray, "y x"]
    pixel_scale: float | None = None
    oversampling: float | None = None
    includes_pixel: bool = True
    warnings: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self):
        image = _checked(self.image)
        if any(n % 2 == 0 for n in image.shape):
            raise InputError(f"a PSF needs an odd shape, not {image.shape}: PSF.from_image makes it odd")
        image.setflags(write=False)
        object.__setattr__(self, "image", image)
        for name in ("pixel_scale", "oversampling"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"the PSF's {name} must be a positive number, not {value}")

    @classmethod
    def from_image(
        cls,
        image: ArrayLike,
        *,
        pixel_scale: float | None = None,
        oversampling: float | None = None,
        includes_pixel: bool = True,
        normalize: bool = False,
    ) -> PSF:
        """Check and centre an image of a point source.

        Parameters
        ----------
        image
            Array ``(y, x)``, background subtracted.
        pixel_scale, oversampling, includes_pixel
            See `PSF`.
        normalize
            Divide by the sum.

        Returns
        -------
        PSF
            With `warnings` that name what was done.

        Raises
        ------
        InputError
            When the array is not two-dimensional or not finite, holds no positive flux, peaks on its edge, or
            has a sum outside 0.9 to 1.05 that `normalize` does not allow to be divided out.

        Notes
        -----
        A sum from 0.9 to 1.05 is used as given. Offsets below one pixel between the array's centre and the
        light's are left alone: they are part of the astrometry. Larger ones are taken out by a whole number
        of pixels, with zeros added so that no flux is lost.
        """
        array, warnings = _checked(image), []
        total = float(array.sum())
        if normalize:
            array = array / total
        elif not SUM_RANGE[0] <= total <= SUM_RANGE[1]:
            raise InputError(
                f"the PSF sums to {total:.4g}, not to about 1 ({SUM_RANGE[0]} to {SUM_RANGE[1]} is used as "
                "given): subtract its background, or divide by the sum with --normalize-psf"
            )
        array, shift_warning = _centred(array)
        warnings += shift_warning
        border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
        edge = float(border.max() / array.max())
        if edge > EDGE_LIMIT and array.size > 1:
            warnings.append(
                f"the PSF is cut off: its edge reaches {100 * edge:.1f} % of its peak, so flux in the wings is lost"
            )
        return cls(array, pixel_scale, oversampling, includes_pixel, tuple(warnings))

    @classmethod
    def gaussian(
        cls,
        fwhm: float,
        *,
        oversampling: float | None = None,
        pixel_scale: float | None = None,
        size: int | None = None,
    ) -> PSF:
        """A round Gaussian integrated over the PSF's pixels, of unit sum.

        Parameters
        ----------
        fwhm
            Full width at half maximum before the pixel, in data pixels; in arcsec when `pixel_scale` is
            given.
        oversampling
            See `PSF`.
        pixel_scale
            Side of a *PSF* pixel in arcsec.
        size
            Odd number of pixels on a side; by default out to five sigma.
        """
        width = _width(fwhm, oversampling, pixel_scale)
        sigma = width / math.sqrt(8 * math.log(2))
        n = _size(size, 5 * sigma)
        edges = (np.arange(n + 1) - n / 2) / (math.sqrt(2) * sigma)
        profile = np.diff([math.erf(e) for e in edges])
        image = np.outer(profile, profile)
        return cls(image / image.sum(), pixel_scale, oversampling)

    @classmethod
    def moffat(
        cls,
        fwhm: float,
        beta: float = 3.5,
        *,
        oversampling: float | None = None,
        pixel_scale: float | None = None,
        size: int | None = None,
    ) -> PSF:
        """A round Moffat profile ``(1 + r^2/a^2)^-beta`` integrated over the PSF's pixels, of unit sum.

        Parameters
        ----------
        fwhm
            Full width at half maximum before the pixel, in data pixels; in arcsec when `pixel_scale` is
            given.
        beta
            Slope of the wings, above 1; 2.5 to 4.8 for seeing.
        oversampling, pixel_scale
            See `gaussian`.
        size
            Odd number of pixels on a side; by default the radius that holds 99.5 % of the flux, 12 FWHM at
            most.

        References
        ----------
        Moffat 1969, A&A 3, 455; Trujillo et al. 2001, MNRAS 328, 977.
        """
        if not beta > 1:
            raise InputError(f"a Moffat profile needs beta above 1, not {beta}: its flux would be infinite")
        width = _width(fwhm, oversampling, pixel_scale)
        a2 = width**2 / (4 * (2 ** (1 / beta) - 1))
        reach = math.sqrt(a2 * (0.005 ** (1 / (1 - beta)) - 1))
        n = _size(size, min(reach, 12 * width))
        nodes, weights = np.polynomial.legendre.leggauss(9)
        r2 = (np.arange(n)[:, None] - (n - 1) / 2 + nodes / 2) ** 2
        image = np.zeros((n, n))
        for i, j in np.ndindex(9, 9):
            image += weights[i] * weights[j] * (1 + (r2[:, i, None] + r2[:, j]) / a2) ** -beta
        return cls(image / image.sum(), pixel_scale, oversampling)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the image, ``(y, x)``."""
        return self.image.shape  # type: ignore[return-value]

    @property
    def total(self) -> float:
        """Sum of the image."""
        return float(self.image.sum())

    @property
    def fwhm(self) -> float:
        """Full width at half maximum in PSF pixels: of the disc as large as the area above half the peak."""
        return _fwhm(self)

    @property
    def fwhm_arcsec(self) -> float | None:
        """`fwhm` in arcsec, None where the pixel scale is unknown."""
        return None if self.pixel_scale is None else self.fwhm * self.pixel_scale

    def oversampling_on(self, frame: Frame) -> float:
        """PSF pixels on a side of a data pixel of `frame`; an `InputError` when they are coarser."""
        ratio = self.oversampling
        if ratio is None:
            known = self.pixel_scale and frame.pixel_scale
            ratio = frame.pixel_scale / self.pixel_scale if known else 1.0  # type: ignore[operator]
        return snapped_oversampling(ratio)

    def on(self, frame: Frame) -> Float[np.ndarray, "ky kx"]:
        r"""The convolution kernel at the latent pixel of `frame`.

        Parameters
        ----------
        frame
            Grid with ``frame.factor`` latent pixels on a side of a data pixel.

        Returns
        -------
        Array of odd shape, centred on its middle pixel, with the sum of the PSF's image. Read-only.

        Raises
        ------
        InputError
            When the PSF is coarser than the data.

        Notes
        -----
        With :math:`p` the PSF's pixel, :math:`q` the latent one and :math:`P(f)` the transform of the image,

        .. math:: K(f) = P(f) \, \mathrm{sinc}(fq) / \mathrm{sinc}(fp)

        along each axis (without the division when the image does not include its pixel), evaluated at the
        latent pixels by the band-limited interpolation of the image, which is taken to be zero outside. When
        :math:`p = q` and the pixel is included, this is the image itself. With :math:`q = p/s` and odd
        :math:`s`, sums of :math:`s \times s` latent pixels give the image back exactly.
        """
        return _kernel(self, frame.factor, self.oversampling_on(frame))


def snapped_oversampling(ratio: float) -> float:
    """`ratio` of data to PSF pixel, whole where it is but for a rounded header; an `InputError` below one."""
    whole = round(ratio)
    if whole >= 1 and abs(ratio - whole) <= SAME_SCALE:
        return float(whole)
    if ratio < 1:
        raise InputError(
            f"the PSF's pixel is {1 / ratio:.3g} times the data's: a PSF must be sampled at the data's "
            "pixel or finer; give its pixel scale with --psf-pixel-scale if the header is wrong"
        )
    return float(ratio)


def _checked(image: ArrayLike) -> np.ndarray:
    """A native float64 copy, or an InputError that says why it is no PSF."""
    array = np.array(image, dtype=np.float64)
    if array.ndim != 2:
        raise InputError(f"a PSF is a two-dimensional image, not of shape {array.shape}: choose a plane")
    if array.size == 0:
        raise InputError("the PSF has no pixels")
    if max(array.shape) > LARGEST:
        raise InputError(f"the PSF is {array.shape[0]} x {array.shape[1]} pixels: is it an image of the sky?")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise InputError(f"the PSF has {bad} pixels that are not a finite number: repair them first")
    if array.max() <= 0 or array.sum() <= 0:
        raise InputError(f"the PSF holds no positive flux: its sum is {array.sum():.3g}")
    return array


def _centred(array: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Centre on the pixel nearest to the core by whole pixels; pad with zeros to an odd shape."""
    peak = np.unravel_index(array.argmax(), array.shape)
    if any(n >= 5 and p in (0, n - 1) for p, n in zip(peak, array.shape, strict=True)):
        raise InputError(
            f"the PSF peaks on the edge of its {array.shape[0]} x {array.shape[1]} array: centre it "
            "(numpy.fft.fftshift, if its origin is the first pixel)"
        )
    # the core, not the brightest pixel: noise in a finely sampled PSF or a ring must not move it
    core = np.where(array > array.max() / 2, array, 0)
    target, warnings, notes = [], [], []
    for axis, n in enumerate(array.shape):
        profile = core.sum(axis=1 - axis)
        mean, middle = float(profile @ np.arange(n) / profile.sum()), (n - 1) / 2
        if n % 2:
            nearest = int(middle) if abs(mean - middle) < 0.5 + 1e-6 else round(mean)
        elif abs(mean - middle) < 1:
            nearest = n // 2 if mean >= middle - 1e-6 else n // 2 - 1
            notes.append("yx"[axis])
        else:
            nearest = round(mean)
        target.append(nearest)
    shape = f"{array.shape[0]} x {array.shape[1]}"
    shift = [n // 2 - t for t, n in zip(target, array.shape, strict=True)]
    if any(abs(t - (n - 1) / 2) >= 1 for t, n in zip(target, array.shape, strict=True)):
        warnings.append(
            f"the PSF was re-centred by (y, x) = ({shift[0]:+d}, {shift[1]:+d}) pixels: its light peaked at "
            f"pixel ({target[0]}, {target[1]}) of a {shape} array, counting from 0"
        )
    elif notes:
        warnings.append(
            f"the PSF's array is even-sized along {' and '.join(notes)}: pixel ({target[0]}, {target[1]}), "
            "counting from 0, was taken as its centre, so positions may be off by half a PSF pixel"
        )
    pad = []
    for t, n in zip(target, array.shape, strict=True):
        reach = max(t, n - 1 - t)
        pad.append((reach - t, reach - (n - 1 - t)))
    return np.pad(array, pad), warnings


def _width(fwhm: float, oversampling: float | None, pixel_scale: float | None) -> float:
    """FWHM in PSF pixels."""
    if not (math.isfinite(fwhm) and fwhm > 0):
        raise InputError(f"a FWHM must be a positive number, not {fwhm}")
    return fwhm * (oversampling or 1.0) if pixel_scale is None else fwhm / pixel_scale


def _size(size: int | None, reach: float) -> int:
    n = 2 * math.ceil(reach) + 1 if size is None else int(size)
    if n < 1 or n % 2 == 0 or n > LARGEST:
        raise InputError(f"a PSF of {n} pixels on a side: give an odd number up to {LARGEST}")
    return n


def _interpolation(n: int, at: np.ndarray, response: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Matrix ``(len(at), n)`` from samples at whole pixels about the middle to positions `at` in pixels.

    Band-limited, with the even real `response` (of the frequency in cycles per pixel) applied. The samples
    are padded with as many zeros, so that the interpolation does not wrap around.
    """
    period = 2 * max(n, math.ceil(2 * np.abs(at).max())) + 1  # odd: no Nyquist term
    f = np.arange(period // 2 + 1) / period
    weight = np.where(f == 0, 1.0, 2.0) * response(f) / period
    j = np.arange(n) - (n - 1) / 2
    to, of = 2 * np.pi * np.outer(at, f), 2 * np.pi * np.outer(f, j)
    return (np.cos(to) * weight) @ np.cos(of) + (np.sin(to) * weight) @ np.sin(of)


@lru_cache(maxsize=32)
def _kernel(psf: PSF, factor: int, oversampling: float) -> np.ndarray:
    if psf.includes_pixel and factor == oversampling:
        return psf.image
    step = oversampling / factor  # latent pixel in PSF pixels

    def response(f):
        return np.sinc(f * step) / (np.sinc(f) if psf.includes_pixel else 1.0)

    matrices = []
    for n in psf.shape:
        reach = math.ceil((n / step - 1) / 2 - 1e-9)
        matrices.append(_interpolation(n, step * np.arange(-reach, reach + 1), response))
    kernel = matrices[0] @ psf.image @ matrices[1].T
    kernel *= psf.image.sum() / kernel.sum()
    kernel.setflags(write=False)
    return kernel


@lru_cache(maxsize=64)
def _fwhm(psf: PSF) -> float:
    image = psf.image
    rough = 2 * math.sqrt((image > image.max() / 2).sum() / math.pi)
    fine = math.ceil(60 / rough)
    # the core alone, on a finer grid; wide enough that its edge does not ring into it
    y, x = np.unravel_index(image.argmax(), image.shape)
    half = math.ceil(3 * rough) + 3
    padded = np.pad(image, half)
    window = padded[y : y + 2 * half + 1, x : x + 2 * half + 1]
    at = np.arange(-fine * (half // 2), fine * (half // 2) + 1) / fine
    matrix = _interpolation(2 * half + 1, at, np.ones_like)
    core = matrix @ window @ matrix.T
    return 2 * math.sqrt((core > core.max() / 2).sum() / math.pi) / fine
