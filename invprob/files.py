"""Writing a file, or a directory, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from invprob.errors import OutputError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when all of it is on the disk.

    The bytes go to a temporary file in the same directory, which is renamed at the end. On any failure,
    Ctrl-C included, the temporary file is removed and what was at `path` is untouched.

    Parameters
    ----------
    path
        The file to make.
    overwrite
        Whether a file that exists may be replaced.

    Raises
    ------
    OutputError
        When the file exists (and `overwrite` is False), or cannot be written.
    """
    path = Path(path)
    check_writable(path, overwrite)
    target = path.resolve() if path.is_symlink() else path
    temporary = target.with_name(f".invprob-{secrets.token_hex(6)}.tmp")
    try:
        try:
            # not `tempfile`, whose files are private: the result has the permissions of the user's umask
            with open(temporary, "wb", opener=_create) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            _rename(temporary, target, overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise _exists(path) from None
    except OutputError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write {path}: {reason}; choose another place with -o") from error


def check_writable(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse, before any work is done, an output that could not be written.

    Raises
    ------
    OutputError
        When the file exists (and `overwrite` is False), is no ordinary file, or its directory is missing.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"cannot write {path}: it is not an ordinary file; give the name of one")
    if mode is not None and not overwrite:
        raise _exists(path)
    _check_parent(path)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """A directory to be filled, that appears under its name only when all of it is on the disk.

    It is a temporary sibling, which is renamed at the end. On any failure, Ctrl-C included, it is removed and what was
    at `path` is untouched.

    Parameters
    ----------
    path
        The directory to make.
    overwrite
        Whether what exists at `path` may be removed, with all that it holds: it is for the caller to look at it first.

    Raises
    ------
    OutputError
        When there is something at `path` (and `overwrite` is False), or it cannot be written.
    """
    path = Path(path)
    check_directory(path, overwrite)
    target = path.resolve() if path.is_symlink() else path
    temporary = target.with_name(f".invprob-{secrets.token_hex(6)}.tmp")
    old = temporary.with_suffix(".old")
    try:
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                _to_disk(file)
            _to_disk(temporary)
            _replace_directory(temporary, target, old if overwrite and target.exists() else None)
            _to_disk(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OutputError:
        raise
    except OSError as error:
        if not overwrite and os.path.lexists(target):
            raise _exists(path) from None
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write {path}: {reason}; choose another place") from error


def _replace_directory(temporary: Path, target: Path, old: Path | None) -> None:
    """Give the finished directory its name; what had it goes to ``old``, and comes back where that fails."""
    if old is None:
        temporary.rename(target)  # fails where a file, or a directory with something in it, has appeared meanwhile
        return
    try:
        target.rename(old)
        temporary.rename(target)
    except BaseException:
        if not target.exists():
            old.rename(target)
        raise


def check_directory(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse, before any work is done, a directory that could not be made.

    Raises
    ------
    OutputError
        When there is something at `path` (and `overwrite` is False), or its parent is missing or not writable.
    """
    path = Path(path)
    if not overwrite and os.path.lexists(path):
        raise _exists(path)
    _check_parent(path)


def _check_parent(path: Path) -> None:
    parent = path.resolve().parent
    if not parent.is_dir():
        raise OutputError(f"cannot write {path}: the directory {parent} does not exist; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission in the directory {parent}; choose another place")


def _create(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_EXCL, 0o666)


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path} exists already: choose another name, or allow it with --overwrite")


def _rename(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the finished file its name, durably."""
    if overwrite:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)  # unlike a rename, fails if a file has appeared there meanwhile
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            os.replace(temporary, target)
    _to_disk(target.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file or directory is on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
