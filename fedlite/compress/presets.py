"""Codecs by name: presets, and texts that name the parts, as `topk:0.01+int8+zstd:3`."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TypeVar

from fedlite.compress.ans import Ans
from fedlite.compress.codec import Codec
from fedlite.compress.eden import Eden
from fedlite.compress.float16 import Float16
from fedlite.compress.float32 import Float32
from fedlite.compress.int8 import Int2, Int4, Int8
from fedlite.compress.pack import Bits
from fedlite.compress.powersgd import LowRank
from fedlite.compress.randomk import RandomK
from fedlite.compress.ring import Ring
from fedlite.compress.sign import Sign
from fedlite.compress.slots import Compressor, Filter, Serializer
from fedlite.compress.step import Step
from fedlite.compress.threshold import Threshold
from fedlite.compress.topk import TopK
from fedlite.compress.zstd import Zstd
from fedlite.errors import SettingsError

Part = TypeVar("Part")

PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "int8": "int8+zstd:1",
        "int8-tensor": "int8-tensor+zstd:1",
        "small": "lowrank:32+step:0.2+ans",
        "smallest": "lowrank:32+step:1+ans",
        "sparse": "step:2+ans",
        "exact": "exact+ans",
        "float32": "float32+zstd:3",
        "plain": "plain",
    }
)
FILTERS: Mapping[str, Callable[..., Filter]] = MappingProxyType(
    {
        "topk": TopK,
        "topk-layer": partial(TopK, per_layer=True),
        "randomk": RandomK,
        "threshold": Threshold,
        "lowrank": LowRank,
    }
)
_INTEGERS = {"int8": Int8, "int4": Int4, "int2": Int2}
SERIALIZERS: Mapping[str, Callable[..., Serializer]] = MappingProxyType(
    {
        **_INTEGERS,
        **{f"{name}-tensor": partial(kind, per_channel=False) for name, kind in _INTEGERS.items()},
        **{f"{name}-random": partial(kind, stochastic=True) for name, kind in _INTEGERS.items()},
        "step": Step,
        "exact": lambda deviations=4.0, dead_zone=0.5: Step(deviations, dead_zone, exact=True),
        "sign": Sign,
        "eden": Eden,
        "drive": partial(Eden, 1),
        "ring": Ring,
        "ring-random": partial(Ring, stochastic=True),
        "float16": Float16,
        "float32": Float32,
        "plain": lambda: Float32(planar=False),
    }
)
COMPRESSORS: Mapping[str, Callable[..., Compressor]] = MappingProxyType(
    {"zstd": Zstd, "ans": Ans, "bits": Bits}
)


@lru_cache(64)
def codec_by_name(name: str) -> Codec:
    """The preset of this name, or the codec of this text: filters, a serializer, compressors, joined by +.

    A part is a name and its numbers behind colons. SettingsError, with what there is, for anything else.
    """
    parts = PRESETS.get(name, name).split("+")
    filters, serializer, compressors = list[Filter](), None, list[Compressor]()
    for part in parts:
        kind, *numbers = part.split(":")
        if kind in FILTERS and serializer is None:
            filters.append(_made(FILTERS[kind], part, numbers))
        elif kind in SERIALIZERS and serializer is None:
            serializer = _made(SERIALIZERS[kind], part, numbers)
        elif kind in COMPRESSORS and serializer is not None:
            compressors.append(_made(COMPRESSORS[kind], part, numbers))
        else:
            raise _unknown(name)
    if serializer is None:
        raise _unknown(name)
    return Codec(tuple(filters), serializer, tuple(compressors))


def _made(make: Callable[..., Part], text: str, numbers: list[str]) -> Part:
    try:
        return make(*map(_number, numbers))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{text!r} is no part of a codec: {error}") from None


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)


def _unknown(name: str) -> SettingsError:
    return SettingsError(
        f"no codec {name!r}; there are {', '.join(PRESETS)}",
        remedy=f"name one, or its parts, as topk:0.01+int8+zstd:3: filters ({', '.join(FILTERS)}), one serializer "
        f"({', '.join(SERIALIZERS)}), compressors ({', '.join(COMPRESSORS)})",
    )
