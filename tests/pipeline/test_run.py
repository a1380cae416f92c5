"""Files in, files out: interruption and resumption, and the replay from the header."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from invprob.errors import InputError, OutputError
from invprob.io.readback import read_images, same_bytes
from invprob.pipeline.run import Interrupted, replay, run
from invprob.progress import Listener
from tests.small import scene, settings, write_image


@pytest.fixture
def image(tmp_path) -> Path:
    """A small image with a masked pixel."""
    return write_image(tmp_path / "image.fits", bad=[(5, 6)])


@pytest.fixture
def output(image, monkeypatch) -> Path:
    """The output of a run, from the folder where it lies with its input."""
    monkeypatch.chdir(image.parent)
    run(settings(num_samples=3, input={"image": "image.fits"}), "out.fits")
    return image.parent / "out.fits"


class Stop:
    """A listener's step that is stopped by Ctrl-C at the n-th line."""

    def __init__(self, at: int):
        self.left = at

    def __call__(self, _):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_interrupted_and_resumed(image, tmp_path):
    config = settings(rtol=1e-13, refine=2, input={"image": str(image)})
    whole, _ = run(config, tmp_path / "whole.fits")
    out, state = tmp_path / "out.fits", tmp_path / "out.fits.state"
    for at in (1, 2):
        with pytest.raises(Interrupted) as caught:
            run(config, out, listener=Listener(step=Stop(at)))
        assert caught.value.state == state and state.is_file() and not out.exists()
    again, _ = run(config, out)
    assert not state.exists()
    assert again.steps == whole.steps
    np.testing.assert_array_equal(again.image, whole.image)
    assert {p.name for p in tmp_path.iterdir()} == {"image.fits", "whole.fits", "out.fits"}


def test_the_state_of_another_problem(image, tmp_path):
    out = tmp_path / "out.fits"
    with pytest.raises(Interrupted):
        run(settings(input={"image": str(image)}), out, listener=Listener(step=Stop(1)))
    with pytest.raises(InputError, match=r"out\.fits\.state is the checkpoint of another problem or solver: remove it"):
        run(settings(input={"image": str(image)}, slope=2.5), out)
    (tmp_path / "out.fits.state").write_text("nothing")
    with pytest.raises(InputError, match="not a checkpoint"):
        run(settings(input={"image": str(image)}), out)


@pytest.mark.parametrize("stage", ["evidence", "draws"])
def test_interrupted_elsewhere(stage, image, tmp_path):
    """Nothing is left behind where there is no state to keep."""

    def stop(*_):
        raise KeyboardInterrupt

    by_hand = {"amplitude": None, "scale": None, "slope": None} if stage == "evidence" else {}
    config = settings(input={"image": str(image)}, num_samples=2, **by_hand)

    def note(text: str) -> None:
        if stage == "evidence" and text.startswith("evidence search"):
            stop()

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "out.fits", listener=Listener(note=note, draw=stop))
    assert {p.name for p in tmp_path.iterdir()} == {"image.fits"}


def test_an_unwritable_picture_leaves_the_image(image, tmp_path, monkeypatch):
    """A picture that fails at the end does not take the FITS file with it."""

    def fail(*_, **__):
        raise OutputError("no room")

    monkeypatch.setattr("invprob.plot.result.plot_result", fail)
    with pytest.raises(OutputError):
        run(settings(input={"image": str(image)}), tmp_path / "out.fits", plot=tmp_path / "out.png")
    assert (tmp_path / "out.fits").exists() and not (tmp_path / "out.png").exists()


def test_two_runs_give_the_same_bytes_and_the_seed_changes_the_draws_only(image, tmp_path):
    images = {}
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        run(settings(num_samples=3, seed=seed, input={"image": str(image)}), tmp_path / f"{name}.fits")
        images[name] = read_images(tmp_path / f"{name}.fits")
    assert same_bytes(tmp_path / "a.fits", tmp_path / "b.fits")
    for name in ("SCI", "MODEL", "RESID", "PSF", "DQ"):
        np.testing.assert_array_equal(images["a"][name], images["c"][name])
    assert (images["a"]["ERR"] != images["c"]["ERR"]).mean() > 0.9


def test_overwrite(output):
    old = output.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        run(settings(input={"image": "image.fits"}), "out.fits")
    assert output.read_bytes() == old
    run(settings(input={"image": "image.fits"}, seed=3), "out.fits", overwrite=True)
    assert output.read_bytes() != old


def command(*arguments: str):
    return CliRunner().invoke(app, ["replay", *arguments])


def test_replay(output):
    found = replay(output)
    assert (found.identical, found.differences, found.changed) == (True, (), ())
    result = command(str(output))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{output}: same bytes\n"
    assert {p.name for p in output.parent.iterdir()} == {"image.fits", "out.fits"}


def test_a_replay_that_is_interrupted_is_not_one_that_differs(output):
    with pytest.raises(KeyboardInterrupt):
        replay(output, listener=Listener(step=Stop(1)))
    assert {p.name for p in output.parent.iterdir()} == {"image.fits", "out.fits"}


def test_replay_of_a_changed_input(output):
    with fits.open(output.parent / "image.fits", mode="update") as hdus:
        hdus["SCI"].data[3, 3] += 1
    result = command("out.fits")
    assert result.exit_code == 65
    line = result.stderr.splitlines()[-1]
    assert "image.fits" in line and "is not the file that was read: its SHA-256 differs" in line


@pytest.mark.parametrize("name", ["SCI", "ERR", "RESID"])
def test_replay_of_a_changed_output(name, output):
    with fits.open(output, mode="update") as hdus:
        hdus[name].data[3, 3] += 1e-3
    result = command("out.fits", "--quiet")
    assert result.exit_code == 3
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [name]
    assert result.stderr.splitlines() == ["invprob: the replay of out.fits differs"]


def test_replay_of_a_changed_header(output):
    with fits.open(output, mode="update") as hdus:
        hdus[0].header["FLUX"] = 1.0
    result = command("out.fits", "--quiet")
    assert result.exit_code == 3 and "the headers differ, the arrays do not" in result.stdout


def test_replay_of_a_changed_configuration(output):
    with fits.open(output, mode="update") as hdus:
        hdus[0].header["CONFIG"] = hdus[0].header["CONFIG"].replace('"seed":0', '"seed":1')
    result = command("out.fits")
    assert result.exit_code == 65 and "does not match its hash" in result.stderr


@pytest.mark.parametrize(("number", "age"), [(None, "has format 1, which is older"), (99, "format 99, which is newer")])
def test_replay_of_another_format(number, age, output):
    """A file of an earlier version has no card of its format; which version can repeat it is said in one line."""
    with fits.open(output, mode="update") as hdus:
        del hdus[0].header["FORMAT"]
        hdus[0].header["VERSION"] = "0.0.9"
        if number is not None:
            hdus[0].header["FORMAT"] = number
    result = command("out.fits")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 65 and age in line and "with invprob 0.0.9, which wrote it" in line


def test_replay_of_other_versions(output):
    """Another version is said, and the arrays are compared with a tolerance."""
    with fits.open(output, mode="update") as hdus:
        hdus[0].header["VERNUMPY"] = "1.0"
        hdus["SCI"].data[3, 3] *= 1 + 1e-9
    result = command("out.fits", "--quiet")
    assert result.exit_code == 0, result.stdout
    assert "changed: numpy: 1.0 then, " in result.stderr and "agrees to 1e-06" in result.stdout


def test_replay_of_a_truncated_output(output):
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = command("out.fits")
    assert result.exit_code in (3, 65)
    assert "Traceback" not in result.stderr and "unexpected" not in result.stderr


def test_replay_elsewhere(output, tmp_path, monkeypatch):
    """The input beside the output is found, one elsewhere is named with --image; a namesake is passed over."""
    far = tmp_path / "far"
    there, home = far / "there", far / "home"
    for folder in (there, home):
        folder.mkdir(parents=True)
    shutil.move(output, there / "out.fits")
    shutil.move(output.parent / "image.fits", there / "image.fits")
    monkeypatch.chdir(home)
    write_image(home / "image.fits", scene(3))  # a namesake in the current folder
    assert replay(there / "out.fits").identical
    shutil.move(there / "image.fits", far / "moved.fits")
    result = command(str(there / "out.fits"))
    assert result.exit_code == 65 and "image.fits" in result.stderr
    result = command(str(there / "out.fits"), "--image", str(far / "moved.fits"))
    assert result.exit_code == 0, result.stderr
    (home / "image.fits").unlink()
    result = command(str(there / "out.fits"))
    assert result.exit_code == 65 and "was not found: give its place with --image" in result.stderr


def test_replay_of_several_inputs(tmp_path, monkeypatch):
    """PSF, variance and mask in files of their own, moved together; one name begins with another's."""
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "first"
    first.mkdir()
    source = write_image(tmp_path / "source.fits")
    with fits.open(source) as hdus:
        fits.PrimaryHDU(hdus["SCI"].data).writeto(first / "a.fits")
        fits.PrimaryHDU(hdus["PSF"].data).writeto(first / "a.fits.psf.fits")
        fits.PrimaryHDU(np.sqrt(hdus["VAR"].data)).writeto(first / "v.fits")
        fits.PrimaryHDU(hdus["DQ"].data).writeto(first / "m.fits")
    given = {"image": "first/a.fits", "psf": "first/a.fits.psf.fits", "variance": "first/v.fits[0]:std"}
    run(settings(input={**given, "mask": "first/m.fits"}), "out.fits")
    shutil.move(first, tmp_path / "second")
    found = replay("out.fits", image="second/a.fits")
    assert found.identical, found
