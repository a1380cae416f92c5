"""The refined header puts the same sky at the same place."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from invprob.io.wcs import coordinates, is_coordinate, refine_header, shift_header

DATA = Path(__file__).parents[3] / "shared" / "data"


def header(**cards):
    """A 60 x 40 image's header on the sky near the zero of right ascension."""
    base = {"NAXIS": 2, "NAXIS1": 60, "NAXIS2": 40, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    base |= {"CRVAL1": 10.0, "CRVAL2": -33.0, "CRPIX1": 12.25, "CRPIX2": 31.5}
    base |= {"CUNIT1": "deg", "CUNIT2": "deg"}
    out = fits.Header()
    for key, value in (base | cards).items():
        if value is not None:
            out[key] = value
    return out


SCALE, ANGLE = 7e-5, np.deg2rad(33)
ROTATED = {"1_1": -np.cos(ANGLE), "1_2": np.sin(ANGLE), "2_1": np.sin(ANGLE), "2_2": np.cos(ANGLE)}
PC = {f"PC{k}": v for k, v in ROTATED.items()}
SIP = {"A_ORDER": 3, "B_ORDER": 2, "AP_ORDER": 2, "BP_ORDER": 2, "A_2_0": 2e-5, "A_0_3": -1e-7, "A_1_1": 3e-6}
SIP |= {"B_0_2": -1e-5, "B_1_1": 2e-6, "AP_2_0": -2e-5, "BP_0_2": 1e-5, "AP_1_0": 1e-5, "A_DMAX": 0.3}
SIP |= {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}
MADE = {
    "tan-cd": header(**{f"CD{k}": SCALE * v for k, v in ROTATED.items()}),
    "tan-pc": header(CDELT1=SCALE, CDELT2=1.1 * SCALE, **PC),
    "tan-pc-no-cdelt": header(**{k: SCALE * v for k, v in PC.items()}),
    "tan-crota": header(CDELT1=-SCALE, CDELT2=1.2 * SCALE, CROTA2=25.0),
    "tan-cdelt": header(CDELT1=-SCALE, CDELT2=SCALE),
    "tan-cd-and-cdelt": header(CDELT1=3.0, CDELT2=3.0, **{f"CD{k}": SCALE * v for k, v in ROTATED.items()}),
    "sin": header(CTYPE1="RA---SIN", CTYPE2="DEC--SIN", CDELT1=-0.01, CDELT2=0.01, PV2_1=0.1, PV2_2=0.2, **PC),
    "sip": header(CD1_1=-SCALE, CD2_2=SCALE, **SIP),
    "azp": header(CTYPE1="RA---AZP", CTYPE2="DEC--AZP", CDELT1=-1e-2, CDELT2=1e-2, PV2_1=2.0, PV2_2=30.0),
    "linear": header(CTYPE1="LINEAR", CTYPE2="LINEAR", CUNIT1=None, CUNIT2=None, CRPIX1=None, CRPIX2=None),
    "wraps": header(CRVAL1=0.0, CDELT1=-SCALE, CDELT2=SCALE),
}
FILES = {
    "tpv-file": ("odd/tpv.fits.gz", 0),
    "sip-file": ("odd/sip-wcs.fits", 0),
    "azp-file": ("odd/1904-66_AZP.fits", 0),
    "sin-file": ("odd/checksum_false.fits", 0),
    "dss-file": ("odd/m13.fits", 0),
    "solar-file": ("odd/aia_171_level1.fits", 0),
    "decam": ("field_decam_z_stars/decam_z_test4.fits", "SCI"),
    "mzls": ("field_mzls_z/mzls_z.fits", "SCI"),
    "ground": ("ground_sims/ground_000001.fits", "SCI"),
    "cube": ("field_cosmos_hst_hsc/hsc.fits", "SCI"),
}


def load(name):
    if name in MADE:
        return MADE[name]
    path, ext = FILES[name]
    if not (DATA / path).exists():
        pytest.skip(f"the development data are not here: ../shared/data/{path}")
    return fits.getheader(DATA / path, ext)


def same_sky(old, new, s, key=" "):
    """Largest distance in data pixels, pixel -> world and back, of random points, some outside the image."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-3, old["NAXIS1"] + 3, 50), rng.uniform(-3, old["NAXIS2"] + 3, 50)
    u, v = s * (x + 0.5) - 0.5, s * (y + 0.5) - 0.5
    a, b = WCS(old, key=key, naxis=2), WCS(new, key=key, naxis=2)
    sky = np.array(a.all_pix2world(x, y, 0))
    assert np.isfinite(sky).all()
    forward = b.all_pix2world(u, v, 0)
    step = np.abs(np.array(a.all_pix2world(x + 0.01, y + 0.01, 0)) - sky).max() * 100
    away = np.abs(sky - forward).max() / step
    back = np.array(b.all_world2pix(*sky, 0, tolerance=1e-9, maxiter=200, quiet=True))
    returned = np.abs(back - [u, v]).max() / s
    return max(away, returned)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("s", [1, 2, 3, 4])
@pytest.mark.parametrize("name", [*MADE, *FILES])
def test_sky_positions_agree(name, s):
    old = load(name)
    before = old.tostring()
    new, notes = refine_header(old, s)
    assert same_sky(old, new, s) < 1e-6
    assert notes == ()
    assert old.tostring() == before
    assert new["NAXIS1"] == s * old["NAXIS1"]
    assert new["NAXIS2"] == s * old["NAXIS2"]
    assert new["NAXIS"] == 2


def test_only_one_of_cd_and_cdelt_is_scaled():
    new, _ = refine_header(MADE["tan-pc"], 2)
    assert new["CDELT1"] == SCALE / 2
    assert new["PC1_1"] == PC["PC1_1"]
    new, _ = refine_header(MADE["tan-cd-and-cdelt"], 2)
    assert new["CD1_1"] == SCALE * ROTATED["1_1"] / 2
    assert "CDELT1" not in new


def test_reference_pixel_and_sip():
    new, _ = refine_header(MADE["sip"], 4)
    assert new["CRPIX1"] == 4 * (12.25 - 0.5) + 0.5
    assert new["A_2_0"] == pytest.approx(2e-5 / 4)
    assert new["A_0_3"] == pytest.approx(-1e-7 / 16)
    assert new["AP_1_0"] == pytest.approx(1e-5)
    assert new["A_DMAX"] == pytest.approx(1.2)
    assert new["A_ORDER"] == 3
    assert new["AP_2_0"] == pytest.approx(-2e-5 / 4)


@pytest.mark.filterwarnings("ignore")
def test_alternates_and_physical_coordinates():
    old = header(CDELT1=-SCALE, CDELT2=SCALE, PIXSCALE=0.252, PIXAR_SR=4e-13)
    for key, value in {"CTYPE": "RA---SIN", "CRPIX": 3.0, "CDELT": -1e-4, "CRVAL": 20.0}.items():
        old[key + "1A"] = value
    for key, value in {"CTYPE": "DEC--SIN", "CRPIX": 5.0, "CDELT": 1e-4, "CRVAL": 20.0}.items():
        old[key + "2A"] = value
    old["CRPIX1P"], old["CRVAL1P"], old["CRPIX2P"], old["CRVAL2P"] = 1.0, 501.0, 1.0, 301.0
    old["LTV1"], old["LTV2"] = -500.0, -300.0
    new, notes = refine_header(old, 2)
    assert notes == ()
    for key in " AP":
        assert same_sky(old, new, 2, key) < 1e-6
    assert new["PIXSCALE"] == 0.126
    assert new["PIXAR_SR"] == 1e-13
    # logical = LTM physical + LTV: physical 510.5 is pixel 10.5 of the data, 20.5 of the refined grid
    assert new["LTM1_1"] * 510.5 + new["LTV1"] == 20.5


def test_a_cube_becomes_a_plane():
    third = {"CD3_3": 2.0, "CTYPE3": "FREQ", "CRVAL3": 1e9, "CRPIX3": 1.0, "CUNIT3": "Hz", "WCSAXES": 3}
    old = header(CD1_1=-SCALE, CD2_2=SCALE, **third)
    old["NAXIS"], old["NAXIS3"], old["PV3_1"] = 3, 7, 1.0
    new, notes = refine_header(old, 2)
    assert notes == ()
    assert not [k for k in new if k in ("NAXIS3", "CTYPE3", "CRVAL3", "CRPIX3", "CUNIT3", "CD3_3", "PV3_1")]
    assert new["WCSAXES"] == new["NAXIS"] == 2
    assert same_sky(old, new, 2) < 1e-6
    old["CD1_3"] = 1e-5
    assert "coupled" in refine_header(old, 2)[1][0]


def test_lookup_tables_are_dropped_with_a_warning():
    old = header(CD1_1=-SCALE, CD2_2=SCALE, CPDIS1="LOOKUP", CPDIS2="LOOKUP", D2IMDIS1="LOOKUP", **SIP)
    old["DP1"] = "EXTVER: 1.0"
    old["D2IM1"] = "EXTVER: 1.0"
    new, notes = refine_header(old, 2)
    assert "dropped" in notes[0]
    assert not [k for k in new if k.startswith(("CPDIS", "DP1", "D2IM"))]
    assert "A_2_0" in new
    assert WCS(new).sip is not None


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE1": "RA---TAB", "CTYPE2": "DEC--TAB", "PS1_0": "WCS-TABLE"},
        {"CTYPE1": "RA---TAN", "CTYPE2": "FREQ", "CDELT1": 1e-4, "CDELT2": 1e6},  # half a sky
        {"CRPIX1": "middle", "CDELT1": 1e-4, "CDELT2": 1e-4},
        {"CD1_1": 0.0, "CD2_2": 0.0},
    ],
)
def test_what_cannot_be_refined_is_dropped_with_a_warning(cards):
    old = header(**cards)
    old["OBJECT"] = "M 13"
    new, notes = refine_header(old, 2)
    assert "dropped" in notes[-1]
    assert not [k for k in new if k.startswith(("CTYPE", "CRPIX", "CD", "CRVAL"))]
    assert new["OBJECT"] == "M 13"


def test_without_coordinates_nothing_is_added():
    old = fits.Header({"NAXIS": 2, "NAXIS1": 3, "NAXIS2": 4, "OBJECT": "M 13"})
    new, notes = refine_header(old, 2)
    assert list(new) == list(old)
    assert notes == ()


def test_unparsable_cards_are_left_out():
    old = header(CDELT1=-SCALE, CDELT2=SCALE)
    old.append(fits.Card.fromstring("BADCARD = 'no end"))
    new, _ = refine_header(old, 2)
    assert new["CDELT1"] == -SCALE / 2


def test_coordinate_cards_are_told_apart():
    for key in ("CRPIX1", "CD1_1", "PV1_10", "A_2_0", "LTV1", "PIXSCALE", "RADESYS", "CTYPE1A", "DP1.EXTVER"):
        assert is_coordinate(key), key
    for key in ("OBJECT", "EXPTIME", "BUNIT", "A_GAIN", "PVNAME", "HISTORY", "CDS", "PC"):
        assert not is_coordinate(key), key
    assert list(coordinates(fits.Header({"OBJECT": "x", "CRPIX1": 1.0}))) == ["CRPIX1"]


@pytest.mark.filterwarnings("ignore")
def test_no_real_header_is_too_odd():
    if not DATA.exists():
        pytest.skip("the development data are not here: ../shared/data")
    seen = 0
    for path in sorted((DATA / "odd").iterdir()):
        try:
            headers = [hdu.header for hdu in fits.open(path) if hdu.is_image]
        except (OSError, ImportError):
            continue
        for old in headers:
            refine_header(old, 2)
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("name", ["tan-cd", "tan-cdelt", "sin"])
def test_a_border_moves_every_description(name):
    inner = MADE[name].copy()
    for key, value in {
        "CTYPE1A": "X",
        "CTYPE2A": "Y",
        "CRPIX1A": 2.0,
        "CRPIX2A": 3.0,
        "LTV1": 4.0,
        "LTV2": 5.0,
    }.items():
        inner[key] = value
    outer = shift_header(inner, below=7, left=11)
    for alternate in (" ", "A"):
        a, b = (WCS(h, key=alternate) for h in (inner, outer))
        np.testing.assert_allclose(b.all_pix2world(3 + 11, 5 + 7, 0), a.all_pix2world(3, 5, 0), rtol=0, atol=1e-12)
    assert (outer["LTV1"], outer["LTV2"]) == (15.0, 12.0)
    assert inner["CRPIX1A"] == 2.0
