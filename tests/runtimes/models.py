"""Models trained for a few steps on four noisy pictures, as runtimes get them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import quantize
from fedlite.compress.integer import IntegerModel
from fedlite.export.source import integer_of
from fedlite.models import build, initial_params, spec_of
from fedlite.models.fold import fold_norms
from fedlite.seeds import generator
from fedlite.train import TrainSettings, local_train

CLASSES = 4
GREY: dict[str, Any] = {"input_shape": (1, 12, 12), "num_classes": CLASSES}
MODELS: dict[str, dict[str, Any]] = {
    "small_cnn": GREY,
    "cnn": GREY,
    "mobilenet_v2": {
        "input_shape": (3, 16, 16),
        "num_classes": CLASSES,
        "width": 0.35,
        "stem_stride": 1,
        "norm": "batch",
    },
}


def samples(name: str, count: int, stream: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noisy copies of one picture per class, (n, *input shape), and the classes."""
    shape, drawn = MODELS[name]["input_shape"], generator(7, stream, name)
    ideal = generator(7, "classes", name).standard_normal((CLASSES, *shape), np.float32)
    y = drawn.integers(0, CLASSES, count)
    noise = drawn.standard_normal((count, *shape), np.float32)
    return (ideal[y] + 0.3 * noise).astype(np.float32), y


def trained(name: str) -> IntegerModel:
    """The integer model after a few steps of int8-aware training, BatchNorm folded."""
    model = build(name, **MODELS[name])
    x, y = samples(name, 96, "train")
    rate, epochs = (0.005, 12) if name == "mobilenet_v2" else (0.01, 4)
    settings = TrainSettings(epochs=epochs, batch_size=16, optimizer="adam", learning_rate=rate, bits=8)
    params = initial_params(quantize.at(model, 8), seed=1)
    params = local_train(model, params, x, y, settings, seed=2).params
    return integer_of(*fold_norms(spec_of(model), params))
