"""Scenarios by name: TOML files whose first line says what they are."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.errors import SettingsError

FOLDER = Path(__file__).parent


def names() -> dict[str, str]:
    """Every scenario that comes with fedlite → its first line."""
    return {path.stem: describe(path) for path in sorted(FOLDER.glob("*.toml"))}


def find(name: str) -> Path:
    """The file of a scenario of ours, or of one's own (a path to a .toml). SettingsError lists ours."""
    for path in (FOLDER / f"{name}.toml", Path(name)):
        if path.suffix == ".toml" and path.is_file():
            return path
    raise SettingsError(
        f"there is no scenario {name!r}", remedy=f"choose one of {', '.join(names())}, or a .toml file"
    )


def read(path: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(settings, sweep): the sweep maps a setting to the values it takes. SettingsError when it is not that."""
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    sweep = settings.pop("sweep", {})
    if not isinstance(sweep, Mapping) or not all(isinstance(v, list) and v for v in sweep.values()):
        raise SettingsError(f"[sweep] in {path} must give each setting a list of values")
    return settings, dict(sweep)


def describe(path: Path) -> str:
    """The comment a scenario begins with."""
    first = path.read_text("utf-8").splitlines()[:1]
    return first[0].removeprefix("#").strip() if first and first[0].startswith("#") else ""
