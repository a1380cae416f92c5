"""The reader against every layout it knows, as small files made here."""

import gzip
import os
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from invprob.errors import InputError, NoUsablePixelsError, UsageError
from invprob.io.hdus import MAX_PIXELS, Spec
from invprob.io.inspect import inspect_file
from invprob.io.read import read_fits, read_psf
from invprob.psf import PSF

SHAPE = (24, 30)
SIGMA = 0.5


@pytest.fixture
def sky():
    return np.random.default_rng(1).normal(0, SIGMA, SHAPE).astype(np.float32)


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
    return total * PSF.gaussian(3.0, oversampling=oversampling, size=size).image


def about(obs, *fragments):
    text = "\n".join(obs.warnings)
    return all(f in text for f in fragments)


# --- layouts ---------------------------------------------------------------------------------------------------


def test_sci_var_psf(tmp_path, sky):
    var = np.full(SHAPE, SIGMA**2, np.float32)
    var[0, 0], var[0, 1] = 0, np.nan
    sky[1, 1] = np.nan
    header = {**wcs_header(), "BUNIT": "electron/s"}
    path = write(tmp_path / "a.fits", ("SCI", sky, header), ("VAR", var), ("PSF", psf_image(total=0.98)))
    obs = read_fits(path)
    assert obs.frame.pixel_scale == pytest.approx(0.2) and obs.frame.unit == "electron/s"
    assert obs.valid.sum() == sky.size - 3
    np.testing.assert_allclose(obs.data[obs.valid], sky[obs.valid])
    assert obs.noise_source == "VAR (variance)" and np.allclose(obs.variance[5], SIGMA**2)
    assert obs.psf is not None and obs.psf.total == pytest.approx(0.98)
    assert obs.warnings == ()
    assert [(f.role, f.extension) for f in obs.inputs] == [("image", "SCI"), ("variance", "VAR"), ("psf", "PSF")]
    assert obs.inputs[0].dtype == ">f4" and obs.inputs[0].shape == SHAPE
    assert obs.data.dtype == np.float64 and read_fits(path, dtype="float32").data.dtype == np.float32
    assert obs.data.dtype.isnative


def test_hst_pairs_extensions_by_version(tmp_path, sky):
    hdus = []
    for ver in (1, 2):
        dq = np.zeros(SHAPE, np.int16)
        dq[ver, ver] = 2048
        for name, array in (("SCI", sky + 10 * ver), ("ERR", np.full(SHAPE, ver / 2)), ("DQ", dq)):
            hdus.append(fits.ImageHDU(array, name=name, ver=ver))
    cards = {"TELESCOP": "HST", "DATE-OBS": "2020-01-01", "CRVAL1": 5.0, "OVERSAMP": 4}
    path = write(tmp_path / "flt.fits", *hdus, primary=cards)
    first, second = read_fits(path), read_fits(f"{path}[SCI,2]")
    assert about(first, "2 images", "[SCI,1] was taken", "[SCI,2]")
    assert not about(second, "2 images")
    assert first.inputs[0].extension == "SCI,1" and second.inputs[2].extension == "ERR,2"
    assert second.variance[0, 0] == 1.0 and not second.valid[2, 2] and second.valid[1, 1]
    assert second.noise_source == "ERR (standard deviation)"
    header = second.frame.header
    assert header is not None and header["TELESCOP"] == "HST" and header["DATE-OBS"] == "2020-01-01"
    assert "CRVAL1" not in header  # of the primary, not of this image
    again = read_fits(f"{path}[{second.inputs[0].extension}]")
    np.testing.assert_array_equal(again.data, second.data)


def test_jwst_uses_do_not_use_only(tmp_path, sky):
    dq = np.zeros(SHAPE, np.uint32)
    dq[0, 0], dq[0, 1], dq[0, 2] = 1, 4, 2**31 + 1
    err = np.full(SHAPE, SIGMA)
    path = write(
        tmp_path / "cal.fits",
        ("SCI", sky, {"BUNIT": "MJy/sr"}),
        ("ERR", err),
        ("DQ", dq),
        ("AREA", err),
        ("VAR_POISSON", err**3),
        primary={"TELESCOP": "JWST"},
    )
    obs = read_fits(path)
    assert obs.valid[0, :4].tolist() == [False, True, False, True]
    assert obs.noise_source.startswith("ERR") and obs.frame.unit == "MJy/sr"


def test_lsst_mask_planes_by_name(tmp_path, sky):
    mask = np.zeros(SHAPE, np.int32)
    bits = {"MP_BAD": 3, "MP_SAT": 7, "MP_DETECTED": 0, "MP_NO_DATA": 9, "MP_DEBLENDED": 1}
    mask[0, :6] = [1 << 3, 1 << 7, 1 << 0, 1 << 9, 1 << 1, (1 << 0) | (1 << 3)]
    path = write(
        tmp_path / "calexp.fits", ("IMAGE", sky), ("MASK", mask, bits), ("VARIANCE", np.full(SHAPE, 0.25))
    )
    obs = read_fits(path)
    assert obs.valid[0, :6].tolist() == [False, False, True, False, True, False]
    assert obs.noise_source == "VARIANCE (variance)"
    assert read_fits(path, mask="none").valid.all()
    assert read_fits(path, mask="[MASK]").valid.sum() == obs.valid.sum()


def test_mask_planes_without_names(tmp_path, sky):
    mask = np.full(SHAPE, 32, np.int32)  # detected
    mask[0, 0] = 32 + 2
    path = write(tmp_path / "a.fits", ("SCI", sky), ("MASK", mask))
    obs = read_fits(path)
    assert obs.valid.sum() == sky.size - 1 and about(obs, "MP_*")
    with pytest.raises(NoUsablePixelsError, match="720 are masked"):
        read_fits(path, mask="[MASK]")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("VAR", 0.25, "variance"),
        ("ERR", 0.5, "standard deviation"),
        ("RMS", 0.5, "standard deviation"),
        ("IVAR", 4.0, "inverse variance"),
        ("INVVAR", 4.0, "inverse variance"),
        ("WHT", 4.0, "inverse variance"),
    ],
)
def test_kinds_of_noise(tmp_path, sky, name, value, kind):
    array = np.full(SHAPE, value)
    array[0, 0] = 0
    own = write(tmp_path / "own.fits", ("SCI", sky), (name, array))
    plain = write(tmp_path / "plain.fits", ("SCI", sky))
    apart = write(tmp_path / f"x_{name.lower()}.fits", fits.ImageHDU(array))
    for obs in (read_fits(own), read_fits(plain, variance=f"{own}[{name}]"), read_fits(plain, variance=apart)):
        assert kind in obs.noise_source
        assert np.allclose(obs.variance, np.where(array > 0, 0.25, 1)) and not obs.valid[0, 0]


def test_kind_can_be_said(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky), ("N2", np.full(SHAPE, 0.25)))
    for suffix, expected in (("", 0.25), (":var", 0.25), (":std", 0.0625), (":ivar", 4.0)):
        assert read_fits(f"{path}[SCI]", variance=f"[N2]{suffix}").variance[0, 0] == expected


def test_relative_weights_are_scaled(tmp_path, sky):
    wht = np.full(SHAPE, 1000.0)
    wht[:12] = 500.0
    path = write(tmp_path / "drz.fits", ("SCI", sky), ("WHT", wht))
    obs = read_fits(path)
    assert about(obs, "relative") and "relative" in obs.noise_source
    assert obs.variance[0, 0] == pytest.approx(2 * obs.variance[-1, 0])
    assert np.sqrt(np.median(obs.variance)) == pytest.approx(SIGMA, rel=0.2)
    assert read_fits(path, variance="[WHT]").variance[-1, 0] == pytest.approx(1e-3)


def test_noise_from_the_sky(tmp_path, sky):
    sky[10:13, 10:13] += 100
    path = str(tmp_path / "plain.fits")
    fits.writeto(path, sky)
    obs = read_fits(path)
    assert about(obs, "estimated from the sky", "--noise-std", "denoised")
    assert np.sqrt(obs.variance[0, 0]) == pytest.approx(SIGMA, rel=0.1)
    obs = read_fits(path, noise_std=2.0, psf="none")
    assert obs.warnings == () and obs.variance[0, 0] == 4 and obs.psf is None


def test_correlated_noise_is_not_underestimated(tmp_path):
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(0).normal(size=(120, 120)), 1.5)
    fits.writeto(tmp_path / "a.fits", noise)
    assert np.sqrt(read_fits(tmp_path / "a.fits").variance[0, 0]) == pytest.approx(noise.std(), rel=0.05)


def test_counts_that_are_mostly_zero(tmp_path):
    fits.writeto(tmp_path / "a.fits", np.random.default_rng(0).poisson(0.05, (50, 50)).astype(np.int16))
    assert 0 < read_fits(tmp_path / "a.fits").variance[0, 0] < 1


def test_sky_level_is_noticed(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky + 100), ("VAR", np.full(SHAPE, SIGMA**2)))
    assert about(read_fits(path), "sky level of about 100", "--sky fit")


def test_cube_planes(tmp_path, sky):
    cube = np.stack([sky + i for i in range(3)])
    var = np.stack([np.full(SHAPE, 1.0 + i) for i in range(3)])
    mask = np.zeros(cube.shape, np.uint8)
    mask[1, 0, 0] = 1
    psf = np.stack([psf_image(total=0.95 + i / 50) for i in range(3)])
    header = {"CTYPE3": "WAVE", "CRPIX3": 1.0, **wcs_header()}
    path = write(
        tmp_path / "cube.fits", ("SCI", cube, header), ("VAR", var), ("MASK", mask), ("PSF", psf)
    )
    with pytest.raises(InputError, match=r"cube of 3 planes.*cube.fits\[SCI,0\]"):
        read_fits(path)
    obs = read_fits(f"{path}[SCI,1]")
    np.testing.assert_allclose(obs.data[1:], (sky + 1)[1:])
    assert obs.variance[1, 0] == 2 and not obs.valid[0, 0]
    assert obs.psf is not None and obs.psf.total == pytest.approx(0.97)
    header = obs.frame.header
    assert header is not None and header["NAXIS"] == 2 and "CTYPE3" not in header and "NAXIS3" not in header
    assert [f.extension for f in obs.inputs] == ["SCI,1", "MASK,1", "VAR,1", "PSF,1"]
    for bad, message in (("[SCI,3]", "planes 0 to 2"), ("[VAR,x]", "write FILE"), ("[NO]", "no extension NO")):
        with pytest.raises(InputError, match=message):
            read_fits(path + bad)
    assert read_psf(f"{path}[PSF,2]").total == pytest.approx(0.99)


def test_cube_of_one_plane_is_an_image(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky[None, None]))
    assert read_fits(path).shape == SHAPE
    assert read_fits(f"{path}[SCI,0]").shape == SHAPE


@pytest.mark.parametrize("name", ["a.fits.fz", "a.fits"])
def test_fpacked(tmp_path, sky, name):
    hdu = fits.CompImageHDU(np.round(sky * 100).astype(np.int32), name="SCI", compression_type="RICE_1")
    cube = fits.CompImageHDU(np.full((2, *SHAPE), 4, np.int32), name="VAR", compression_type="GZIP_1")
    path = write(tmp_path / name, hdu, cube)
    np.testing.assert_array_equal(read_fits(f"{path}[SCI]", variance="[VAR,1]").data, np.round(sky * 100))


def test_gzipped_whatever_its_name(tmp_path, sky):
    plain = write(tmp_path / "a.fits", ("SCI", sky))
    for name in ("a.fits.gz", "b.fits"):
        with open(plain, "rb") as f, gzip.open(tmp_path / f"z{name}", "wb") as out:
            out.write(f.read())
        np.testing.assert_allclose(read_fits(tmp_path / f"z{name}").data, sky)
    data = (tmp_path / "za.fits.gz").read_bytes()
    (tmp_path / "cut.fits.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="compressed data end early"):
        read_fits(tmp_path / "cut.fits.gz")


def test_separate_files(tmp_path, sky):
    image = write(tmp_path / "image.fits", ("CCD1", sky), ("CCD2", sky + 1))
    var = write(tmp_path / "var.fits", ("CCD1", np.full(SHAPE, 1.0)), ("CCD2", np.full(SHAPE, 9.0)))
    bad = np.zeros(SHAPE)
    bad[3, 4] = np.nan
    mask = write(tmp_path / "mask.fits", fits.ImageHDU(bad))
    psf = str(tmp_path / "psf.fits")
    fits.writeto(psf, psf_image())
    obs = read_fits(f"{image}[CCD2]", variance=var, mask=mask, psf=psf)
    assert obs.variance[0, 0] == 9 and not obs.valid[3, 4] and obs.psf is not None
    assert {f.path for f in obs.inputs} == {image, var, mask, psf}
    assert all(len(f.sha256) == 64 for f in obs.inputs)


def test_scaled_integers(tmp_path):
    hdu = fits.PrimaryHDU(np.arange(600, dtype=np.int16).reshape(SHAPE[0], 25))
    hdu.scale("int16", bscale=0.5, bzero=10)
    hdu.header["BLANK"] = hdu.data.min()
    hdu.writeto(tmp_path / "a.fits")
    obs = read_fits(tmp_path / "a.fits")
    assert obs.valid.sum() == 599 and obs.data[0, 1] == pytest.approx(1, abs=0.5)
    assert obs.frame.header is not None and "BZERO" not in obs.frame.header


# --- PSF -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "options", "oversampling"),
    [
        ({}, {}, 1),
        ({"PIXSCALE": 0.05}, {}, 4),
        ({"PIXELSCL": 0.1}, {}, 2),
        ({"OVERSAMP": 4}, {}, 4),
        ({"PSF_SAMP": 0.5}, {}, 2),
        ({}, {"psf_pixel_scale": 0.08}, 2.5),
        ({"PIXSCALE": 0.05}, {"pixel_scale": 0.1}, 2),
        ({"PIXSCALE": 0.201}, {}, 1),
        (wcs_header(0.1), {}, 2),
    ],
)
def test_psf_sampling(tmp_path, sky, cards, options, oversampling):
    path = write(tmp_path / "a.fits", ("SCI", sky, wcs_header()), ("PSF", psf_image(4, 61), cards))
    psf = read_fits(path, **options).psf
    assert psf is not None and psf.oversampling == pytest.approx(oversampling)


def test_psf_problems(tmp_path, sky):
    def psf_of(array, cards=None, **options):
        path = tmp_path / "p.fits"
        path.unlink(missing_ok=True)
        return read_fits(
            write(path, ("SCI", sky, wcs_header()), ("PSF", array, cards or {})), noise_std=1.0, **options
        )

    with pytest.raises(InputError, match=r"\[PSF\]: .*--normalise-psf"):
        psf_of(psf_image() * 2)
    assert psf_of(psf_image() * 2, normalise_psf=True).psf.total == pytest.approx(1)
    with pytest.raises(InputError, match="--psf-pixel-scale"):
        psf_of(psf_image(), {"PIXSCALE": 0.4})
    with pytest.raises(InputError, match="not a finite"):
        psf_of(psf_image() * np.nan)
    assert about(psf_of(np.roll(psf_image(size=31), 1, 0)), "re-centred by (y, x) = (-1, +0)")
    assert not psf_of(psf_image(), psf_without_pixel=True).psf.includes_pixel
    assert psf_of(psf_image(), psf="none").psf is None
    with pytest.raises(InputError, match="no extension X"):
        psf_of(psf_image(), psf="[X]")


def test_psf_scale_without_the_images(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky), ("PSF", psf_image(), {"PIXSCALE": 0.1}))
    obs = read_fits(path)
    assert about(obs, "--pixel-scale") and obs.psf is not None and obs.psf.oversampling == 1
    with pytest.raises(InputError, match="--pixel-scale as well"):
        read_fits(path, psf_pixel_scale=0.1)


def test_a_psf_object_is_taken(tmp_path, sky):
    psf = PSF.gaussian(2.0)
    assert read_fits(write(tmp_path / "a.fits", ("SCI", sky)), psf=psf).psf is psf


# --- headers ---------------------------------------------------------------------------------------------------


def test_unknown_unit_passes_through(tmp_path, sky):
    obs = read_fits(write(tmp_path / "a.fits", ("SCI", sky, {"BUNIT": "nmgy-ish (zp 27?)"})))
    assert obs.frame.unit == "nmgy-ish (zp 27?)" and about(obs, "BUNIT")


def test_pixel_scale_card(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky, {"PIXSCALE": 0.3}))
    assert read_fits(path).frame.pixel_scale == 0.3
    assert read_fits(path, pixel_scale=0.4).frame.pixel_scale == 0.4
    with pytest.raises(InputError, match="pixel scale"):
        read_fits(path, pixel_scale=-1)


def test_header_can_be_written_back(tmp_path, sky):
    hdu = fits.PrimaryHDU(sky)
    hdu.header["HISTORY"] = "made"
    path = tmp_path / "a.fits"
    hdu.writeto(path)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"HISTORY made" + b" " * 28, b"ESO-LOG 00:00:00> DATE = '12" + b" " * 12))
    header = read_fits(path).frame.header
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits.PrimaryHDU(np.zeros(SHAPE), header).writeto(tmp_path / "b.fits", output_verify="exception")


def test_checksum_mismatch_is_a_warning(tmp_path, sky):
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(sky).writeto(path, checksum=True)
    data = bytearray(path.read_bytes())
    data[2880 + 100] ^= 1
    path.write_bytes(bytes(data))
    assert about(read_fits(path), "checksum of PRIMARY does not match")


def test_nothing_on_stderr(tmp_path, sky, recwarn, capsys):
    read_fits(write(tmp_path / "a.fits", ("SCI", sky, {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--XXX"})))
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_inspect_tells_what_was_understood(tmp_path, sky):
    path = write(
        tmp_path / "a.fits",
        ("SCI", sky, wcs_header()),
        ("VAR", np.full(SHAPE, 0.25)),
        ("PSF", psf_image(2, 41), {"PIXSCALE": 0.1}),
    )
    told = inspect_file(path)
    assert told["shape"] == list(SHAPE) and told["pixel_scale"] == pytest.approx(0.2)
    assert told["wcs"]["projection"] == "RA---TAN, DEC--TAN"
    assert told["wcs"]["centre"] == pytest.approx([150, 2])
    assert told["noise"] == {"source": "VAR (variance)", "median_sigma": 0.5}
    assert told["psf"]["oversampling"] == 2 and told["psf"]["fwhm_arcsec"] == pytest.approx(0.6, rel=0.02)
    assert [h["name"] for h in told["hdus"]] == ["PRIMARY", "SCI", "VAR", "PSF"]


# --- what cannot be read ---------------------------------------------------------------------------------------


def raw_header(*cards):
    text = "".join(f"{c:<80}" for c in (*cards, "END"))
    return text.ljust(2880 * (1 + len(text) // 2880)).encode()


def test_what_is_no_fits_file(tmp_path):
    cases = {
        "empty": (b"", "empty"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        "z": (b"\x1f\x9d\x90abc", "gunzip"),
        "html": (b"<html>404</html>", "web page"),
        "text": (b"hello", "does not begin with SIMPLE"),
        "noend": (b"SIMPLE  =                    T".ljust(80) * 100, "no END card"),
        "hdf": (b"\x89HDF\r\n", "HDF5"),
        "bitpix": (raw_header("SIMPLE  = T", "BITPIX  = 7", "NAXIS   = 2", "NAXIS1  = 2", "NAXIS2  = 2"), ""),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_fits(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_fits(tmp_path / "none.fits")
    with pytest.raises(InputError, match="directory"):
        read_fits(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_fits(tmp_path / "pipe")
    with pytest.raises(InputError):
        read_fits("https://example.org/a.fits")
    with pytest.raises(InputError):
        read_fits("x" * 5000)
    with pytest.raises(InputError):
        read_fits("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky))
    os.chmod(path, 0)
    with pytest.raises(InputError, match="cannot be read"):
        read_fits(path)


def test_a_header_that_claims_too_much(tmp_path):
    claim = ("SIMPLE  =                    T", "BITPIX  =                  -64", "NAXIS   =                    2")
    size = ("NAXIS1  =               100000", "NAXIS2  =               100000")
    (tmp_path / "a.fits").write_bytes(raw_header(*claim, *size) + b"\0" * 2880)
    with pytest.raises(InputError, match="truncated: it claims 100000 x 100000"):
        read_fits(tmp_path / "a.fits")


def test_a_sparse_file_that_is_too_large(tmp_path):
    side = 2 * int(MAX_PIXELS**0.5)
    cards = ("SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2")
    header = raw_header(*cards, f"NAXIS1  = {side:20d}", f"NAXIS2  = {side:20d}")
    with open(tmp_path / "a.fits", "wb") as f:
        f.write(header)
        f.truncate(len(header) + side * side)
    with pytest.raises(InputError, match="cut out a region"):
        read_fits(tmp_path / "a.fits")


def test_truncation_matters_only_where_it_is_read(tmp_path, sky):
    path = tmp_path / "a.fits"
    write(path, ("SCI", sky), ("EXTRA", np.zeros((50, 50))))
    path.write_bytes(path.read_bytes()[:-4000])
    assert about(read_fits(path), "HDU 2 is truncated")
    with pytest.raises(InputError, match="is truncated"):
        read_fits(f"{path}[EXTRA]")


def test_no_image(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])], name="T")
    path = write(tmp_path / "t.fits", table)
    with pytest.raises(InputError, match="tables only"):
        read_fits(path)
    with pytest.raises(InputError, match="holds no image"):
        read_fits(f"{path}[T]")
    with pytest.raises(InputError, match="headers only"):
        read_fits(write(tmp_path / "h.fits"))
    with pytest.raises(InputError, match="no image of two axes"):
        read_fits(write(tmp_path / "s.fits", ("SCI", np.ones(5))))
    with pytest.raises(InputError, match="no HDU 7"):
        read_fits(f"{path}[7]")


def test_images_without_information(tmp_path):
    for name, array, error, message in (
        ("constant", np.ones((4, 4)), InputError, "--noise-std"),
        ("one", np.ones((1, 1)), InputError, "--noise-std"),
        ("nan", np.full((4, 4), np.nan), NoUsablePixelsError, "16 not a number"),
    ):
        fits.writeto(tmp_path / name, array)
        with pytest.raises(error, match=message):
            read_fits(tmp_path / name)
    assert read_fits(tmp_path / "constant", noise_std=1).shape == (4, 4)


def test_shapes_must_agree(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky), ("VAR", sky[1:]), ("DQ", np.zeros((3, 3), np.int16)))
    with pytest.raises(InputError, match="mask must have the image's shape"):
        read_fits(path)
    with pytest.raises(InputError, match="variance must have the image's shape"):
        read_fits(path, mask="none")
    assert read_fits(path, mask="none", variance="none").shape == SHAPE


def test_options_that_do_not_fit(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky))
    with pytest.raises(UsageError):
        read_fits(path, noise_std=1.0, variance="x.fits")
    with pytest.raises(UsageError):
        read_fits(path, dtype="int32")
    with pytest.raises(InputError, match="noise standard deviation"):
        read_fits(path, noise_std=0.0)
    with pytest.raises(InputError, match="the image itself"):
        read_fits(path, variance=path)


def test_numbers_that_float32_cannot_hold(tmp_path, sky):
    path = write(tmp_path / "a.fits", ("SCI", sky * 1e-25), ("ERR", np.full(SHAPE, SIGMA * 1e-25)))
    assert read_fits(path).valid.all()
    with pytest.raises(InputError, match="float64"):
        read_fits(path, dtype="float32")


def test_specifications(tmp_path):
    assert Spec.parse("a.fits") == Spec("a.fits")
    assert Spec.parse("a.fits[2]") == Spec("a.fits", 2)
    assert Spec.parse("a.fits[SCI,2]") == Spec("a.fits", "SCI", 2)
    assert Spec.parse("[PSF]", "a.fits") == Spec("a.fits", "PSF")
    (tmp_path / "a[1].fits").touch()
    assert Spec.parse(tmp_path / "a[1].fits") == Spec(str(tmp_path / "a[1].fits"))
    for bad in ("a.fits[]", "a.fits[1,2,3]", "a.fits[SCI,-1]", "[SCI]"):
        with pytest.raises(InputError, match="write FILE"):
            Spec.parse(bad)
