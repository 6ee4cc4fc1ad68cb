"""SqueezeNet 1.1: 1×1 convolutions squeeze channels before 3×3 ones see them. (Iandola et al. 2016, §3)

Ours and not torchvision's, which has no norms to choose and draws dropout from the global generator; with its
weights ours is the same function in evaluation but for the last ReLU (a test).
"""

from functools import partial

import torch
from torch import Tensor, nn

from fedlite.models.bridge import HE
from fedlite.models.norms import convolution
from fedlite.models.shapes import check_image

# squeeze and expand channels of each fire module, and where pooling comes (version 1.1 of the authors' code)
_FIRES = ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256))


class _Fire(nn.Module):
    """1×1 to few channels, then 1×1 and 3×3 side by side. (Fig. 1)"""

    def __init__(self, inputs: int, squeeze: int, expand: int, norm: str, batch_stats: str) -> None:
        super().__init__()
        conv = partial(convolution, norm=norm, batch_stats=batch_stats)
        self.squeeze = nn.Sequential(*conv(inputs, squeeze), nn.ReLU())
        self.one = nn.Sequential(*conv(squeeze, expand), nn.ReLU())
        self.three = nn.Sequential(*conv(squeeze, expand, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        few = self.squeeze(x)
        return torch.cat((self.one(few), self.three(few)), 1)


class SqueezeNet(nn.Module):
    """1,235,496 parameters at 1000 classes and without norms, as published.

    `stem_stride` is that of the first convolution and of the pooling after it: 2 for 224×224, 1 for 32×32. The
    classes are a convolution and its mean, as published. Without norms the first weights have He et al.'s variance
    (2015, §2.2): with less, ten layers let nothing through. The last ReLU is left out: where it is 0 for every class,
    as it may be before any training, there would be no gradient.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 224, 224),
        num_classes: int = 1000,
        width: float = 1.0,
        stem_stride: int = 2,
        norm: str = "none",
        batch_stats: str = "averaged",
    ) -> None:
        super().__init__()
        check_image(input_shape)
        conv = partial(convolution, norm=norm, batch_stats=batch_stats)
        channels = max(1, round(64 * width))
        padding = 0 if stem_stride > 1 else 1
        layers = [*conv(input_shape[0], channels, 3, stem_stride, padding=padding), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, stem_stride, ceil_mode=True))
        for fire in _FIRES:
            if fire is None:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
                continue
            squeeze, expand = (max(1, round(each * width)) for each in fire)
            layers.append(_Fire(channels, squeeze, expand, norm, batch_stats))
            channels = 2 * expand
        self.features = nn.Sequential(*layers)
        if norm == "none":
            for layer in self.features.modules():
                layer.spread = HE  # type: ignore[assignment]  # an attribute of ours
        self.output = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.features(x)).mean((2, 3))
        return logits
