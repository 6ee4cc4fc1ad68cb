"""The smallest models: softmax regression, and a small CNN for small images."""

import math

from torch import Tensor, nn

from fedlite.models.shapes import check_image, flat_size


class Linear(nn.Module):
    """Softmax regression on flattened examples of any shape: convex, so theory applies to it."""

    def __init__(self, input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *input_shape) → logits (batch, num_classes)."""
        logits: Tensor = self.output(x.flatten(1))
        return logits


class SmallCnn(nn.Module):
    """Two 3×3 convolutions, one pooling, one hidden layer; 46,650 parameters on scikit-learn's 8×8 digits."""

    def __init__(self, input_shape: tuple[int, ...] = (1, 8, 8), num_classes: int = 10) -> None:
        super().__init__()
        check_image(input_shape)
        self.features = nn.Sequential(
            nn.Conv2d(input_shape[0], 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Linear(flat_size(self.features, input_shape), 80)
        self.output = nn.Linear(80, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.hidden(self.features(x).flatten(1)).relu())
        return logits
