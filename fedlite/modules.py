"""The module and the shapes that a ModelSpec's JSON stands for, kept while they are in use. Loads torch when called."""

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from fedlite.types import Params

if TYPE_CHECKING:
    from torch import nn

_kept = threading.local()


def module_of(spec: str, bits: int) -> "nn.Module":
    """The module of a ModelSpec's JSON, rounding as int8 does when bits is 8; how it computes, not its weights.

    Each thread keeps the last one: building takes as long as a few training steps, and no two threads may run one
    module at the same time.
    """
    if getattr(_kept, "key", None) != (spec, bits):
        from fedlite.compress import quantize
        from fedlite.models import ModelSpec, build

        _kept.module = quantize.at(build(ModelSpec.from_json(spec)), bits)
        _kept.key = (spec, bits)
    return cast("nn.Module", _kept.module)


@lru_cache(4)
def shapes_of(spec: str, bits: int) -> Params:
    """Names and shapes of the model's parameters, without values and without memory for them."""
    from fedlite.compress import quantize
    from fedlite.models import ModelSpec
    from fedlite.models.bridge import layout
    from fedlite.models.registry import skeleton

    return layout(quantize.at(skeleton(ModelSpec.from_json(spec)), bits))
