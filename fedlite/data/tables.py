"""Tables of numbers: a CSV file with a header and a label column, and single lines."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError

LABEL_NAMES = ("label", "target", "class", "y")
MAX_BYTES = 2**31
CHUNK_ROWS = 4096  # texts are turned to numbers this many rows at a time


def read_csv(
    path: Path, label: str | None = None, *, max_bytes: int = MAX_BYTES
) -> tuple[NDArray[np.float32], list[str]]:
    """(features float32 (n, features), label texts) of a comma-separated UTF-8 file with a header.

    `label` names the label column; else it is the one named label, target, class or y. Empty lines are
    passed over. DataError names the row (the header is row 1) that is ragged, or the row and column that
    do not hold a finite float32.
    """
    if path.stat().st_size > max_bytes:
        raise DataError(f"{path} has {path.stat().st_size} bytes, at most {max_bytes} are read")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            place = _label_place(path, header, label)
            parts = list(_chunks(path, reader, header, place))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file: {error}") from error
    if not parts:
        raise DataError(f"{path} has a header and no rows")
    return np.concatenate([x for x, _ in parts]), [text for _, texts in parts for text in texts]


def _label_place(path: Path, header: list[str], label: str | None) -> int:
    if not header:
        raise DataError(f"{path} is empty; a header and rows wanted")
    if len(set(header)) != len(header):
        raise DataError(f"{path}: two columns have the same name in the header {', '.join(header)}")
    names = (label,) if label is not None else LABEL_NAMES
    found = [
        place for place, name in enumerate(header) if name in names or (not label and name.lower() in names)
    ]
    if len(found) != 1:
        raise DataError(
            f"{path}: {len(found)} columns named {' or '.join(names)} in the header {', '.join(header)}",
            remedy=f"name the label column: {path.name}:COLUMN",
        )
    if len(header) < 2:
        raise DataError(f"{path} has a label column and no features")
    return found[0]


def _chunks(
    path: Path, reader: Iterator[list[str]], header: list[str], place: int
) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
    row = 2
    while rows := list(islice(reader, CHUNK_ROWS)):
        numbered = [(row + offset, cells) for offset, cells in enumerate(rows) if cells]
        row += len(rows)
        for number, cells in numbered:
            if len(cells) != len(header):
                raise DataError(f"{path}: row {number} has {len(cells)} cells, the header {len(header)}")
        if numbered:
            texts = [cells.pop(place).strip() for _, cells in numbered]
            names = [name for column, name in enumerate(header) if column != place]
            yield _numbers(path, numbered, names), texts


def _numbers(path: Path, numbered: list[tuple[int, list[str]]], names: list[str]) -> NDArray[np.float32]:
    cells = [cells for _, cells in numbered]
    try:
        x = to_float32(cells)
    except ValueError:
        x = np.array([[_number_or_nan(cell) for cell in row] for row in cells], dtype=np.float32)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise DataError(f"{path}: row {numbered[row][0]}, column {names[column]!r} is not a finite float32")
    return x


def to_float32(cells: list[list[str]] | list[str]) -> NDArray[np.float32]:
    """Texts as float32; what is too large becomes infinite. ValueError where a text is no number."""
    with np.errstate(over="ignore"):
        return np.array(cells, dtype=np.str_).astype(np.float64).astype(np.float32)


def _number_or_nan(cell: str) -> np.float32:
    try:
        return np.float32(to_float32([cell])[0])
    except ValueError:
        return np.float32(np.nan)
