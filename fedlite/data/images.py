"""Images in files: one, or a folder with a subfolder for each class. Pillow is imported when needed."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.labels import class_names, to_classes
from fedlite.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm"})
MAX_PIXELS = 2**24
MAX_BYTES = 2**32

_MODES = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "P": "RGB",
    "RGB": "RGB",
    "RGBA": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}

Shape = tuple[int, ...]


def read_image(path: Path, like: Shape | None = None) -> NDArray[np.uint8]:
    """uint8 (channels, height, width): 1 channel for grey, 3 for colour; transparency is dropped.

    DataError unless it is an image of 8 bits a channel and at most 2^24 pixels, and of shape `like` when
    that is given. Size and kind are read from its head before it is decoded.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("Pillow is not installed", remedy="pip install fedlite[vision]") from error
    try:
        with Image.open(path) as image:
            shape = _shape(path, image.mode, image.size)
            if like is not None and shape != like:
                raise DataError(
                    f"{path} has shape {shape} (channels, height, width), {like} wanted",
                    remedy="bring all images to one size and to grey or colour",
                )
            pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"), dtype=np.uint8)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"{path} is not an image that can be read: {type(error).__name__}") from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _shape(path: Path, mode: str, size: tuple[int, int]) -> Shape:
    width, height = size
    if width * height > MAX_PIXELS:
        raise DataError(f"{path} has {width} x {height} pixels, at most {MAX_PIXELS} are read")
    if mode not in _MODES:
        raise DataError(f"{path} is of kind {mode}; 8 bits a channel wanted", remedy="save it as 8-bit PNG")
    return (1 if _MODES[mode] == "L" else 3, height, width)


def read_folder(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """(x uint8 (n, channels, height, width), y, number of classes) of `folder`/CLASS/IMAGE.

    Classes are the subfolders by the rule of `labels.to_classes`; an empty one still counts. Files are taken
    in the order of their names, hidden ones passed over. DataError names the first file that is no image,
    or not of the size and colour of the others.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise DataError(f"{folder} has no subfolders", remedy="put the images into one subfolder per class")
    classes, num_classes = to_classes(names, class_names(folder), str(folder))
    files = [_images(folder / name) for name in names]
    paths = [path for members in files for path in members]
    if not paths:
        raise DataError(f"{folder} has no image in its subfolders {', '.join(names)}")
    x = _read_all(paths)
    return x, np.repeat(classes, [len(members) for members in files]), num_classes


def _images(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise DataError(f"{path} is not an image file ({', '.join(sorted(SUFFIXES))})")
    return paths


def _read_all(paths: list[Path]) -> NDArray[np.uint8]:
    first = read_image(paths[0])
    if first.nbytes * len(paths) > MAX_BYTES:
        raise DataError(f"{len(paths)} images of {first.nbytes} bytes are more than the {MAX_BYTES} allowed")
    x: NDArray[Any] = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for place, path in enumerate(paths):
        x[place] = read_image(path, first.shape)
    return x
