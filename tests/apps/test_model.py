"""The files that a run ends with."""

import json
from pathlib import Path

from safetensors import safe_open

from fedlite.apps.model import initial, write
from fedlite.models.registry import resolve


def test_the_same_model_is_the_same_file_whenever_it_is_written(tmp_path: Path) -> None:
    spec = resolve("linear", {}).to_json()
    params = initial(spec, 32, seed=1)
    files = set()
    for place in range(12):
        write(tmp_path / str(place), spec, 32, params, {}, None)
        files.add((tmp_path / str(place) / "model.safetensors").read_bytes())
    assert len(files) == 1
    with safe_open(tmp_path / "0" / "model.safetensors", "np") as file:
        assert json.loads(file.metadata()["fedlite"]) == {"bits": 32, "model": json.loads(spec)}
