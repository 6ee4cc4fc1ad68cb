"""From label texts to class indices: one rule for folders of images, tables, and samples that arrive."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedlite.data.base import Labels
from fedlite.errors import DataError

CLASSES_FILE = "classes.txt"
MAX_CLASSES = 2**16


def class_names(folder: Path) -> tuple[str, ...] | None:
    """The lines of `classes.txt` in this folder, or None: it fixes the order where a device lacks classes."""
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = tuple(path.read_text("utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    names = tuple(name.strip() for name in names if name.strip())
    if not names or len(set(names)) != len(names):
        raise DataError(f"{path} must list each class once, one to a line")
    return names


def as_index(text: str) -> int | None:
    """The class index that a label text is (`3`, or `3.0` as some tables write it), or None for a name."""
    text = text.removesuffix(".0")
    if text.isascii() and text.isdigit() and int(text[:6]) < MAX_CLASSES and len(text) <= 6:
        return int(text)
    return None


def to_classes(texts: Sequence[str], names: tuple[str, ...] | None, where: str) -> tuple[Labels, int]:
    """(class indices, number of classes) of these label texts.

    With `names` (from classes.txt) a label is its place in them. Without, whole numbers are the indices
    themselves, and anything else is a name: the distinct names, sorted, are 0, 1, ….
    """
    distinct = sorted(set(texts))
    if names is None:
        indices = {text: index for text in distinct if (index := as_index(text)) is not None}
        if len(indices) == len(distinct):
            return np.array([indices[text] for text in texts], dtype=np.int64), max(indices.values()) + 1
        names = tuple(distinct)
    table = {name: place for place, name in enumerate(names)}
    if odd := [text for text in distinct if text not in table]:
        raise DataError(f"{where}: class {odd[0]!r} is not in {CLASSES_FILE}, which lists {', '.join(names)}")
    return np.array([table[text] for text in texts], dtype=np.int64), len(names)


def to_model_classes(texts: Sequence[str], folder: Path, num_classes: int, where: str) -> Labels:
    """Class indices for a model of `num_classes`; names count only where their order is certain.

    It is certain from classes.txt, or when every class of the model is among them.
    """
    names = class_names(folder)
    y, count = to_classes(texts, names, where)
    named = names is None and any(as_index(text) is None for text in texts)
    if named and count != num_classes:
        raise DataError(
            f"{where} names {count} classes, the model has {num_classes}",
            remedy=f"list the model's classes in {folder / CLASSES_FILE}, one to a line, in order",
        )
    if len(y) and y.max() >= num_classes:
        raise DataError(f"{where} holds class {y.max()}, the model has classes 0 to {num_classes - 1}")
    return y
