"""What is refused, and that a store is written whole or not at all."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from invprob import files
from invprob.errors import ExitCode, OutputError, UsageError
from invprob.files import atomic_directory
from invprob.io import store
from invprob.io.store import read_draws, write_draws
from invprob.observation import InputFile
from invprob.results import Samples
from tests.io.result_samples import estimate, observation


def samples(obs, seed=0, **more):
    draws = np.random.default_rng(seed).normal(size=(6, 12, 16))
    return estimate(obs, kind=Samples, **({"draws": draws, "num_chains": 2} | more))


@pytest.fixture
def obs():
    return observation()


def left_over(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_store_is_replaced_only_on_demand(tmp_path, obs):
    path = write_draws(samples(obs), tmp_path / "draws.zarr")
    with pytest.raises(OutputError, match=r"exists already.*--overwrite") as caught:
        write_draws(samples(obs, 1), path)
    assert caught.value.exit_code is ExitCode.CANNOT_WRITE
    np.testing.assert_array_equal(read_draws(path).images, samples(obs).draws.astype(np.float32))
    write_draws(samples(obs, 1, draws=samples(obs, 1).draws[:4]), path, overwrite=True)
    np.testing.assert_array_equal(read_draws(path).images, samples(obs, 1).draws[:4].astype(np.float32))
    assert left_over(tmp_path) == ["draws.zarr"]


@pytest.mark.parametrize("what", ["folder", "empty", "file", "zarr of others"])
def test_what_is_no_store_of_ours_is_never_replaced(tmp_path, obs, what):
    path = tmp_path / "precious"
    if what == "file":
        path.write_text("precious")
    else:
        path.mkdir()
        if what != "empty":
            (path / "zarr.json").write_text('{"attributes": {}}' if what == "zarr of others" else "precious")
    with pytest.raises(OutputError, match="is not a store of draws and is not replaced"):
        write_draws(samples(obs), path, overwrite=True)
    assert left_over(tmp_path) == ["precious"]
    assert path.is_file() or what == "empty" or (path / "zarr.json").is_file()


def test_an_input_in_a_store_is_never_replaced(tmp_path, obs):
    path = write_draws(samples(obs), tmp_path / "draws.zarr")
    (path / "in.fits").write_text("precious")
    mine = replace(obs, inputs=(InputFile("image", str(path / "in.fits"), "0", "00" * 32),))
    with pytest.raises(OutputError, match="an input of this run"):
        write_draws(samples(mine), path, observation=mine, overwrite=True)
    assert (path / "in.fits").read_text() == "precious"


def test_results_that_cannot_be_written(tmp_path, obs):
    for bad, words in ((estimate(obs), "an estimate without draws"), (samples(obs, draws=None), "holds no draws")):
        with pytest.raises(UsageError, match=words):
            write_draws(bad, tmp_path / "draws.zarr")
    draws = samples(obs).draws.copy()
    draws[4, 2, 1] = np.inf
    with pytest.raises(OutputError, match="values of image are not finite"):
        write_draws(samples(obs, draws=draws), tmp_path / "draws.zarr")
    assert left_over(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path, obs, monkeypatch):
    with pytest.raises(OutputError, match=r"directory .* does not exist"):
        write_draws(samples(obs), tmp_path / "missing" / "draws.zarr")
    # made to happen by the answer of the system, since root may write anywhere
    monkeypatch.setattr(os, "access", lambda *a: False)
    with pytest.raises(OutputError, match="no permission"):
        write_draws(samples(obs), tmp_path / "draws.zarr")
    monkeypatch.undo()

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*: permission denied"):
        write_draws(samples(obs), tmp_path / "draws.zarr")
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
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("at", [3, "rename"])
def test_nothing_is_left_behind(tmp_path, obs, monkeypatch, failure, caught, before, at):
    path = tmp_path / "draws.zarr"
    if before:
        write_draws(samples(obs), path)
    monkeypatch.setattr(store, "CHUNK_BYTES", 12 * 16 * 4)
    number = {"written": 0}
    write, rename = Path.write_bytes, Path.rename

    def failing_write(self, data):
        number["written"] += 1
        if number["written"] == at:
            write(self, data[:5])
            raise failure
        return write(self, data)

    def failing_rename(self, target):
        if at == "rename" and self.suffix == ".tmp":
            raise failure
        return rename(self, target)

    monkeypatch.setattr(Path, "write_bytes", failing_write)
    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(caught) as raised:
        write_draws(samples(obs, 1), path, overwrite=before)
    monkeypatch.undo()
    if caught is OutputError:
        assert "no space left" in str(raised.value) and "\n" not in str(raised.value)
    assert number["written"] >= 3
    assert left_over(tmp_path) == (["draws.zarr"] if before else [])
    if before:
        np.testing.assert_array_equal(read_draws(path).images, samples(obs).draws.astype(np.float32))


def test_what_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "draws.zarr"

    def meanwhile():
        with atomic_directory(path) as folder:
            (folder / "ours").write_text("ours")
            path.mkdir()
            (path / "theirs").write_text("theirs")

    with pytest.raises(OutputError, match="exists already"):
        meanwhile()
    assert left_over(path) == ["theirs"] and left_over(tmp_path) == ["draws.zarr"]


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path, obs, monkeypatch):
    path, safe = tmp_path / "draws.zarr", []
    to_disk = files._to_disk
    monkeypatch.setattr(files, "_to_disk", lambda p: (safe.append((p, path.exists())), to_disk(p)))
    write_draws(samples(obs), path)
    before = {p.name for p, there in safe if not there}
    assert before >= {p.name for p in path.rglob("*")}
    assert [p for p, there in safe if there] == [tmp_path]


def test_a_symbolic_link_is_followed(tmp_path, obs):
    write_draws(samples(obs), tmp_path / "target.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "target.zarr")
    write_draws(samples(obs, 1), tmp_path / "link.zarr", overwrite=True)
    assert (tmp_path / "link.zarr").is_symlink()
    np.testing.assert_array_equal(read_draws(tmp_path / "target.zarr").images, samples(obs, 1).draws.astype(np.float32))


def test_permissions_follow_the_umask(tmp_path, obs):
    old = os.umask(0o027)
    try:
        path = write_draws(samples(obs), tmp_path / "draws.zarr")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o750
    assert (path / "zarr.json").stat().st_mode & 0o777 == 0o640
