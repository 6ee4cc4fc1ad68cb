"""Smaller relatives of a network: its family's options of width and depth, and structured pruning."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from fedlite.errors import SettingsError
from fedlite.models.bridge import initial_params, layout
from fedlite.models.registry import ModelSpec, Option, resolve, skeleton

FACTORS = (0.25, 0.5, 0.75, 1.0)
WIDTHS = ("width", "hidden", "channels", "embedding")  # options that scale how wide layers are, all together
DEPTHS = ("layers", "blocks")  # options that say how many layers there are
MOST = 256  # candidates
Layers = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Candidate:
    """A network and in which words it differs from the one that the search began with."""

    spec: ModelSpec
    label: str


def relatives(base: ModelSpec, ratios: Sequence[float]) -> tuple[list[Candidate], str]:
    """Candidates no larger than `base`, each network once, and why some are missing ("" if none is).

    Widths are FACTORS of the base's; depths are fewer layers; `ratios` are shares of channels that structured
    pruning removes from each of those. SettingsError for a ratio outside [0, 1), more candidates than MOST, or none.
    """
    if odd := [ratio for ratio in ratios if not 0 <= ratio < 1]:
        raise SettingsError(f"a ratio is {odd[0]}; it must be in [0, 1)")
    shapes = list(_shapes(base))
    if len(shapes) * len(ratios) > MOST:
        raise SettingsError(
            f"that are {len(shapes) * len(ratios)} candidates; at most {MOST}, so give fewer --ratios"
        )
    found: dict[Layers, Candidate] = {}
    missing: dict[str, None] = {}
    for ratio, (spec, label) in product(sorted(ratios), shapes):
        try:
            pruned = _pruned(spec, ratio)
            layers = _layers(pruned)
        except SettingsError as error:
            missing.setdefault(f"{label} pruned {ratio:g}: {error.args[0]}")
            continue
        name = f"{label} pruned {ratio:g}" if ratio else label
        found.setdefault(layers, Candidate(pruned, name))
    if not found:
        raise SettingsError(
            f"no candidate is left: {_told(list(missing))}", remedy="give smaller --ratios, with 0 among them"
        )
    return list(found.values()), _told(list(missing))


def _layers(spec: ModelSpec) -> Layers:
    """Names and shapes: of two candidates with the same the one with fewer changes is kept."""
    return tuple((name, like.shape) for name, like in layout(skeleton(spec)).items())


def _told(missing: Sequence[str]) -> str:
    return f"{len(missing)} left out, the first: {missing[0]}" if missing else ""


def _shapes(base: ModelSpec) -> Iterator[tuple[ModelSpec, str]]:
    """The base at every width and depth; the base itself last."""
    options = dict(base.options)
    for factor, shorter in product(FACTORS, _depths(options)):
        changed: dict[str, Option] = dict(shorter)
        for name in WIDTHS:
            if name in options:
                changed[name] = _scaled(changed.get(name, options[name]), factor)
        new = {name: value for name, value in changed.items() if value != options[name]}
        if new and base.changes:
            continue  # changes name layers and sizes of the base: they fit it alone
        if not new and factor < 1:
            continue
        spec = replace(resolve(base.name, options | new), changes=base.changes)
        label = ",".join(f"{name}={_word(value)}" for name, value in sorted(new.items()))
        yield spec, f"{base.name}:{label}" if label else base.name


def _depths(options: Mapping[str, Option]) -> list[dict[str, Option]]:
    """Ways to have fewer layers, the last of which is to have them all."""
    found: list[dict[str, Option]] = []
    for name, value in options.items():
        if name in DEPTHS:
            fewer = dict.fromkeys(_scaled(value, factor) for factor in FACTORS)
            found += [{name: each} for each in fewer if each != value]
        if name in WIDTHS and isinstance(value, tuple):
            found += [{name: value[:count]} for count in range(1, len(value))]
    return [*found, {}]


def _scaled(value: Option, factor: float) -> Option:
    if isinstance(value, tuple):
        return tuple(max(1, round(each * factor)) for each in value)
    if isinstance(value, int):
        return max(1, round(value * factor))
    assert isinstance(value, float)
    return value * factor


def _word(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def _pruned(spec: ModelSpec, ratio: float) -> ModelSpec:
    """The spec with `ratio` of its channels removed; of fresh weights, for it is the sizes that count here."""
    if not ratio:
        return spec
    from fedlite.compress.structured import prune_channels

    return prune_channels(spec, initial_params(skeleton(spec), 0), ratio)[0]
