"""MobileNetV2 with a width multiplier, GroupNorm in place of BatchNorm. (Sandler et al. 2018, Table 2)

Ours and not torchvision's, whose layers have other names for each width and norm and which a device without
torchvision could not build; the parameter counts are the same. For the norms see fedlite.models.norms.
"""

from functools import partial

from torch import Tensor, nn

from fedlite.models.norms import convolution
from fedlite.models.shapes import check_image, scaled

# expansion t, channels c, repeats n, stride s of the first of them: Table 2's bottleneck rows
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _Bottleneck(nn.Module):
    """Expand, filter each channel, project linearly; a shortcut where shapes agree. (Table 1, Fig. 3b)"""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, norm: str, batch_stats: str
    ) -> None:
        super().__init__()
        conv = partial(convolution, norm=norm, batch_stats=batch_stats)
        inner = inputs * expansion
        expand = [*conv(inputs, inner), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*conv(inner, inner, 3, stride, groups=inner), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *conv(inner, outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """3,504,872 parameters at width 1 and 1000 classes.

    `stem_stride` is that of the first convolution and of the 24-channel stage: 2 for 224×224 as in the paper,
    1 for 32×32, which so keeps the last maps at 4×4.
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
        channels = scaled(32, width)
        layers = [*conv(input_shape[0], channels, 3, stem_stride), nn.ReLU6()]
        for expansion, base, repeats, table_stride in _STAGES:
            outputs = scaled(base, width)
            first = stem_stride if base == 24 else table_stride
            for stride in [first] + [1] * (repeats - 1):
                layers.append(_Bottleneck(channels, outputs, stride, expansion, norm, batch_stats))
                channels = outputs
        last = scaled(1280, max(1.0, width))
        self.features = nn.Sequential(*layers, *conv(channels, last), nn.ReLU6())
        self.output = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.features(x).mean((2, 3)))
        return logits
