"""Is the exported file the trained model? Run it in a process of its own, and compare its answers."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.integer import IntegerModel
from fedlite.errors import SettingsError
from fedlite.export.runtimes import entry_of, python_of
from fedlite.types import Array

AGREEMENT = 0.99  # of the answers, at least
TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True)
class Report:
    """What an exported file is worth beside the integer model of torch.

    `agreement` is the share of examples with the same likeliest class (of boxes, for a detector); differences are
    of logits. Latency is of one example. `accuracy` and `accuracy_trained` need labels; `resident_bytes` needs Linux.
    """

    runtime: str
    computes: str
    file: str
    size_bytes: int
    float32_bytes: int  # the same network's parameters in float32
    examples: int
    agreement: float
    max_difference: float
    mean_difference: float
    largest_logit: float
    accuracy: float | None
    accuracy_trained: float | None
    p50_ms: float
    p95_ms: float
    resident_bytes: int | None
    threads: int

    @property
    def passes(self) -> bool:
        """Whether the answers are those of the trained model."""
        return self.agreement >= AGREEMENT


def compare(
    name: str,
    path: Path,
    model: IntegerModel,
    x: NDArray[Any],
    y: NDArray[Any] | None = None,
    *,
    threads: int = 1,
    seconds: float = 1.0,
) -> Report:
    """Run a runtime's file on held-out examples x, (n ≥ 1, *input shape), and compare it with `model`.

    `seconds` is how long latency is measured. SettingsError if the runtime is not installed or refuses the file.
    """
    if not len(x):
        raise SettingsError("parity needs held-out examples; none were given")
    answers, figures = _run_apart(name, path, x, threads, seconds)
    trained = model.run(x)
    if answers.shape != trained.shape:
        raise SettingsError(f"{path} answers in shape {answers.shape}, the model in {trained.shape}")
    difference = np.abs(answers - trained)
    unlabelled = y is None or trained.ndim > 2  # a detector's labels are boxes
    return Report(
        runtime=name,
        computes=entry_of(name).computes,
        file=str(path),
        size_bytes=path.stat().st_size,
        float32_bytes=4 * parameters(model),
        examples=len(x),
        agreement=float((classes(answers) == classes(trained)).mean()),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        largest_logit=float(np.abs(trained).max()),
        accuracy=None if unlabelled else float((classes(answers) == y).mean()),
        accuracy_trained=None if unlabelled else float((classes(trained) == y).mean()),
        threads=threads,
        **figures,
    )


def classes(answers: Array) -> NDArray[np.int64]:
    """The likeliest class of each example; of a detector's answers, (n, boxes, 4 + classes), of each box."""
    kinds = answers[..., 4:] if answers.ndim == 3 else answers
    return np.asarray(kinds.argmax(-1), np.int64)


def parameters(model: IntegerModel) -> int:
    """How many weights and biases the network has."""
    own = ("_scale", ".act_zero_point")
    return sum(value.size for name, value in model.tensors.items() if not name.endswith(own))


def _run_apart(
    name: str, path: Path, x: NDArray[Any], threads: int, seconds: float
) -> tuple[Array, dict[str, Any]]:
    """(logits, latency and memory) of the file, from a process that loads nothing but the runtime."""
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with TemporaryDirectory() as folder:
        given, found = Path(folder) / "x.npy", Path(folder) / "logits.npy"
        np.save(given, x)
        arguments = [name, path, given, found, threads, seconds]
        command = [python_of(name), "-m", "fedlite.export.fresh", *map(str, arguments)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise SettingsError(f"{name} took longer than {TIMEOUT_SECONDS:g} seconds with {path}") from error
        told = done.stdout.strip().splitlines()
        figures = json.loads(told[-1]) if told and told[-1].startswith("{") else {}
        if done.returncode:
            words = figures.get("error") or (done.stderr.strip().splitlines() or ["?"])[-1]
            raise SettingsError(
                f"{name} cannot run {path}: {str(words)[:300]}", remedy="export the model anew"
            )
        return np.load(found, allow_pickle=False), figures
