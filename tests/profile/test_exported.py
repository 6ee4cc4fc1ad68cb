"""An exported ONNX file: its model, its integers, and running it."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.compress.integer import IntegerModel, to_integer
from fedlite.compress.quantize import prepare
from fedlite.errors import SettingsError
from fedlite.export import onnxruntime
from fedlite.models import build, initial_params
from fedlite.models.registry import resolve
from fedlite.profile.counts import NAMELESS, count
from fedlite.profile.examples import example_of
from fedlite.profile.figures import Setup, measure, print_table, record
from fedlite.profile.source import open_subject
from fedlite.profile.unknown import Unknown
from fedlite.types import is_range

SMALL = resolve("small_cnn", {})


@pytest.fixture(scope="module")
def model() -> IntegerModel:
    params = initial_params(prepare(build(SMALL)), 0)
    params |= {name: np.array([0, 1], np.float32) for name in params if is_range(name)}
    params["hidden.weight"][:40] = 0
    return to_integer(build(SMALL), params)


def test_the_figures_of_an_exported_file(
    model: IntegerModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    onnxruntime.write(model, path, np.zeros((1, 1, 8, 8), np.float32))
    subject = open_subject(str(path))
    assert (subject.spec, subject.file_bytes) == (SMALL, path.stat().st_size)
    figures = measure(subject, Setup(train_batch=2, seconds=0.01))
    got = json.loads(json.dumps(record(figures)))
    assert got["parameters"] == 46_650
    assert got["macs"] == 9 * 16 * 64 + 9 * 16 * 32 * 64 + 512 * 80 + 80 * 10
    zeros = sum(int((model.tensors[name] == 0).sum()) for name in initial_params(build(SMALL), 0))
    assert zeros >= 40 * 512
    assert got["nonzeros"] == 46_650 - zeros
    assert got["latency_p50_seconds"] > 0
    assert got["bytes_activation"] >= 0
    assert got["bytes_training"] is None
    assert "does not train" in got["not_measurable"]["bytes_training"]
    print_table(figures, layers=True)
    table = capsys.readouterr().out
    for word in ("parameters", "46,650", "latency_p95_seconds", "not measurable here", "hidden", "MACs"):
        assert word in table


def test_an_integer_model_has_no_latency_of_its_own(model: IntegerModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model.int8.safetensors")
    subject = open_subject(str(tmp_path / "model.int8.safetensors"))
    got = record(measure(subject, Setup(train_batch=2, seconds=0.01)))
    assert got["latency_p50_seconds"] is None
    assert "export" in got["not_measurable"]["latency_p50_seconds"]
    assert got["bytes_int8"] == got["bytes_file"]


def test_a_file_that_was_cut_or_is_another(model: IntegerModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnxruntime.write(model, path, np.zeros((1, 1, 8, 8), np.float32))
    good = path.read_bytes()
    for content in (b"", good[: len(good) // 2], b"fedlite" * 50):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"model\.onnx"):
            open_subject(str(path))


def test_non_zeros_are_not_told_without_every_value() -> None:
    values = dict(initial_params(build(SMALL), 0))
    del values["output.bias"]
    assert count(SMALL, values, example_of(SMALL)).nonzeros == Unknown(NAMELESS)
