"""A layer's products, a few examples or a few channels at a time: forward, and both gradients."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.int8_training.plan import Step
from fedlite.int8_training.saved import Saved, portions
from fedlite.int8_training.weights import Weight


class Product:
    """One layer for the time of one pass. A convolution goes by examples, a dense layer by channels."""

    def __init__(self, step: Step, weight: Weight, bias: Tensor | None) -> None:
        self.step, self.weight, self.bias = step, weight, bias
        assert step.layer is not None
        self.layer = step.layer
        self.is_dense = isinstance(step.layer, nn.Linear)
        self._real: Tensor | None = (
            None if self.is_dense else self.weight.real().reshape(self.layer.weight.shape)
        )
        self._gradient: Tensor | None = None
        self._learns = self._passes = False

    def portions(self, examples: int) -> list[slice]:
        """The batch in parts: all of it for a dense layer."""
        if self.is_dense:
            return [slice(0, examples)]
        return portions(examples, 2 * math.prod(self.step.before))

    def forward(self, saved: Saved, part: slice) -> Tensor:
        """The layer's result for some examples; the bias at steps of input step · weight step. (Jacob 2018, §2.4)"""
        x = saved.real(part)
        bias = self.bias
        if bias is not None:
            step = self.weight.step_size()[:, 0] * saved.grid.scale
            bias = torch.round(bias / step) * step
        if not self.is_dense:
            return cast(Tensor, _convolve(self.layer)(x, self._real, bias, **_options(self.layer)))
        out = torch.empty(len(x), len(self.weight.scale))
        for rows in self.weight.portions():
            out[:, rows] = F.linear(x, self.weight.real(rows), None if bias is None else bias[rows])
        return out

    def begin(self, learns: bool, passes: bool) -> None:
        """Before going back: whether the weight learns, and whether the slope passes on to the input."""
        self._learns, self._passes = learns, passes
        if learns and not self.is_dense:
            self._gradient = torch.zeros(self.layer.weight.shape)

    def backward(self, saved: Saved, part: slice, slope: Tensor, take: Any) -> Tensor | None:
        """The slope of the input of some examples, given that of the result."""
        x = saved.real(part)
        if self.is_dense:
            return self._dense_backward(x, slope, take)
        options = _options(self.layer)
        below, gradient, _ = torch.ops.aten.convolution_backward(
            slope, x, self._real, None, options["stride"], options["padding"], options["dilation"],
            False, [0] * len(options["stride"]), options["groups"], [self._passes, self._learns, False],
        )  # fmt: skip
        if self._gradient is not None:
            self._gradient += gradient
        return cast("Tensor | None", below)

    def _dense_backward(self, x: Tensor, slope: Tensor, take: Any) -> Tensor | None:
        below = torch.zeros_like(x) if self._passes else None
        for rows in self.weight.portions():
            if below is not None:
                below.addmm_(slope[:, rows], self.weight.real(rows))
            if self._learns:
                take(f"{self.step.name}.weight", rows, slope[:, rows].T @ x)
        return below

    def finish(self, take: Any) -> None:
        """After the last part: what a convolution's weight learns."""
        if self._gradient is None:
            return
        gradient = self._gradient.flatten(1)
        for rows in self.weight.portions():
            take(f"{self.step.name}.weight", rows, gradient[rows])


def _options(layer: Any) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}


def _convolve(layer: nn.Module) -> Any:
    return F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
