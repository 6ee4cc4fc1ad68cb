"""How much memory reading takes: spoilt payloads of a large model one by one, and payloads made to take much."""

import tracemalloc
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random
from typing import Any

import numpy as np
import zstandard

from fedlite.compress.codec import CHECK, HEADER
from fedlite.compress.layout import layout_of
from fedlite.compress.presets import PRESETS, codec_by_name
from fedlite.errors import CodecError
from fedlite.seeds import derive, generator
from fedlite.tensors import size_bytes
from scripts.bench.fuzz.attack import Tally, attack
from scripts.bench.fuzz.targets import LARGE, SMALL, Target, codec_target, model, training
from scripts.bench.local import forget_peak, memory_bytes

CODECS = (  # every filter, serializer and compressor
    *PRESETS, "int8+ans", "float32+ans", "step:2+zstd:3", "step:0.05+ans", "topk:0.01+int8+ans", "drive", "eden:4",
    "sign", "ring:16:0.0001:10+ans", "ring:32:0.0001:10", "float16+zstd:3", "int4+bits", "int2+ans",
    "randomk:0.2+int8-random", "topk-layer:0.01+step:1+bits", "threshold:1:0.5+int8+zstd:3",
)  # fmt: skip
BOMB = 1 << 32  # bytes that a bomb stands for


@dataclass
class Memory:
    """`ratio` is the largest of `ratios`; `bomb_bytes` is the most that refusing a bomb took."""

    tally: Tally
    ratio: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    bombs: int = 0
    refused: int = 0
    bomb_bytes: int = 0


def run(count: int, seed: int, texts: Sequence[str] = CODECS) -> Memory:
    """`count` payloads for each codec."""
    found, grown = Memory(Tally()), _grown(texts, every=count > 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in texts:
            traced = _traced(large_target(text), count, seed, found.tally)
            found.ratios[text] = round(max(traced, grown[text]), 2)
        _bombs(found)
    found.ratio = max(found.ratios.values())
    return found


def large_target(text: str) -> Target:
    """Two updates as training makes them, and a dense one."""
    like = model(LARGE)
    return codec_target(text, like, {}, [training(LARGE, 0), training(LARGE, 1), like])


def _traced(target: Target, count: int, seed: int, tally: Tally) -> float:
    """tracemalloc's peak over the bytes expected, at worst."""
    rng, most = Random(derive(seed, "fuzz", "large", target.name)), 0.0
    for number in range(count + len(target.payloads)):
        honest = target.payloads[number] if number < len(target.payloads) else None
        watched = _Watched(target, honest)
        attack(rng, watched.target, tally)
        most = max(most, watched.peak / (target.decoded_bytes + watched.size))
    return most


class _Watched:
    """A target whose reading is traced, and only that; `honest` is read instead of what was spoilt."""

    def __init__(self, target: Target, honest: bytes | None) -> None:
        self.peak, self.size, self._read, self._honest = 0, 0, target.read, honest
        self.target = Target(target.name, target.payloads, self.read, target.mend, lie=target.lie)

    def read(self, payload: bytes) -> Any:
        payload = self._honest or payload
        self.size = len(payload)
        tracemalloc.start()
        try:
            return iter([*self._read(payload)])
        finally:
            self.peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()


def _grown(texts: Sequence[str], every: bool) -> dict[str, float]:
    """What a fresh process grows by when it reads an honest payload, over the bytes expected, at worst."""
    tasks = [
        (text, payload) for text in texts for payload in large_target(text).payloads[0 if every else -1 :]
    ]
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = pool.starmap(_growth, tasks, chunksize=1)
    return {
        text: max(each for (name, _), each in zip(tasks, found, strict=True) if name == text)
        for text in texts
    }


def _growth(text: str, payload: bytes) -> float:
    codec, like, small = codec_by_name(text), model(LARGE), model(SMALL)
    codec.decode(codec.encode(small, generator=generator(0, "fuzz")), small)  # everything is loaded
    forget_peak()
    idle = memory_bytes()
    read = codec.decode(payload, like)
    return (memory_bytes("VmHWM") - idle) / (size_bytes(read) + len(payload))


def _bombs(found: Memory) -> None:
    """Each is refused, and refusing takes no more than the model's own size."""
    like = model(LARGE)
    for text, body in bombs():
        codec = codec_by_name(text)
        payload = HEADER.pack(b"FLU2", codec.id, layout_of(like, {}).binding) + body
        payload += CHECK.pack(zlib.crc32(payload))
        tracemalloc.start()
        try:
            codec.decode(payload, like)
        except CodecError:
            found.refused += 1
        finally:
            found.bomb_bytes = max(found.bomb_bytes, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        found.bombs += 1


def bombs() -> Sequence[tuple[str, bytes]]:
    """(codec, body): zstd frames and entropy coded planes that stand for gigabytes, or say that they do."""
    compressor = zstandard.ZstdCompressor(1).compressobj(size=BOMB)
    true = b"".join([compressor.compress(bytes(1 << 24)) for _ in range(BOMB >> 24)]) + compressor.flush()
    unsaid = zstandard.ZstdCompressor(1, write_content_size=False).compress(bytes(1 << 27))
    frame = zstandard.ZstdCompressor(1).compress(bytes(1000))
    claims = (
        frame[:4] + b"\xe0" + (1 << 62).to_bytes(8, "little") + frame[6:]
    )  # single segment, 8 bytes of size
    window = frame[:4] + b"\x00\xf8" + frame[6:]  # a window of 2^41 bytes and no size
    small = bytes([0]) + bytes(7)  # a step's head, as it is
    found = [
        (text, each) for text in ("int8", "float32") for each in (true, unsaid, claims, window, frame + true)
    ]
    for count in (0xFFFFFFFF, 1 << 31, 1_663_402):
        plane = np.array([count, 4096], "<u4").tobytes() + b"\0\0\1\0" * 1024 + bytes(64)
        found.append(("small", small + b"\1" + len(plane).to_bytes(4, "little") + plane))
    lengths = (b"\1" + (0xFFFFFFFF).to_bytes(4, "little") + bytes(99), b"\1" + bytes(4), b"\2")
    return found + [("small", small + each) for each in lengths]
