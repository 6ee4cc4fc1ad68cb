"""Integer-aware training: a forward pass in float32 that rounds as the deployed integer model will.

Every Linear, Conv1d and Conv2d rounds its input to uint8 (affine, one range per layer), its weight to integers of
2 to 8 bits (symmetric, one scale per output channel, or one for all) and its bias to int32. Norms, activations and
pooling stay float32, and so do the weights of LSTM and Embedding layers. The ranges are statistics:
`<layer>.act_range`, [min, max]. Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", cited below as Jacob.
"""

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.errors import SettingsError
from fedlite.train_settings import BITS

RANGE_MOMENTUM = 0.9  # range ← 0.9 · range + 0.1 · batch range; a range of (0, 0) is none yet and is replaced
LEAST_STEP = 2.0**-64  # a smaller scale counts as none and becomes 1: its inverse must not overflow float32
LEVELS = 255  # of an activation: 0 … 255
LIMIT = 127  # of a weight of 8 bits: −127 … 127, so that its negative is there too
NORMAL_PEAKS = {2: 1.224, 3: 3 * 0.6508, 4: 7 * 0.3534}  # bits → largest level, in standard deviations
BIAS_LIMIT = 2**30  # half of int32: what the products add has the other half


class Grid(NamedTuple):
    """real = scale · (integer − zero_point); integers in [low, high]."""

    scale: Tensor  # () for activations, (channels, 1, …) for weights; > 0
    zero_point: Tensor  # (), a whole number
    low: float
    high: float


def activation_grid(act_range: Tensor) -> Grid:
    """The uint8 grid of [min, max], widened to hold 0 and shifted so that 0 is on it. (Jacob §3.1)"""
    low, high = act_range[0].clamp(max=0), act_range[1].clamp(min=0)
    scale = _step((high - low) / LEVELS)
    return Grid(scale, torch.round(-low / scale).clamp(0, LEVELS), 0, LEVELS)


def limit(bits: int) -> int:
    """The largest integer of a weight of `bits`, and less its sign the smallest: 127 at 8, 7 at 4, 1 at 2."""
    return (1 << bits - 1) - 1


def weight_grid(
    weight: Tensor, bias: Tensor | None, input_scale: Tensor, bits: int = 8, per_channel: bool = True
) -> Grid:
    """The grid of each output channel: symmetric, so 0 stays 0 and a pruned weight pruned.

    At 5 bits and more scale = max|w| / limit(bits); see `_peak` for fewer. A channel of tiny weights gets a wider
    step where its bias, in steps of input_scale · scale, would else leave int32; an empty channel without a bias
    gets 1. Unless `per_channel`, all have the widest one's step.
    """
    scale = _peak(weight.detach(), bits) / limit(bits)
    if bias is not None:
        scale = torch.maximum(scale, bias.detach().abs() / input_scale / BIAS_LIMIT)
    if not per_channel:
        scale = scale.amax().expand_as(scale)
    shape = (-1, *[1] * (weight.ndim - 1))
    return Grid(_step(scale).reshape(shape), torch.zeros_like(input_scale), -limit(bits), limit(bits))


def _peak(weight: Tensor, bits: int) -> Tensor:
    """The magnitude of each channel that the largest integer stands for: what is beyond it is clipped.

    That is the largest weight, but where bits are few not more than fits best, in mean square, what is normally
    distributed (Max 1960, Table II, a quantizer of 2^bits − 1 equal steps). Pruned weights are left out of that.
    """
    rows = weight.abs().flatten(1)
    largest = rows.amax(1)
    if bits not in NORMAL_PEAKS:
        return largest
    live = (rows > 0).sum(1).clamp(min=1)
    return torch.minimum(largest, NORMAL_PEAKS[bits] * (rows.square().sum(1) / live).sqrt())


def _step(scale: Tensor) -> Tensor:
    return torch.where(scale > LEAST_STEP, scale, torch.ones_like(scale))


def bias_grid(weights: Grid, inputs: Grid) -> Grid:
    """The int32 grid on which a bias is added to products of the two. (Jacob §2.4)"""
    scale = weights.scale.flatten() * inputs.scale
    return Grid(scale, torch.zeros_like(inputs.scale), -BIAS_LIMIT, BIAS_LIMIT)


def to_steps(value: Tensor, grid: Grid) -> Tensor:
    """integer − zero_point, as whole float32 numbers: halves go to even, what is outside to the end."""
    return (torch.round(value / grid.scale) + grid.zero_point).clamp(grid.low, grid.high) - grid.zero_point


class _FakeQuantize(torch.autograd.Function):
    """value → scale · steps; the gradient passes straight through where value was within the grid. (Jacob §3)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, scale: Tensor, zero_point: Tensor, low: float, high: float) -> Any:
        wanted = (value / scale).round_().add_(zero_point)
        taken = wanted.clamp(low, high)
        inside = wanted == taken
        return taken.sub_(zero_point).mul_(scale), inside

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Any:
        return gradient * ctx.saved_tensors[0].view(torch.uint8), None, None, None, None


class _RoundToStep(torch.autograd.Function):
    """value → scale · round(value / scale): the same for a symmetric grid that holds every value."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, scale: Tensor) -> Any:
        return (value / scale).round_().mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


def fake_quantize(value: Tensor, grid: Grid) -> Tensor:
    """`value` rounded to `grid`, with a straight-through gradient; the same numbers as scale · to_steps."""
    return cast(Tensor, _FakeQuantize.apply(value, *grid)[0])  # type: ignore[no-untyped-call]


class _Rounding(nn.Module):
    """What the rounded layers have besides their weights."""

    act_range: Tensor  # (2,): [min, max] of the input
    bits = 8  # of the weight
    per_channel = True  # whether each output channel's weights have a step of their own

    def grid(self, inputs: Grid) -> Grid:
        """The weight's, beside inputs on `inputs`."""
        weight, bias = cast(Tensor, self.weight), cast("Tensor | None", self.bias)
        return weight_grid(weight, bias, inputs.scale, self.bits, self.per_channel)


class RoundedLinear(_Rounding, nn.Linear):
    """Linear on rounded input, weight and bias."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear."""
        return F.linear(*_operands(self, x))


class RoundedConv1d(_Rounding, nn.Conv1d):
    """Conv1d on rounded input, weight and bias; padding is 0, which is on every grid."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv1d."""
        return cast(Tensor, self._conv_forward(*_operands(self, x)))


class RoundedConv2d(_Rounding, nn.Conv2d):
    """Conv2d on rounded input, weight and bias; padding is 0, which is on every grid."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        return cast(Tensor, self._conv_forward(*_operands(self, x)))


Rounded = RoundedLinear | RoundedConv1d | RoundedConv2d
_ROUNDED: dict[type, type] = {nn.Linear: RoundedLinear, nn.Conv1d: RoundedConv1d, nn.Conv2d: RoundedConv2d}
_FLOAT = {rounded: plain for plain, rounded in _ROUNDED.items()}


def _round_to_step(value: Tensor, grid: Grid) -> Tensor:
    return cast(Tensor, _RoundToStep.apply(value, grid.scale))  # type: ignore[no-untyped-call]


def _operands(layer: Rounded, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias, rounded.

    In training mode `act_range` moves first, by assignment: under functional_call the new range is then in the
    caller's dict, and the module is left alone. An input without a range passes as it is; in training that
    can only be a batch of zeros, which rounding leaves alone.
    """
    if layer.training:
        layer.act_range = _moved(layer.act_range, x.detach())
    grid = activation_grid(layer.act_range)
    rounded = fake_quantize(x, grid)
    x = rounded if layer.training else torch.where((layer.act_range != 0).any(), rounded, x)
    weight, bias = layer.weight, layer.bias
    steps = layer.grid(grid)
    if bias is not None:
        bias = _round_to_step(bias, bias_grid(steps, grid))
    weight = _round_to_step(weight, steps) if layer.bits == 8 else fake_quantize(weight, steps)
    return x, weight, bias


def _moved(act_range: Tensor, x: Tensor) -> Tensor:
    seen = torch.stack(torch.aminmax(x))
    blend = RANGE_MOMENTUM * act_range + (1 - RANGE_MOMENTUM) * seen
    return torch.where((act_range != 0).any(), blend, seen)


def is_prepared(model: nn.Module) -> bool:
    """Whether any layer rounds."""
    return any(isinstance(layer, Rounded) for layer in model.modules())


def at(model: nn.Module, bits: int, per_channel: bool | None = None) -> nn.Module:
    """A copy of `model` that computes at 32 bits (float), or rounding weights to `bits` of 2 to 8.

    Inputs are rounded to 8 bits whatever the weights are. Weights have a step per output channel, or per tensor
    without `per_channel`; None leaves that as it is, per channel at first. Below 32 its `params_of` hold an
    `act_range` per rounded layer, (0, 0) where none was measured; at 32 none. SettingsError for another number of
    bits, or when there is nothing to round.
    """
    if bits not in BITS:
        raise SettingsError(f"bits is {bits}; models compute at 32 (float32) or at 2 to 8 (integer-aware)")
    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if bits < 32 and type(layer) in _ROUNDED:
            layer.__class__ = _ROUNDED[type(layer)]
            layer.register_buffer("act_range", torch.zeros(2, device=cast(Tensor, layer.weight).device))
        elif bits == 32 and isinstance(layer, Rounded):
            layer.__class__ = _FLOAT[type(layer)]
            del layer.act_range
        if isinstance(layer, Rounded):
            layer.bits = bits
            layer.per_channel = layer.per_channel if per_channel is None else per_channel
    if bits < 32 and not is_prepared(twin):
        raise SettingsError(f"{type(model).__name__} has no Linear, Conv1d or Conv2d to round: use bits 32")
    return twin


def prepare(model: nn.Module) -> nn.Module:
    """`model` made int8-aware: `at(model, 8)`."""
    return at(model, 8)
