"""The data sets fedlite knows by name, and where they are looked for."""

import os
from pathlib import Path
from typing import Literal

from fedlite.data.base import Dataset, Stored
from fedlite.data.messages import sms_spam
from fedlite.data.sensors import motionsense
from fedlite.data.text import shakespeare
from fedlite.data.vision import digits, from_npz, from_torchvision
from fedlite.errors import DataError

__all__ = ["KEY_NAMES", "NAMES", "Dataset", "Split", "load", "load_stored"]

Split = Literal["train", "test"]
NAMES: tuple[str, ...] = (
    "digits",
    "mnist",
    "fashion_mnist",
    "motionsense",
    "shakespeare",
    "sms_spam",
    "cifar10",
)
KEY_NAMES = {"mnist": "writer", "motionsense": "subject", "shakespeare": "role"}  # what a natural key is

CACHE = Path("~/.cache/fedlite")  # where torchvision downloads to when no folder is named


def load(name: str, split: Split, data_dir: Path | None = None) -> Dataset:
    """A data set by name.

    | name | x | from | train / test | classes | keys |
    |---|---|---|---|---|---|
    | digits | (n, 1, 8, 8), 0 … 1 | scikit-learn | 1,438 / 359 | 10 | |
    | mnist | (n, 1, 28, 28), 0 … 1 | mnist/mnist.npz | 60,000 / 10,000 | 10 | writer |
    | fashion_mnist | (n, 1, 28, 28), 0 … 1 | fashion_mnist/fashion_mnist.npz | 60,000 / 10,000 | 10 | |
    | cifar10 | (n, 3, 32, 32), 0 … 1 | cifar10/cifar10.npz | 50,000 / 10,000 | 10 | |
    | motionsense | (n, 9, 128), standard | motionsense/motionsense_w128.npz | 8,661 / 2,193 | 6 | subject |
    | shakespeare | (n, 80), indices | shakespeare/tinyshakespeare.txt.gz | 10,125 / 2,437 | 65 | role |
    | sms_spam | (n, 48), tokens | sms_spam/SMSSpamCollection.tsv.gz | 4,460 / 1,114 | 2 | |

    The file is looked for under `data_dir`, else under $FEDLITE_DATA; the three image sets that torchvision
    knows are then read or downloaded by it into that folder (else ~/.cache/fedlite), without writers.
    Raises DataError for an unknown name or split, a missing file, or a file of another form.
    """
    return load_stored(name, split, data_dir).open()


def load_stored(name: str, split: Split, data_dir: Path | None = None) -> Stored:
    """As `load`, in the narrow form of the file: cut a part out of it, then `.open()` the part."""
    if name not in NAMES:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(NAMES)}")
    if split not in ("train", "test"):
        raise DataError(f"there is no split {split!r}; there are train and test")
    if name == "digits":
        return digits(split)
    folder = _folder(data_dir)
    if name == "motionsense":
        return motionsense(_file(folder, "motionsense/motionsense_w128.npz"), split)
    if name == "shakespeare":
        return shakespeare(_file(folder, "shakespeare/tinyshakespeare.txt.gz"), split)
    if name == "sms_spam":
        return sms_spam(_file(folder, "sms_spam/SMSSpamCollection.tsv.gz"), split)
    if folder is not None and (path := folder / name / f"{name}.npz").is_file():
        return from_npz(name, split, path)
    return from_torchvision(name, split, folder or CACHE.expanduser())


def _folder(data_dir: Path | None) -> Path | None:
    if data_dir is None and (named := os.environ.get("FEDLITE_DATA")):
        data_dir = Path(named)
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"{data_dir} is not a folder", remedy="give --data-dir or FEDLITE_DATA a folder")
    return data_dir


def _file(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise DataError(f"{name} is not here", remedy="name its folder by --data-dir or FEDLITE_DATA")
    if not (folder / name).is_file():
        raise DataError(f"{folder / name} is missing", remedy="put it there, or name another --data-dir")
    return folder / name
