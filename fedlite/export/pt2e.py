"""The model as PyTorch's own quantized graph, on the grids it was trained on: what two runtimes' converters take.

PT2E (`torchao`) puts an observer at every place where a runtime has whole numbers, and calibration fills them. Where
a place is the input or the weight of one of our integer layers, the grid is known and stands in for what was observed;
the calibration decides the rest only: sums of two branches, pooled means and the logits.
"""

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlite.compress.integer import IntegerModel
from fedlite.errors import DataError, SettingsError
from fedlite.export.onnx_file import float_module, integer_parts
from fedlite.export.onnx_integer import Parts

CALIBRATION = 64  # examples at most
_TO_INT8 = 128  # our inputs are 0 … 255, these runtimes' −128 … 127
_LEAST, _MOST = -128, 127
_WEIGHT = 127


def quantized(
    model: IntegerModel, calibration: NDArray[Any], quantizer: Any, *, int8_weights: bool = True
) -> Any:
    """A graph with quantize and dequantize operators where `quantizer` (PT2E's) puts them, for one example.

    With `int8_weights` it holds weights as int8, else as float32 that a quantize operator follows.
    `calibration` is (n ≥ 1, *input shape). DataError where the model takes no such examples, SettingsError where
    its forward pass is no fixed graph.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    examples = [torch.from_numpy(np.array(each[None])) for each in calibration[:CALIBRATION]]
    if not examples:
        raise DataError("calibration needs examples; there are 0", remedy="give at least one example")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(exported(float_module(model), examples[0]).module(), quantizer)
        for example in examples:
            prepared(example)
        keep_grids(prepared, integer_parts(model.tensors))
        return convert_pt2e(prepared, fold_quantize=int8_weights)


def exported(module: nn.Module, example: torch.Tensor) -> Any:
    """The `torch.export.ExportedProgram` for examples of exactly this shape; raises as `quantized`."""
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module(example)
    except (RuntimeError, ValueError, IndexError) as error:
        shape = f"{tuple(example.shape[1:])} {example.numpy().dtype}"
        raise DataError(f"the model takes no examples of shape {shape}") from error
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (example,))
    except Exception as error:  # whatever a forward pass does that a tracer cannot follow
        raise SettingsError(
            f"the forward pass is no fixed graph ({error})"[:300],
            remedy="export a model whose forward takes the same path for every batch",
        ) from error


def keep_grids(prepared: Any, layers: dict[str, Parts]) -> None:
    """Put the trained grids in the place of what observers saw. Of two layers with one input the wider counts."""
    widest: dict[nn.Module, float] = {}
    for x, weight, name in _places(prepared, layers):
        parts = layers[name]
        scale = float(parts["act_scale"][0])
        if weight is not None:
            _replace(prepared, weight, _weight_grid(weight, parts))
        if x is not None and scale > widest.get(x, 0.0):
            grid = _fixed(x, scale, int(parts["act_zero_point"][0]) - _TO_INT8)
            _replace(prepared, x, grid)
            widest[grid] = scale


def _places(prepared: Any, layers: dict[str, Parts]) -> Iterator[tuple[Any, Any, str]]:
    """(observer of the input, observer of the weight, layer's name) of each integer layer; None where none is."""
    for node in prepared.graph.nodes:
        if node.op != "call_function" or len(node.args) < 2:
            continue
        weight = _observer(prepared, node.args[1])
        source = node.args[1].args[0] if weight is not None else node.args[1]
        name = str(getattr(source, "target", "")).removesuffix(".weight")
        if name in layers and getattr(source, "op", "") == "get_attr":
            yield _observer(prepared, node.args[0]), weight, name


def _observer(prepared: Any, node: Any) -> Any:
    """The observer that a node of the graph is, or None."""
    if getattr(node, "op", "") != "call_module":
        return None
    found = prepared.get_submodule(node.target)
    return found if hasattr(found, "calculate_qparams") else None


def _replace(prepared: Any, observer: nn.Module, grid: nn.Module) -> None:
    """At every place where this observer is: tensors that only move (pooling, reshaping) share one."""
    for name, each in list(prepared.named_modules(remove_duplicate=False)):
        if each is observer:
            parent, _, child = name.rpartition(".")
            setattr(prepared.get_submodule(parent), child, grid)


def _fixed(observer: Any, scale: float, zero_point: int) -> Any:
    from torchao.quantization.pt2e.observer import FixedQParamsObserver

    return FixedQParamsObserver(scale, zero_point, observer.dtype, observer.qscheme, _LEAST, _MOST)


def _weight_grid(observer: Any, parts: Parts) -> Any:
    """Symmetric, a scale for each output channel."""
    grid = _fixed(observer, 1.0, 0)
    grid.quant_min, grid.quant_max, grid.ch_axis = -_WEIGHT, _WEIGHT, observer.ch_axis
    grid.scale = torch.tensor(parts["weight_scale"])
    grid.zero_point = torch.zeros(len(grid.scale), dtype=torch.int64)
    return grid
