"""What one example of a model's input is, and batches of drawn ones: costs do not depend on their values."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.seeds import generator

if TYPE_CHECKING:
    from fedlite.models.registry import ModelSpec

TEXT_LENGTH = 80  # symbols, where neither the user nor the spec says: LEAF's Shakespeare


@dataclass(frozen=True)
class Example:
    """One example: its shape, and for symbols how many there are; 0 for real numbers."""

    shape: tuple[int, ...]
    symbols: int = 0

    def batch(self, count: int, seed: int = 0) -> NDArray[Any]:
        """`count` examples: float32 in [0, 1), or int64 in [0, symbols)."""
        random = generator(seed, "profile", "examples")
        if self.symbols:
            return random.integers(0, self.symbols, (count, *self.shape))
        return random.random((count, *self.shape), np.float32)


def example_of(spec: "ModelSpec", given: tuple[int, ...] = ()) -> Example:
    """The input of a spec's network, of the shape given where one is given. SettingsError if it does not take that.

    A network whose spec has no input_shape takes symbols, as many different ones as its first embedding has rows.
    """
    import torch
    from torch import nn

    from fedlite.models.registry import skeleton

    options = dict(spec.options)
    net: nn.Module = skeleton(spec)
    if "input_shape" in options:
        known = options["input_shape"]
        assert isinstance(known, tuple)
        example = Example(given or known)
    else:
        tables = [layer for layer in net.modules() if isinstance(layer, nn.Embedding)]
        if not tables:
            raise SettingsError(f"nothing says what examples {spec.name!r} takes", remedy="give --input")
        length = options.get("length", TEXT_LENGTH)
        example = Example(given or (int(str(length)),), tables[0].num_embeddings)
    try:
        with torch.no_grad():
            net.eval()(meta_batch(example, 1))
    except (RuntimeError, ValueError, IndexError) as error:
        text = "x".join(map(str, example.shape))
        raise SettingsError(f"{spec.name!r} takes no examples of {text}", remedy="correct --input") from error
    return example


def meta_batch(example: Example, count: int) -> Any:
    """Examples on the meta device: a shape, no values, no memory."""
    import torch

    kind = torch.int64 if example.symbols else torch.float32
    return torch.empty((count, *example.shape), dtype=kind, device="meta")
