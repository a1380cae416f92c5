"""`invprob measure` as a user runs it: what it prints and writes, and one line for what it cannot do."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from typer.testing import CliRunner

from invprob.cli import app
from invprob.io.write import config_hash, write_fits
from invprob.measure.measure import measure_image, measure_sources
from invprob.observation import Frame
from invprob.results import Estimate, Samples, Status
from tests.small import HAND_TOML, write_image
from tests.test_import import loaded

SHAPE, FACTOR, SCALE = (18, 20), 2, 0.2
CONFIG = {"seed": 3}
SKY = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": -2.0, "CRPIX1": 10.0, "CRPIX2": 9.0,
    "CD1_1": -SCALE / 3600, "CD2_2": SCALE / 3600,
}  # fmt: skip


def sources(count: int = 50) -> np.ndarray:
    """Draws of two sources in noise, as a file holds them."""
    y, x = np.indices((FACTOR * SHAPE[0], FACTOR * SHAPE[1]))
    image = 90 * np.exp(-((y - 14.2) ** 2 + (x - 13.1) ** 2) / 12) + 60 * np.exp(-((y - 24) ** 2 + (x - 30) ** 2) / 8)
    return (image + np.random.default_rng(1).normal(0, 0.4, (count, *y.shape))).astype(np.float32)


def write(path: Path, draws: np.ndarray | None, unit="electron/s", scale: float | None = SCALE, header=SKY) -> Path:
    """An output of ours with these draws, without any (a MAP) where None."""
    frame = Frame(SHAPE, scale, unit, None if header is None else fits.Header(header)).refine(FACTOR)
    parts = {"image": sources(8).mean(axis=0), "frame": frame}
    facts = (None, Status.CONVERGED, "cg", "", 3, 1.0, 360)
    made = Estimate(*facts, **parts) if draws is None else Samples(*facts, **parts, draws=draws)
    return write_fits(made, path, frame=frame, config=CONFIG, seed=3)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, with draws in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INVPROB_DEBUG", raising=False)
    write(tmp_path / "draws.fits", sources())
    return tmp_path


def run(*arguments: str):
    """A command that has to work."""
    result = CliRunner().invoke(app, ["measure", *arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def refused(code: int, *arguments: str) -> str:
    """The one line on stderr of a command that ends with this code and changes no file."""
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    result = CliRunner().invoke(app, ["measure", *arguments])
    assert result.exit_code == code, (result.stderr, result.exception)
    (line,) = [text for text in result.stderr.splitlines() if not text.startswith("warning: ")]
    assert line.startswith("invprob: ") and result.stdout == ""
    assert {p: p.stat().st_mtime_ns for p in Path().rglob("*")} == before
    return line


def test_the_whole_image_is_the_default(place):
    result = run("draws.fits")
    expected = measure_image(sources(), pixel_scale=SCALE / FACTOR, unit="electron/s")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("draws.fits: 50 draws; centre y 17.")
    assert [line.split()[0] for line in lines[2:]] == ["flux", "x", "y", "r50", "e1", "e2"]
    assert float(lines[2].split()[1]) == pytest.approx(expected["flux"][0], abs=expected["flux"][1] / 10)
    assert "electron/s" in lines[2] and "flux of the whole image" in lines[2] and "arcsec" in lines[5]
    assert result.stderr == "" and {p.name for p in place.iterdir()} == {"draws.fits"}


def test_json_is_what_python_gives(place):
    """Lengths in arcsec and in latent pixels, and a position on the sky."""
    ra, dec = WCS(fits.getheader("draws.fits", "SCI")).pixel_to_world_values(13.3, 14.1)
    options = ["--radec", f"{ra:.9f},{dec:.9f}", "--radius", "0.8arcsec", "--aperture", "3pix", "--aperture", '0.5"']
    found = json.loads(run("draws.fits", *options, "--intervals", "50,90", "--json").stdout)
    expected = measure_image(
        sources(),
        centre=(14.1, 13.3),
        radius=8,
        apertures=(3, 5),
        intervals=(50, 90),
        pixel_scale=0.1,
        unit="electron/s",
    )
    (source,) = found["sources"]
    assert source["centre"] == pytest.approx([14.1, 13.3], abs=1e-4)
    assert list(source["quantities"]) == list(expected.names)
    for name, quantity in source["quantities"].items():
        i = expected.names.index(name)
        assert (quantity["value"], quantity["std"]) == pytest.approx(expected[name], rel=1e-4)
        assert quantity["intervals"]["90"] == pytest.approx(expected.intervals[90][:, i], rel=1e-3)
        assert quantity["unit"] == expected.units[i]
    assert np.array(source["covariance"]) == pytest.approx(expected.covariance, rel=1e-2, abs=1e-7)
    centroid = WCS(fits.getheader("draws.fits", "SCI")).world_to_pixel_values(source["ra"], source["dec"])
    assert [float(c) for c in centroid] == pytest.approx([expected["x"][0], expected["y"][0]], abs=1e-4)
    assert found["sha256"] == hashlib.sha256(Path("draws.fits").read_bytes()).hexdigest()
    assert (found["num_draws"], found["config_hash"]) == (50, config_hash(CONFIG))


def test_the_pixel_is_row_then_column(place):
    found = json.loads(run("draws.fits", "--at", "24,30", "--radius", "5pix", "--json").stdout)["sources"][0]
    assert found["centre"] == [24, 30]
    assert found["quantities"]["y"]["value"] == pytest.approx(24, abs=0.2)
    assert found["quantities"]["x"]["value"] == pytest.approx(30, abs=0.2)


@pytest.mark.parametrize("name", ["table.ecsv", "table.fits"])
def test_the_table_of_one_source(name, place):
    options = ["draws.fits", "--at", "14,13", "--radius", "9pix", "--aperture", "3pix", "-o", name]
    result = run(*options)
    expected = measure_image(
        sources(), centre=(14, 13), radius=9, apertures=(3,), pixel_scale=SCALE / FACTOR, unit="electron/s"
    )
    table = Table.read(name)
    assert [str(n) for n in table["name"]] == list(expected.names)
    np.testing.assert_allclose(table["value"], expected.values, rtol=1e-12)
    np.testing.assert_allclose(table["upper_95"], expected.intervals[95][1], rtol=1e-12)
    digest = hashlib.sha256(Path("draws.fits").read_bytes()).hexdigest()
    if name.endswith(".ecsv"):
        meta = table.meta
        assert (meta["input"], meta["input_sha256"], meta["num_draws"]) == ("draws.fits", digest, 50)
        assert meta["config_hash"] == config_hash(CONFIG) and meta["centre"] == [14, 13]
        covariance, quantities = meta["covariance"], meta["quantities"]
    else:
        with fits.open(name, checksum=True) as hdus:
            header = hdus[0].header
            assert (header["INFILE1"], header["INSHA1"], header["NDRAWS"]) == ("draws.fits", digest, 50)
            assert header["CONFHASH"] == config_hash(CONFIG) and (header["CENTREY"], header["APER1"]) == (14, 3)
            covariance = hdus["COVAR"].data
            quantities = [hdus["COVAR"].header[f"QUANT{i}"] for i in range(1, 8)]
    np.testing.assert_allclose(covariance, expected.covariance, rtol=1e-9, atol=1e-18)
    assert tuple(quantities) == expected.names
    bytes_before = Path(name).read_bytes()
    assert "--overwrite" in refused(73, *options)
    assert run(*options, "--overwrite").stdout == result.stdout
    assert Path(name).read_bytes() == bytes_before
    assert {p.name for p in place.iterdir()} == {"draws.fits", name}


@pytest.mark.parametrize("name", ["found.ecsv", "found.fits"])
@pytest.mark.parametrize("columns", ["sky", "pixels"])
def test_a_catalogue(columns, name, place):
    centres = [(14.0, 13.0), (24.2, 29.9), (80.0, 5.0)]
    if columns == "sky":
        sky = [WCS(fits.getheader("draws.fits", "SCI")).pixel_to_world_values(x, y) for y, x in centres]
        lines = ["ID,RA,Dec,x,y", *(f"s{i},{ra:.9f},{dec:.9f},0,0" for i, (ra, dec) in enumerate(sky))]
    else:
        lines = ["x,y,id", *(f"{x},{y},s{i}" for i, (y, x) in enumerate(centres))]
    (place / "list.csv").write_text("\n".join(lines))
    result = run("draws.fits", "--catalog", "list.csv", "--radius", "0.6arcsec", "-o", name)
    expected = measure_sources(sources(), centres, radius=6, pixel_scale=SCALE / FACTOR, unit="electron/s")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the electron is no unit of the FITS standard
        table = QTable.read(name)
    assert [str(i) for i in table["id"]] == ["s0", "s1", "s2"]
    assert str(table["flux"].unit).replace(" ", "") == "electron/s" and table["x"].unit == "pix"
    for i, one in enumerate(expected[:2]):
        assert [float(table[c].value[i]) for c in ("flux", "flux_std")] == pytest.approx(one["flux"], rel=1e-4)
        assert float(table["r50_lower_68"].value[i]) == pytest.approx(
            one.intervals[68][0, one.names.index("r50")], rel=1e-4
        )
    assert np.isnan(np.ma.filled(table["flux"].value, np.nan)[2]) and "nothing was measured" in str(table["notes"][2])
    assert result.stderr.splitlines() == [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert "warning: source s2: the centre" in result.stderr
    # what was written is a catalogue itself
    (place / name).rename(place / f"again_{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = Table.read(f"again_{name}")[:2]
        again.write(f"again_{name}", overwrite=True)
    found = json.loads(run("draws.fits", "--catalog", f"again_{name}", "--radius", "6pix", "--json", "-q").stdout)
    for one, y, x in zip(found["sources"], again["y"], again["x"], strict=True):
        assert one["centre"] == pytest.approx([y, x], abs=1e-4)


def test_names_that_fits_cannot_hold(place):
    """Any text names a source; one without a name has the number of its row."""
    (place / "list.csv").write_text("id,x,y\nΩ,13,14\n,30,24\n", encoding="utf-8")
    options = ["draws.fits", "--catalog", "list.csv", "--radius", "3pix", "-o"]
    assert run(*options, "found.ecsv").stdout.splitlines()[2].startswith("Ω ")
    run(*options, "found.fits")
    assert list(Table.read("found.ecsv")["id"]) == ["Ω", "2"]
    assert list(fits.getdata("found.fits", "MEASURE")["id"]) == ["\\u03a9", "2"]


def test_surface_brightness_and_missing_scales(place):
    write(place / "bright.fits", sources(), unit="MJy/sr")
    found = json.loads(run("bright.fits", "--json").stdout)["sources"][0]["quantities"]["flux"]
    plain = measure_image(sources())["flux"][0]
    assert found["unit"] == "MJy" and found["value"] == pytest.approx(plain * (0.1 / 206264.806247) ** 2, rel=1e-6)
    write(place / "bare.fits", sources(), unit="MJy/sr", scale=None, header=None)
    result = run("bare.fits")
    assert "warning: fluxes are sums over pixels in MJy pix / sr, not integrals" in result.stderr
    assert "RA" not in result.stdout.splitlines()[0] and "arcsec" not in result.stdout
    scaled = json.loads(run("bare.fits", "--pixel-scale", "0.1", "--radius", "1arcsec", "--json").stdout)
    assert scaled["radius"] == pytest.approx(10) and scaled["sources"][0]["quantities"]["flux"]["unit"] == "MJy"
    assert "does not tell its pixel scale: give --radius in pix" in refused(65, "bare.fits", "--radius", "1arcsec")
    assert "no sky coordinates" in refused(65, "bare.fits", "--radec", "150,-2")


def test_what_is_undefined_is_said(place):
    write(place / "dark.fits", -sources())
    result = run("dark.fits", "--at", "14,13", "--json")
    assert json.loads(result.stdout)["sources"][0]["quantities"]["x"]["value"] is None
    assert "warning: x, y, r50: undefined in 50 of 50 draws" in result.stderr
    assert run("dark.fits", "--at", "14,13", "--quiet").stderr == ""
    assert "nan" in run("dark.fits", "-q").stdout
    assert "give the centre" in refused(2, "dark.fits", "--aperture", "3pix")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--radius", "5"], "--radius 5: say in which unit, 5arcsec or 5pix"),
        (["--aperture", "2pix", "--aperture", "x"], "--aperture x: a length such as 1.5arcsec or 12pix"),
        (["--radius", "-2pix"], "--radius -2pix: a length above 0"),
        (["--aperture", "3 parsec"], "--aperture 3 parsec: a length such as"),
        (["--at", "14"], "--at 14: two numbers are needed, Y,X"),
        (["--at", "nan,3"], "--at nan,3: two numbers"),
        (["--at", "14,40"], "(14.00, 40.00) is not in the image of 36 x 40 pixels"),
        (["--radec", "10h,2d"], "in decimal degrees"),
        (["--radec", "2,150"], "--radec 2,150: no such place; right ascension comes first"),
        (["--radec", "151,-2"], "--radec 151,-2 is not in the image of draws.fits"),
        (["--at", "14,13", "--radec", "150,-2"], "give one of them"),
        (["--catalog", "list.csv"], "--catalog needs --radius"),
        (["--intervals", "68;95"], "--intervals 68;95: numbers with commas"),
        (["--intervals", "0,95"], "an interval of 0 %"),
        (["--pixel-scale", "0"], "--pixel-scale 0: a number of arcsec above 0"),
        (["-o", "table.csv"], "-o table.csv: a table that ends in .ecsv or .fits"),
        (["--nope"], "no such option: --nope"),
    ],
)
def test_bad_options(options, fragment, place):
    assert fragment in refused(2, "draws.fits", *options)


def test_files_without_draws(place):
    write(place / "map.fits", None)
    line = refused(65, "map.fits", "-o", "table.ecsv")
    assert line == "invprob: map.fits holds no draws (it has SCI): make it with `invprob deconvolve --method sample`"
    write(place / "few.fits", sources(5))
    assert "5 draws are too few for an error: at least 8 are needed" in refused(65, "few.fits", "-o", "table.fits")
    write_image(place / "image.fits")
    assert "was not written by invprob" in refused(65, "image.fits")
    assert "none.fits does not exist" in refused(65, "none.fits")
    data = (place / "draws.fits").read_bytes()
    (place / "half.fits").write_bytes(data[: len(data) // 2])
    assert "half.fits" in refused(65, "half.fits", "-o", "table.ecsv")
    run("draws.fits", "-o", "table.fits")
    assert "table.fits holds no draws (it has MEASURE, COVAR)" in refused(65, "table.fits")


@pytest.mark.parametrize(
    ("name", "text", "code", "fragment"),
    [
        ("a.csv", "name,mag\na,20\n", 65, "a.csv needs columns ra and dec, or x and y; it has name, mag"),
        ("a.csv", "x,y\n", 65, "a.csv has no rows"),
        ("a.csv", "x,y\n3,4\n5,\n", 65, "a.csv: column y has no number in row 2"),
        ("a.csv", "x,y\n3,b\n", 65, "a.csv: column y has to be numbers"),
        ("a.csv", "ra,dec\n-2.0,150.0\n", 65, "the declination in row 1 is beyond 90 degrees"),
        ("a.fits", "no table", 65, "a.fits cannot be read as a table"),
        ("a.ecsv", "x y\n3 4\n", 65, "a.ecsv cannot be read as a table"),
        ("a.dat", "x y\n3 4\n", 2, "--catalog a.dat: a table that ends in .ecsv, .csv, .fits"),
        ("none.csv", None, 65, "none.csv does not exist"),
    ],
)
def test_bad_catalogues(name, text, code, fragment, place):
    if text is not None:
        (place / name).write_text(text)
    assert fragment in refused(code, "draws.fits", "--catalog", name, "--radius", "3pix", "-o", "table.ecsv")


def test_outputs_that_cannot_be_written(place, monkeypatch):
    """Seen before anything is read; and a failure in the middle leaves nothing."""
    with monkeypatch.context() as patch:
        patch.setattr("invprob.cli.tables.read_draws", None)
        assert "nowhere does not exist" in refused(73, "draws.fits", "-o", "nowhere/table.ecsv")
        assert "is an input of this run" in refused(73, "draws.fits", "-o", "draws.fits", "--overwrite")
        (place / "list.ecsv").write_text("")
        options = ("draws.fits", "--catalog", "list.ecsv", "--radius", "3pix", "-o", "list.ecsv", "--overwrite")
        assert "is an input of this run" in refused(73, *options)

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("astropy.table.Table.write", fail)
    assert "no space left" in refused(73, "draws.fits", "-o", "table.ecsv")


def test_from_the_image_to_the_table(tmp_path, monkeypatch):
    """A run that samples, and its draws measured: the error of the flux is the exact one of the header."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_image(tmp_path / "image.fits")
    (tmp_path / "hand.toml").write_text(HAND_TOML)
    arguments = ["image.fits", "--config", "hand.toml", "--method", "sample", "--num-samples", "200", "-o", "out.fits"]
    assert CliRunner().invoke(app, ["deconvolve", *arguments]).exit_code == 0
    found = json.loads(run("out.fits", "--json").stdout)["sources"][0]["quantities"]["flux"]
    header = fits.getheader("out.fits")
    assert found["std"] == pytest.approx(header["FLUXERR"], rel=4 / np.sqrt(2 * 199))
    assert found["value"] == pytest.approx(header["FLUX"], abs=4 * header["FLUXERR"] / np.sqrt(200))


def test_measuring_needs_no_jax_and_its_help_nothing(tmp_path):
    path = write(tmp_path / "draws.fits", sources())
    code = "from invprob.cli import app\ntry:\n    app({!r})\nexcept SystemExit:\n    pass"
    used = loaded(code.format(["measure", str(path)]))
    assert "astropy" in used and "jax" not in used
    assert set(loaded(code.format(["measure", "--help"]))) <= {"pydantic"}
