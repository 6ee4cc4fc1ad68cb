"""Memory that running and training a model takes above the loaded process, measured in a fresh one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedlite.profile.examples import Example
from fedlite.profile.unknown import Unknown

if TYPE_CHECKING:
    from torch import nn

    from fedlite.models.registry import ModelSpec

Bytes = int | Unknown


@dataclass(frozen=True)
class Memory:
    """Bytes above a process that has loaded torch and the model.

    `activation`: at the peak of inference. `training`: at the peak of local training as a client does it, its
    copies of the weights, their gradients and the saved activations included. `saved`: what autograd keeps of one
    batch for the backward pass, exact, without work space inside layers.
    """

    activation: Bytes
    training: Bytes
    saved: Bytes


class Measure(Protocol):
    """Measures one model."""

    def __call__(
        self, spec: "ModelSpec", bits: int, example: Example, exported: Path | None = None
    ) -> Memory:
        """Its memory at these bits; of an exported file, as ONNX Runtime runs it."""


@contextmanager
def bench(*, batch: int, train_batch: int, threads: int) -> Iterator[Measure]:
    """`measure(spec, bits, example)`, each in a process of its own, forked from one that has loaded torch.

    That one starts when it is first needed. A figure that cannot be had is Unknown, with the reason.
    """
    fixed = {"batch": batch, "train_batch": train_batch, "threads": threads}
    children: list[subprocess.Popen[str]] = []

    def measure(spec: "ModelSpec", bits: int, example: Example, exported: Path | None = None) -> Memory:
        if not children:
            children.append(stack.enter_context(_start(threads)))
        what = {"file": str(exported) if exported else "", "spec": spec.to_json(), "bits": bits}
        how = {"shape": example.shape, "symbols": example.symbols}
        return _answer(children[0], json.dumps(fixed | what | how))

    with ExitStack() as stack:
        yield measure


def _start(threads: int) -> "subprocess.Popen[str]":
    """The process that measures; left as a context, it closes its input, which ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "fedlite.profile.fresh"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )


def _answer(child: "subprocess.Popen[str]", ask: str) -> Memory:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(ask + "\n")
        child.stdin.flush()
        found = json.loads(child.stdout.readline())
    except (OSError, ValueError):
        found = {"error": "the process that measures ended"}
    names = ("activation", "training", "saved")
    return Memory(*(_bytes(found.get("error") or found[name]) for name in names))


def _bytes(value: int | str) -> Bytes:
    return Unknown(value) if isinstance(value, str) else value


def saved_bytes(net: "nn.Module", x: Any) -> int:
    """Bytes that autograd keeps for the backward pass of a batch x: its own storages, each counted once.

    Parameters and statistics are not among them; the batch itself is, if a layer keeps it. `net` runs in training
    mode, as it is, so its statistics may move.
    """
    import torch

    held: dict[int, torch.Tensor] = {}  # by storage; kept alive, so that no storage's place is used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net.train()(x)
        out.logsumexp(-1).sum()  # what cross-entropy keeps of the logits
    for each in (*net.parameters(), *net.buffers()):
        held.pop(each.untyped_storage()._cdata, None)
    return sum(each.untyped_storage().nbytes() for each in held.values())
