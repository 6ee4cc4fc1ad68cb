"""ncnn's file answers nearly as the integer model does: its weights are those, its activations are not rounded."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlite.calibrate import quantize_static
from fedlite.errors import DataError, SettingsError
from fedlite.export import ncnn
from fedlite.export.onnx_file import float_module
from fedlite.export.source import integer_of
from fedlite.models import build, initial_params, spec_of
from tests.runtimes import shared
from tests.runtimes.models import samples, trained

RUNTIME = "ncnn"


@pytest.mark.parametrize(("name", "smaller"), [("small_cnn", 1.9), ("cnn", 1.9), ("mobilenet_v2", 1.8)])
def test_answers_as_trained(name: str, smaller: float, tmp_path: Path) -> None:
    shared.answers_as_trained(RUNTIME, name, tmp_path, smaller, near=0.2)  # nothing is clipped to a grid


def test_computes_the_rounded_weights_in_floats(tmp_path: Path) -> None:
    """In float16 a number is off by 1 of 2,048 at most; a network of four layers by a few of these."""
    model, x = trained("small_cnn"), samples("small_cnn", 50, "test")[0]
    ncnn.write(model, tmp_path / "m", x[:1])
    with torch.no_grad():
        wanted = float_module(model)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ncnn.open(tmp_path / "m")(x), wanted, atol=4 / 2048 * abs(wanted).max())


def test_dense_networks_and_texts(tmp_path: Path) -> None:
    """Shapes of answers, and words that ncnn reads as int32."""
    mlp, letters = ({"input_shape": (1, 12, 12), "num_classes": 4}, {"num_classes": 30, "hidden": 24})
    for name, options in {"mlp": mlp, "char_lstm": letters}.items():
        spec = spec_of(build(name, **options))
        random = np.random.default_rng(1)
        x = (
            random.standard_normal((40, 1, 12, 12), np.float32)
            if name == "mlp"
            else random.integers(0, 30, (40, 10))
        )
        model = integer_of(spec, quantize_static(spec, initial_params(build(spec), 0), x))
        ncnn.write(model, tmp_path / name, x)
        wanted = model.run(x)
        np.testing.assert_allclose(ncnn.open(tmp_path / name)(x), wanted, atol=0.02 * abs(wanted).max())


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    shared.refuses_what_is_no_file(RUNTIME, tmp_path)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        file.writestr("model.param", "7767518\n1 1\n")
        file.writestr("model.bin", b"")
    with pytest.raises(SettingsError, match="7767517"):
        ncnn.open(tmp_path / "m.zip")


def test_names_what_ncnn_does_not_have(tmp_path: Path) -> None:
    """A text classifier compares words with the padding; ncnn has no comparison."""
    spec = spec_of(build("text_gru", num_classes=4, vocabulary=30))
    x = np.random.default_rng(1).integers(0, 30, (4, 10))
    model = integer_of(spec, quantize_static(spec, initial_params(build(spec), 0), x))
    with pytest.raises(SettingsError, match=r"ncnn has no operator .*torch\.ne"):
        ncnn.write(model, tmp_path / "m", x)
    assert list(tmp_path.iterdir()) == []


def test_an_example_that_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shape"):
        ncnn.write(trained("small_cnn"), tmp_path / "m", np.zeros((2, 3, 12, 12), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_the_two_that_ncnn_loads(tmp_path: Path) -> None:
    ncnn.write(trained("small_cnn"), tmp_path / "m", samples("small_cnn", 1, "train")[0])
    with zipfile.ZipFile(tmp_path / "m") as file:
        assert file.namelist() == ["model.param", "model.bin"]


def test_command(tmp_path: Path) -> None:
    shared.command(RUNTIME, tmp_path)
