"""A model's file comes back as it was, and anything else is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedlite.compress import quantize
from fedlite.errors import SettingsError
from fedlite.models import build, spec_of
from fedlite.models.bridge import initial_params, params_of
from fedlite.models.saved import load_model, save_model
from fedlite.tensors import digest


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
