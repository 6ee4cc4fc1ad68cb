"""Arrays come out of an .npz as NumPy wrote them; anything else is refused before memory is taken."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npy

from fedlite.data import npz
from fedlite.errors import DataError

NUMBERS = hnp.arrays(
    st.sampled_from(["u1", "i2", "<i8", ">i4", "f2", "f4", "f8", "?"]),
    hnp.array_shapes(min_dims=0, max_dims=4),
)


@settings(max_examples=60, deadline=None)
@given(values=NUMBERS, fortran=st.booleans(), packed=st.booleans())
def test_it_reads_what_numpy_writes(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, fortran: bool, packed: bool
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    ordered = np.asfortranarray(values) if fortran else values
    (np.savez_compressed if packed else np.savez)(path, a=ordered)
    got = npz.read(path, "a")
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)
    assert npz.names(path) == ["a"]


def write_raw(path: Path, header: dict[str, object], body: bytes) -> Path:
    """An .npz whose array header says whatever is asked."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", file.getvalue() + body)
    return path


@pytest.mark.parametrize(
    ("shape", "body", "says"),
    [
        ((10**12,), b"\0" * 8, "holds 8 bytes of values, 1000000000000 expected"),
        ((2,), b"\0" * 3, "holds 3 bytes"),
        ((2,), b"", "holds 0 bytes"),
        ((10**9, 10**9), b"\0", "expected"),
        ((-1,), b"\0", "expected"),
    ],
)
def test_a_header_that_lies_takes_no_memory(
    tmp_path: Path, shape: tuple[int, ...], body: bytes, says: str
) -> None:
    path = write_raw(tmp_path / "a.npz", {"descr": "|u1", "fortran_order": False, "shape": shape}, body)
    tracemalloc.start()
    with pytest.raises(DataError, match=says):
        npz.read(path, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_bomb_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(10_000_000, np.uint8))
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    with pytest.raises(DataError, match="at most 1000000 are read"):
        npz.read(path, "a", max_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


class Trap:
    """Unpickling this would say so."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("the file was unpickled",)


@pytest.mark.parametrize(
    "values", [np.array([Trap()]), np.array(["a"]), np.array([1j]), np.zeros(1, "i4,f4")]
)
def test_only_plain_numbers_are_read(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=values)
    with pytest.raises(DataError, match="booleans, integers or floats wanted"):
        npz.read(path, "a")


def test_a_missing_array_lists_those_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1), y=np.zeros(1))
    with pytest.raises(DataError, match="no array 'z'; it has x, y"):
        npz.read(tmp_path / "a.npz", "z")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + b"\0" * 40])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz"):
        npz.read(path, "a")
    with pytest.raises(DataError, match=r"not an \.npz"):
        npz.names(path)


def test_an_altered_file_never_escapes_as_another_error(tmp_path: Path) -> None:
    """Every byte of the file changed in turn: the same numbers, or a DataError."""
    path = tmp_path / "a.npz"
    values = np.arange(30, dtype=np.int16)
    np.savez_compressed(path, a=values)
    good = path.read_bytes()
    for place in range(len(good)):
        altered = bytearray(good)
        altered[place] ^= 0x41
        path.write_bytes(altered)
        try:
            got = npz.read(path, "a")
        except DataError:
            continue
        np.testing.assert_array_equal(got, values)
