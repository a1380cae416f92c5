"""What is refused, and that an output is written whole or not at all."""

import builtins
import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from invprob.errors import ExitCode, OutputError
from invprob.files import atomic_write
from invprob.io import write
from invprob.io.readback import read_images
from invprob.io.write import write_fits
from invprob.observation import InputFile
from tests.io.result_samples import estimate, observation, quiet


@pytest.fixture
def obs():
    return observation()


def left_over(folder):
    return sorted(p.name for p in folder.iterdir())


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
