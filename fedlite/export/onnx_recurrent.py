"""LSTM and GRU as ONNX's own operators, in float32; the gates in ONNX's order. (ONNX operators LSTM, GRU)

PyTorch holds the gates as (input, forget, cell, output) and (reset, update, new); ONNX as (input, output, forget,
cell) and (update, reset, hidden), with linear_before_reset for PyTorch's GRU.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlite.export.onnx_lowering import Lowering

_ORDER = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}


def recurrent(
    low: Lowering, node: Any, x: Any, name: str, hidden: int, layers: int, directions: int
) -> list[str]:
    """All layers of one module, from zeros: (states, last states, last cells), the last empty for a GRU."""
    module = low.module.get_submodule(name)
    assert isinstance(module, nn.LSTM | nn.GRU)
    y = low.graph.add("Transpose", low.name(x), perm=[1, 0, 2])  # time first
    last: list[list[str]] = [[], []]
    for place in range(layers):
        y, ends = _layer(low, module, y, place, hidden, directions)
        for kept, end in zip(last, ends, strict=False):
            kept.append(end)
    states = low.graph.add("Transpose", y, perm=[1, 0, 2])
    return [states, *(low.graph.add("Concat", *each, axis=0) if each else "" for each in last)]


def _layer(
    low: Lowering, module: nn.LSTM | nn.GRU, x: str, place: int, hidden: int, directions: int
) -> tuple[str, list[str]]:
    """One layer, (time, batch, …) → (time, batch, directions · hidden), and its last states."""
    ends = [f"l{place}", f"l{place}_reverse"][:directions]
    weights = [
        torch.stack([_gates(module, f"{part}_{end}") for end in ends]) for part in ("weight_ih", "weight_hh")
    ]
    biases = [torch.cat([_gates(module, f"{part}_{end}") for part in ("bias_ih", "bias_hh")]) for end in ends]
    inputs = [x, *map(low.name, weights), low.name(torch.stack(biases))]
    cells = isinstance(module, nn.LSTM)
    options: dict[str, Any] = {} if cells else {"linear_before_reset": 1}
    if directions == 2:
        options["direction"] = "bidirectional"
    y, *last = low.graph.add_many(
        "LSTM" if cells else "GRU", inputs, 3 if cells else 2, hidden_size=hidden, **options
    )
    turned = low.graph.add("Transpose", y, perm=[0, 2, 1, 3])  # time, batch, directions, hidden
    flat = low.graph.add("Reshape", turned, low.graph.constant([0, 0, directions * hidden], np.int64))
    return flat, last


def _gates(module: nn.LSTM | nn.GRU, name: str) -> Tensor:
    """A weight's blocks of rows in ONNX's order."""
    order = _ORDER[type(module)]
    blocks = module.get_parameter(name).detach().chunk(len(order))
    return torch.cat([blocks[place] for place in order])
