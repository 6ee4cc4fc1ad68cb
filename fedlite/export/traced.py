"""A model's forward pass as a graph of ATen operators, its first dimension free; recurrent layers stay whole.

`torch.export` (PyTorch 2) follows the module; an LSTM or GRU would come out as thousands of operators and take
ten seconds, so each is one operator of ours, which whoever reads the graph looks up by the layer's name.
"""

import copy
import logging
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fedlite.errors import SettingsError

RECURRENT = "recurrent"  # the operator's name; arguments: input, the layer's name, hidden, layers, directions


def trace(model: nn.Module, example: Tensor) -> Any:
    """The `torch.export.ExportedProgram` of a model in evaluation mode, for any number of examples.

    `example` is (1 or more, *input shape). SettingsError where no fixed graph follows the forward pass.
    """
    twin = copy.deepcopy(model).eval()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.LSTM | nn.GRU):
            parent, _, child = name.rpartition(".")
            setattr(twin.get_submodule(parent), child, _Whole(name, layer))
    pair = torch.cat([example[:1], example[:1]])
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(twin, (pair,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except SettingsError:
        raise
    except Exception as error:  # whatever a forward pass does that a tracer cannot follow
        raise SettingsError(
            f"the forward pass of {type(model).__name__} is no fixed graph ({error})"[:300],
            remedy="export a model whose forward takes the same path for every batch",
        ) from error


class _Whole(nn.Module):
    """Stands for a recurrent layer while its model is traced."""

    def __init__(self, name: str, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        if not layer.batch_first or layer.proj_size or not layer.bias:
            raise SettingsError(f"recurrent layer {name!r}: only batch_first with biases and no projection")
        self.name, self.cells = name, isinstance(layer, nn.LSTM)
        self.sizes = (layer.hidden_size, layer.num_layers, 2 if layer.bidirectional else 1)

    def forward(self, x: Tensor, state: object = None) -> Any:
        """As nn.LSTM or nn.GRU beginning from zeros, in shapes; the values are zeros."""
        if state is not None:
            raise SettingsError(f"recurrent layer {self.name!r} is given a state; only zeros are known")
        states, last, cell = _operator()(x, self.name, *self.sizes)
        return states, ((last, cell) if self.cells else last)


@cache
def _operator() -> Any:
    def recurrent(
        x: Tensor, name: str, hidden: int, layers: int, directions: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        last = x.new_zeros(layers * directions, x.shape[0], hidden)
        return x.new_zeros(x.shape[0], x.shape[1], hidden * directions), last, last.clone()

    made = torch.library.custom_op(f"fedlite::{RECURRENT}", recurrent, mutates_args=())
    made.register_fake(recurrent)
    return made
