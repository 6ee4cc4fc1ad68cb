"""What is attacked: every reader of bytes from a peer, with honest bytes to spoil and the way past its check values."""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from fedlite import downlink, uplink
from fedlite.compress.ans import Ans
from fedlite.compress.codec import CHECK, HEADER, Codec
from fedlite.compress.presets import COMPRESSORS, FILTERS, PRESETS, SERIALIZERS, codec_by_name
from fedlite.crypto.identity import Identity
from fedlite.crypto.seal import Context, open_sealed, seal
from fedlite.errors import FedliteError
from fedlite.seeds import generator
from fedlite.types import Array, Masks, Params, Update
from scripts.bench.fuzz import hostile

SMALL: Mapping[str, tuple[int, ...]] = {
    "conv.weight": (4, 1, 3, 3), "conv.bias": (4,), "norm.running_mean": (4,), "dense.weight": (36, 30),
    "dense.bias": (36,), "none": (0, 3),
}  # fmt: skip
LARGE: Mapping[str, tuple[int, ...]] = {  # McMahan's CNN, and a statistic
    "conv1.weight": (32, 1, 5, 5), "conv1.bias": (32,), "norm.running_var": (32,), "conv2.weight": (64, 32, 5, 5),
    "conv2.bias": (64,), "hidden.weight": (512, 3136), "hidden.bias": (512,), "output.weight": (10, 512),
    "output.bias": (10,),
}  # fmt: skip
CONTEXT = Context(uplink.KIND_UPDATE, bytes(range(16)), 3, 0, bytes(32), b"\1" * 32)


@dataclass(frozen=True)
class Target:
    """`read` gives the values that a payload holds, or a typed error. `mend` makes its check values right again."""

    name: str
    payloads: Sequence[bytes]
    read: Callable[[bytes], Iterator[Any]]
    mend: Callable[[Random, bytes], bytes] = lambda rng, payload: payload
    sealed: bool = False  # no alteration may be read at all
    lie: Callable[[Random], bytes | None] | None = None  # payloads by one who knows the format
    decoded_bytes: int = 0
    chunk: int = 3000  # payloads in a row: fewer of what is slow to read


def model(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """Weights as training leaves them, about."""
    rng = generator(seed, "fuzz", "model")
    return {name: np.asarray(0.1 * rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}


def updates(shapes: Mapping[str, tuple[int, ...]], count: int) -> list[dict[str, Array]]:
    """Updates of many kinds: as training makes them, zeros, one value, huge and tiny ones."""
    found = [training(shapes, seed) for seed in range(count)]
    edges = [0.0, 1e-3, 3e38, 1e-42]
    return found + [
        {name: np.full(shape, edge, np.float32) for name, shape in shapes.items()} for edge in edges
    ]


def training(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Array]:
    """Rows and columns of different sizes, heavy tails."""
    rng, found = generator(seed, "fuzz", "update"), {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape) * np.exp(rng.standard_normal(shape))
        if len(shape) >= 2:
            value *= np.exp(1.5 * rng.standard_normal(shape[0])).reshape(-1, *[1] * (len(shape) - 1))
            value *= np.exp(1.5 * rng.standard_normal(shape[-1]))
        found[name] = np.asarray(1e-3 * value, np.float32)
    return found


def texts() -> list[str]:
    """Every preset, every serializer behind every compressor, every filter before some."""
    found = [*PRESETS]
    found += [f"{each}+{last}" for each in SERIALIZERS for last in COMPRESSORS]
    found += [
        f"{each}{number}+{last}"
        for each in FILTERS
        for number in ("", ":0.1", ":2")
        for last in ("int8+zstd:3", "step:1+ans")
    ]
    found += ["step:0.05+ans", "step:0.5+zstd:3", "int8+ans+zstd:1", "float32+zstd:1+zstd:1"]
    return [text for text in dict.fromkeys(found) if _exists(text)]


def _exists(text: str) -> bool:
    try:
        codec = codec_by_name(text)
        codec.encode(training(SMALL, 0), generator=generator(0, "fuzz"))
    except (FedliteError, TypeError):
        return False
    return codec is not None


def codec_target(text: str, like: Params, masks: Masks, some: Sequence[Update], name: str = "") -> Target:
    """Updates in one codec; an update of huge values may be refused by the writer already."""
    codec, payloads = codec_by_name(text), []
    for update in some:
        try:
            payloads.append(codec.encode(update, masks=masks, generator=generator(0, "fuzz", text)))
        except FedliteError:
            continue

    def read(payload: bytes) -> Iterator[Any]:
        return iter(codec.decode(payload, like, masks=masks).values())

    def lie(rng: Random) -> bytes | None:
        try:
            return _lying(rng, codec, rng.choice(some), masks)
        except Exception:  # a writer's arithmetic knows only what is true: this lie cannot be written
            return None

    size = 4 * sum(value.size for value in like.values())
    slow = any(isinstance(each, Ans) for each in codec.compressors)
    chunk = (20 if codec.lossless else 150) if slow else 600 if text.endswith("bits") else 3000
    mend = check_mender(payloads[0])
    return Target(name or f"codec {text}", payloads, read, mend, lie=lie, decoded_bytes=size, chunk=chunk)


def check_mender(honest: bytes) -> Callable[[Random, bytes], bytes]:
    """The header as it should be, most of the time, and the CRC-32 of what there is."""

    def mend(rng: Random, payload: bytes) -> bytes:
        body = payload[: -CHECK.size]
        if rng.random() < 0.9:
            body = honest[: HEADER.size] + body[HEADER.size :]
        return body + CHECK.pack(zlib.crc32(body))

    return mend


def _lying(rng: Random, codec: Codec, update: Update, masks: Masks) -> bytes:
    """A spoilt body in sound compression, or lying levels in a sound body."""
    body = codec._body(update, masks, generator(0, "fuzz"), {})
    inner = body.layouts[-1]
    stages = codec._stages(inner)
    data = bytearray(body.data)
    looks_inside = bool(codec.compressors) and codec.compressors[0].looks_inside
    if looks_inside and rng.random() < 0.7:
        data = bytearray(_lying_planes(rng, bytes(data), stages[0]))
        rest = list(zip(codec.compressors, stages, strict=False))[1:]
    else:
        for _ in range(rng.choice((1, 1, 3))):
            if data:
                data[rng.randrange(len(data))] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        rest = list(zip(codec.compressors, stages, strict=False))
    squeezed = bytes(data)
    for compressor, planes in rest:
        squeezed = compressor.compress(squeezed, planes)
    payload = HEADER.pack(b"FLU2", codec.id, body.layouts[0].binding) + squeezed
    return payload + CHECK.pack(zlib.crc32(payload))


def _lying_planes(rng: Random, data: bytes, planes: Sequence[Any]) -> bytes:
    parts, place = [], 0
    for plane in planes:
        plain = data[place : place + plane.size]
        place += plane.size
        if plane.tensors is None:
            parts.append(b"\0" + plain)
            continue
        coded = hostile.encode(rng, np.frombuffer(plain, "<i2" if plane.wide else np.int8), plane.tensors)
        parts.append(b"\1" + struct.pack("<I", len(coded)) + coded)
    return b"".join(parts)


def half_masks(like: Params) -> dict[str, Any]:
    """Half of the largest tensor is pruned."""
    name = max(like, key=lambda each: like[each].size)
    return {name: generator(0, "fuzz", "mask").random(like[name].shape) < 0.5}


def small_targets() -> list[Target]:
    """All readers, on a model of a thousand weights."""
    like, some = model(SMALL), updates(SMALL, 6)
    found = [codec_target(text, like, {}, some) for text in texts()]
    masks = half_masks(like)
    found += [
        codec_target(text, like, masks, some, f"codec {text}, masked")
        for text in ("int8", "small", "float32")
    ]
    return [*found, downlink_target(like, some), report_target(), sealed_target()]


def downlink_target(like: dict[str, Array], some: Sequence[Update]) -> Target:
    """Steps and whole models."""
    codec, masks = codec_by_name("exact"), half_masks(like)
    held = downlink.Version(4, like)
    steps, now = [], held
    for number, update in enumerate(some[:3]):
        target = {name: value + update[name] for name, value in now.params.items()}
        step, now = downlink.advance(now, target, masks if number else {}, codec)
        steps.append(step)
    whole = downlink.snapshot(replace(held, number=9))
    payloads = [b"".join(steps[: count + 1]) for count in range(3)] + [
        whole,
        whole + steps[0],
        steps[1],
        steps[2],
    ]

    def read(payload: bytes) -> Iterator[Any]:
        return iter(downlink.receive(payload, held, like, codec).params.values())

    return Target("downlink", payloads, read, _mend_parts, chunk=300)


def _mend_parts(rng: Random, payload: bytes) -> bytes:
    """CRC-32 of each part's head and coded difference, as far as the parts can be told apart."""
    data, place, head = bytearray(payload), 0, downlink._PART
    while place + head.size <= len(data):
        *_, mask_bytes, body_bytes, _ = head.unpack_from(data, place)
        middle, begin = place + head.size, place + head.size + mask_bytes
        check = zlib.crc32(data[middle:begin], zlib.crc32(data[place : middle - 4]))
        data[middle - 4 : middle] = check.to_bytes(4)
        place = begin + body_bytes
        if place > len(data) or body_bytes < CHECK.size:
            break
        CHECK.pack_into(data, place - CHECK.size, zlib.crc32(data[begin : place - CHECK.size]))
    return bytes(data)


def report_target() -> Target:
    """The report in an envelope."""
    reports = [
        uplink.Report(200, {"loss": 0.5, "accuracy": 1 / 3}, b"payload" * 9),
        uplink.Report(1, {}, b""),
        uplink.Report(2**32 - 1, {f"m{index}": -1e300 for index in range(32)}, b"x"),
    ]

    def read(payload: bytes) -> Iterator[Any]:
        return iter([np.array([*uplink.unpack(payload, max_examples=10**6).metrics.values()])])

    return Target("report", [uplink.pack(report) for report in reports], read)


def sealed_target() -> Target:
    """Envelopes of two devices; what is opened must be what was sealed."""
    server, *devices = (Identity.generate() for _ in range(3))
    known = {each.public.key_id: each.public for each in devices}
    bodies = [b"", b"update" * 40, bytes(999)]
    payloads = [seal(each, server.public, body, CONTEXT, 7) for each in devices for body in bodies]

    def read(payload: bytes) -> Iterator[Any]:
        opened = open_sealed(server, payload, CONTEXT, find_sender=known.get, max_payload_bytes=2000)
        return iter([np.frombuffer(opened.payload, np.uint8)])

    return Target("sealed envelope", payloads, read, sealed=True)
