"""A model as a teacher: what it says of examples, and a name that tells it from any other."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from fedlite.compress import quantize
from fedlite.errors import DataError
from fedlite.models.bridge import load_params
from fedlite.models.registry import ModelSpec, build
from fedlite.models.saved import load_model
from fedlite.tensors import digest
from fedlite.train import logits
from fedlite.types import Array, Params


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained model that only answers. `bits` is what it computes at, as it was trained."""

    spec: ModelSpec
    bits: int
    params: Params

    @cached_property
    def name(self) -> str:
        """SHA-256 over the spec, the bits and every value, as 64 hex digits: the same name is the same model."""
        made = hashlib.sha256(f"{self.spec.to_json()}\0{self.bits}\0".encode())
        made.update(digest(self.params))
        return made.hexdigest()

    def logits(self, x: NDArray[Any], batch_size: int = 512) -> Array:
        """Of examples (n, *input shape): (n, classes).

        UpdateError if params and spec disagree, DataError for examples of another shape.
        """
        try:
            return teacher_logits(self.spec, self.params, x, self.bits, batch_size)
        except DataError as error:
            raise DataError(
                f"the teacher, a {self.spec.name}, takes no examples of shape {x.shape[1:]} {x.dtype}",
                remedy="give one that was made for these data",
            ) from error

    def network(self) -> nn.Module:
        """A module in evaluation mode with the teacher's values, the caller's own; nothing in it learns."""
        net = quantize.at(build(self.spec), self.bits)
        load_params(net, self.params)
        return net.eval().requires_grad_(False)


def load_teacher(path: Path) -> Teacher:
    """The model of a model.safetensors file. SettingsError for one that is missing, damaged or not fedlite's."""
    saved = load_model(path)
    return Teacher(saved.spec, saved.bits, saved.params)


def teacher_logits(
    spec: ModelSpec, params: Params, x: NDArray[Any], bits: int = 32, batch_size: int = 512
) -> Array:
    """What a model says of examples (n, *input shape): (n, classes), before softmax, computed at `bits`."""
    return logits(build(spec), params, x, bits=bits, batch_size=batch_size)
