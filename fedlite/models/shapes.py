"""The shape of one example: what a model's constructor checks and measures before it makes layers."""

import torch
from torch import nn

from fedlite.errors import SettingsError


def check_rank(input_shape: tuple[int, ...], rank: int, means: str) -> None:
    """SettingsError unless an example has `rank` dimensions, which mean `means`."""
    if len(input_shape) != rank:
        raise SettingsError(f"input_shape is {input_shape}; this model takes {means}")


def check_image(input_shape: tuple[int, ...]) -> None:
    """SettingsError unless an example is (channels, height, width)."""
    check_rank(input_shape, 3, "(channels, height, width)")


def flat_size(features: nn.Module, input_shape: tuple[int, ...]) -> int:
    """How many values `features` makes of one example; free on the meta device, where models are laid out."""
    with torch.no_grad():
        return int(features(torch.empty(1, *input_shape)).numel())
