"""python -m fedlite.export as its users run it."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.compress import quantize
from fedlite.compress.integer import to_integer
from fedlite.data.datasets import load
from fedlite.export import onnxruntime, parity
from fedlite.export.__main__ import main
from fedlite.models import build, initial_params, spec_of
from fedlite.models.saved import save_model
from fedlite.train import TrainSettings, local_train
from tests.programs.programs import BAD_SETTINGS, assert_refused, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors (bits 8), float.safetensors (bits 32) and model.int8.safetensors."""
    folder, digits = tmp_path_factory.mktemp("trained"), load("digits", "train")
    for name, bits in (("model", 8), ("float", 32)):
        model = quantize.at(build("small_cnn"), bits)
        settings = TrainSettings(bits=bits, learning_rate=0.1)
        params = local_train(model, initial_params(model, 0), digits.x, digits.y, settings, seed=0).params
        save_model(folder / f"{name}.safetensors", spec_of(model).to_json(), bits, params)
        if bits == 8:
            to_integer(build("small_cnn"), params).save(folder / "model.int8.safetensors")
    return folder


def test_help_teaches() -> None:
    done = run("fedlite.export", "--help")
    assert done.code == 0
    assert "python -m fedlite.export run/model.safetensors --data digits" in done.out


def test_a_model_is_exported_and_compared(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    given = (trained / "model.safetensors", "--data", "digits", "--out", out, "--seconds", "0.01")
    done = run("fedlite.export", *given, timeout=240)
    assert done.code == 0, done.err
    record = json.loads(done.out.splitlines()[-1])
    assert record["agreement"] >= 0.99
    assert record["examples"] == 359  # digits' test split
    assert record["accuracy"] == pytest.approx(record["accuracy_trained"], abs=0.01)
    assert record["size_bytes"] == out.stat().st_size < record["float32_bytes"] / 3
    assert "as trained" in done.out
    assert onnxruntime.open(out)(load("digits", "test").x[:3]).shape == (3, 10)


@pytest.mark.parametrize("name", ["float", "model.int8"])
def test_other_files_of_a_model(
    trained: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A float32 model is calibrated, an integer one taken as it is; an array of examples will do."""
    np.save(tmp_path / "x.npy", load("digits", "test").x[:80])
    given = [f"{trained}/{name}.safetensors", "--data", f"{tmp_path}/x.npy", "--out", f"{tmp_path}/m.onnx"]
    assert main([*given, "--json", "--seconds", "0.01"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["examples"], record["accuracy"], record["passes"]) == (40, None, True)


def test_a_file_that_answers_otherwise_is_not_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves the last good one: here the agreement wanted is one that no file has."""
    out = tmp_path / "m.onnx"
    out.write_bytes(b"the last good one")
    monkeypatch.setattr(parity, "AGREEMENT", 1.01)
    given = (f"{trained}/model.safetensors", "--data", "digits", "--out", str(out), "--seconds", "0.01")
    assert main(given) == 1
    told = capsys.readouterr().out
    assert f"{out} NOT WRITTEN" in told
    assert json.loads(told.splitlines()[-1])["passes"] is False
    assert out.read_bytes() == b"the last good one"
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    done = run("fedlite.export", tmp_path / "none.safetensors", "--data", "digits", timeout=240)
    assert_refused(done, BAD_SETTINGS, "none.safetensors")


def test_bad_input_is_refused_and_leaves_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (trained / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "altered.safetensors").write_bytes(whole.replace(b"small_cnn", b"smell_cnn"))
    (tmp_path / "x.npy").write_bytes(b"no array")
    good, data, out = f"{trained}/model.safetensors", ("--data", "digits"), ("--out", f"{tmp_path}/m.onnx")
    for words, given in {
        "cut.safetensors": (f"{tmp_path}/cut.safetensors", *data),
        "smell_cnn": (f"{tmp_path}/altered.safetensors", *data),
        "MODEL is missing": data,
        "there are onnxruntime": (good, *data, "--runtime", "x"),
        "--data is missing": (good,),
        "x.npy": (good, "--data", f"{tmp_path}/x.npy"),
    }.items():
        assert main([*given, *out]) == BAD_SETTINGS
        assert words in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()
