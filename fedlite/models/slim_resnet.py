"""A ResNet of basic blocks, as wide and as deep as wanted. (He et al. 2016, §4.1 and §4.2)

Ours and not torchvision's, whose basic blocks have one width, whose stem is for large images only, and whose
convolutions have no bias for norm = "none"; with its weights ours is the same function (a test).
"""

from functools import partial

from torch import Tensor, nn

from fedlite.models.norms import convolution
from fedlite.models.shapes import check_image, scaled


class _Basic(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where shapes differ. (§3.3, option B)"""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str, batch_stats: str) -> None:
        super().__init__()
        conv = partial(convolution, norm=norm, batch_stats=batch_stats)
        self.body = nn.Sequential(*conv(inputs, outputs, 3, stride), nn.ReLU(), *conv(outputs, outputs, 3))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv(inputs, outputs, 1, stride))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y


class SlimResNet(nn.Module):
    """272,474 parameters by default, which is ResNet-20 for CIFAR-10; channels double from stage to stage.

    `blocks` per stage, from 64 · width channels on. `stem_stride` 1 is a 3×3 convolution, for 32×32 (§4.2); 2 is a
    7×7 one at stride 2 and 3×3 pooling, for 224×224 (Table 1): ResNet-18 is width 1, blocks (2, 2, 2, 2), stem
    stride 2.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 32, 32),
        num_classes: int = 10,
        width: float = 0.25,
        blocks: tuple[int, ...] = (3, 3, 3),
        stem_stride: int = 1,
        norm: str = "group",
        batch_stats: str = "averaged",
    ) -> None:
        super().__init__()
        check_image(input_shape)
        channels = scaled(64, width)
        kernel = 7 if stem_stride > 1 else 3
        stem = convolution(input_shape[0], channels, kernel, stem_stride, norm=norm, batch_stats=batch_stats)
        layers = [*stem, nn.ReLU(), *([nn.MaxPool2d(3, 2, 1)] if stem_stride > 1 else [])]
        for stage, repeats in enumerate(blocks):
            outputs = scaled(64 * 2**stage, width)
            for block in range(repeats):
                stride = 2 if stage and not block else 1
                layers.append(_Basic(channels, outputs, stride, norm, batch_stats))
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.features(x).mean((2, 3)))
        return logits
