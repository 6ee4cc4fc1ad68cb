"""What was changed in a family's network: layers made smaller, layers factorized. Part of a ModelSpec.

A change is (kind, layer, numbers), applied in order to a network of one's own:

| kind | layer | numbers | the layer becomes |
|---|---|---|---|
| size | Linear | outputs, inputs | a smaller one: structured pruning removed channels |
| size | Conv1d, Conv2d | outputs, inputs, groups | likewise |
| size | GroupNorm | channels, groups | likewise |
| size | BatchNorm | channels | likewise |
| rank | Linear, Conv2d | rank | two layers, `<layer>.0` and `<layer>.1`: see fedlite.models.factors |
| fedpara | Linear, Conv2d | rank | one layer whose weight is a product of factors: see fedlite.models.factors |
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from torch import nn

from fedlite.errors import SettingsError
from fedlite.models.factors import FACTORED, factor
from fedlite.models.norms import BatchNorm

Change = tuple[str, str, tuple[int, ...]]

_SIZES: dict[type[nn.Module], tuple[str, ...]] = {  # what a size change holds, as the layer's own attributes
    nn.Linear: ("out_features", "in_features"),
    nn.Conv1d: ("out_channels", "in_channels", "groups"),
    nn.Conv2d: ("out_channels", "in_channels", "groups"),
    nn.GroupNorm: ("num_channels", "num_groups"),
    BatchNorm: ("num_features",),
}
KINDS = ("size", *FACTORED)
MOST = 1000  # changes of one model: more than any has layers
NESTED = 4  # products within products: each makes names longer, and a product of products is one product


def apply_changes(module: nn.Module, changes: Sequence[Change]) -> None:
    """Change layers of `module`, which is this call's own. SettingsError for a layer or number that does not fit."""
    factored: set[str] = set()
    for kind, name, numbers in changes:
        layer = layer_of(module, name)
        if kind in FACTORED:
            _check_depth(name, factored)
            factored.add(name)
        changed = _resized(name, layer, numbers) if kind == "size" else factor(kind, name, layer, numbers)
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, changed)


def layer_of(module: nn.Module, name: str) -> nn.Module:
    """The layer of that name. SettingsError, with the names there are, if there is none."""
    try:
        if name:
            return module.get_submodule(name)
    except AttributeError:
        pass
    some = ", ".join([each for each, layer in module.named_modules() if type(layer) in _SIZES][:12])
    raise SettingsError(f"the model has no layer {name[:80]!r}; there are {some}")


def size_of(layer: nn.Module) -> tuple[int, ...] | None:
    """The numbers of a size change to a layer like this; None for a layer that has none."""
    names = _SIZES.get(type(layer))
    return tuple(int(getattr(layer, each)) for each in names) if names else None


def sizes_between(before: nn.Module, after: nn.Module) -> tuple[Change, ...]:
    """The size changes that make the layers of `before` those of `after`; both have the same layers by name."""
    old = dict(before.named_modules())
    found = ((name, size_of(old[name]), size_of(layer)) for name, layer in after.named_modules())
    return tuple(("size", name, new) for name, was, new in found if new is not None and was != new)


def changes_from_json(raw: Any) -> tuple[Change, ...]:
    """Changes as JSON writes them. SettingsError for anything else."""
    try:
        changes = tuple((str(kind), str(layer), tuple(numbers)) for kind, layer, numbers in raw)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{str(raw)[:80]!r} are no changes: [kind, layer, numbers] wanted") from error
    if len(changes) > MOST:
        raise SettingsError(f"a model has {len(changes)} changes; at most {MOST} are allowed")
    for kind, layer, numbers in changes:
        if kind not in KINDS:
            raise SettingsError(f"unknown change {kind!r} of {layer!r}; there are {', '.join(KINDS)}")
        if not numbers or not all(type(each) is int and each > 0 for each in numbers):
            raise SettingsError(f"{kind} of {layer!r} is {numbers}; positive integers wanted")
    return changes


def _check_depth(name: str, factored: Collection[str]) -> None:
    """SettingsError for a factor of a factor of … that is to be factorized once more than NESTED."""
    outer = [each for each in factored if name.startswith(f"{each}.")]
    if len(outer) >= NESTED:
        raise SettingsError(
            f"layer {name!r} is a product within {NESTED} products; it gets no factors of its own"
        )


def _resized(name: str, layer: nn.Module, numbers: tuple[int, ...]) -> nn.Module:
    """A layer of the same kind and options with other sizes, none of them larger."""
    old = size_of(layer)
    if old is None or len(old) != len(numbers):
        raise SettingsError(f"layer {name!r}, {type(layer).__name__}, has no size {numbers}")
    if any(new > was for new, was in zip(numbers, old, strict=True)):
        raise SettingsError(
            f"layer {name!r} of size {old} cannot become {numbers}: a size change makes smaller"
        )
    return cast(nn.Module, _MAKERS[type(layer)](layer, *numbers))


def _linear(layer: nn.Linear, outputs: int, inputs: int) -> nn.Module:
    return nn.Linear(inputs, outputs, bias=layer.bias is not None)


def _convolution(layer: nn.Conv1d | nn.Conv2d, outputs: int, inputs: int, groups: int) -> nn.Module:
    if inputs % groups or outputs % groups:
        raise SettingsError(f"{inputs} inputs and {outputs} outputs do not divide into {groups} groups")
    options = {each: getattr(layer, each) for each in ("kernel_size", "stride", "padding", "dilation")}
    return type(layer)(inputs, outputs, groups=groups, bias=layer.bias is not None, **options)


def _group_norm(layer: nn.GroupNorm, channels: int, groups: int) -> nn.Module:
    if channels % groups:
        raise SettingsError(f"{channels} channels do not divide into {groups} groups")
    return nn.GroupNorm(groups, channels, eps=layer.eps, affine=layer.affine)


def _batch_norm(layer: BatchNorm, channels: int) -> nn.Module:
    return BatchNorm(channels, layer.stats)


_MAKERS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    BatchNorm: _batch_norm,
}
