"""What is written, that it is written whole or not at all, and that it can be read back."""

import builtins
import errno
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from invprob.errors import ExitCode, InputError, OutputError
from invprob.files import atomic_write
from invprob.io import write
from invprob.io.readback import compare_fits, read_images, read_provenance, same_bytes
from invprob.io.write import config_hash, config_text, escape, unescape, write_fits
from invprob.observation import Frame, InputFile, Observation
from invprob.result import Estimate, Samples, Status
from invprob.units import is_surface_brightness

CONFIG = {"refine": 2, "prior": {"name": "gaussian", "strength": 1e-3}, "note": "it's 'α' & / \\ 'x' " * 12}
HEADER = """OBJECT  = 'M 13'               / what was observed
EXPTIME =                120.0 / [s]
CTYPE1  = 'RA---TAN'
CTYPE2  = 'DEC--TAN'
CRPIX1  =                  4.0
CRPIX2  =                  5.0
CRVAL1  =                 10.0
CRVAL2  =                -33.0
CDELT1  =               -1E-04
CDELT2  =                1E-04
BUNIT   = 'adu'
DATE-OBS= '2020-01-01'
SEED    =                 7777 / of the camera
SOLVER  = 'theirs'
BAD CARD= 3
UNENDED = 'no end
EMPTY   =                      / undefined
HIERARCH ESO TEL AIRM = 1.25   / long name
HISTORY flat fielded
HISTORY sky subtracted
COMMENT a comment"""
SHAPE = (6, 8)


def header():
    return fits.Header([fits.Card.fromstring(line) for line in HEADER.splitlines()])


def observation(**more):
    rng = np.random.default_rng(0)
    data = rng.normal(size=SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[2, 3] = True
    frame = Frame(SHAPE, pixel_scale=0.36, unit="adu", header=header())
    inputs = (
        InputFile("image", "a/very/long/path/" * 6 + "données 'x'.fits", "SCI", "ab" * 32),
        InputFile("psf", "psf.fits", "0", "cd" * 32),
    )
    kwargs = {
        "frame": frame,
        "inputs": inputs,
        "noise_source": "VAR extension",
        "warnings": ("BUNIT is strange",),
    }
    return Observation.from_arrays(data, 0.25, mask, **(kwargs | more))


def estimate(obs, factor=2, kind=Estimate, **more):
    frame = obs.frame.refine(factor)
    rng = np.random.default_rng(1)
    fine = tuple(factor * n for n in obs.shape)
    kwargs = {
        "x": None,
        "status": Status.CONVERGED,
        "solver": "cg",
        "reason": "linear forward, Gaussian noise and prior: σ is 'diagonal'",
        "steps": 12,
        "chi2": 40.0,
        "num_data": 47,
        "image": rng.normal(size=fine),
        "std": rng.uniform(1, 2, size=fine),
        "model": rng.normal(size=obs.shape),
        "residual": np.where(obs.valid, 0.5, np.nan),
        "inpainted": np.kron(~obs.valid, np.ones((factor, factor), bool)),
        "kernel": np.full((5, 5), 0.04, np.float32),
        "effective_dof": 32.0,
        "frame": frame,
        "cards": {
            "AMPLITUD": (np.float32(2.5), "prior amplitude"),
            "BADFLOAT": (float("nan"), "not a number"),
        },
    }
    return kind(**(kwargs | more))


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return write_fits(*args, **kwargs)


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
            provenance={"CMDLINE": ("invprob deconvolve x.fits", "as typed")},
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
    assert head["AMPLITUD"] == 2.5
    assert head["BADFLOAT"] == "nan"
    assert head["CMDLINE"] == "invprob deconvolve x.fits"
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
    first = quiet(estimate(obs), tmp_path / "a.fits", observation=obs, config=CONFIG, seed=5)
    again = replace(obs, frame=replace(obs.frame, header=fits.getheader(first)), inputs=())
    path = quiet(estimate(again), tmp_path / "b.fits", observation=again)
    record = read_provenance(path)
    assert record["config"] is None
    assert record["seed"] is None
    assert record["inputs"] == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", np.nan),
        ("image", np.inf),
        ("std", np.nan),
        ("model", np.nan),
        ("residual", np.inf),
    ],
)
def test_what_is_not_finite_is_refused(tmp_path, obs, name, value):
    good = estimate(obs)
    bad = getattr(good, name).copy()
    bad[0, 0] = value
    with pytest.raises(OutputError, match=f"1 values of the {name} are not finite"):
        write_fits(replace(good, **{name: bad}), tmp_path / "out.fits", observation=obs)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "shape"),
    [("image", (12, 15)), ("std", (6, 8)), ("model", (12, 16)), ("residual", (5, 8)), ("inpainted", (6, 8))],
)
def test_wrong_shapes_are_refused(tmp_path, obs, name, shape):
    with pytest.raises(OutputError, match=f"{name} has shape"):
        write_fits(replace(estimate(obs), **{name: np.zeros(shape)}), tmp_path / "out.fits")
    with pytest.raises(OutputError, match="no image"):
        write_fits(replace(estimate(obs), image=None), tmp_path / "out.fits")
    assert left_over(tmp_path) == []


def test_never_over_an_existing_file(tmp_path, obs):
    path = tmp_path / "out.fits"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"exists already.*--overwrite") as caught:
        quiet(estimate(obs), path)
    assert caught.value.exit_code is ExitCode.CANNOT_WRITE
    assert path.read_text() == "precious"
    quiet(estimate(obs), path, overwrite=True)
    assert read_images(path)["SCI"].shape == (12, 16)
    assert left_over(tmp_path) == ["out.fits"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out.fits"

    def meanwhile():
        with atomic_write(path) as stream:
            stream.write(b"ours")
            path.write_text("theirs")

    with pytest.raises(OutputError, match="exists already"):
        meanwhile()
    assert path.read_text() == "theirs"
    assert left_over(tmp_path) == ["out.fits"]


def test_an_input_is_never_replaced(tmp_path, obs):
    path = tmp_path / "in.fits"
    path.write_text("precious")
    mine = replace(obs, inputs=(InputFile("image", str(path), "0", "00" * 32),))
    with pytest.raises(OutputError, match="is an input"):
        write_fits(estimate(mine), path, observation=mine, overwrite=True)
    assert path.read_text() == "precious"


def test_places_that_cannot_be_written(tmp_path, obs):
    with pytest.raises(OutputError, match=r"directory .* does not exist"):
        write_fits(estimate(obs), tmp_path / "missing" / "out.fits")
    with pytest.raises(OutputError, match="not an ordinary file"):
        write_fits(estimate(obs), tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="not an ordinary file"):
        write_fits(estimate(obs), "/dev/null", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a directory"):
        write_fits(estimate(obs), tmp_path / "file" / "out.fits")


def test_no_permission(tmp_path, obs, monkeypatch):
    # made to happen by the answer of the system, since root may write anywhere
    monkeypatch.setattr(os, "access", lambda *a: False)
    with pytest.raises(OutputError, match="no permission"):
        write_fits(estimate(obs), tmp_path / "out.fits")
    monkeypatch.undo()

    def refuse(name, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    monkeypatch.setattr(builtins, "open", refuse)
    with (
        pytest.raises(OutputError, match=r"cannot write .*: permission denied"),
        atomic_write(tmp_path / "out.fits"),
    ):
        pass
    monkeypatch.undo()
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("failure", "caught"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
@pytest.mark.parametrize("before", [None, "precious"])
def test_nothing_is_left_behind(tmp_path, obs, monkeypatch, failure, caught, before):
    path = tmp_path / "out.fits"
    if before:
        path.write_text(before)

    def fail(self, stream, *args, **kwargs):
        stream.write(b"half of it")
        raise failure

    monkeypatch.setattr(write.fits.HDUList, "writeto", fail)
    with pytest.raises(caught) as raised:
        quiet(estimate(obs), path, overwrite=True)
    if caught is OutputError:
        assert "no space left" in str(raised.value)
        assert "\n" not in str(raised.value)
    assert left_over(tmp_path) == (["out.fits"] if before else [])
    assert not before or path.read_text() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk")
def test_a_disk_that_is_really_full(tmp_path, obs, monkeypatch):
    from invprob import files

    monkeypatch.setattr(files, "_create", lambda name, flags: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(OutputError, match="no space left"):
        quiet(estimate(obs), tmp_path / "out.fits")
    assert left_over(tmp_path) == []


def test_permissions_follow_the_umask(tmp_path, obs):
    old = os.umask(0o027)
    try:
        path = quiet(estimate(obs), tmp_path / "out.fits")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_is_followed(tmp_path, obs):
    target = tmp_path / "target.fits"
    target.write_text("old")
    (tmp_path / "link.fits").symlink_to(target)
    quiet(estimate(obs), tmp_path / "link.fits", overwrite=True)
    assert (tmp_path / "link.fits").is_symlink()
    assert read_images(target)["SCI"].shape == (12, 16)


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
