"""The command as a user runs it: what it writes, prints and keeps."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob import __version__
from invprob.cli import app
from tests.small import HAND, HAND_TOML, psf_image, scene, write_image

GROUND = Path(__file__).parents[2] / "data" / "ground.fits"
COMMAND = [sys.executable, "-m", "invprob.cli"]


def environment(cache: Path) -> dict[str, str]:
    """The environment of a command whose compiled programs are kept in a folder of the test's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "INVPROB_"))}
    return {**kept, "XDG_CACHE_HOME": str(cache)}


def on_terminal(arguments: list[str], cache: Path, cwd: Path, *, stop_at: str | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command whose stderr is a terminal; Ctrl-C when a text appears there."""
    ours, theirs = pty.openpty()
    # a shell starts what it runs in the background with SIGINT ignored, and so would be what that starts
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=theirs, env=environment(cache), cwd=cwd,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    seen = ""
    while True:
        try:
            more = os.read(ours, 4096).decode()
        except OSError:  # the other end is closed
            break
        if not more:
            break
        seen += more
        if stop_at is not None and stop_at in seen:
            process.send_signal(signal.SIGINT)
            stop_at = None
    os.close(ours)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    process.stdout.close()
    return process.wait(timeout=60), out, seen.replace("\r\n", "\n")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The main job on the example image, once: its folder, exit code, stdout and stderr."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "hand.toml").write_text(HAND_TOML)
    arguments = [
        "deconvolve", str(GROUND), "--refine", "2", "--config", "hand.toml", "--num-samples", "3", "--seed", "5",
        "-o", "out.fits", "--plot", "out.png", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=folder, env=environment(folder / "cache")
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_the_extensions(job):
    folder, _, _ = job
    shape = fits.getdata(GROUND, "SCI").shape
    with fits.open(folder / "out.fits", checksum=True) as hdus:
        names = ["PRIMARY", "SCI", "ERR", "CONTRACTION", "CONTRACTION_STARLET", "DQ", "MODEL", "RESID", "PSF"]
        assert [h.name for h in hdus] == names
        for name in ("SCI", "ERR", "DQ"):
            assert hdus[name].data.shape == tuple(2 * n for n in shape)
        for name in ("MODEL", "RESID"):
            assert hdus[name].data.shape == shape
        assert (hdus["ERR"].data > 0).all()
        assert hdus["PSF"].data.sum() == pytest.approx(1, abs=0.05)
        residual = hdus["RESID"].data
        chi2 = np.nansum(residual**2)
        assert hdus[0].header["CHI2"] == pytest.approx(chi2)
        bad = (fits.getdata(GROUND, "DQ") != 0) | np.isnan(fits.getdata(GROUND, "SCI"))
        np.testing.assert_array_equal(np.isnan(residual), bad)
        np.testing.assert_array_equal(hdus["DQ"].data, np.kron(bad, np.ones((2, 2))))
        data = fits.getdata(GROUND, "SCI")
        assert hdus["SCI"].data.sum() == pytest.approx(hdus["MODEL"].data.sum(), rel=0.05)
        assert np.nanmean((data - hdus["MODEL"].data)[~bad] ** 2 / fits.getdata(GROUND, "VAR")[~bad]) < 1.2


def test_the_header(job):
    folder, _, _ = job
    header = fits.getheader(folder / "out.fits")
    for name in (
        "CONFIG", "CONFHASH", "INSHA1", "INFILE1", "SEED", "VERSION", "VERJAX", "VERNUMPY",
        "PYVERS", "DEVICE", "SOLVER", "REASON", "STEPS", "STATUS", "REDCHI2", "EDOF",
        "CHI2EDOF", "PRIORAMP", "PRIORSCL", "PRIORSLP", "STRENGTH", "FLUX", "FLUXERR", "NDRAWS",
        "CHI2", "NDATA", "GAP",
    ):  # fmt: skip
        assert name in header, name
    assert header["STATUS"] == "CONVERGED" and header["SEED"] == 5 and header["NDRAWS"] == 3
    assert header["PRIORAMP"] == pytest.approx(HAND["amplitude"]) and header["STRENGTH"] == "set by hand"
    assert "LOGEVID" not in header
    assert header["REDCHI2"] == pytest.approx(header["CHI2"] / header["NDATA"])
    assert header["CHI2EDOF"] == pytest.approx(header["CHI2"] / header["EDOF"])
    assert header["FLUX"] == pytest.approx(fits.getdata(folder / "out.fits", "SCI").sum())
    config = json.loads(header["CONFIG"])
    assert config["refine"] == 2 and config["input"]["image"] == str(GROUND)


def test_the_streams(job):
    folder, out, error = job
    summary = json.loads(out)
    header = fits.getheader(folder / "out.fits")
    assert (summary["out"], summary["plot"], summary["status"]) == ("out.fits", "out.png", "CONVERGED")
    assert summary["advice"] is None and summary["flux"] == header["FLUX"] and summary["steps"] == header["STEPS"]
    for line in error.splitlines():
        assert line.startswith(("solving", "drawing", "warning: ")), line
    assert "\r" not in error and "reduced chi-square" not in error


def test_the_picture(job):
    from matplotlib.image import imread

    folder, _, _ = job
    picture = imread(folder / "out.png")
    assert min(picture.shape[:2]) > 500 and picture[..., :3].std() > 0.1


def test_nothing_else_is_written(job):
    folder, _, _ = job
    assert {p.name for p in folder.iterdir()} == {"hand.toml", "cache", "out.fits", "out.png"}


def test_a_second_run_of_the_same_shape_compiles_nothing(tmp_path):
    """Another image, variance, mask and PSF with everything found from the data; the second on a terminal."""
    first = write_image(tmp_path / "a.fits", scene(0), bad=[(3, 4)])
    second = write_image(tmp_path / "b.fits", 2 * scene(1) + 0.1, psf=psf_image(2.7), bad=[(8, 9), (2, 2)])
    options = ["--refine", "2", "--sky", "fit", "--num-samples", "9"]
    cache = tmp_path / "cache"
    done = subprocess.run(
        [*COMMAND, "deconvolve", str(first), *options, "-o", "a.out.fits"],
        capture_output=True, text=True, cwd=tmp_path, env=environment(cache),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "LOGEVID" in fits.getheader(tmp_path / "a.out.fits") and "SKYERR" in fits.getheader(tmp_path / "a.out.fits")

    def entries() -> set[str]:
        return {str(p) for p in cache.rglob("*") if p.is_file() and not p.name.endswith("-atime")}

    before = entries()
    assert len(before) > 10
    code, out, error = on_terminal(["deconvolve", str(second), *options, "-o", "b.out.fits"], cache, tmp_path)
    assert code == 0, error
    assert entries() - before == set()
    assert out == ""
    assert re.search(r"step +\d+  reduced chi-square +[\d.]+  relative gap", error)
    assert re.search(r"\r  draw 9 of 9\n", error)


def test_ctrl_c_keeps_the_state(tmp_path):
    """Interrupted by a signal during the solve; the same command goes on from there and ends at the same pixels."""
    image = write_image(tmp_path / "image.fits", np.tile(scene(0), (6, 5)))
    (tmp_path / "hand.toml").write_text(HAND_TOML)
    arguments = ["deconvolve", str(image), "--config", "hand.toml", "--refine", "3", "--rtol", "1e-12"]
    cache = tmp_path / "cache"
    code, _, error = on_terminal([*arguments, "-o", "out.fits"], cache, tmp_path, stop_at="reduced chi-square")
    state = tmp_path / "out.fits.state"
    assert code == 130, error
    assert state.is_file() and not (tmp_path / "out.fits").exists()
    assert error.splitlines()[-1].startswith("invprob: interrupted; the state is kept in out.fits.state")
    assert "Traceback" not in error
    code, _, error = on_terminal([*arguments, "-o", "out.fits"], cache, tmp_path)
    assert code == 0, error
    assert not state.exists()
    first = int(re.findall(r"step +(\d+)", error)[0])
    assert first > 8  # went on from there
    code, _, error = on_terminal([*arguments, "-o", "again.fits"], cache, tmp_path)
    assert code == 0
    np.testing.assert_array_equal(fits.getdata(tmp_path / "out.fits", "SCI"), fits.getdata(tmp_path / "again.fits"))
    assert fits.getheader(tmp_path / "out.fits")["STEPS"] == fits.getheader(tmp_path / "again.fits")["STEPS"]


def test_help_is_quick():
    begun = time.process_time()
    for command in ([], ["deconvolve"], ["inspect"], ["simulate"], ["replay"]):
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0 and "Exit codes: 0 done" in result.stdout and result.stderr == ""
    assert time.process_time() - begun < 1.0


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"invprob {__version__}\n")


def test_options_reach_the_configuration(monkeypatch, tmp_path):
    """Every option of the command, over those of a file, as the run gets them."""
    seen = []
    monkeypatch.setattr("invprob.pipeline.run.run", lambda config, *a, **k: seen.append(config) or sys.exit(0))
    (tmp_path / "c.toml").write_text('refine = 4\nslope = 2.0\nseed = 1\n[input]\nimage = "x"\nmask = "m.fits"\n')
    options = {
        "strength": 2.0, "refine": 3, "method": "sample", "num_samples": 7, "seed": 9, "sky": 4.5, "solver": "cg",
        "rtol": 1e-3, "max_steps": 11, "dtype": "float32", "prior": "gaussian",
    }  # fmt: skip
    inputs = {"psf": "p.fits", "variance": "v.fits:std", "noise_std": 0.5, "pixel_scale": 0.2, "psf_pixel_scale": 0.1}
    words = [w for k, v in {**options, **inputs}.items() for w in ("--" + k.replace("_", "-"), str(v))]
    flags = ["--normalize-psf", "--psf-without-pixel", "--config", str(tmp_path / "c.toml")]
    assert CliRunner().invoke(app, ["deconvolve", "image.fits", *words, *flags]).exit_code == 0
    (config,) = seen
    assert {k: getattr(config, k) for k in options} == options
    assert {k: getattr(config.input, k) for k in inputs} == inputs
    assert config.input.normalize_psf and config.input.psf_without_pixel
    assert (config.input.image, config.input.mask, config.slope) == ("image.fits", "m.fits", 2.0)


@pytest.mark.parametrize(
    ("image", "out"),
    [("a.fits", "a"), ("d/a.fits.gz", "a"), ("a.fits.fz[2]", "a"), ("a.fit", "a"), ("a.b.fts[SCI,1]", "a.b")],
)
def test_the_default_name(image, out, monkeypatch):
    seen = []
    monkeypatch.setattr("invprob.pipeline.run.run", lambda config, out, **k: seen.append(out) or sys.exit(0))
    assert CliRunner().invoke(app, ["deconvolve", image]).exit_code == 0
    assert seen == [Path(f"{out}_deconvolved.fits")]


def test_simulate_and_inspect(tmp_path):
    """The commands beside the main one: files that the reader understands, and never written over unasked."""
    arguments = ["simulate", "-o", str(tmp_path), "--size", "20", "--seed", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert {Path(line).name for line in result.stdout.split()} == {"ground.fits", "hubble.fits"}
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 73 and "--overwrite" in again.stderr
    found = CliRunner().invoke(app, ["inspect", str(tmp_path / "ground.fits"), "--json"])
    assert json.loads(found.stdout)["shape"] == [20, 20]
    plain = CliRunner().invoke(app, ["inspect", str(tmp_path / "ground.fits")])
    assert plain.exit_code == 0 and "20 x 20" in plain.stdout
