"""The reader against every layout it knows, as small files made here."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from invprob.errors import InputError, NoUsablePixelsError
from invprob.io.inspect import inspect_file
from invprob.io.read.read_fits import read_fits, read_psf
from tests.io.fits_samples import SHAPE, SIGMA, about, psf_image, wcs_header, write


@pytest.fixture
def sky():
    """An empty image: noise of `SIGMA`."""
    return np.random.default_rng(1).normal(0, SIGMA, SHAPE).astype(np.float32)


# --- layouts


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
    assert [(f.role, f.extension) for f in obs.inputs] == [
        ("image", "SCI"),
        ("variance", "VAR"),
        ("psf", "PSF"),
    ]
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
    bits = {"MP_BAD": 3, "MP_SAT": 7, "HIERARCH MP_DETECTED": 0, "HIERARCH MP_NO_DATA": 9, "MP_X": 1}
    mask[0, :6] = [1 << 3, 1 << 7, 1 << 0, 1 << 9, 1 << 1, (1 << 0) | (1 << 3)]
    path = write(tmp_path / "calexp.fits", ("IMAGE", sky), ("MASK", mask, bits), ("VARIANCE", np.full(SHAPE, 0.25)))
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
    for obs in (
        read_fits(own),
        read_fits(plain, variance=f"{own}[{name}]"),
        read_fits(plain, variance=apart),
    ):
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
    assert about(read_fits(path), "a sky level of about", "--sky fit")


def test_cube_planes(tmp_path, sky):
    cube = np.stack([sky + i for i in range(3)])
    var = np.stack([np.full(SHAPE, 1.0 + i) for i in range(3)])
    mask = np.zeros(cube.shape, np.uint8)
    mask[1, 0, 0] = 1
    psf = np.stack([psf_image(total=0.95 + i / 50) for i in range(3)])
    header = {"CTYPE3": "WAVE", "CRPIX3": 1.0, **wcs_header()}
    path = write(tmp_path / "cube.fits", ("SCI", cube, header), ("VAR", var), ("MASK", mask), ("PSF", psf))
    with pytest.raises(InputError, match=r"cube of 3 planes.*cube.fits\[SCI,0\]"):
        read_fits(path)
    obs = read_fits(f"{path}[SCI,1]")
    np.testing.assert_allclose(obs.data[1:], (sky + 1)[1:])
    assert obs.variance[1, 0] == 2 and not obs.valid[0, 0]
    assert obs.psf is not None and obs.psf.total == pytest.approx(0.97)
    header = obs.frame.header
    assert header is not None and header["NAXIS"] == 2 and "CTYPE3" not in header and "NAXIS3" not in header
    assert [f.extension for f in obs.inputs] == ["SCI,1", "MASK,1", "VAR,1", "PSF,1"]
    for bad, message in (
        ("[SCI,3]", "planes 0 to 2"),
        ("[VAR,x]", "write FILE"),
        ("[NO]", "no extension NO"),
    ):
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


# --- headers


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
    assert fits.getdata(tmp_path / "b.fits").shape == SHAPE


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


# --- real files

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data (../shared/data) are not here")
@pytest.mark.parametrize(
    ("name", "options", "shape", "scale", "psf_shape", "oversampling", "fragment"),
    [
        ("ground_sims/ground_000002.fits", {}, (33, 33), 0.168, (51, 51), 1, ""),
        ("ground_sims/ground_000002.fits", {"psf": "[KERNEL]"}, (33, 33), 0.168, (201, 201), 4, ""),
        ("galaxies/cosmos_000002.fits", {}, (42, 42), 0.03, (65, 51), 1, ""),
        (
            "field_cosmos_hst_hsc/hst.fits",
            {},
            (250, 250),
            0.03,
            (181, 181),
            1,
            "re-centred by (y, x) = (-1, -1)",
        ),
        ("field_cosmos_hst_hsc/hsc.fits[SCI,2]", {}, (50, 50), 0.168, (31, 31), 1, "BUNIT 'arbitrary'"),
        ("field_hsc_cosmos35/hsc.fits[SCI,2]", {}, (58, 48), 0.168, (43, 43), 1, "MP_*"),
        (
            "field_decam_z_stars/decam_z_test4.fits",
            {},
            (251, 245),
            0.2623,
            (63, 63),
            1,
            "sky level of about 3171",
        ),
        ("field_mzls_z/mzls_z.fits", {}, (208, 204), 0.2596, (63, 63), 1, "header's rounding"),
    ],
)
def test_real_files(name, options, shape, scale, psf_shape, oversampling, fragment):
    obs = read_fits(DATA / name, **options)
    assert obs.shape == shape and obs.frame.pixel_scale == pytest.approx(scale, rel=1e-3)
    assert obs.psf is not None and obs.psf.shape == psf_shape and obs.psf.oversampling == oversampling
    assert any(fragment in w for w in obs.warnings) or not (fragment or obs.warnings)
    assert obs.valid.mean() > 0.9
