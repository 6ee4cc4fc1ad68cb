"""A user's own data: a folder of images by class, an .npz, or a CSV; whole sets and samples that arrive."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite.data import npz
from fedlite.data.base import Dataset, Labels, Samples, Stored, as_is, check_labels, unit_range
from fedlite.data.images import SUFFIXES, read_folder, read_image
from fedlite.data.labels import MAX_CLASSES, as_index, class_names, to_classes, to_model_classes
from fedlite.data.tables import read_csv, to_float32
from fedlite.errors import DataError

FORMS = "a folder with one subfolder of images per class, an .npz with x and y, or a .csv with a label column"
MAX_ARRIVING_BYTES = 2**26  # a file of samples that arrive while the device runs

Shape = tuple[int, ...]


def load_own(path: Path) -> Dataset:
    """Everything under `path`, as one Dataset.

    * A folder: `CLASS/IMAGE` (see `images.read_folder`), float32 (n, 1 or 3, height, width) in 0 … 1.
    * An .npz: `x` (n, …) and `y` (n,), optionally `keys` (n,) and `num_classes`. uint8 `x` are images, (n, h, w),
      (n, c, h, w) or (n, h, w, c), and are divided by 255; floats are taken as they are; other integers
      (n, length) are text.
    * A .csv (see `tables.read_csv`): float32 (n, features); `file.csv:COLUMN` names the label column.

    Labels are class indices, or names in sorted order (`labels.to_classes`); a `classes.txt` beside the CSV or in
    the folder fixes their order. Raises DataError for anything else.
    """
    return load_own_stored(path).open()


def load_own_stored(path: Path) -> Stored:
    """As `load_own`, still narrow where the files are."""
    path, column = _column(path)
    if path.is_dir():
        x, y, num_classes = read_folder(path)
        return Stored(x, y, num_classes, path.name, None, unit_range)
    if not path.is_file():
        raise DataError(f"there is no {path}", remedy=f"give {FORMS}")
    if path.suffix == ".csv":
        table, texts = read_csv(path, column)
        y, num_classes = to_classes(texts, class_names(path.parent), str(path))
        return Stored(table, y, num_classes, path.stem, None, as_is)
    if path.suffix == ".npz":
        return _from_npz(path, npz.MAX_BYTES)
    raise DataError(f"{path} is none of the forms read", remedy=f"give {FORMS}")


def load_samples(path: Path, like_shape: Shape, num_classes: int) -> tuple[Samples, Labels]:
    """(x (n, *like_shape), y (n,)) of a file that arrived: an .npz, a .csv, or one image in its class's folder.

    `like_shape` is one sample of the model's input, without the batch. A CSV row is reshaped to it. Class
    names need a `classes.txt` (beside the CSV, or above the class folders), or all of the model's classes
    present. At most 64 MiB. Raises DataError for anything that does not fit the model.
    """
    path, column = _column(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if (size := path.stat().st_size) > MAX_ARRIVING_BYTES:
        raise DataError(f"{path} has {size} bytes, at most {MAX_ARRIVING_BYTES} are read")
    if path.suffix == ".npz":
        stored = _from_npz(path, MAX_ARRIVING_BYTES)
        check_labels(stored.y, len(stored), num_classes, str(path))
        x, y = stored.open().x, stored.y
    elif path.suffix == ".csv":
        table, texts = read_csv(path, column, max_bytes=MAX_ARRIVING_BYTES)
        x, y = _shaped(table, like_shape, path), to_model_classes(texts, path.parent, num_classes, str(path))
    elif path.suffix.lower() in SUFFIXES:
        x, y = unit_range(read_image(path, like_shape)[None]), _folder_class(path, num_classes)
    else:
        raise DataError(f"{path} is not an .npz, a .csv or an image")
    if x.shape[1:] != like_shape:
        raise DataError(f"{path} holds samples of shape {x.shape[1:]}, the model takes {like_shape}")
    return x, y


def parse_line(line: str, like_shape: Shape, num_classes: int) -> tuple[Samples, Labels]:
    """(x float32 (1, *like_shape), y (1,)) of `label,value,value,…`: the label's index, then the sample.

    Raises DataError unless the label is in [0, num_classes) and as many finite numbers follow as a sample has.
    """
    label, *cells = line.strip().split(",")
    index, wanted = as_index(label.strip()), math.prod(like_shape)
    if index is None or index >= num_classes:
        raise DataError(f"the line does not begin with a class from 0 to {num_classes - 1}")
    if len(cells) != wanted:
        raise DataError(f"the line holds {len(cells)} values after the label, {wanted} wanted")
    try:
        x = to_float32(cells)
    except ValueError:
        x = np.full(1, np.nan, dtype=np.float32)
    if not np.isfinite(x).all():
        raise DataError("the line holds a value that is not a finite float32")
    return x.reshape(1, *like_shape), np.array([index], dtype=np.int64)


def _column(path: Path) -> tuple[Path, str | None]:
    """`file.csv:COLUMN` as (file.csv, COLUMN)."""
    stem, colon, column = path.name.rpartition(".csv:")
    return (path.with_name(stem + ".csv"), column) if colon and not path.exists() else (path, None)


def _from_npz(path: Path, max_bytes: int) -> Stored:
    names = npz.names(path)
    x, y = npz.read(path, "x", max_bytes=max_bytes), npz.read(path, "y", max_bytes=max_bytes)
    num_classes = _num_classes(npz.read(path, "num_classes"), path) if "num_classes" in names else None
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{path}: x has shape {x.shape}, (n, …) with at least one sample wanted")
    labels = check_labels(y, len(x), num_classes or MAX_CLASSES, str(path))
    keys = npz.read(path, "keys", max_bytes=max_bytes) if "keys" in names else None
    if keys is not None:
        if keys.shape != y.shape or keys.dtype.kind not in "iu":
            raise DataError(f"{path}: keys are {keys.dtype} {keys.shape}, integers {y.shape} wanted")
        keys = keys.astype(np.int64)
    number = num_classes or int(labels.max()) + 1
    if x.dtype == np.uint8:
        return Stored(_as_images(x, path), labels, number, path.stem, keys, unit_range)
    return Stored(_as_values(x, path), labels, number, path.stem, keys, as_is)


def _num_classes(value: Samples, path: Path) -> int:
    if value.shape != () or value.dtype.kind not in "iu" or not 0 < int(value) <= MAX_CLASSES:
        raise DataError(f"{path}: num_classes is not one whole number from 1 to {MAX_CLASSES}")
    return int(value)


def _as_images(x: Samples, path: Path) -> Samples:
    """uint8 (n, h, w), (n, c, h, w) or (n, h, w, c) as (n, c, h, w)."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x
    if x.ndim == 4 and x.shape[3] in (1, 3):
        return x.transpose(0, 3, 1, 2)
    raise DataError(
        f"{path}: x is uint8 {x.shape}; images (n, h, w), (n, c, h, w) or (n, h, w, c), c 1 or 3, wanted"
    )


def _as_values(x: Samples, path: Path) -> Samples:
    """Floats as finite float32, integers as int64 indices."""
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values: NDArray[np.float32] = x.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{path}: sample {np.argwhere(~np.isfinite(values))[0][0]} holds NaN or infinity")
        return values
    if x.dtype.kind in "iu" and x.ndim == 2:
        if x.min() < 0 or x.max() >= 2**31:
            raise DataError(f"{path}: x holds indices from {x.min()} to {x.max()}; text is 0 to 2^31 - 1")
        return x.astype(np.int64)
    raise DataError(f"{path}: x is {x.dtype} {x.shape}; uint8 images, floats, or integers (n, length) wanted")


def _shaped(table: NDArray[np.float32], like_shape: Shape, path: Path) -> NDArray[np.float32]:
    if table.shape[1] != math.prod(like_shape):
        raise DataError(f"{path} has {table.shape[1]} features, the model takes {like_shape}")
    return table.reshape(-1, *like_shape)


def _folder_class(path: Path, num_classes: int) -> Labels:
    """The class of an image from its folder's name; the other class folders lie beside it."""
    folder, above = path.absolute().parent, path.absolute().parent.parent
    if class_names(above) is not None or as_index(folder.name) is not None:
        return to_model_classes([folder.name], above, num_classes, str(path))
    names = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and entry.name[0] != ".")
    return to_model_classes(names, above, num_classes, str(path))[[names.index(folder.name)]]
