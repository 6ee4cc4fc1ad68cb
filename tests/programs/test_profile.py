"""python -m fedlite.profile as its users run it: figures, a search, and refusals."""

import json
from pathlib import Path

import pytest

from fedlite.config import from_toml
from fedlite.models import ModelSpec
from fedlite.models.saved import load_model
from fedlite.profile.__main__ import main
from fedlite.student_settings import StudentSettings
from tests.programs.programs import BAD_SETTINGS, Done, assert_refused, run

PROFILE = "fedlite.profile"
FAST = ("--seconds", "0.01")


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the program says, in this process: loading torch takes longer than the rest."""
    code = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_figures_as_json() -> None:
    done = run(PROFILE, "small_cnn:num_classes=4", "--train-batch", 4, "--json", *FAST)
    assert done.code == 0, done.err
    got = json.loads(done.out)
    assert got["parameters"] == 46_650 - 6 * 81
    assert got["macs"] == 9 * 16 * 64 + 9 * 16 * 32 * 64 + 512 * 80 + 80 * 4
    assert got["flops_training"] == 6 * got["macs"]
    assert got["latency_p95_seconds"] >= got["latency_p50_seconds"] > 0
    assert got["latency_repeats"] >= 30
    assert (got["energy_joules"] is None) == ("energy_joules" in got["not_measurable"])


def test_a_search_is_resumed_and_its_winner_is_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "--search",
        "mlp:hidden=64",
        "--budget",
        "macs=2500,size=20kB",
        "--data",
        "digits",
        "--samples",
        300,
    )
    command = (*words, "--ratios", "0", "--out", tmp_path, "--json", *FAST)
    result = json.loads(told(capsys, *command).splitlines()[-1])
    assert result["ranked_by"] == "accuracy"
    assert (result["candidates"], result["fitting"]) == (4, 2)  # 16 and 32 units; 48 are 3,552 multiply-adds
    spec = ModelSpec.from_json((tmp_path / "winner.json").read_text())
    assert dict(spec.options)["hidden"] in {(16,), (32,)}
    start = from_toml(StudentSettings, tmp_path / "student.toml")["start"]
    assert load_model(tmp_path / start).spec == spec  # --student reads paths as seen from the recipe
    cached = (tmp_path / "figures.jsonl").read_bytes()
    assert json.loads(told(capsys, *command).splitlines()[-1]) == result
    assert (tmp_path / "figures.jsonl").read_bytes() == cached  # nothing was measured again
    table = json.loads((tmp_path / "candidates.json").read_text())
    assert [bool(each["misses"]) for each in table] == [False, False, True, True]
    assert result["accuracy"]["1"] == max(each["accuracy"].get("1", 0) for each in table)


def test_without_data_the_largest_that_fits_wins_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "--search",
        "mlp:hidden=64,input_shape=64",
        "--budget",
        "macs=2500",
        "--ratios",
        "0",
        "--out",
        tmp_path,
    )
    out = told(capsys, *words)
    assert "no --data" in out
    assert json.loads(out.splitlines()[-1])["label"] == "mlp:hidden=32"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("MODEL",)),
        (("cnn", "--search", "cnn", "--budget", "size=1MB"), ("MODEL",)),
        (("--search", "cnn"), ("--budget",)),
        (("--search", "cnn", "--budget", "speed=1ms"), ("speed", "latency")),
        (("--search", "mlp:hidden=8", "--budget", "macs=10", "--ratios", "0"), ("smallest possible", "macs 1,588")),
        (("--search", "mlp", "--budget", "macs=1M", "--data", "nowhere"), ("nowhere",)),
        (("cnn", "--batch", "0"), ("batch",)),
        (("cnn", "--threads", "257"), ("threads is 257", "256")),
        (("--search", "small_cnn", "--budget", "size=1MB", "--ratios", "0.999"), ("no candidate", "--ratios")),
        (("cnn", "--input", "1x1"), ("1, 1",)),
        (("nowhere.onnx",), ("nowhere.onnx",)),
        (("model.tflite",), ("no model", "cnn")),
    ],
)  # fmt: skip
def test_refusals(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*arguments, "--out", str(tmp_path)])
    out, err = capsys.readouterr()
    assert_refused(Done(code, out, err), BAD_SETTINGS, *words)


def test_a_disk_that_refuses_the_winner_leaves_the_last_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "--search",
        "mlp:hidden=8",
        "--budget",
        "macs=1M",
        "--ratios",
        "0",
        "--out",
        str(tmp_path),
        *FAST,
    )
    (tmp_path / "winner.safetensors").mkdir()  # no file can take its place
    assert main([*words]) == 1
    err = capsys.readouterr().err
    assert "winner.safetensors" in err
    assert "state-dir" not in err
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".part")]


def test_a_refusal_ends_the_program(tmp_path: Path) -> None:
    assert_refused(run(PROFILE, tmp_path / "model.safetensors"), BAD_SETTINGS, "model.safetensors")
