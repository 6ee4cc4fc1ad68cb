"""A model in one word of the command line: a family's name with options."""

from collections.abc import Mapping

from fedlite.config import parse_shape
from fedlite.errors import SettingsError
from fedlite.models.registry import ModelSpec, Option, resolve, skeleton


def spec_of_text(text: str, defaults: Mapping[str, Option]) -> ModelSpec:
    """`mobilenet_v2:width=0.5,input_shape=3x96x96` as a spec; of `defaults`, the options that the family has.

    SettingsError for an unknown name, option or value.
    """
    name, _, rest = text.partition(":")
    known = dict(resolve(name, {}).options)
    options: dict[str, Option] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals or key not in known:
            raise SettingsError(f"{part!r} is no option of {name!r}; it has {', '.join(known)}, as key=value")
        options[key] = _value(f"{name}.{key}", value, known[key])
    spec = resolve(name, {key: value for key, value in defaults.items() if key in known} | options)
    skeleton(spec)  # says now what does not fit
    return spec


def _value(what: str, text: str, default: Option) -> Option:
    """A word of the command line as its option's type; `resolve` checks its range."""
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        return parse_shape(text)
    try:
        return type(default)(text)
    except ValueError as error:
        raise SettingsError(f"{what} is {text!r}; a number as {default} is wanted") from error
