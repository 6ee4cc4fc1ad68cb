"""Layers whose weight is a product of smaller ones: two layers in a row, or one of FedPara's.

| kind | of | becomes | parameters |
|---|---|---|---|
| rank | Linear m×n | Linear r×n without bias, then Linear m×r | r (m + n) |
| rank | Conv2d o×i×h×w | Conv2d r×i×h×w without bias, then Conv2d o×r×1×1 | r (i h w + o) |
| fedpara | Linear m×n | W = (X1 Y1ᵀ) ⊙ (X2 Y2ᵀ), whose rank reaches r² | 2 r (m + n) |
| fedpara | Conv2d o×i×h×w | the same on o × (i h w) | 2 r (o + i h w) |

Sources: Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks", §3; Hyeon-Woo et al. 2022,
"FedPara" (ICLR), Proposition 1 and equation 3.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.errors import SettingsError

FACTORED = ("rank", "fedpara")


class HadamardLinear(nn.Module):
    """A dense layer whose weight is (x1 y1ᵀ) ⊙ (x2 y2ᵀ). (FedPara, equation 3)"""

    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        _make(self, outputs, inputs, rank, bias)

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear."""
        return F.linear(x, _weight(self), self.bias)


class HadamardConv2d(nn.Module):
    """A convolution whose kernels, one row for each output, are (x1 y1ᵀ) ⊙ (x2 y2ᵀ). (FedPara, Proposition 1)"""

    bias: nn.Parameter | None

    def __init__(self, like: nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.shape = tuple(like.weight.shape)
        self.options: Any = (like.stride, like.padding, like.dilation)
        columns = self.shape[1] * self.shape[2] * self.shape[3]
        _make(self, self.shape[0], columns, rank, like.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        weight = _weight(self).reshape(self.shape)
        return F.conv2d(x, weight, self.bias, *self.options)


Hadamard = HadamardLinear | HadamardConv2d


def factor(kind: str, name: str, layer: nn.Module, numbers: tuple[int, ...]) -> nn.Module:
    """The factorized form of a layer. SettingsError for a layer that has none, or a rank that saves nothing."""
    if not isinstance(layer, nn.Linear | nn.Conv2d) or len(numbers) != 1:
        raise SettingsError(f"{kind} {numbers} of {name!r}: only Linear and Conv2d layers have one rank")
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise SettingsError(
            f"layer {name!r} is a convolution in {layer.groups} groups, which is not factorized"
        )
    (rank,) = numbers
    rows, columns = layer.weight.shape[0], layer.weight[0].numel()
    if rank > min(rows, columns):
        raise SettingsError(f"{kind} of {name!r} is {rank}; its weight is {rows} by {columns}")
    if kind == "rank":
        return _in_a_row(layer, rank)
    if isinstance(layer, nn.Conv2d):
        return HadamardConv2d(layer, rank)
    return HadamardLinear(columns, rows, rank, layer.bias is not None)


def _in_a_row(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Module:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Sequential(
            nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=bias)
        )
    options = {each: getattr(layer, each) for each in ("kernel_size", "stride", "padding", "dilation")}
    first = nn.Conv2d(layer.in_channels, rank, bias=False, **options)
    return nn.Sequential(first, nn.Conv2d(rank, layer.out_channels, 1, bias=bias))


def _make(layer: nn.Module, rows: int, columns: int, rank: int, bias: bool) -> None:
    """The layer's parameters, without values: fedlite.models.bridge gives the first ones."""
    for name, size in (("x1", rows), ("y1", columns), ("x2", rows), ("y2", columns)):
        layer.register_parameter(name, nn.Parameter(torch.empty(size, rank)))
    layer.register_parameter("bias", nn.Parameter(torch.empty(rows)) if bias else None)


def _weight(layer: nn.Module) -> Tensor:
    # getattr: under functional_call they are tensors, which get_parameter refuses
    x1, y1, x2, y2 = (cast(Tensor, getattr(layer, name)) for name in ("x1", "y1", "x2", "y2"))
    return (x1 @ y1.T) * (x2 @ y2.T)
