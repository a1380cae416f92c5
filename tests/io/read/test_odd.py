"""Files that trouble a FITS reader: for each, whether it is read (and as what) or refused (and how)."""

import contextlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from invprob.errors import InputError, InvprobError, NoUsablePixelsError
from invprob.io.inspect import inspect_file
from invprob.io.read.read_fits import read_fits

ODD = Path(__file__).parents[3] / ".." / "shared" / "data" / "odd"
absent = pytest.mark.skipif(not ODD.is_dir(), reason="the collection of odd files (../shared/data/odd) is not here")

# which image of the file is meant, by number of its HDU, and a fragment of a warning where one is due
READ = {
    "1904-66_AZP.fits": (0, "BUNIT 'JY/BEAM'"),
    "aia_171_level1.fits": (0, ""),
    "checksum_false.fits": (0, "checksum of PRIMARY, RATE does not match"),
    "compressed_with_nan.fits": (1, ""),
    "m13.fits": (0, "sky level"),
    "m13_rice.fits": (1, "sky level"),
    "scale.fits": (0, "sky level"),
    "sep_image.fits": (0, "sky level"),
    "sip-wcs.fits": (0, "sky level"),
    "small_MI_corrupt_img.fits": (0, "sky level"),
    "test0.fits": (1, "4 images: [SCI,1] was taken"),
    "testUS.fits": (0, ""),
    "test_dup.fits": (0, ""),
    "test_multiF.fits.fz": (1, "12 images: [1] was taken"),
    "tpv.fits.gz": (0, "pixels are not square"),
}
REFUSED = {
    "arange.fits": (InputError, "cube of 7 planes"),
    "ascii.fits": (InputError, "tables only"),
    "blank.fits": (NoUsablePixelsError, "no usable pixel"),
    "empty_0_bytes.fits": (InputError, "empty (0 bytes)"),
    "git_lfs_pointer.fits": (InputError, "git lfs pull"),
    "lzw.fits.Z": (InputError, "gunzip"),
    "random_groups.fits": (InputError, "random groups"),
    "tb.fits": (InputError, "tables only"),
    "truncated_m13.fits": (InputError, "truncated: it claims 300 x 300 pixels"),
    "verify.fits": (InputError, "headers only"),
}
CODES = {InputError: 65, NoUsablePixelsError: 64}


@absent
def test_every_file_has_a_row():
    files = {p.name for p in ODD.iterdir()} - {"expected.json"}
    assert files == set(READ) | set(REFUSED)
    assert files == set(json.loads((ODD / "expected.json").read_text()))


@absent
@pytest.mark.parametrize("name", READ)
def test_read(name, recwarn):
    index, warning = READ[name]
    expected = json.loads((ODD / "expected.json").read_text())[name]["astropy"]["hdus"][index]
    obs = read_fits(ODD / name)
    image = obs.inputs[0]
    assert list(image.shape) == list(obs.shape) == expected["shape"]
    assert image.dtype == expected["dtype"]
    assert (~obs.valid).sum() == expected["nan"]
    assert obs.data[obs.valid].min() == pytest.approx(expected["min"], rel=1e-6)
    assert obs.data[obs.valid].mean() == pytest.approx(expected["mean"], rel=1e-5)
    assert any(warning in w for w in obs.warnings)
    assert any("estimated from the sky" in w for w in obs.warnings)
    assert not recwarn.list
    json.dumps(inspect_file(ODD / name), allow_nan=False)
    header = fits.PrimaryHDU(obs.data, obs.frame.header).header  # can be written again
    assert header["NAXIS"] == 2


@absent
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name, recwarn):
    error, fragment = REFUSED[name]
    with pytest.raises(InvprobError) as caught:
        read_fits(ODD / name)
    assert type(caught.value) is error and caught.value.exit_code == CODES[error]
    assert fragment in str(caught.value) and "\n" not in str(caught.value)
    assert not recwarn.list


@absent
def test_the_plane_of_a_cube():
    obs = read_fits(f"{ODD / 'arange.fits'}[0,3]")
    np.testing.assert_array_equal(obs.data.ravel(), 330 + np.arange(110))


@absent
def test_memory():
    tracemalloc.start()
    for name in (*READ, *REFUSED):
        with contextlib.suppress(InvprobError):
            read_fits(ODD / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 28
