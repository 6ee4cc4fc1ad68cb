"""A frozen dataclass is a program's command line, its TOML file and its record in the results.

    @dataclass(frozen=True)
    class Config:
        rounds: int = option(20, "how many rounds to run")

    config = parse(Config, argv, prog="python -m server", description=__doc__)

Flags win over the TOML file, which wins over defaults. Unknown keys and wrong types are errors. A field may name a
file that sets others, of a class of their own: see `option`.
"""

import argparse
import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fedlite.errors import SettingsError

C = TypeVar("C")


def option(default: Any, help: str, *, metavar: str | None = None, sets: type | None = None) -> Any:
    """A field with a default and the sentence `--help` shows for it.

    With `sets` it names a TOML file with fields of that class, which win over defaults alone. Those that this program
    does not have are checked and passed over: the file is shared among programs. Paths in it are relative to it.
    """
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, "sets": sets})


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a SettingsError like any other."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message, remedy=f"{self.prog} --help lists the options")


def parse(cls: type[C], argv: Sequence[str], *, prog: str, description: str) -> C:
    """Build `cls` from a command line, and from the TOML file that `--config` names."""
    return build(cls, given(cls, argv, prog=prog, description=description))


def given(cls: type, argv: Sequence[str], *, prog: str, description: str) -> dict[str, Any]:
    """Only what a command line, and the TOML file that `--config` names, set."""
    parser = _Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="read options from this file; flags win"
    )
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(typing.cast(Any, cls)):
        _add_argument(parser, item, hints[item.name])
    flags = vars(parser.parse_args(list(argv)))
    file = flags.pop("config")
    values = from_toml(cls, file) if file else {}
    return values | _with_files(cls, flags)


def _with_files(cls: type, values: typing.Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and below them what the files that they name set: see `option`."""
    fields = {item.name: item for item in dataclasses.fields(cls)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        sets = fields[name].metadata.get("sets") if name in fields else None
        if sets is not None and value is not None:
            read = from_toml(sets, value).items()
            found |= {key: _beside(value, each) for key, each in read if key in fields}
    return found | dict(values)


def parse_shape(text: str) -> tuple[int, ...]:
    """`1x28x28` → (1, 28, 28). SettingsError for anything else."""
    parts = text.split("x")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 2**20 for part in parts):
        raise SettingsError(f"{text!r} is no shape; write it as 1x28x28")
    return tuple(map(int, parts))


def _beside(file: Path, value: Any) -> Any:
    """A path as seen from the file that names it."""
    return file.parent / value if isinstance(value, Path) else value


def from_toml(cls: type, path: Path) -> dict[str, Any]:
    """The options a TOML file sets, checked against the fields of `cls`. Keys may use - or _."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return from_mapping(cls, raw, source=str(path))


def from_mapping(cls: type, raw: typing.Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """The options a mapping sets (a TOML table, a Flower run config), checked against the fields of `cls`."""
    hints = typing.get_type_hints(cls)
    known = {item.name: item for item in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name not in known:
            raise SettingsError(f"unknown key {key!r} in {source}; known: {', '.join(sorted(known))}")
        values[name] = _coerce(value, hints[name], f"{key!r} in {source}")
    return _with_files(cls, values)


def record(config: Any) -> dict[str, Any]:
    """The config as plain JSON values: what `config.json` holds."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config), default=str)))


def build(cls: type[C], values: typing.Mapping[str, Any]) -> C:
    """`cls` of these fields, the rest as by default. SettingsError for a field that is not one."""
    try:
        return cls(**values)
    except TypeError as error:
        raise SettingsError(str(error)) from error


def _split(hint: Any) -> tuple[Any, bool]:
    """(the type inside, whether None is allowed)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return inner[0], True
    return hint, False


def _add_argument(parser: argparse.ArgumentParser, item: dataclasses.Field[Any], hint: Any) -> None:
    kind, _ = _split(hint)
    flag = "--" + item.name.replace("_", "-")
    text = item.metadata.get("help", "")
    if item.default not in (None, "", ()) and item.default is not False:
        text += f" [{item.default}]"
    common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        return
    metavar = item.metadata.get("metavar")
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        parser.add_argument(flag, nargs="*", type=element, metavar=metavar, **common)
    elif typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        parser.add_argument(flag, choices=choices, type=type(choices[0]), **common)
    else:
        parser.add_argument(flag, type=kind, metavar=metavar or kind.__name__.upper(), **common)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """A TOML value as the field's type; ints pass for floats and strings for paths, no more."""
    kind, optional = _split(hint)
    if optional and value in (None, ""):
        return None
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_coerce(each, typing.get_args(kind)[0], where) for each in value)
    if typing.get_origin(kind) is typing.Literal:
        if any(value == each and type(value) is type(each) for each in typing.get_args(kind)):
            return value
        raise SettingsError(f"{where} is {value!r}; it can be {', '.join(map(str, typing.get_args(kind)))}")
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise SettingsError(f"{where} is {value!r}, a {type(value).__name__}; {kind.__name__} wanted")
