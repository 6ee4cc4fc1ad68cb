"""The integer model as one ONNX file: int8 weights, int32 biases, uint8 between layers. (ONNX opset 21, QDQ form)

The grids are those the model was trained on, so nothing is calibrated again; the number of examples is free, all
other sizes are those of the example given.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlite.compress.integer import IntegerModel
from fedlite.errors import DataError, SettingsError
from fedlite.export.onnx_graph import to_bytes
from fedlite.export.onnx_integer import Parts, settle
from fedlite.export.onnx_lowering import lower
from fedlite.export.onnx_rules import rules
from fedlite.export.traced import trace
from fedlite.models.registry import build

INPUT = "x"
_PARTS = ("weight", "bias", "weight_scale", "act_scale", "act_zero_point")


def onnx_bytes(model: IntegerModel, example: NDArray[Any]) -> bytes:
    """The file of a model that takes examples like `example`, (n ≥ 1, *input shape), dtype and all.

    The same model and shape give the same bytes. SettingsError for an operator without an ONNX form, named, or a
    forward pass that is no fixed graph.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            "writing ONNX needs the package onnx", remedy="pip install fedlite[export]"
        ) from error
    module = float_module(model)
    _check_example(module, example)
    program = trace(module, torch.from_numpy(example[:1].copy()))
    floats = {name: value for name, value in model.tensors.items() if value.dtype == np.float32}
    graph, entry, outputs = lower(module, program, floats, integer_parts(model.tensors), rules())
    settle(graph, [name for name, _ in outputs])
    shaped = [(name, ["batch" if size == -1 else size for size in sizes]) for name, sizes in outputs]
    inputs = (entry, example.dtype, ["batch", *example.shape[1:]])
    return to_bytes(graph, inputs, shaped, {"fedlite": model.spec.to_json()})


def _check_example(module: nn.Module, example: NDArray[Any]) -> None:
    """DataError unless the model takes an example like this."""
    try:
        with torch.no_grad():
            module(torch.from_numpy(example[:1].copy()))
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"the model takes no examples of shape {example.shape[1:]} {example.dtype}"
        ) from error


def integer_parts(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Parts]:
    """The tensors of each integer layer, by the layer's name."""
    layers = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
    return {
        name: {part: tensors[f"{name}.{part}"] for part in _PARTS if f"{name}.{part}" in tensors}
        for name in layers
    }


def float_module(model: IntegerModel) -> nn.Module:
    """The model's layers in float32, in evaluation mode, on the weights as rounded: for a runtime's own converter.

    Only the rounding of each layer's input is missing; its grid is `<layer>.act_scale` and `.act_zero_point`.
    """
    module = build(model.spec).eval()
    held = dict(model.tensors)
    for name, parts in integer_parts(model.tensors).items():
        scale = parts["weight_scale"]
        held[f"{name}.weight"] = parts["weight"] * scale.reshape(-1, *[1] * (parts["weight"].ndim - 1))
        if "bias" in parts:
            held[f"{name}.bias"] = parts["bias"] * (scale * parts["act_scale"])
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(torch.from_numpy(np.array(held[name], np.float32)))
    return module
