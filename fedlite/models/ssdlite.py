"""SSDLite on MobileNetV2: a detector whose every prediction is depthwise separable. (Sandler et al. 2018, §6.2)

torchvision builds SSDLite on MobileNetV3 alone, and its head has no choice of norm; so the layers are ours, and what
is torchvision's is what has no weights: see fedlite.models.boxes. A device without torchvision can hold and average
such a model, but neither train it nor detect with it.

It trains as any model does (fedlite.train), with true boxes for labels: `loss` is what training asks a model of its
own kind for. Int8-aware training and the integer model work; the outputs of a detector are no classes, so what
compares or distils logits does not take it.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.errors import DataError, SettingsError
from fedlite.models.boxes import PER_PLACE, Found, default_boxes, detections, multibox_loss
from fedlite.models.mobilenet_v2 import MobileNetV2
from fedlite.models.norms import convolution
from fedlite.models.shapes import scaled

_EXPANDED = 16  # the block whose expansion is the first map: of the stages' 160 channels the first (§6.2)
_EXTRAS = (
    512,
    256,
    256,
    128,
)  # channels of the maps after the backbone's two, each half as large (authors' code)
_LEVELS = 2 + len(_EXTRAS)


class SsdLite(nn.Module):
    """4.5 million parameters at width 1 and COCO's 80 classes of things; the background is one more.

    `levels` feature maps, 2 to 6: fewer for small images, whose last maps would all be 1×1. `stem_stride` is
    MobileNetV2's.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 320, 320),
        num_classes: int = 80,
        width: float = 1.0,
        stem_stride: int = 2,
        levels: int = 6,
        norm: str = "group",
        batch_stats: str = "averaged",
    ) -> None:
        super().__init__()
        if not 2 <= levels <= _LEVELS:
            raise SettingsError(f"levels is {levels}; an SSDLite has 2 to {_LEVELS} feature maps")
        backbone = MobileNetV2(input_shape, num_classes, width, stem_stride, norm, batch_stats)
        self.features = backbone.features
        conv = partial(convolution, norm=norm, batch_stats=batch_stats)
        extras = [scaled(each, width) for each in _EXTRAS[: levels - 2]]
        last = backbone.output.in_features
        self.extras = nn.ModuleList(_extra(conv, *each) for each in pairwise((last, *extras)))
        channels = [6 * scaled(96, width), last, *extras]  # the block takes 96 and makes six times as many
        self.places = nn.ModuleList(_head(conv, each, PER_PLACE * 4) for each in channels)
        self.kinds = nn.ModuleList(_head(conv, each, PER_PLACE * (1 + num_classes)) for each in channels)
        self.size, self.num_classes = (input_shape[1], input_shape[2]), num_classes
        with torch.no_grad():
            shapes = [each.shape for each in self._maps(torch.empty(1, *input_shape))]
        self.grid = tuple((int(each[2]), int(each[3])) for each in shapes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → (batch, default boxes, 4 + 1 + num_classes): offsets, logits."""
        found = []
        for level, maps in enumerate(self._maps(x)):
            parts = (head[level](maps).permute(0, 2, 3, 1) for head in (self.places, self.kinds))
            rows = [each.reshape(x.shape[0], maps.shape[2] * maps.shape[3] * PER_PLACE, -1) for each in parts]
            found.append(torch.cat(rows, 2))
        return torch.cat(found, 1)

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps, finest first."""
        found = []
        for place, layer in enumerate(self.features):
            if place == _EXPANDED:  # the expansion is one of the maps
                body = layer.get_submodule("body")
                assert isinstance(body, nn.Sequential)
                for part, each in enumerate(body):
                    x = each(x)
                    if part == 2:
                        found.append(x)
                continue
            x = layer(x)
        found.append(x)
        for extra in self.extras:
            found.append(extra(found[-1]))
        return found

    def loss(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(mean loss, how many images are right) of true boxes y: see fedlite.models.boxes."""
        return multibox_loss(outputs, y, default_boxes(self.size, self.grid).to(outputs.device))

    def detect(self, outputs: Tensor, least_score: float = 0.5, most_overlap: float = 0.45) -> list[Found]:
        """What the outputs say is in each image."""
        boxes = default_boxes(self.size, self.grid).to(outputs.device)
        return detections(outputs, boxes, self.size, least_score, most_overlap)

    def check_labels(self, y: NDArray[Any]) -> None:
        """DataError unless y is true boxes: (images, most boxes, 5) with classes, and corners within the image."""
        if y.ndim != 3 or y.shape[2] != 5:
            raise DataError(
                f"labels of a detector are (images, boxes, 5): class, x1, y1, x2, y2; not {y.shape}"
            )
        true = y[y[..., 0] != 0]
        if len(true) and not (true[:, 0].min() > 0 and true[:, 0].max() <= self.num_classes):
            raise DataError(
                f"classes run from {true[:, 0].min()} to {true[:, 0].max()}, 1 to {self.num_classes} wanted"
            )
        height, width = self.size
        inside = (true[:, 1:] >= 0).all() and (true[:, 3:] <= np.array([width, height])).all()
        if not inside or not (true[:, 1:3] < true[:, 3:]).all():
            raise DataError(f"a box has no area, or is not within {width} × {height} pixels")


def _extra(conv: Any, inputs: int, outputs: int) -> nn.Module:
    """Half as large a map: 1×1 to half of the channels, a depthwise 3×3 at stride 2, 1×1."""
    half = outputs // 2
    return nn.Sequential(
        *conv(inputs, half),
        nn.ReLU6(),
        *conv(half, half, 3, 2, groups=half),
        nn.ReLU6(),
        *conv(half, outputs),
        nn.ReLU6(),
    )


def _head(conv: Any, inputs: int, outputs: int) -> nn.Module:
    """A separable prediction: depthwise 3×3, then 1×1 with a bias. (§6.2)"""
    return nn.Sequential(*conv(inputs, inputs, 3, groups=inputs), nn.ReLU6(), nn.Conv2d(inputs, outputs, 1))
