"""Which channels of a network hang together, and the network and its weights without some of them.

Torch-Pruning traces the graph (Fang et al. 2023, "DepGraph"); what it finds is read into plain records, and the
removal is ours: sizes go into the spec, and weights are indexed. Tracing takes no memory: the layers are on the meta
device.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlite.errors import SettingsError
from fedlite.models.bridge import layout
from fedlite.models.changes import Change, size_of
from fedlite.models.registry import ModelSpec, skeleton
from fedlite.tensors import check_finite, check_like
from fedlite.types import Array, Params, is_statistic

Indices = NDArray[np.int64]

PRUNABLE = (  # families whose graph Torch-Pruning reads right; tests prune every one
    "small_cnn",
    "mlp",
    "pooled_cnn",
    "2nn",
    "cnn",
    "lenet_300_100",
    "lenet5",
    "sensor_cnn",
    "mobilenet_v2",
    "slim_resnet",
    "squeezenet",
)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True, eq=False)
class Use:
    """Where channels are in one layer: entry i of `places` along its outputs or inputs is channel `channels[i]`.

    A layer makes channels from others, reads them, or takes each alone, as norms and depthwise convolutions do.
    """

    layer: str
    kind: Literal["made", "alone", "read"]
    places: Indices
    channels: Indices

    @property
    def inputs(self) -> bool:
        """Whether the places are along the layer's inputs."""
        return self.kind == "read"


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can only go everywhere at once. `root` is the layer that makes them; `count` ≥ 1.

    `cells` gives each channel's cell, (count,): channels that the GroupNorms of the group treat alike. As long as
    every cell loses as many, or cells go whole, the norms' groups stay equal.
    """

    root: str
    count: int
    uses: tuple[Use, ...]
    cells: Indices

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose outputs these channels are."""
        return tuple(use.layer for use in self.uses if not use.inputs)


def groups_of(spec: ModelSpec) -> tuple[Group, ...]:
    """The groups of a model whose channels may go, in the order of its layers: all but the outputs.

    SettingsError for a family that cannot be pruned so, and without Torch-Pruning.
    """
    if spec.name not in PRUNABLE:
        raise SettingsError(
            f"a {spec.name!r} cannot lose channels; those that can are {', '.join(PRUNABLE)}",
            remedy="choose another model, or prune single weights",
        )
    if any(kind == "fedpara" for kind, _, _ in spec.changes):
        raise SettingsError(
            "a layer in FedPara's form cannot lose channels", remedy="prune first, factorize then"
        )
    with torch.inference_mode(False):
        module = skeleton(spec).eval()
    names = {layer: name for name, layer in module.named_modules()}
    found = [_group(raw, names) for raw in _traced(module, dict(spec.options)["input_shape"])]
    order = {name: place for place, name in enumerate(names.values())}
    whole = [group for group in found if _feeds(group, module)]
    return tuple(sorted(whole, key=lambda group: order[group.root]))


def without(
    spec: ModelSpec, params: Params, groups: tuple[Group, ...], dropped: Mapping[str, Indices]
) -> tuple[ModelSpec, dict[str, Array]]:
    """The model without the dropped channels, root → channel numbers of its group.

    SettingsError if a layer would be left without channels; UpdateError for params that do not fit the spec or are
    not finite.
    """
    module = skeleton(spec)
    check_params(module, params)
    gone = _gone(groups, dropped)
    changes, kept = [], dict(params)
    for name, layer in module.named_modules():
        old = size_of(layer)
        if old is None or not ((name, False) in gone or (name, True) in gone):
            continue
        keep = {
            inputs: _left(name, _width(layer, inputs), gone.get((name, inputs))) for inputs in (False, True)
        }
        changes.append(("size", name, _sizes(layer, old, keep[False], keep[True])))
        kept |= _cut(name, layer, params, keep)
    earlier = [each for each in spec.changes if not _replaced(each, changes)]
    return replace(spec, changes=(*earlier, *changes)), kept


def check_params(module: nn.Module, params: Params) -> None:
    """UpdateError unless params are this model's, maybe with activation ranges, and finite."""
    shapes = layout(module)
    plain = {name: value for name, value in params.items() if name in shapes or not is_statistic(name)}
    check_like(plain, shapes, "params")
    check_finite(plain, "params")


def _traced(module: nn.Module, shape: Any) -> list[list[tuple[nn.Module, bool, list[int], list[int]]]]:
    """Torch-Pruning's groups: (layer, inputs, places, channels) of each use."""
    try:
        import torch_pruning
    except ImportError as error:
        raise SettingsError(
            "Torch-Pruning is not installed, and channels hang together in ways it finds",
            remedy="pip install fedlite[prune]",
        ) from error
    with torch.inference_mode(False), torch.enable_grad():  # the graph is autograd's
        example = torch.empty(2, *shape, device="meta")
        graph = torch_pruning.DependencyGraph().build_dependency(module, example, verbose=False)
    found = []
    for group in graph.get_all_groups():
        uses = []
        for item in group:
            layer, prunes = item.dep.target.module, item.dep.handler
            inputs = graph.is_in_channel_pruning_fn(prunes) and not graph.is_out_channel_pruning_fn(prunes)
            uses.append((layer, inputs, list(item.idxs), list(item.root_idxs)))
        found.append(uses)
    return found


def _group(raw: list[tuple[nn.Module, bool, list[int], list[int]]], names: dict[nn.Module, str]) -> Group:
    order = {name: place for place, name in enumerate(names.values())}
    uses = [
        Use(names[layer], _kind(layer, inputs), np.array(places, np.int64), np.array(channels, np.int64))
        for layer, inputs, places, channels in raw
        if layer in names and size_of(layer) is not None
    ]
    weighted = {names[layer] for layer, _, _, _ in raw if isinstance(layer, WEIGHTED) and layer in names}
    makers = [use.layer for use in uses if not use.inputs and use.layer in weighted]
    count = 1 + int(max(use.channels.max() for use in uses))
    cells = np.zeros((count, 0), np.int64)
    for layer, _, places, channels in raw:
        if isinstance(layer, nn.GroupNorm):
            cell = np.zeros(count, np.int64)
            cell[channels] = 1 + np.array(places) // (layer.num_channels // layer.num_groups)
            cells = np.column_stack([cells, cell])
    labels = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1) if cells.size else np.zeros(count)
    return Group(min(makers, key=order.__getitem__), count, tuple(uses), labels.astype(np.int64))


def _kind(layer: nn.Module, inputs: bool) -> Literal["made", "alone", "read"]:
    if inputs:
        return "read"
    return "made" if isinstance(layer, WEIGHTED) and not _depthwise(layer) else "alone"


def _feeds(group: Group, module: nn.Module) -> bool:
    """Whether other layers read the channels: those that nobody reads are the model's answer."""
    layers = [module.get_submodule(use.layer) for use in group.uses]
    grouped = any(
        isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups > 1 and not _depthwise(layer)
        for layer in layers
    )
    return any(use.inputs for use in group.uses) and not grouped


def _depthwise(layer: nn.Module) -> bool:
    """A convolution of each channel by itself: its outputs are its inputs."""
    return (
        isinstance(layer, nn.Conv1d | nn.Conv2d)
        and 1 < layer.groups == layer.in_channels == layer.out_channels
    )


def _gone(groups: tuple[Group, ...], dropped: Mapping[str, Indices]) -> dict[tuple[str, bool], Indices]:
    """(layer, inputs) → places that go."""
    gone: dict[tuple[str, bool], Indices] = {}
    for group in groups:
        chosen = np.isin(np.arange(group.count), dropped.get(group.root, []))
        for use in group.uses:
            places = use.places[chosen[use.channels]]
            if places.size:
                key = (use.layer, use.inputs)
                gone[key] = np.union1d(gone.get(key, places), places)
    return gone


def _width(layer: nn.Module, inputs: bool) -> int:
    numbers = size_of(layer) or ()
    return numbers[1] if inputs and isinstance(layer, WEIGHTED) else numbers[0]


def _left(name: str, width: int, gone: Indices | None) -> Indices:
    left = np.arange(width) if gone is None else np.setdiff1d(np.arange(width), gone)
    if not left.size:
        raise SettingsError(f"layer {name!r} would lose all its {width} channels")
    return left


def _sizes(layer: nn.Module, old: tuple[int, ...], outputs: Indices, inputs: Indices) -> tuple[int, ...]:
    """The numbers of the size change."""
    if _depthwise(layer):
        return (outputs.size,) * 3
    if isinstance(layer, nn.GroupNorm):
        held = np.bincount(outputs // (old[0] // old[1]))
        held = held[held > 0]
        even = (held == held[0]).all()
        return outputs.size, held.size if even else math.gcd(outputs.size, old[1])
    return (outputs.size, inputs.size, *old[2:]) if isinstance(layer, WEIGHTED) else (outputs.size,)


def _cut(name: str, layer: nn.Module, params: Params, keep: dict[bool, Indices]) -> dict[str, Array]:
    """The layer's tensors with the channels that are kept."""
    cut = {}
    for part in ("weight", "bias", "running_mean", "running_var"):
        if (value := params.get(f"{name}.{part}")) is not None:
            value = value[keep[False]]
            if part == "weight" and isinstance(layer, WEIGHTED) and not _depthwise(layer):
                value = value[:, keep[True]]
            cut[f"{name}.{part}"] = np.ascontiguousarray(value)
    return cut


def _replaced(earlier: Change, changes: list[Change]) -> bool:
    """Whether a later size change of the same layer says all that an earlier one does."""
    return earlier[0] == "size" and any(earlier[1] == name for _, name, _ in changes)
