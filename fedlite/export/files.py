"""A file that is there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from fedlite.errors import SettingsError


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file in a folder beside `path`, then put it there in one step.

    Whatever `write` raises passes; nothing is left of its file then. SettingsError where the disk refuses.
    """
    try:
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            place = Path(folder) / path.name
            write(place)
            os.replace(place, path)
    except OSError as error:
        raise SettingsError(
            f"cannot write {path}: {error.strerror}", remedy="choose another --out"
        ) from error
