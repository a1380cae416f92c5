"""Small FITS files for the tests of the reader."""

from astropy.io import fits
from astropy.wcs import WCS

from invprob.observation import PSF

SHAPE = (24, 30)
SIGMA = 0.5


def wcs_header(scale=0.2):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [15.5, 12.5]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs.to_header()


def write(path, *hdus, primary=None):
    """A file of (name, array) or (name, array, cards) or HDUs."""
    out = [fits.PrimaryHDU()]
    out[0].header.update(primary or {})
    for item in hdus:
        if isinstance(item, tuple):
            name, array, *cards = item
            item = fits.ImageHDU(array, name=name)
            item.header.update(cards[0] if cards else {})
        out.append(item)
    fits.HDUList(out).writeto(path)
    return str(path)


def psf_image(oversampling=1, size=21, total=1.0):
    """A Gaussian of three data pixels."""
    return total * PSF.gaussian(3.0, oversampling=oversampling, size=size).image


def about(obs, *fragments):
    """Whether the warnings of an observation hold all of the fragments."""
    text = "\n".join(obs.warnings)
    return all(f in text for f in fragments)
