"""Integer = trained: an exported ONNX Runtime int8 file answers as the int8-aware model, for every family."""

from pathlib import Path

import numpy as np
import pytest

from fedlite.compress import quantize
from fedlite.compress.integer import IntegerModel
from fedlite.export import onnxruntime
from fedlite.export.parity import classes
from fedlite.export.source import integer_of
from fedlite.models import NAMES, ModelSpec, build, initial_params
from fedlite.models.fold import fold_norms
from fedlite.train import TrainSettings, local_train, logits
from fedlite.types import Params
from tests.families import CLASSES, IMAGE, SMALL, samples

TRAIN, TEST = 96, 200
FOLDED = ("mobilenet_v2", "slim_resnet")  # trained with BatchNorm, exported without
FACTORIZED = {
    "cnn, low rank": ("cnn", IMAGE, (("rank", "hidden", (8,)), ("rank", "features.3", (6,)))),
    "cnn, smaller": ("cnn", IMAGE, (("size", "hidden", (40, 576)), ("size", "output", (CLASSES, 40)))),
}


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
