"""Small private files: written whole and durably with mode 0600, read back only if still private.

Recipe: temporary file → write → fsync → link or rename → fsync of the folder, so that a power cut leaves
the old state or the new one.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from fedlite.errors import SettingsError, StateError, StorageError

MAX_BYTES = 65536


def private_dir(path: Path) -> None:
    """Make the folder (0700) if it is not there; StorageError when the disk refuses."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"cannot make {path}: {error.strerror}",
            remedy=None if full else "give a folder that can be made and written",
        ) from error


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the folder, made if it is not there, against other processes that do the same; a crash lets it go.

    SettingsError, unless `wait`, when another process holds it.
    """
    private_dir(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise SettingsError(
                f"{folder} is in use by another program", remedy="stop that one, or give another folder"
            ) from None
        yield
    finally:
        os.close(handle)


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write `data` with mode 0600, whole or not at all.

    StateError if the file exists and `replace` is false; StorageError when the disk refuses.
    """
    private_dir(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _write_durably(temporary, data)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike rename, fails when the name is taken
        _sync_folder(path.parent)
    except FileExistsError:
        raise StateError(f"{path} exists and is not overwritten") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_private(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The file's bytes. StateError if missing or over `max_bytes`, SettingsError if others may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise StateError(f"{path} is missing") from None
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise SettingsError(f"{path} has mode {mode:04o}, 0600 expected", remedy=f"chmod 600 {path}")
    if len(data) > max_bytes:
        raise StateError(f"{path} holds more than {max_bytes} bytes")
    return data


def _write_durably(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
