"""A layer's products, a few examples or a few channels at a time: forward, and both gradients."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.int8_training import integers
from fedlite.int8_training.plan import Step
from fedlite.int8_training.saved import Saved, portions
from fedlite.int8_training.weights import Weight

Take = Callable[[str, slice, Tensor], None]  # (tensor's name, channels, their gradient)


class Product:
    """One layer for the time of one pass. A convolution goes by examples, a dense layer by channels.

    Forward is a product of whole numbers if `in_integers`, but for grouped convolutions; gradients are float32.
    """

    def __init__(
        self, step: Step, weight: Weight, bias: Tensor | None, in_integers: bool, portion: int
    ) -> None:
        assert step.layer is not None
        self.step, self.layer, self.weight, self.bias = step, step.layer, weight, bias
        self.portion = portion
        self.is_dense = isinstance(self.layer, nn.Linear)
        self.in_integers = in_integers and getattr(self.layer, "groups", 1) == 1
        self._held: Tensor | None = (
            None  # a convolution's weight in float32, where products are not of integers
        )
        self._gradient: Tensor | None = None
        self._learns = self._passes = False

    def portions(self, examples: int) -> list[slice]:
        """The batch in parts: all of it for a dense layer."""
        if self.is_dense:
            return [slice(0, examples)]
        return portions(examples, 2 * math.prod(self.step.before), self.portion)

    def forward(self, saved: Saved, part: slice) -> Tensor:
        """The layer's result for some examples; the bias at steps of input step · weight step. (Jacob 2018, §2.4)"""
        bias = self.bias
        if bias is not None:
            step = self.weight.scale * saved.grid.scale
            bias = torch.round(bias / step) * step
        if self.is_dense:
            return self._dense(saved, part, bias)
        if self.in_integers:
            return self._whole_convolution(saved, part, bias)
        if self._held is None:
            self._held = self._real()
        return cast(Tensor, _convolve(self.layer)(saved.real(part), self._held, bias, **_options(self.layer)))

    def _dense(self, saved: Saved, part: slice, bias: Tensor | None) -> Tensor:
        x = integers.signed(saved.steps[part]) if self.in_integers else saved.real(part)
        out = torch.empty(len(x), len(self.weight.scale))
        for rows in self.weight.portions():
            if self.in_integers:
                out[:, rows] = integers.multiply(x, saved.grid.zero_point, self.weight.steps[rows])
            else:
                out[:, rows] = F.linear(x, self.weight.real(rows))
        if self.in_integers:
            out.mul_(self.weight.scale * saved.grid.scale)
        return out if bias is None else out.add_(bias)

    def _whole_convolution(self, saved: Saved, part: slice, bias: Tensor | None) -> Tensor:
        zero_point = saved.grid.zero_point
        value = integers.signed(saved.steps[part])
        value = value if value.ndim == 4 else value.unsqueeze(2)
        filler = int(torch.nan_to_num(zero_point)) - integers.MIDDLE
        seen = integers.columns(value, _window(self.layer), filler)
        out = integers.multiply(seen, zero_point, self.weight.steps)
        del seen
        out.mul_(self.weight.scale * saved.grid.scale)
        out = out if bias is None else out.add_(bias)
        return (
            out.reshape(len(value), -1, out.shape[1]).transpose(1, 2).reshape(len(value), *self.step.before)
        )

    def begin(self, learns: bool, passes: bool) -> None:
        """Before going back: whether the weight learns, and whether the slope passes on to the input."""
        self._learns, self._passes = learns, passes
        if learns and not self.is_dense:
            self._gradient = torch.zeros(self.layer.weight.shape)

    def backward(self, saved: Saved, part: slice, slope: Tensor, take: Take) -> Tensor | None:
        """The slope of the input of some examples, given that of the result."""
        if self.is_dense:
            return self._dense_backward(saved.real(part), slope, take)
        x, options = saved.real(part), _options(self.layer)
        below, gradient, _ = torch.ops.aten.convolution_backward(
            slope, x, self._real(), None, options["stride"], options["padding"], options["dilation"],
            False, [0] * len(options["stride"]), options["groups"], [self._passes, self._learns, False],
        )  # fmt: skip
        if self._gradient is not None:
            self._gradient += gradient
        return cast("Tensor | None", below)

    def _dense_backward(self, x: Tensor, slope: Tensor, take: Take) -> Tensor | None:
        below = torch.zeros_like(x) if self._passes else None
        for rows in self.weight.portions():
            if below is not None:
                below.addmm_(slope[:, rows], self.weight.real(rows))
            if self._learns:
                take(f"{self.step.name}.weight", rows, slope[:, rows].T @ x)
        return below

    def finish(self, take: Take) -> None:
        """After the last part: what a convolution's weight learns."""
        if self._gradient is None:
            return
        gradient = self._gradient.flatten(1)
        for rows in self.weight.portions():
            take(f"{self.step.name}.weight", rows, gradient[rows])

    def _real(self) -> Tensor:
        return self.weight.real().reshape(self.layer.weight.shape)


def _window(layer: Any) -> integers.Window:
    """A convolution's window; one of time is that of an image one high."""
    sizes = (layer.kernel_size, 1), (layer.stride, 1), (layer.padding, 0), (layer.dilation, 1)
    return integers.Window(*(each if len(each) == 2 else (other, *each) for each, other in sizes))


def _options(layer: Any) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}


def _convolve(layer: nn.Module) -> Any:
    return F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
