"""A depthwise-separable CNN over windows of sensor samples, e.g. 128 samples of 9 channels."""

from torch import Tensor, nn

from fedlite.models.shapes import check_rank


def _norm_relu(channels: int) -> nn.Sequential:
    """GroupNorm, which needs no statistics shared between clients (Hsieh et al. 2020), then ReLU."""
    return nn.Sequential(nn.GroupNorm(8, channels), nn.ReLU())


def _separable(channels: int, out_channels: int) -> nn.Sequential:
    """A convolution per channel, then one across channels. (Howard et al. 2017, §3.1, in 1-D)"""
    return nn.Sequential(
        nn.Conv1d(channels, channels, 5, stride=2, padding=2, groups=channels, bias=False),
        _norm_relu(channels),
        nn.Conv1d(channels, out_channels, 1, bias=False),
        _norm_relu(out_channels),
    )


class SensorCnn(nn.Module):
    """A stem, three separable blocks that each halve time, mean over time; 24,678 parameters by default."""

    def __init__(self, input_shape: tuple[int, ...] = (9, 128), num_classes: int = 6) -> None:
        super().__init__()
        check_rank(input_shape, 2, "(channels, time)")
        self.features = nn.Sequential(
            nn.Conv1d(input_shape[0], 32, 5, padding=2, bias=False),
            _norm_relu(32),
            _separable(32, 64),
            _separable(64, 96),
            _separable(96, 128),
        )
        self.output = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.features(x).mean(-1))
        return logits
