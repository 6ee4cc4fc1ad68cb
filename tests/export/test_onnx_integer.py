"""The ONNX file of an integer model: its numbers by hand, whole numbers between layers, whole or not at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fedlite.calibrate import quantize_static
from fedlite.compress.integer import IntegerModel
from fedlite.errors import DataError, SettingsError
from fedlite.export import onnxruntime
from fedlite.export.files import write_aside
from fedlite.export.onnx_file import float_module
from fedlite.export.source import integer_of
from fedlite.models import build, initial_params, spec_of

FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "MatMul", "ConvInteger"}


def integer(name: str, seed: int = 0, **options: object) -> IntegerModel:
    """A model of random weights, calibrated on `examples`."""
    spec = spec_of(build(name, **options))
    return integer_of(spec, quantize_static(spec, initial_params(build(spec), seed), examples(name)))


def examples(name: str, count: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    shape = {"small_cnn": (1, 8, 8), "squeezenet": (3, 32, 32)}.get(name, (1, 28, 28))
    return np.random.default_rng(4).random((count, *shape), np.float32)


def test_one_layer_by_hand(tmp_path: Path) -> None:
    """Scale 0.5 and zero point 2 make 0.3 → 3, 9 → 20, −5 → 0 (cut off at 0): 1, 18, −2 less the zero point.

    Class 0: (1·10 + 18·(−3) − 2·0 + 4) · 0.5 · 0.1 = −2; class 1: (0 + 18·127 + 2·127 − 8) · 0.5 · 0.02 = 25.32.
    """
    spec = spec_of(build("linear", input_shape=(3,), num_classes=2))
    tensors = {
        "output.weight": np.array([[10, -3, 0], [0, 127, -127]], np.int8),
        "output.bias": np.array([4, -8], np.int32),
        "output.weight_scale": np.array([0.1, 0.02], np.float32),
        "output.act_scale": np.array([0.5], np.float32),
        "output.act_zero_point": np.array([2], np.uint8),
    }
    x = np.array([[0.3, 9.0, -5.0]], np.float32)
    onnxruntime.write(IntegerModel(spec, tensors), tmp_path / "m.onnx", x)
    found = onnxruntime.open(tmp_path / "m.onnx")(x)
    np.testing.assert_allclose(found, [[-2.0, 25.32]], rtol=1e-6)


@pytest.mark.parametrize(("name", "convolutions", "dense"), [("cnn", 2, 2), ("squeezenet", 25, 1)])
def test_all_layers_are_whole_numbers(name: str, convolutions: int, dense: int, tmp_path: Path) -> None:
    options = {"input_shape": (3, 32, 32), "num_classes": 10, "width": 0.25} if name == "squeezenet" else {}
    onnxruntime.write(integer(name, **options), tmp_path / "m.onnx", examples(name))
    kernels = onnxruntime.kernels(tmp_path / "m.onnx")
    assert not FLOAT_KERNELS & set(kernels), kernels
    assert (kernels["QLinearConv"], kernels["QGemm"]) == (convolutions, dense)
    assert kernels["QuantizeLinear"] == 1  # the input's; the rest stays uint8


def test_the_file_holds_int8_weights_and_int32_biases(tmp_path: Path) -> None:
    model = integer("cnn")
    onnxruntime.write(model, tmp_path / "m.onnx", examples("cnn"))
    held = {
        each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    for name in ("features.0.weight", "features.3.bias", "hidden.weight", "output.bias"):
        np.testing.assert_array_equal(held[name], model.tensors[name])
        assert held[name].dtype == model.tensors[name].dtype
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


def test_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    onnxruntime.write(integer("small_cnn"), tmp_path / "m.onnx", examples("small_cnn"))
    run, x = onnxruntime.open(tmp_path / "m.onnx"), examples("small_cnn", 5)
    np.testing.assert_array_equal(run(x), np.concatenate([run(x[place : place + 1]) for place in range(5)]))


def test_same_model_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        onnxruntime.write(integer("small_cnn"), tmp_path / name, examples("small_cnn"))
    onnxruntime.write(integer("small_cnn", seed=1), tmp_path / "c", examples("small_cnn"))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    def cut(place: Path) -> None:
        place.write_bytes(b"half")
        raise SettingsError("no")

    place = tmp_path / "m.onnx"
    place.write_bytes(b"before")
    with pytest.raises(SettingsError, match="no"):
        write_aside(place, cut)
    with pytest.raises(DataError, match="no examples of shape"):
        onnxruntime.write(integer("small_cnn"), place, np.zeros((1, 1, 6, 6), np.float32))
    with pytest.raises(SettingsError, match="cannot write"):
        write_aside(tmp_path / "gone" / "m.onnx", cut)
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]
    assert place.read_bytes() == b"before"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "m.onnx"
    onnxruntime.write(integer("small_cnn"), place, examples("small_cnn"))
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SettingsError, match="no ONNX file"):
        onnxruntime.open(place)
    with pytest.raises(SettingsError, match="no ONNX file"):
        onnxruntime.open(tmp_path / "none.onnx")
    place.write_bytes(whole)
    with pytest.raises(SettingsError, match=r"takes examples of shape \[1, 8, 8\]"):
        onnxruntime.open(place)(np.zeros((1, 8, 8), np.float32))


def test_the_float_module_is_the_integer_model_but_for_its_inputs(tmp_path: Path) -> None:
    """One layer whose input is on its grid already: nothing is left to differ but float32 sums."""
    model = integer("linear")
    steps = np.random.default_rng(0).integers(0, 200, (4, 1, 28, 28))
    zero = int(model.tensors["output.act_zero_point"][0])
    x = ((steps - zero) * model.tensors["output.act_scale"]).astype(np.float32)
    import torch

    with torch.no_grad():
        found = float_module(model)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, model.run(x), rtol=1e-4, atol=1e-4)


def test_processors_that_cut_sums_are_told_from_others() -> None:
    assert onnxruntime.saturates("flags : sse4_2 avx avx2 fma")
    assert not onnxruntime.saturates("flags : avx2 avx512f avx512_vnni")
    assert not onnxruntime.saturates("flags : avx2 avx_vnni")
    assert not onnxruntime.saturates("Features : fp asimd asimddp")


def test_exact_where_sums_would_be_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower way of such processors gives the same answers; here it is taken on any."""
    model, x = integer("small_cnn"), examples("small_cnn")
    onnxruntime.write(model, tmp_path / "m.onnx", x)
    expected = onnxruntime.open(tmp_path / "m.onnx")(x)
    monkeypatch.setattr(onnxruntime, "saturates", lambda _: True)
    np.testing.assert_array_equal(onnxruntime.open(tmp_path / "m.onnx")(x), expected)


def test_a_layer_without_a_range_is_refused() -> None:
    model = integer("small_cnn")
    broken = {**model.tensors, "output.act_scale": np.zeros(1, np.float32)}
    with pytest.raises(SettingsError, match="act_scale"):
        replace(model, tensors=broken)
