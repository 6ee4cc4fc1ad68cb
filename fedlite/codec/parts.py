"""What presets and parts of codecs are, in words for people: from their own names, numbers and docstrings."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedlite.compress.presets import COMPRESSORS, FILTERS, PRESETS, SERIALIZERS

_PRESET_NOTES = {
    "int8": "a byte for each weight, a scale for each channel: nothing is lost that matters",
    "int8-tensor": "a byte for each weight, a scale for each tensor: coarser, so smaller",
    "small": "the largest singular values of each layer, entropy coded: hundreds of times smaller, little lost",
    "smallest": "the same with five times the step: less than half of its bytes",
    "sparse": "one step for all weights, most become zero: fast in the simulator, for pruned and narrow networks",
    "exact": "one step, a power of two, so that sums of updates are exact: for the way down",
    "float32": "bit for bit, squeezed: whole models, and the yardstick",
    "plain": "bit for bit, as memory holds it: where nothing travels",
}


class PartNote(NamedTuple):
    """How a part is written, and what it does."""

    usage: str
    text: str


def presets() -> list[PartNote]:
    """Every preset: its parts, and what it is for."""
    notes = ((name, parts, _PRESET_NOTES.get(name, "")) for name, parts in PRESETS.items())
    return [PartNote(f"{name} = {parts}", text) for name, parts, text in notes]


def filters() -> list[PartNote]:
    """Every filter."""
    return _notes(FILTERS)


def serializers() -> list[PartNote]:
    """Every serializer."""
    return _notes(SERIALIZERS)


def squeezers() -> list[PartNote]:
    """Every compressor."""
    return _notes(COMPRESSORS)


def _notes(parts: Mapping[str, Callable[..., Any]]) -> list[PartNote]:
    return [PartNote(_usage(name, make), _text(make)) for name, make in parts.items()]


def _usage(name: str, make: Callable[..., Any]) -> str:
    """`step:deviations=2.0:dead_zone=0.6`: the numbers in order, with what they are when left out."""
    text = name
    for item in inspect.signature(make).parameters.values():
        if item.default is inspect.Parameter.empty:
            text += f":{item.name}"
        elif isinstance(item.default, int | float):
            text += f"[:{item.name}={float(item.default):g}]"
    return text


def _text(make: Callable[..., Any]) -> str:
    """What its module is about, what its own numbers mean, and what is set where `make` is not the class itself."""
    kind, chosen = (make, "") if inspect.isclass(make) else _made(make)
    if kind is None:
        return ""
    about = _first(inspect.getdoc(inspect.getmodule(kind)))
    return f"{about} {_first(inspect.getdoc(kind))}{chosen}"


def _made(make: Callable[..., Any]) -> tuple[type | None, str]:
    """(class, fields that are not as by default) of what it makes, as far as that is known without numbers."""
    try:
        part = make()
    except TypeError:
        kind = getattr(make, "func", None)
        fixed = ", ".join(f"{name} = {value}" for name, value in getattr(make, "keywords", {}).items())
        return kind, f" Here {fixed}." if fixed else ""
    fields = {item.name: (getattr(part, item.name), item.default) for item in dataclasses.fields(part)}
    chosen = ", ".join(f"{name} = {value}" for name, (value, default) in fields.items() if value != default)
    return type(part), f" Here {chosen}." if chosen else ""


def _first(text: str | None) -> str:
    """The first sentence or paragraph, as one line, behind `Filter:`, `Serializer:` or `Compressor:`."""
    line = (text or "").split("\n\n")[0].replace("\n", " ")
    word, _, rest = line.partition(": ")
    return rest[:1].upper() + rest[1:] if word in ("Filter", "Serializer", "Compressor") else line
