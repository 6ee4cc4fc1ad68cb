"""The image data sets: scikit-learn's digits, MNIST by writer, Fashion-MNIST, CIFAR-10."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data import npz
from fedlite.data.base import Stored, check_labels, holdout, unit_range
from fedlite.data.torchvision_shim import torchvision
from fedlite.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Where an image set lies and what its images are: (height, width) grey or (height, width, 3) colour."""

    torchvision_class: str
    shape: tuple[int, ...]
    writers: str | None = None


IMAGE_SETS = {
    "mnist": ImageSet("MNIST", (28, 28), writers="mnist_writers.npz"),
    "fashion_mnist": ImageSet("FashionMNIST", (28, 28)),
    "cifar10": ImageSet("CIFAR10", (32, 32, 3)),
}
NUM_CLASSES = 10


def digits(split: str) -> Stored:
    """1,438 train and 359 test images (n, 1, 8, 8), pixel values 0 … 16 divided by 16.

    The set of Alpaydin and Kaynak (UCI, 1998) as scikit-learn carries it; the split is `holdout`'s.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("scikit-learn is not installed", remedy="pip install fedlite[digits]") from error
    bunch = load_digits()
    x, y = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
    chosen = holdout(y, split)
    return Stored(x[chosen], y[chosen], NUM_CLASSES, "digits", None, _sixteenths)


def _sixteenths(x: NDArray[Any]) -> NDArray[np.float32]:
    return x.astype(np.float32) / np.float32(16)


def from_npz(name: str, split: str, path: Path) -> Stored:
    """Read `x_train`, `y_train`, `x_test`, `y_test`: uint8 (n, height, width[, 3]) and integers (n,).

    MNIST's `mnist_writers.npz`, where it lies beside, gives `writer_train`, `writer_test` (n,) as keys.
    """
    about = IMAGE_SETS[name]
    images, labels = npz.read(path, f"x_{split}"), npz.read(path, f"y_{split}")
    keys = None
    if about.writers and (beside := path.parent / about.writers).is_file():
        keys = npz.read(beside, f"writer_{split}")
        if keys.shape != labels.shape or keys.dtype.kind not in "iu":
            raise DataError(f"{beside} holds {keys.dtype} {keys.shape}, integers {labels.shape} wanted")
        keys = keys.astype(np.int64)
    return _stored(name, images, labels, keys, str(path))


def from_torchvision(name: str, split: str, root: Path) -> Stored:
    """Read through torchvision's own class, which downloads into `root` what is not there yet.

    torchvision compares what it downloads, and CIFAR-10's pickled files each time, with published MD5 sums.
    """
    about = IMAGE_SETS[name]
    remedy = f"put {name}/{name}.npz into --data-dir, or start once with a network"
    try:
        source = getattr(torchvision().datasets, about.torchvision_class)(
            root=str(root), train=split == "train", download=True
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{name} is not under {root} and cannot be downloaded: {error}", remedy=remedy
        ) from error
    return _stored(name, np.asarray(source.data), np.asarray(source.targets), None, str(root))


def _stored(
    name: str, images: NDArray[Any], labels: NDArray[Any], keys: NDArray[np.int64] | None, where: str
) -> Stored:
    shape = IMAGE_SETS[name].shape
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise DataError(f"{where}: images are {images.dtype} {images.shape}, uint8 (n, {wanted}) wanted")
    y = check_labels(labels, len(images), NUM_CLASSES, where)
    x = images[:, None] if len(shape) == 2 else images.transpose(0, 3, 1, 2)
    return Stored(x, y, NUM_CLASSES, name, keys, unit_range)
