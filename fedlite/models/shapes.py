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


def scaled(channels: int, width: float) -> int:
    """Channels × width to the nearest multiple of 8, at least 8, never 10 % below. (MobileNetV2, authors' code)"""
    nearest = max(8, int(channels * width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels * width else nearest
