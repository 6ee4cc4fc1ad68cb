"""LeNet-300-100 and LeNet-5, on which compression papers report. (Han et al. 2016, Deep Compression, §5.1)"""

import math

from torch import Tensor, nn

from fedlite.models.shapes import check_image, flat_size


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers; 266,610 parameters on MNIST. (LeCun et al. 1998, with ReLU)"""

    def __init__(self, input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(math.prod(input_shape), 300)
        self.hidden2 = nn.Linear(300, 100)
        self.output = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *input_shape) → logits (batch, num_classes)."""
        x = self.hidden1(x.flatten(1)).relu()
        logits: Tensor = self.output(self.hidden2(x).relu())
        return logits


class LeNet5(nn.Module):
    """Caffe's LeNet-5, the one Deep Compression prunes: 431,080 parameters on MNIST.

    Not LeCun's original of 1998 (about 60,000): 20 and 50 channels, no nonlinearity after a convolution, one
    ReLU.
    """

    def __init__(self, input_shape: tuple[int, ...] = (1, 28, 28), num_classes: int = 10) -> None:
        super().__init__()
        check_image(input_shape)
        self.features = nn.Sequential(
            nn.Conv2d(input_shape[0], 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
        )
        self.hidden = nn.Linear(flat_size(self.features, input_shape), 500)
        self.output = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) → logits (batch, num_classes)."""
        logits: Tensor = self.output(self.hidden(self.features(x).flatten(1)).relu())
        return logits
