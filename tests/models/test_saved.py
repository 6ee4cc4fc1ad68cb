"""A model's file comes back as it was, and anything else is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedlite.compress import quantize
from fedlite.errors import SettingsError, StorageError
from fedlite.models import build, spec_of
from fedlite.models.bridge import initial_params, params_of
from fedlite.models.saved import load_model, save_model
from fedlite.tensors import digest
from fedlite.types import Array


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", ["cnn", "mobilenet_v2", "char_lstm"])
def test_there_and_back(name: str, bits: int, tmp_path: Path) -> None:
    model = quantize.at(build(name), bits)
    spec, params = spec_of(model), initial_params(model, 5)
    save_model(tmp_path / "m.safetensors", spec.to_json(), bits, params)
    saved = load_model(tmp_path / "m.safetensors")
    assert (saved.spec, saved.bits, list(saved.params)) == (spec, bits, list(params))
    assert digest(saved.params, {}) == digest(params, {})
    save_model(tmp_path / "again.safetensors", spec.to_json(), bits, saved.params)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_what_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    params, spec = params_of(build("linear")), spec_of(build("linear")).to_json()

    def refused(match: str) -> None:
        with pytest.raises(SettingsError, match=match):
            load_model(file)

    refused("cannot read")
    save_model(file, spec, 32, params)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    refused("cannot read")
    file.write_bytes(b"\x00" * 40)
    refused("cannot read")
    save_file(dict(params), file)
    refused("does not say")
    save_file(dict(params), file, metadata={"fedlite": json.dumps({"bits": 32, "model": {"name": "x"}})})
    refused("not a model's name")
    save_model(file, spec, 32, {**params, "more": np.zeros(1, np.float32)})
    refused("not the model's")
    first = next(iter(params))
    save_model(file, spec, 32, {**params, first: np.full_like(params[first], np.nan)})
    refused("finite|NaN")
    save_model(file, spec, 32, {**params, first: params[first][:1]})
    refused("does not hold")


def rounding() -> tuple[str, dict[str, Array]]:
    """A linear model that rounds: its spec and params, whose one range is output.act_range."""
    model = quantize.at(build("linear"), 8)
    return spec_of(model).to_json(), initial_params(model, 5)


@pytest.mark.parametrize("bits", ["8", 8.0, True, None, 9, 1, 0, -1, math.inf, 10**30])
def test_bits_that_no_model_has(bits: object, tmp_path: Path) -> None:
    spec, params = rounding()
    made = json.dumps({"bits": bits, "model": json.loads(spec)})
    save_file(params, tmp_path / "m.safetensors", metadata={"fedlite": made})
    with pytest.raises(SettingsError, match="bits; 32, or 2 to 8 wanted"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("bits", "ranges", "words"),
    [
        (8, {}, "'output.act_range'.* missing"),
        (32, {"output": [0, 1]}, "not wanted"),
        (8, {"output": [0, 1], "hidden": [0, 1]}, "not wanted"),
        (8, {"output": [5, -5]}, "min, max"),
        (8, {"output": [0, 1, 2]}, "min, max"),
    ],
)
def test_ranges_are_those_of_the_bits(
    bits: int, ranges: dict[str, list[float]], words: str, tmp_path: Path
) -> None:
    spec, params = rounding()
    params = {name: value for name, value in params.items() if not name.endswith(".act_range")}
    params |= {f"{layer}.act_range": np.array(each, np.float32) for layer, each in ranges.items()}
    save_model(tmp_path / "m.safetensors", spec, bits, params)
    with pytest.raises(SettingsError, match=words):
        load_model(tmp_path / "m.safetensors")


def test_whole_numbers_are_no_range(tmp_path: Path) -> None:
    spec, params = rounding()
    params["output.act_range"] = np.array([0, 1], np.int64)  # type: ignore[assignment]
    save_model(tmp_path / "m.safetensors", spec, 8, params)
    with pytest.raises(SettingsError, match="float32"):
        load_model(tmp_path / "m.safetensors")


def test_a_file_is_no_message_of_a_client(tmp_path: Path) -> None:
    """The remedy is one for a file, whatever was wrong with it."""
    spec, params = rounding()
    file = tmp_path / "m.safetensors"
    for name, odd in params.items():
        save_model(file, spec, 8, {**params, name: np.full_like(odd, np.nan)})
        with pytest.raises(SettingsError) as refused:
            load_model(file)
        assert str(file) in str(refused.value)
        assert "as it was written" in str(refused.value)
        assert "client" not in str(refused.value)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    spec, params = rounding()
    (tmp_path / "m.safetensors").mkdir()  # no file can take its place
    for place in (tmp_path / "m.safetensors", tmp_path / "gone" / "m.safetensors"):
        with pytest.raises(StorageError, match="another folder"):
            save_model(place, spec, 8, params)
    assert [each.name for each in tmp_path.iterdir()] == ["m.safetensors"]
