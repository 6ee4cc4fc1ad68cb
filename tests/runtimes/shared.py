"""What every runtime's file must do: answer as the model does, be small, be refused if damaged, or not be there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlite.errors import DataError, SettingsError
from fedlite.export.parity import compare
from fedlite.export.runtimes import entry_of, load
from fedlite.models import build, initial_params, spec_of
from fedlite.models.saved import save_model
from tests.runtimes.models import MODELS, samples, trained

HELD_OUT = 200


def answers_as_trained(runtime: str, name: str, folder: Path, smaller: float, near: float = 0.1) -> None:
    """Write, run apart, compare: the same classes, logits as near as `near` of the largest, the file smaller."""
    model, path = trained(name), folder / f"m{entry_of(runtime).suffix}"
    load(runtime).write(model, path, samples(name, 64, "train")[0])
    x, y = samples(name, HELD_OUT, "test")
    report = compare(runtime, path, model, x, y, seconds=0.05)
    print(json.dumps({"model": name, **vars(report)}))
    assert len(np.unique(model.run(x).argmax(1))) > 1, "the model says the same of everything"
    assert report.passes
    assert report.max_difference < near * report.largest_logit
    assert report.float32_bytes > smaller * report.size_bytes


def refuses_what_is_no_file(runtime: str, folder: Path) -> None:
    path = folder / f"m{entry_of(runtime).suffix}"
    with pytest.raises(SettingsError, match=str(path)):
        load(runtime).open(path)
    path.write_bytes(b"not a model of any kind, and long enough to hold a header" * 4)
    with pytest.raises(SettingsError, match=str(path)):
        load(runtime).open(path)


def leaves_no_half_file(runtime: str, folder: Path) -> None:
    """Examples of another shape, and a folder that is not there."""
    model, x = trained("small_cnn"), samples("small_cnn", 2, "train")[0]
    with pytest.raises(DataError, match="shape"):
        load(runtime).write(model, folder / "m", np.zeros((2, 3, 12, 12), np.float32))
    with pytest.raises(DataError, match="examples"):
        load(runtime).write(model, folder / "m", x[:0])
    assert list(folder.iterdir()) == []


def command(runtime: str, folder: Path) -> None:
    """python -m fedlite.export in this environment: exit code 0, the file and the report."""
    spec, x = spec_of(build("small_cnn", **MODELS["small_cnn"])), samples("small_cnn", 200, "train")[0]
    save_model(folder / "m.safetensors", spec.to_json(), 32, initial_params(build(spec), 0))
    np.save(folder / "x.npy", x)
    arguments = ["m.safetensors", "--runtime", runtime, "--data", "x.npy", "--seconds", "0.05", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "fedlite.export", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)  # and nothing else is there
    assert (report["runtime"], report["passes"], report["examples"]) == (runtime, True, 100)
    assert (folder / "m").with_suffix(entry_of(runtime).suffix).stat().st_size == report["size_bytes"]
