"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
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
    with contextlib.suppress(OSError):
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
