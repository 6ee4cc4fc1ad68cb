"""ShuffleNetV2: half of the channels pass by, the other half is filtered, then they mix. (Ma et al. 2018)

Ours and not torchvision's, whose norms are BatchNorm alone; with its weights ours is the same function (a test).
"""

from functools import partial

import torch
from torch import Tensor, nn

from fedlite.models.norms import convolution
from fedlite.models.shapes import check_image

_REPEATS = (4, 8, 4)  # blocks of stages 2, 3 and 4 (Table 5), the first of each at stride 2
_FIRST = {0.5: 48, 1.0: 116, 1.5: 176, 2.0: 244}  # channels of stage 2 (Table 5); each stage doubles them
_STEM = 24


class _Block(nn.Module):
    """Stride 1 filters the second half of the channels; stride 2 filters all of them twice. (Fig. 3c, d)"""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str, batch_stats: str) -> None:
        super().__init__()
        conv = partial(convolution, norm=norm, batch_stats=batch_stats)
        half = outputs // 2
        taken = inputs if stride > 1 else half
        self.splits = stride == 1
        depthwise = conv(inputs, inputs, 3, stride, groups=inputs)
        beside = [] if self.splits else [*depthwise, *conv(inputs, half), nn.ReLU()]
        self.beside = nn.Sequential(*beside)
        self.body = nn.Sequential(
            *conv(taken, half),
            nn.ReLU(),
            *conv(half, half, 3, stride, groups=half),
            *conv(half, half),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, taken = x.chunk(2, 1) if self.splits else (self.beside(x), x)
        return _shuffled(torch.cat((kept, self.body(taken)), 1))


def _shuffled(x: Tensor) -> Tensor:
    """Channels of the two halves in turn. (Zhang et al. 2018, ShuffleNet, Fig. 1c, for 2 groups)"""
    count, channels, height, width = x.shape
    return x.reshape(count, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


class ShuffleNetV2(nn.Module):
    """2,278,604 parameters at width 1 and 1000 classes.

    Widths other than Table 5's 0.5, 1, 1.5 and 2 take 116 · width channels, to a multiple of 4. `stem_stride` is
    that of the first convolution and of the pooling after it: 2 for 224×224 as in the paper, 1 for 32×32.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 224, 224),
        num_classes: int = 1000,
        width: float = 1.0,
        stem_stride: int = 2,
        norm: str = "group",
        batch_stats: str = "averaged",
    ) -> None:
        super().__init__()
        check_image(input_shape)
        conv = partial(convolution, norm=norm, batch_stats=batch_stats)
        layers = [*conv(input_shape[0], _STEM, 3, stem_stride), nn.ReLU(), nn.MaxPool2d(3, stem_stride, 1)]
        channels, outputs = _STEM, _FIRST.get(width, max(8, round(116 * width / 4) * 4))
        for repeats in _REPEATS:
            for block in range(repeats):
                layers.append(_Block(channels, outputs, 1 if block else 2, norm, batch_stats))
                channels = outputs
            outputs *= 2
        last = 2048 if width >= 2 else 1024
        self.features = nn.Sequential(*layers, *conv(channels, last), nn.ReLU())
        self.output = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.features(x).mean((2, 3)))
        return logits
