"""Which part of a file is meant, and the record of what was read."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from invprob.errors import InputError
from invprob.io.read import noise
from invprob.io.read.hdus import FitsFile, image_shape, is_image, planes_of
from invprob.observation import InputFile


def image_hdu(file: FitsFile) -> int:
    """The image of a file when the user did not say which."""
    images = file.images()
    if not images:
        kinds = {type(hdu) for hdu in file.hdus}
        flat = [image_shape(h) for h in file.hdus if is_image(h)]
        if fits.GroupsHDU in kinds:
            what = "random groups of visibilities, no image: make an image of them first"
        elif flat:
            what = f"an array of shape {flat[0]} and no image of two axes"
        elif kinds & {fits.BinTableHDU, fits.TableHDU}:
            what = "tables only, no image: give a file with an image"
        else:
            what = "headers only, no image: give a file with an image"
        raise InputError(f"{file.path} holds {what}")
    aside = {*noise.NOISE_NAMES, *noise.MASK_NAMES, *noise.PSF_NAMES, *noise.OTHER_NAMES}
    named = [group for name in ("SCI", "IMAGE") if (group := file.named(name))]
    rest = [i for i in images if file.hdu(i).name not in aside]
    group = named[0] if named else rest or images
    if len(group) > 1:
        others = ", ".join(f"[{file.label(i)}]" for i in group[1:6]) + (", ..." if len(group) > 6 else "")
        file.warnings.append(
            f"{file.path} has {len(group)} images: [{file.label(group[0])}] was taken; choose another "
            f"({others}) with FILE[EXT]"
        )
    return group[0]


def first_image(file: FitsFile, *names: str, ver: int | None = None) -> int:
    """The first image by one of `names` (of EXTVER `ver` where there is one), else the first of all."""
    found = file.named(*names, ver=ver) or file.images()
    return found[0] if found else image_hdu(file)


def same_plane(file: FitsFile, index: int, own: int | None, plane: int | None, planes: tuple[int, ...]):
    """The plane of a companion: its own, or the image's where it is a cube of as many planes."""
    hdu = file.hdu(index)
    if own is not None or plane is None or not is_image(hdu) or planes_of(hdu) != planes:
        return own
    return plane


def record(role: str, file: FitsFile, index: int, plane: int | None, array: np.ndarray) -> InputFile:
    extension = file.label(index)
    if planes_of(file.hdu(index)):
        extension += f",{plane}"
    return InputFile(role, file.path, extension, file.sha256, array.shape, str(array.dtype))
