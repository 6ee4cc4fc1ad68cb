"""Every codec the suite runs over, and the updates it gives them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.codec import Codec
from fedlite.compress.presets import PRESETS, codec_by_name
from fedlite.types import Array, Masks

Bools = NDArray[np.bool_]

ALONE = (
    "int8",
    "int8-tensor",
    "float32",
    "plain",
    "step:2",
    "exact:2",
    "int4",
    "int2-tensor",
    "float16",
    "sign",
    "eden:1",
    "eden:3",
    "ring:16:0.001:100",
    "ring:32:1e-6",
)  # serializers without compressors
COMPOSED = (
    "int8+zstd:1+zstd:9",
    "int8-random+zstd:1",
    "int8+ans",
    "step:2+zstd:3",
    "step:0.1+ans",
    "topk:0.5+int8+zstd:3",
    "topk:0.1+step:2+ans",
    "int4+bits",
    "int4-random+ans",
    "int2-random+bits+zstd:1",
    "int2-tensor+ans",
    "step:1+bits",
    "float16+zstd:3",
    "sign+zstd:1",
    "drive",
    "eden:2",
    "eden:4",
    "ring:16:0.01:10+ans",
    "ring-random:32:0.0001:5+zstd:1",
    "topk:0.1+int4+bits",
    "lowrank:2+float16",
    "randomk:0.2+sign",
    "topk-layer:0.05+int8+ans",
    "randomk:0.05+int8+zstd:1",
    "randomk:0.3:1+step:1+ans",
    "threshold:2:1+step:2+ans",
    "lowrank:4+float32",
    "lowrank:2+int8",
    "lowrank:2+topk:0.5+step:0.5+ans",
    "topk:0.2+randomk:0.5+lowrank:1+threshold:1:0.5+plain",
)
CODECS: dict[str, Codec] = {
    **{name: codec_by_name(name) for name in PRESETS},
    **{f"{text}, alone": Codec(serializer=codec_by_name(text).serializer, compressors=()) for text in ALONE},
    **{text: codec_by_name(text) for text in COMPOSED},
}

LARGEST = np.finfo(np.float32).max
VALUES = {
    "zeros": 0.0,
    "ones": 1.0,
    "minus one": -1.0,
    "largest": LARGEST,
    "smallest": -LARGEST,
    "least normal": np.float32(2.0**-126),
    "subnormal": np.float32(2.0**-149),
}


def chance(seed: int = 5) -> np.random.Generator:
    """For codecs that draw."""
    return np.random.default_rng(seed)


def small(seed: int = 0) -> tuple[dict[str, Array], dict[str, Bools]]:
    """An update with every kind of tensor but matrices; and masks, one of which kills a whole row."""
    shapes = {
        "conv.weight": (3, 2, 3, 3),
        "conv.bias": (3,),
        "in.act_range": (2,),
        "fc": (2, 20),
        "t": (),
        "e": (0, 4),
    }
    rng = np.random.default_rng(seed)
    update = {n: np.asarray(rng.laplace(size=s), np.float32) for n, s in shapes.items()}
    masks = {n: rng.random(shapes[n]) < 0.5 for n in ("conv.weight", "fc")}
    masks["conv.weight"][1] = False
    return update, masks


def large(seed: int = 0) -> tuple[dict[str, Array], dict[str, Bools]]:
    """The same and two matrices of low rank and some noise; a mask on one, which kills a row and a column."""
    update, masks = small(seed)
    rng = np.random.default_rng(seed + 100)
    for name, shape in {"deep": (48, 40), "wide": (32, 6, 3, 3)}.items():
        rows, columns = shape[0], int(np.prod(shape[1:]))
        product = rng.laplace(size=(rows, 2)) @ rng.normal(size=(2, columns))
        value = 0.01 * (product + 0.1 * rng.normal(size=(rows, columns)))
        update[name] = value.reshape(shape).astype(np.float32)
    masks["deep"] = rng.random((48, 40)) < 0.7
    masks["deep"][3], masks["deep"][:, 5] = False, False
    return update, masks


def live(update: Mapping[str, Array], masks: Masks) -> dict[str, Array]:
    """The update without what pruned coordinates hold."""
    return {n: np.where(masks[n], v, np.float32(0)) if n in masks else v for n, v in update.items()}
