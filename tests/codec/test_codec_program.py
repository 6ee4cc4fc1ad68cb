"""`python -m fedlite.codec` as a person runs it, and its figures against sums by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.codec import parts
from fedlite.codec.__main__ import main
from fedlite.codec.example import make
from fedlite.codec.figures import measure, nearness
from fedlite.compress.presets import COMPRESSORS, FILTERS, PRESETS, SERIALIZERS, codec_by_name
from fedlite.types import Update

SMALL = ["--model", "linear", "--samples", "20", "--seconds", "0"]


def update(*values: float) -> Update:
    return {"w": np.array(values, np.float32)}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[str, str]:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    return out, err


def bench(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, "bench", *argv, "--json")[0])
    return found


def test_the_program_itself() -> None:
    """McMahan's CNN for MNIST has 1,663,370 parameters (McMahan 2017, §3), and plain is four bytes for each."""
    command = [
        sys.executable,
        "-m",
        "fedlite.codec",
        "bench",
        "--model",
        "cnn",
        "--seconds",
        "0",
        "--samples",
        "20",
    ]
    done = subprocess.run([*command, "--codec", "plain", "int8", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    plain, int8 = found["codecs"]
    assert found["parameters"] == 1_663_370
    assert plain["cosine"] == 1
    assert plain["error"] == 0
    assert 4 * 1_663_370 < plain["payload_bytes"] < 4 * 1_663_370 + 100
    assert int8["ratio"] > 4
    assert int8["cosine"] > 0.999
    assert all(each[key] > 0 for each in found["codecs"] for key in ("encode_mb_s", "decode_mb_s"))


def test_every_preset_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "bench", *SMALL)
    lines = out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["codec", *PRESETS]
    assert "linear: 7850 parameters; trained on 20 samples of digits, 1x28x28" in err


def test_the_same_seed_is_the_same_update(capsys: pytest.CaptureFixture[str]) -> None:
    def sizes(seed: str) -> list[tuple[int, float]]:
        found = bench(capsys, *SMALL, "--seed", seed, "--codec", "small", "int8")
        return [(each["payload_bytes"], each["cosine"]) for each in found["codecs"]]

    assert sizes("3") == sizes("3") != sizes("4")


def test_other_models_and_data(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    more = ["--dataset", "fashion_mnist", "--data-dir", str(data_dir), "--seconds", "0", "--samples", "20"]
    found = bench(capsys, "--model", "mlp:hidden=8", *more, "--codec", "topk:0.01+int8+zstd:3")
    assert found["parameters"] == 784 * 8 + 8 + 8 * 10 + 10
    assert found["trained_on"] == "20 samples of fashion_mnist, 1x28x28"
    assert found["codecs"][0]["parts"] == "topk:0.01+int8+zstd:3"


def test_an_update_is_real() -> None:
    found = make("linear", "", None, 20, 0)
    assert [*found.update] == [*found.params]
    assert all(np.isfinite(value).all() and value.any() for value in found.update.values())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "bench and list"),
        (["measure"], "bench and list"),
        (["bench", "--model", "nothing"], "unknown model 'nothing'"),
        (["bench", "--codec", "tiny"], "no codec 'tiny'"),
        (["bench", "--codec", "zstd:99"], "no codec"),
        (["bench", "--dataset", "nowhere"], "neither a data set nor a path"),
        (["bench", "--samples", "0"], "samples is 0"),
        (["bench", "--seconds", "nan"], "seconds is nan"),
        (["bench", "--data", "digits"], "--data"),
        (["list", "--model", "cnn"], "--model"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "python -m fedlite.codec list" in capsys.readouterr().out
    for command in ("bench", "list"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert "--json" in capsys.readouterr().out


def test_everything_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "list")
    for names in (FILTERS, SERIALIZERS, COMPRESSORS):
        for name in names:
            assert f"\n  {name}" in out
    for notes in (parts.filters(), parts.serializers(), parts.squeezers()):
        assert all(len(note.text) > 20 for note in notes), notes
    assert "step[:deviations=2][:dead_zone=0.6]" in out
    assert "topk:fraction" in out
    listed = json.loads(run(capsys, "list", "--json")[0])
    assert [each["usage"].split(" = ")[0] for each in listed["presets"]] == [*PRESETS]


def test_nearness_by_hand() -> None:
    # (3, 4) against (4, 3): cos = 24/25, |(−1, 1)| / 5 = √2/5; against (6, 8): cos 1, error 1
    assert nearness(update(3, 4), update(4, 3)) == pytest.approx((24 / 25, math.sqrt(2) / 5))
    assert nearness(update(3, 4), update(6, 8)) == pytest.approx((1, 1))
    assert nearness(update(3, 4), update(0, 0)) == (0, 1)
    assert nearness(update(0, 0), update(0, 0)) == (1, 0)
    assert nearness(update(0, 0), update(3, 4)) == (0, math.inf)


def test_figures_are_of_whole_payloads() -> None:
    values = update(*np.random.default_rng(0).standard_normal(1000))
    codec = codec_by_name("plain")
    found = measure("plain", codec, values, seconds=0, seed=0)
    assert found.payload_bytes == len(codec.encode(values))
    assert found.ratio == pytest.approx(4000 / found.payload_bytes)
