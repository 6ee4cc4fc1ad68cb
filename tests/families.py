"""Every model family, small, and samples that it can learn something from."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.models import ModelSpec
from fedlite.seeds import generator

CLASSES = 4
IMAGE: dict[str, Any] = {"input_shape": (1, 12, 12), "num_classes": CLASSES}
DEEP: dict[str, Any] = {"input_shape": (3, 16, 16), "num_classes": CLASSES, "width": 0.25, "stem_stride": 1}
TEXT: dict[str, Any] = {"num_classes": CLASSES, "vocabulary": 30}

# Each family as small as it can be and keep every kind of layer that it has.
SMALL: dict[str, dict[str, Any]] = {
    "linear": IMAGE,
    "small_cnn": IMAGE,
    "mlp": IMAGE | {"hidden": (24, 16)},
    "pooled_cnn": IMAGE | {"channels": (6, 8)},
    "2nn": IMAGE | {"hidden": 24},
    "cnn": IMAGE,
    "lenet_300_100": IMAGE,
    "lenet5": {"input_shape": (1, 16, 16), "num_classes": CLASSES},
    "sensor_cnn": {"input_shape": (3, 32), "num_classes": CLASSES},
    "char_lstm": {"num_classes": 30, "hidden": 24},
    "mobilenet_v2": DEEP,
    "shufflenet_v2": DEEP | {"width": 0.5, "norm": "batch"},  # folded: what stands without its norm
    "squeezenet": DEEP,
    "slim_resnet": DEEP | {"blocks": (1, 1, 1)},
    "ssdlite": {"input_shape": (3, 32, 32), "num_classes": CLASSES, "width": 0.25},
    "text_gru": TEXT,
    "text_lstm": TEXT,
    "text_transformer": TEXT | {"length": 10, "width": 16, "heads": 2},
}


def samples(spec: ModelSpec, count: int, stream: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Noisy copies of one picture, wave or text per class; a detector's has one box around all of it."""
    shape = dict(spec.options).get("input_shape")
    random, drawn = generator(7, "classes", spec.name), generator(7, stream, spec.name)
    y = drawn.integers(0, CLASSES, count)
    if isinstance(shape, tuple):
        ideal = random.standard_normal((CLASSES, *shape), np.float32)
        noise = drawn.standard_normal((count, *shape), np.float32)
        x = (ideal[y] + 0.3 * noise).astype(np.float32)
        if spec.name == "ssdlite":
            y = np.array([[[1 + each, 4, 4, shape[2] - 4, shape[1] - 4]] for each in y])
        return x, y
    texts = random.integers(1, 30, (CLASSES, 10))[y]
    noisy = np.where(drawn.random(texts.shape) < 0.1, drawn.integers(0, 30, texts.shape), texts)
    return noisy, y
