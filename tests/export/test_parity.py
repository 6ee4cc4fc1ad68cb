"""The report says what the file does: it runs apart from torch, and another model's file fails."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.errors import SettingsError
from fedlite.export import command, onnxruntime, runtimes
from fedlite.export.config import Config
from fedlite.export.parity import classes, compare
from fedlite.models import build, initial_params, spec_of
from fedlite.models.saved import save_model
from tests.export.test_onnx_integer import examples, integer


def test_a_report_of_the_same_model(tmp_path: Path) -> None:
    model, x = integer("small_cnn"), examples("small_cnn", 40)
    onnxruntime.write(model, tmp_path / "m.onnx", x)
    y = model.run(x).argmax(1)
    report = compare("onnxruntime", tmp_path / "m.onnx", model, x, y, seconds=0.01)
    assert report.passes
    assert (report.agreement, report.accuracy, report.accuracy_trained) == (1.0, 1.0, 1.0)
    assert report.size_bytes == (tmp_path / "m.onnx").stat().st_size
    assert report.float32_bytes == 4 * 46_650  # as the docstring of SmallCnn counts
    assert 0 < report.p50_ms <= report.p95_ms
    assert report.resident_bytes is not None
    assert 10e6 < report.resident_bytes < 150e6  # torch alone would be more


def test_a_report_of_another_model_fails(tmp_path: Path) -> None:
    onnxruntime.write(integer("small_cnn"), tmp_path / "m.onnx", examples("small_cnn"))
    x = examples("small_cnn", 60) - 0.5
    report = compare("onnxruntime", tmp_path / "m.onnx", integer("small_cnn", seed=1), x, seconds=0.01)
    assert report.agreement < 0.99
    assert not report.passes
    assert report.max_difference > 0
    assert report.accuracy is None


def test_the_exit_code_says_that_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of other weights, as a broken exporter would write it."""
    spec = spec_of(build("small_cnn"))
    save_model(tmp_path / "model.safetensors", spec.to_json(), 32, initial_params(build(spec), 0))
    wrong, write = integer("small_cnn", seed=9), onnxruntime.write
    monkeypatch.setattr(onnxruntime, "write", lambda _, path, x: write(wrong, path, x))
    config = Config(data="digits", samples=50, calibration=20, seconds=0.01)
    assert command.export(tmp_path / "model.safetensors", config) == 1
    told = capsys.readouterr().out
    assert "FAILED, 99% wanted" in told
    assert json.loads(told.splitlines()[-1])["passes"] is False


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(SettingsError, match="no ONNX file"):
        compare("onnxruntime", tmp_path / "m.onnx", integer("small_cnn"), examples("small_cnn"))
    with pytest.raises(SettingsError, match="held-out"):
        compare("onnxruntime", tmp_path / "m.onnx", integer("small_cnn"), examples("small_cnn")[:0])


def test_classes_of_a_detector_are_those_of_its_boxes() -> None:
    answers = np.zeros((1, 2, 4 + 3), np.float32)
    answers[0, :, 0] = 9  # an offset, which is no class
    answers[0, 0, 4], answers[0, 1, 6] = 1, 1
    np.testing.assert_array_equal(classes(answers), [[0, 2]])


def test_runtimes_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there are onnxruntime"):
        runtimes.python_of("tensorrt")
    missing = runtimes.Entry("m", ".x", "int8", ("no_such_package",), "pip install it")
    apart = runtimes.Entry("m", ".x", "int8", (), "make the environment", environment="litert")
    monkeypatch.setattr(runtimes, "KNOWN", {"missing": missing, "apart": apart})
    monkeypatch.setenv("FEDLITE_ENVIRONMENTS", str(tmp_path))
    with pytest.raises(SettingsError, match=r"no_such_package, not installed \(pip install it\)"):
        runtimes.python_of("missing")
    with pytest.raises(SettingsError, match="make the environment"):
        runtimes.python_of("apart")
    (tmp_path / "litert" / "bin").mkdir(parents=True)
    (tmp_path / "litert" / "bin" / "python").touch()
    assert runtimes.python_of("apart") == str(tmp_path / "litert" / "bin" / "python")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"data": ""}, "--data"),
        ({"data": "digits", "samples": 0}, "--samples"),
        ({"data": "d", "seconds": -1.0}, "--sec"),
        ({"data": "d", "threads": 257}, "--threads is 257; at most 256"),
    ],
)
def test_bad_options(options: dict[str, object], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        Config(**options)  # type: ignore[arg-type]
