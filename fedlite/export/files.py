"""A file that is there whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fedlite.errors import SettingsError


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file in a folder beside `path`, then put it there in one step.

    Whatever `write` raises passes; nothing is left of its file then. SettingsError where the disk refuses.
    """
    with aside(path) as place:
        write(place)
        os.replace(place, path)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A place in a folder beside `path` for a file of that name, which is gone at the end unless it was moved.

    SettingsError where the disk refuses.
    """
    try:
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            yield Path(folder) / path.name
    except OSError as error:
        raise SettingsError(
            f"cannot write {path}: {error.strerror}", remedy="choose another --out"
        ) from error
