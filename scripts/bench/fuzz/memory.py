"""How much memory reading takes: spoilt payloads of a large model one by one, and payloads made to take much."""

import tracemalloc
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import zstandard

from fedlite.compress.codec import CHECK, HEADER
from fedlite.compress.layout import layout_of
from fedlite.compress.presets import codec_by_name
from fedlite.errors import CodecError
from fedlite.seeds import derive
from scripts.bench.fuzz.attack import Tally, attack
from scripts.bench.fuzz.targets import LARGE, Target, codec_target, model, training
from scripts.bench.local import forget_peak, memory_bytes

CODECS = (
    "int8",
    "small",
    "smallest",
    "exact",
    "float32",
    "plain",
    "int8+ans",
    "step:2+zstd:3",
    "step:0.05+ans",
    "float32+ans",
)
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


def run(count: int, seed: int) -> Memory:
    """`count` payloads for each codec."""
    found = Memory(Tally())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in CODECS:
            target = large_target(text)
            found.ratios[text] = round(max(_traced(target, count, seed, found.tally), _grown(target)), 2)
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


def _grown(target: Target) -> float:
    """What the process grew by while it read the honest payloads, over the bytes expected, at worst."""
    most = 0.0
    for payload in target.payloads:
        forget_peak()
        idle = memory_bytes()
        for _ in target.read(payload):
            pass
        most = max(most, (memory_bytes("VmHWM") - idle) / (target.decoded_bytes + len(payload)))
    return most


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
    for count in (0xFFFFFFFF, 1 << 31, 827_000):
        plane = np.array([count, 4096], "<u4").tobytes() + b"\0\0\1\0" * 1024 + bytes(64)
        found.append(("small", small + b"\1" + len(plane).to_bytes(4, "little") + plane))
    lengths = (b"\1" + (0xFFFFFFFF).to_bytes(4, "little") + bytes(99), b"\1" + bytes(4), b"\2")
    return found + [("small", small + each) for each in lengths]
