"""Reading arrays out of an .npz file: plain numbers only, and no memory on the file's word alone."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedlite.errors import DataError

MAX_BYTES = 2**32  # per array: the largest data set here is 0.2 GB

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


def names(path: Path) -> list[str]:
    """The names of the arrays in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _UNREADABLE as error:
        raise DataError(f"{path} is not an .npz file: {error}") from error


def read(path: Path, name: str, *, max_bytes: int = MAX_BYTES) -> NDArray[Any]:
    """One array, read-only. DataError unless it is of bools, integers or floats and as long as it says.

    Object arrays, which would have to be unpickled, are refused by their dtype. The size in the array's
    header must equal what the archive holds, and both stay below `max_bytes`, before memory is taken.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                raise DataError(f"{path} has no array {name!r}; it has {', '.join(names(path)) or 'none'}")
            with archive.open(f"{name}.npy") as file:
                return _read(file, archive.getinfo(f"{name}.npy").file_size, f"{path}: {name!r}", max_bytes)
    except _UNREADABLE as error:
        raise DataError(f"{path}: {name!r} cannot be read: {error}") from error


def _read(file: IO[bytes], file_bytes: int, where: str, max_bytes: int) -> NDArray[Any]:
    shape, fortran, dtype = _header(file, where)
    if dtype.kind not in "biuf":
        raise DataError(f"{where} holds {dtype}; booleans, integers or floats wanted")
    wanted, got = math.prod(shape) * dtype.itemsize, file_bytes - file.tell()
    if wanted != got:
        raise DataError(f"{where} holds {got} bytes of values, {wanted} expected for {dtype} {shape}")
    if wanted > max_bytes:
        raise DataError(f"{where} holds {wanted} bytes, at most {max_bytes} are read")
    values = np.frombuffer(file.read(), dtype=dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise DataError(f"{where} is of .npy version {version}; 1.0 or 2.0 wanted")
