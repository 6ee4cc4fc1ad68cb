"""Integer = trained: an exported ONNX Runtime int8 file answers as the int8-aware model, for every family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite.compress import quantize
from fedlite.compress.integer import IntegerModel
from fedlite.export import onnxruntime
from fedlite.export.parity import classes
from fedlite.export.source import integer_of
from fedlite.models import NAMES, ModelSpec, build, initial_params
from fedlite.models.fold import fold_norms
from fedlite.seeds import generator
from fedlite.train import TrainSettings, local_train, logits
from fedlite.types import Params

TRAIN, TEST, CLASSES = 96, 200, 4
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
FOLDED = ("mobilenet_v2", "slim_resnet")  # trained with BatchNorm, exported without
FACTORIZED = {
    "cnn, low rank": ("cnn", IMAGE, (("rank", "hidden", (8,)), ("rank", "features.3", (6,)))),
    "cnn, smaller": ("cnn", IMAGE, (("size", "hidden", (40, 576)), ("size", "output", (CLASSES, 40)))),
}


def samples(spec: ModelSpec, count: int, stream: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Noisy copies of one picture, wave or text per class; a detector's has one box around all of it."""
    options = dict(spec.options)
    random, drawn = generator(7, "classes", spec.name), generator(7, stream, spec.name)
    y = drawn.integers(0, CLASSES, count)
    if "input_shape" in options:
        shape = options["input_shape"]
        ideal = random.standard_normal((CLASSES, *shape), np.float32)  # type: ignore[misc]
        noise = drawn.standard_normal((count, *shape), np.float32)  # type: ignore[misc]
        x = (ideal[y] + 0.3 * noise).astype(np.float32)
        if spec.name == "ssdlite":
            y = np.array([[[1 + each, 4, 4, shape[2] - 4, shape[1] - 4]] for each in y])  # type: ignore[index,misc]
        return x, y
    texts = random.integers(1, 30, (CLASSES, 10))[y]
    noisy = np.where(drawn.random(texts.shape) < 0.1, drawn.integers(0, 30, texts.shape), texts)
    return noisy, y


def trained(spec: ModelSpec) -> tuple[ModelSpec, Params]:
    """The model after a few int8-aware steps, its BatchNorm folded."""
    model = build(spec)
    x, y = samples(spec, TRAIN, "train")
    steady = dict(spec.options).get("norm") != "batch" and spec.name in (
        "squeezenet",
        "mobilenet_v2",
        "ssdlite",
    )
    rate = 0.002 if steady else 0.01
    epochs = 1 if spec.name == "ssdlite" else 4  # it says much of each image
    settings = TrainSettings(epochs=epochs, batch_size=16, optimizer="adam", learning_rate=rate, bits=8)
    params = initial_params(quantize.at(model, 8), seed=1)
    params = local_train(model, params, x, y, settings, seed=2).params
    return fold_norms(spec, params)


def assert_same_answers(spec: ModelSpec, params: Params, path: Path) -> IntegerModel:
    model = integer_of(spec, params)
    x, _ = samples(spec, TEST, "test")
    onnxruntime.write(model, path, x[:1])
    answers = classes(onnxruntime.open(path)(x))
    wanted = classes(logits(build(spec), params, x, bits=8))
    assert len(np.unique(wanted)) > 1, "the model says the same of everything: nothing would be compared"
    assert (answers == wanted).mean() >= 0.99
    return model


def test_every_family_is_here() -> None:
    assert set(NAMES) <= set(SMALL)


@pytest.mark.parametrize("name", NAMES)
def test_integer_is_trained(name: str, tmp_path: Path) -> None:
    spec = build(name, **SMALL[name]).spec
    assert isinstance(spec, ModelSpec)
    assert_same_answers(*trained(spec), tmp_path / "model.onnx")


@pytest.mark.parametrize("name", FOLDED)
def test_batch_norm_folds(name: str, tmp_path: Path) -> None:
    spec = build(name, **SMALL[name], norm="batch").spec
    assert isinstance(spec, ModelSpec)
    plain, params = trained(spec)
    assert dict(plain.options)["norm"] == "none"
    assert_same_answers(plain, params, tmp_path / "model.onnx")


@pytest.mark.parametrize("case", FACTORIZED)
def test_changed_networks(case: str, tmp_path: Path) -> None:
    name, options, changes = FACTORIZED[case]
    spec = build(name, **options).spec
    assert isinstance(spec, ModelSpec)
    changed = ModelSpec(spec.name, spec.options, changes)
    assert_same_answers(*trained(changed), tmp_path / "model.onnx")
