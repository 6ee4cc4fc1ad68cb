"""`python -m fedlite.compress`: make a model small, look at it, have it back; and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlite.compress import lowrank, quantize, stored
from fedlite.compress.__main__ import main
from fedlite.data.spec import open_data
from fedlite.models import build, initial_params
from fedlite.models.registry import resolve
from fedlite.models.saved import RANGE, load_model, save_model
from fedlite.train import evaluate

SPEC = resolve("mlp", {"input_shape": (1, 8, 8), "num_classes": 10})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, SPEC.to_json(), 32, initial_params(build(SPEC), 0))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(each) for each in arguments])
    return code, *capsys.readouterr()


def test_there_and_back(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    code, out, err = run(capsys, model, "--sparsity", "0.5")
    assert code == 0
    assert "no --data: nothing is trained; 50% of the weights go as they are" in err
    found = json.loads(out.splitlines()[-1])
    file = tmp_path / "model.fedlite"
    assert found["bytes"] == file.stat().st_size
    assert found["ratio"] == round(found["bytes_float32"] / found["bytes"], 2) > 8
    dense = load_model(model).params
    assert found["bytes_float32"] == sum(value.nbytes for value in dense.values())

    code, out, _ = run(capsys, "--show", file)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["layers"] == found["layers"]

    back = tmp_path / "back.safetensors"
    assert run(capsys, "--decode", file, "--out", back)[0] == 0
    again = load_model(back)
    assert again.spec == SPEC
    for name, value in again.params.items():
        assert np.abs(value - dense[name]).max() < np.abs(dense[name]).max()
        assert np.count_nonzero(value) == found["layers"][name]["live"]


def test_without_data_a_named_recipe_prunes_nothing(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, err = run(capsys, model, "--json")
    assert code == 0
    assert "0% of the weights go" in err
    assert all(each["live"] == each["weights"] for each in json.loads(out)["layers"].values())


def test_with_data_it_is_trained_and_tested(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "my.toml"
    recipe.write_text("sparsity = 0.5\nprune-epochs = 4\nshare-epochs = 1\nbatch-size = 32\n")
    code, out, err = run(
        capsys, model, "--data", "digits", "--recipe", recipe, "--out", tmp_path / "a.fedlite"
    )
    assert code == 0, err
    assert "prune  epoch 4/4  loss" in err
    assert "share  epoch 1/1  loss" in err
    found = json.loads(out.splitlines()[-1])
    assert found["error_percent_before"] > 70
    assert found["error_percent"] < 20


def test_the_module_runs_and_teaches() -> None:
    command = [sys.executable, "-m", "fedlite.compress", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=100)
    assert done.returncode == 0
    for word in (
        "--recipe",
        "--show model.fedlite",
        "--decode model.fedlite",
        "[sparsities]",
        "without data",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "one MODEL, one --show or one --decode is wanted"),
        (("MODEL", "--show", "MODEL"), "one MODEL, one --show or one --decode is wanted"),
        (("MODEL", "--sparsity", "1"), "is 1.0; it must be in [0, 1)"),
        (("MODEL", "--sparsity", "nan"), "is nan; it must be in [0, 1)"),
        (("MODEL", "--recipe", "tiny"), "no recipe 'tiny'; there are deep-compression, light"),
        (("MODEL", "--recipe", "none.toml"), "cannot read none.toml"),
        (("MODEL", "--data", "nothing"), "'nothing' is neither a data set nor a path"),
        (
            ("MODEL", "--data", "digits", "--teacher", "MODEL"),
            "soft is 0 in the recipe (give --data, and --recipe",
        ),
        (("MODEL", "--data", "digits", "--teacher", "none", "--recipe", "SOFT"), "cannot read none"),
        (
            ("MODEL", "--data", "digits", "--teacher", "FOUR", "--recipe", "SOFT"),
            "the teacher says (1438, 4) of",
        ),
        (
            ("MODEL", "--data", "digits", "--teacher", "WIDE", "--recipe", "SOFT"),
            "takes no examples of shape",
        ),
        (("MODEL", "--out", "nowhere/model.fedlite"), "cannot write nowhere/model.fedlite"),
        (("MODEL", "--out", "."), "cannot write .: it is a folder"),
        (("--decode", "MODEL", "--out", "."), "cannot write .: it is a folder"),
        (("MODEL", "--teacher", "MODEL"), "there is no --data"),
        (("none.safetensors",), "cannot read none.safetensors"),
        (("--show", "none.fedlite"), "cannot read none.fedlite"),
    ],
)
def test_bad_settings(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    files = {"MODEL": model, "SOFT": tmp_path / "soft.toml"}
    files["SOFT"].write_text("soft = 0.5\nprune-epochs = 1\nshare-epochs = 0\n")
    for name, side, classes in (("FOUR", 8, 4), ("WIDE", 9, 10)):
        files[name] = tmp_path / f"{name}.safetensors"
        spec = resolve("mlp", {"input_shape": (1, side, side), "num_classes": classes})
        save_model(files[name], spec.to_json(), 32, initial_params(build(spec), 0))
    code, out, err = run(capsys, *(files.get(each, each) for each in arguments))
    assert (code, out) == (2, "")
    assert words in err
    assert err.splitlines()[-1].startswith("error: ")


def test_a_layer_that_is_not_there(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "my.toml"
    recipe.write_text("[sparsities]\nmiddle = 0.5\n")
    code, _, err = run(capsys, model, "--recipe", recipe)
    assert code == 2
    assert "the recipe names a layer 'middle'; there are" in err
    assert not (tmp_path / "model.fedlite").exists()


def test_files_that_are_damaged(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    assert run(capsys, model)[0] == 0
    file = tmp_path / "model.fedlite"
    payload = file.read_bytes()
    for damaged in (payload[:-1], payload[:3], b"", bytes([payload[0] ^ 1]) + payload[1:], payload + b"\0"):
        file.write_bytes(damaged)
        for option in ("--show", "--decode"):
            code, out, err = run(capsys, option, file, "--out", tmp_path / "back.safetensors")
            assert (code, out) == (1, "")
            assert str(file) in err
    assert not (tmp_path / "back.safetensors").exists()
    model.write_bytes(model.read_bytes()[:-1])
    assert run(capsys, model)[0] == 2


def test_nan_weights(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    params = {name: value.copy() for name, value in load_model(model).params.items()}
    next(iter(params.values()))[0] = np.nan
    save_model(model, SPEC.to_json(), 32, params)
    code, _, err = run(capsys, model)
    assert code == 2
    assert "NaN" in err


def at_8_bits(path: Path) -> Path:
    net = quantize.at(build(SPEC), 8)
    params = dict(initial_params(net, 0))
    params |= {name: np.array([0, 4], np.float32) for name in params if name.endswith(RANGE)}
    save_model(path, SPEC.to_json(), 8, params)
    return path


def test_a_model_that_rounds_is_compressed_as_float32(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also as a teacher, which answers at its own bits."""
    model, recipe = at_8_bits(tmp_path / "model.safetensors"), tmp_path / "my.toml"
    recipe.write_text("prune-epochs = 1\nshare-epochs = 1\nsoft = 0.5\n")
    code, out, err = run(capsys, model, "--data", "digits", "--recipe", recipe, "--teacher", model)
    assert code == 0, err
    assert "computes at 8 bits: its activation ranges go, and it is compressed as float32" in err
    found = json.loads(out.splitlines()[-1])
    assert not any(name.endswith(RANGE) for name in found["layers"])
    saved, test = load_model(model), open_data("digits", split="test")
    before = evaluate(build(SPEC), saved.params, test.x, test.y, bits=8)["accuracy"]
    assert found["error_percent_before"] == round(100 * (1 - before), 4)


def test_fedpara_is_multiplied_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, spec = tmp_path / "model.safetensors", lowrank.fedpara(SPEC)
    params = initial_params(build(spec), 0)
    save_model(path, spec.to_json(), 32, params)
    code, out, err = run(capsys, path)
    assert code == 0, err
    assert "FedPara's factors are multiplied out" in err
    merged = lowrank.merge(spec, params)[1]
    assert list(json.loads(out.splitlines()[-1])["layers"]) == list(merged)
    assert stored.load(tmp_path / "model.fedlite")[0] == SPEC.to_json()


@pytest.mark.parametrize("place", ["nodir/back.safetensors", "model.fedlite/back.safetensors"])
def test_a_place_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, place: str
) -> None:
    assert run(capsys, model)[0] == 0
    before = sorted(tmp_path.iterdir())
    code, out, err = run(capsys, "--decode", tmp_path / "model.fedlite", "--out", tmp_path / place)
    assert (code, out) == (1, "")
    assert f"cannot write {tmp_path / place}" in err
    assert sorted(tmp_path.iterdir()) == before
