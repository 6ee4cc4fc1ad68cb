"""A perceptron and a convolutional network of any widths: what simulators are compared on."""

import itertools
import math

from torch import Tensor, nn

from fedlite.models.shapes import check_image, flat_size


class Mlp(nn.Module):
    """Hidden layers with ReLU on flattened examples of any shape; 50,890 parameters by default."""

    def __init__(
        self,
        input_shape: tuple[int, ...] = (1, 28, 28),
        num_classes: int = 10,
        hidden: tuple[int, ...] = (64,),
    ) -> None:
        super().__init__()
        widths = itertools.pairwise((math.prod(input_shape), *hidden))
        layers = [(nn.Linear(inputs, outputs), nn.ReLU()) for inputs, outputs in widths]
        self.hidden = nn.Sequential(*itertools.chain.from_iterable(layers))
        self.output = nn.Linear(hidden[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *input_shape) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.hidden(x.flatten(1)))
        return logits


class PooledCnn(nn.Module):
    """3×3 convolutions, each with ReLU and 2×2 pooling, and one dense layer; 20,490 parameters by default."""

    def __init__(
        self,
        input_shape: tuple[int, ...] = (1, 28, 28),
        num_classes: int = 10,
        channels: tuple[int, ...] = (16, 32),
    ) -> None:
        super().__init__()
        check_image(input_shape)
        layers = [
            (nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            for inputs, outputs in itertools.pairwise((input_shape[0], *channels))
        ]
        self.features = nn.Sequential(*itertools.chain.from_iterable(layers))
        self.output = nn.Linear(flat_size(self.features, input_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.features(x).flatten(1))
        return logits
