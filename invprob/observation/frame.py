"""Where the pixels are: the grid of an observation, refined and padded to the latent one (`Frame`).

A plain host object: it holds a header and never enters a traced function, since two equal world coordinate systems
would be two different constants to a compiler.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from invprob.errors import InputError

if TYPE_CHECKING:
    from astropy.io import fits

    from invprob.observation.psf import PSF


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
