"""`python -m fedlite.compress`: make a model small, look at it, have it back; and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlite.compress.__main__ import main
from fedlite.models import build, initial_params
from fedlite.models.registry import resolve
from fedlite.models.saved import load_model, save_model

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
        (("MODEL", "--data", "digits", "--teacher", "none"), "cannot read none"),
        (("MODEL", "--out", "nowhere/model.fedlite"), "cannot write nowhere/model.fedlite"),
        (("none.safetensors",), "cannot read none.safetensors"),
        (("--show", "none.fedlite"), "cannot read none.fedlite"),
    ],
)
def test_bad_settings(
    capsys: pytest.CaptureFixture[str], model: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(capsys, *(str(model) if each == "MODEL" else each for each in arguments))
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
