"""The benchmark's models in torch, the same modules for fedlite and for every peer on torch."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from workload import Workload

_OPTIONS = {"mobilenet_v2": {"input_shape": (3, 32, 32), "num_classes": 10, "width": 0.35, "stem_stride": 1}}


def make(name: str) -> nn.Module:
    """A model of fedlite's with its initial weights, which are the same wherever it is made."""
    _find_fedlite()
    from fedlite.models import build

    return build(name, **_OPTIONS.get(name, {}))


def spec_of(name: str) -> str:
    """The same as fedlite names it: a ModelSpec's JSON."""
    _find_fedlite()
    from fedlite.models.registry import resolve

    return resolve(name, _OPTIONS.get(name, {})).to_json()


def _find_fedlite() -> None:
    root = str(Path(__file__).resolve().parents[3])
    if root not in sys.path:
        sys.path.append(root)


def client_tensors(work: Workload, index: int) -> tuple[Tensor, Tensor]:
    x, y = work.client(index)
    return torch.from_numpy(x), torch.from_numpy(y)


def train(model: nn.Module, work: Workload, index: int) -> None:
    """A client's local training by the plain loop of every torch tutorial, in place."""
    x, y = client_tensors(work, index)
    optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
    for _ in range(work.epochs):
        for chosen in torch.randperm(len(y)).split(work.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()


def accuracy(model: nn.Module, work: Workload) -> float:
    x, y = torch.from_numpy(np.array(work.array("test_x"))), np.array(work.array("test_y"))
    with torch.no_grad():
        return float((model.eval()(x).argmax(-1).numpy() == y).mean())


def flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def load_flat(model: nn.Module, vector: Tensor) -> None:
    with torch.no_grad():
        nn.utils.vector_to_parameters(vector.clone(), model.parameters())
