"""The two image models of McMahan et al. 2017, §3: the field's reference for rounds to a target accuracy."""

import math

from torch import Tensor, nn

from fedlite.models.shapes import check_image, flat_size


class TwoNn(nn.Module):
    """The "2NN": two hidden layers of 200 units; 199,210 parameters on MNIST."""

    def __init__(
        self, input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10, hidden: int = 200
    ) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(math.prod(input_shape), hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *input_shape) → logits (batch, num_classes)."""
        x = self.hidden1(x.flatten(1)).relu()
        logits: Tensor = self.output(self.hidden2(x).relu())
        return logits


class Cnn(nn.Module):
    """5×5 convolutions of 32 and 64 channels, pooled 2×2, and 512 hidden units; 1,663,370 on MNIST."""

    def __init__(self, input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10) -> None:
        super().__init__()
        check_image(input_shape)
        self.features = nn.Sequential(
            nn.Conv2d(input_shape[0], 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Linear(flat_size(self.features, input_shape), 512)
        self.output = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.hidden(self.features(x).flatten(1)).relu())
        return logits
