"""What is written, and that it can be read back."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from invprob.errors import InputError
from invprob.io.read.cards import escape, unescape
from invprob.io.readback import compare_fits, read_images, read_provenance, same_bytes
from invprob.io.write import config_hash, config_text, write_fits
from invprob.observation import Frame
from invprob.results import Estimate, Samples, Status
from invprob.results.report import Record, Report
from invprob.units import is_surface_brightness
from tests.io.result_samples import CONFIG, SHAPE, estimate, observation, quiet


@pytest.fixture
def obs():
    return observation()


def left_over(folder):
    return sorted(p.name for p in folder.iterdir())


def test_everything_is_written(tmp_path, obs):
    result = estimate(obs, kind=Samples, draws=np.random.default_rng(2).normal(size=(3, 12, 16)))
    with pytest.warns(UserWarning, match="break the FITS standard"):
        path = write_fits(
            result,
            tmp_path / "out.fits",
            observation=obs,
            config=CONFIG,
            seed=5,
            device="cpu",
            more=Report([Record("command", "invprob deconvolve x.fits", "", "as typed")]),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            names = [h.name for h in hdus]
            assert names == ["PRIMARY", "SCI", "ERR", "DQ", "MODEL", "RESID", "PSF", "DRAWS"]
            head = hdus[0].header
            assert all("CHECKSUM" in h.header and "DATASUM" in h.header for h in hdus)
            assert hdus["DRAWS"].data.dtype == ">f4"
            assert hdus["DQ"].data.dtype == ">i2"
            assert hdus["SCI"].header["BUNIT"] == hdus["MODEL"].header["BUNIT"] == "adu"
            assert hdus["SCI"].header["PIXSCALE"] == hdus["PSF"].header["PIXSCALE"] == 0.18
            assert hdus["RESID"].header["PIXSCALE"] == 0.36
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fine, coarse = (WCS(fits.getheader(path, name)) for name in ("SCI", "MODEL"))
    images = read_images(path)
    for name, array in {"SCI": result.image, "ERR": result.std, "MODEL": result.model}.items():
        assert np.array_equal(images[name], array)
    assert np.array_equal(images["RESID"], result.residual, equal_nan=True)
    assert images["DQ"].sum() == 4
    assert np.allclose(fine.all_pix2world(2 * 3.5 - 0.5, 2 * 1.5 - 0.5, 0), coarse.all_pix2world(3, 1, 0), rtol=1e-14)
    # ours
    assert head["STATUS"] == "CONVERGED"
    assert head["STATTXT"] == "converged"
    assert head["SOLVER"] == "cg"
    assert head["SEED"] == 5
    assert head["CHI2EDOF"] == 1.25
    assert head["REDCHI2"] == pytest.approx(40 / 47)
    assert head["PRIORAMP"] == 2.5
    assert head["BAD_FLOAT"] == "nan"
    assert head["COMMAND"] == "invprob deconvolve x.fits"
    assert head["NOISESRC"] == "VAR extension"
    assert head["NDRAWS"] == 3
    assert head["REFINE"] == 2
    assert "NOERR" not in head
    # the input's
    assert head["OBJECT"] == "M 13"
    assert head["EXPTIME"] == 120
    assert head["ESO TEL AIRM"] == 1.25
    assert list(head["HISTORY"]) == ["flat fielded", "sky subtracted"]
    assert "a comment" in list(head["COMMENT"])
    assert head["DATE-OBS"] == "2020-01-01"
    assert not [k for k in head if k.startswith(("CRPIX", "CTYPE", "BUNIT", "BAD CARD"))]
    assert "DATE" not in head
    assert left_over(tmp_path) == ["out.fits"]


def test_provenance_reads_back(tmp_path, obs):
    path = quiet(estimate(obs), tmp_path / "out.fits", observation=obs, config=CONFIG, seed=5, device="cpu x")
    record = read_provenance(path)
    assert record["config"] == CONFIG
    assert record["config_hash"] == config_hash(CONFIG)
    assert record["inputs"] == obs.inputs
    assert record["seed"] == 5
    assert record["device"] == "cpu x"
    assert record["versions"]["numpy"] == np.__version__
    assert record["status"] == "CONVERGED"
    assert record["warnings"][0] == "BUNIT is strange"
    assert len(record["warnings"]) == 2


def test_a_changed_configuration_is_noticed(tmp_path, obs):
    path = quiet(estimate(obs), tmp_path / "out.fits", observation=obs, config={"refine": 2})
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["CONFIG"] = '{"refine":3}'
    with pytest.raises(InputError, match="does not match its hash"):
        read_provenance(path)


def test_long_texts_survive_the_continue_convention(tmp_path, obs):
    rng = np.random.default_rng(3)
    letters = np.array(list("ab'\"&/\\ =,é\n"))
    for n in (1, 60, 66, 67, 68, 69, 70, 135, 136, 137, 700):
        for _ in range(5):
            config = {"text": "".join(rng.choice(letters, n))}
            path = quiet(estimate(obs), tmp_path / "out.fits", config=config, overwrite=True)
            assert read_provenance(path)["config"] == config


def test_text_round_trip():
    for text in ("plain", "é\n\\n\\", "C:\\new", "σ", "\udcff"):
        assert escape(text).isascii()
        assert unescape(escape(text)) == text


def test_without_errors_the_header_says_how_to_get_them(tmp_path, obs):
    path = quiet(estimate(obs, std=None, no_std="ask for draws: --num-samples 64", kernel=None), tmp_path / "o.fits")
    assert fits.getheader(path)["NOERR"] == "ask for draws: --num-samples 64"
    assert set(read_images(path)) == {"SCI", "DQ", "MODEL", "RESID"}


def test_a_result_made_by_hand(tmp_path):
    result = Estimate(None, Status.MAX_STEPS, "mine", "", 3, 1.0, 4, image=np.ones((4, 4), np.float32))
    path = write_fits(result, tmp_path / "a.fits")
    assert read_images(path)["SCI"].dtype == np.float32
    path = write_fits(result, tmp_path / "b.fits", frame=Frame((2, 2), 0.2, "Jy").refine(2))
    assert fits.getheader(path, "SCI")["PIXSCALE"] == 0.1
    assert read_provenance(path)["config"] is None
    assert fits.getheader(path)["STATTXT"] == Status.MAX_STEPS.value


def test_same_result_same_bytes(tmp_path, obs):
    a = quiet(estimate(obs), tmp_path / "a.fits", observation=obs, config=CONFIG)
    b = quiet(estimate(obs), tmp_path / "b.fits", observation=obs, config=dict(reversed(CONFIG.items())))
    assert a.read_bytes() == b.read_bytes()
    za, zb = (quiet(estimate(obs), tmp_path / f"{n}.fits.gz", observation=obs) for n in "ab")
    assert za.read_bytes() == zb.read_bytes()
    assert za.read_bytes()[:2] == b"\x1f\x8b"
    assert np.array_equal(read_images(za)["SCI"], estimate(obs).image)


def test_an_output_can_be_an_input(tmp_path, obs):
    """No card of the earlier run is left, whatever it was; those of the observation are, and again the next time."""
    seen = replace(obs, frame=replace(obs.frame, header=fits.Header({"OBSERVER": "Hubble", "EXPTIME": 5.0})))
    learned = Report.of(in_range=False, range_warnings=("too faint",))
    path = quiet(estimate(seen), tmp_path / "0.fits", observation=seen, config=CONFIG, seed=5, more=learned)
    for name in ("1.fits", "2.fits"):
        again = replace(obs, frame=replace(obs.frame, header=fits.getheader(path)), inputs=())
        path = quiet(estimate(again), tmp_path / name, observation=again)
        record, header = read_provenance(path), fits.getheader(path)
        assert record["config"] is None
        assert record["seed"] is None
        assert record["inputs"] == ()
        assert "INRANGE" not in header and "RANGE1" not in header
        assert (header["OBSERVER"], header["EXPTIME"]) == ("Hubble", 5.0)
        assert sum(str(line).startswith("Cards of the input") for line in header["COMMENT"]) == 1


def test_comparison(tmp_path, obs):
    base = estimate(obs)
    a = quiet(base, tmp_path / "a.fits")
    assert compare_fits(a, quiet(base, tmp_path / "b.fits")) == []
    image = base.image.copy()
    image[3, 3] += 1e-4 * np.abs(image).max()
    c = quiet(replace(base, image=image), tmp_path / "c.fits")
    assert not same_bytes(a, c)
    (line,) = compare_fits(a, c, rtol=1e-6)
    assert line.startswith("SCI: largest difference 0.0001")
    assert compare_fits(a, c, rtol=1e-3) == []
    d = quiet(replace(base, std=None, residual=np.zeros(SHAPE)), tmp_path / "d.fits")
    assert [line.split(":")[0] for line in compare_fits(a, d, 1e-3)] == ["ERR", "RESID"]
    assert "only in" in compare_fits(a, d)[0]
    e = quiet(replace(base, kernel=np.ones((3, 3))), tmp_path / "e.fits")
    assert compare_fits(a, e) == ["PSF: shape (5, 5) against (3, 3)"]


def test_files_of_others_are_refused(tmp_path):
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "theirs.fits")
    (tmp_path / "text.fits").write_text("no FITS")
    (tmp_path / "empty.fits").write_text("")
    for name, words in {
        "theirs.fits": "not written by invprob",
        "text.fits": "cannot be read",
        "empty.fits": "cannot be read",
        "missing.fits": "does not exist",
    }.items():
        for read in (read_provenance, read_images):
            with pytest.raises(InputError, match=words):
                read(tmp_path / name)
    with pytest.raises(InputError, match="cannot read"):
        compare_fits(tmp_path / "missing.fits", tmp_path / "theirs.fits")


def test_configuration_text_is_canonical():
    assert config_text({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"\\u00e9"],"b":1}'
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("unit", "answer"),
    [
        ("MJy/sr", True),
        ("Jy arcsec-2", True),
        ("erg/s/cm2/arcsec2", True),
        ("JY/BEAM ", True),
        ("mag/arcsec2", True),
        ("counts per sq arcsec /arcsec^2", True),
        ("erg/s/cm^2/A/arcsec^2 (nominal)", True),
        ("electron/s", False),
        ("electron/s/pix", False),
        ("nominal HSC coadd counts (zp 27?)", False),
        ("nanomaggy", False),
        ("", False),
        ("W m-2", False),
    ],
)
def test_surface_brightness_units(unit, answer):
    assert is_surface_brightness(unit) is answer
