"""Update payload v2 decoded in plain Python from docs/format.md: shares no code with fedlite, needs no NumPy."""

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Sequence

import zstandard

from tests.compress import reference_ans
from tests.compress.reference_ans import Bits, Plane, Tensor, is_matrix, need
from tests.compress.reference_filters import MOST, Inner, f32, factored, mixed, multiplied, scattered, thinned

Shape = tuple[int, ...]
EDEN = {
    1: [0.7980],
    2: [0.4528, 1.510],
    3: [0.2451, 0.7560, 1.344, 2.152],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733],
}


def decode(
    payload: bytes, model: list[tuple[str, Shape]], masks: dict[str, list[int]], key: str
) -> dict[str, list[float]]:
    """Name → values, row-major. Raises ValueError for anything the format does not allow."""
    magic, codec, binding = struct.unpack_from("<4s4s8s", payload)
    need(magic == b"FLU2", "magic")
    need(struct.unpack("<I", payload[-4:])[0] == zlib.crc32(payload[:-4]), "check value")
    need(binding == hashlib.sha256(description(model, masks)).digest()[:8], "binding")
    need(codec == hashlib.sha256(key.encode()).digest()[:4], "codec")
    every = [
        (tuple(shape), masks.get(name, [1] * math.prod(shape)))
        for name, shape in model
        if not statistic(name)
    ]
    extra = sum(math.prod(shape) for name, shape in model if statistic(name))
    values, measured = unfolded(payload[16:-4], key.split("+"), Inner([t for t in every if any(t[1])], extra))
    need(all(map(math.isfinite, values + measured)), "finite")
    learned, rest = iter(values), iter(measured)
    return {
        name: [next(rest) for _ in range(math.prod(shape))]
        if statistic(name)
        else [next(learned) if live else 0.0 for live in masks.get(name, [1] * math.prod(shape))]
        for name, shape in model
    }


def unfolded(body: bytes, parts: list[str], outer: Inner) -> tuple[list[float], list[float]]:
    """(weights, statistics) of a body: compressors, serializer and filters undone, from the last."""
    filters, rest = [], list(parts)
    inner = [outer]
    while rest[0].split(":")[0] in ("randomk", "lowrank"):
        filters.append(rest.pop(0).split(":"))
        change = thinned if filters[-1][0] == "randomk" else factored
        inner.append(change(inner[-1], float(filters[-1][1])))
    kind, *numbers = rest.pop(0).split(":")
    notes = 8 * sum(each[0] == "randomk" for each in filters)
    planes = [(notes, None, 1)] * (notes > 0) + planes_of(kind, numbers, inner[-1])
    for compressor in reversed(rest):
        body = {"zstd": unpack, "ans": reference_ans.ans, "bits": reference_ans.bits}[compressor](
            body, planes
        )
    need(len(body) == sum(size for size, _, _ in planes), "size")
    weights, measured = SERIALIZERS[kind.removesuffix("-tensor")](body[notes:], kind, numbers, inner[-1])
    for each, before in zip(reversed(filters), reversed(inner[:-1]), strict=True):
        if each[0] == "randomk":
            weights = scattered(weights, body[notes - 8 : notes], float(each[1]), before)
            notes -= 8
        else:
            weights = multiplied(weights, int(each[1]), before)
    return weights, measured


def statistic(name: str) -> bool:
    return name.endswith((".act_range", ".running_mean", ".running_var"))


def description(model: list[tuple[str, Shape]], masks: dict[str, list[int]]) -> bytes:
    out = b""
    for name, shape in model:
        text = name.encode()
        out += struct.pack("<H", len(text)) + text + bytes([len(shape)])
        out += b"".join(struct.pack("<I", dimension) for dimension in shape)
        bits = "".join(map(str, masks.get(name, [])))
        octets = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
        out += b"\1" + bytes(octets) if name in masks else b"\0"
    return out


def rows(tensor: Tensor, per_channel: bool) -> list[int]:
    shape, live = tensor
    own = per_channel and len(shape) >= 2 and len(live) >= 16 * shape[0]
    width = len(live) // shape[0] if own else len(live)
    return [run for start in range(0, len(live), width) if (run := sum(live[start : start + width]))]


def unpack(frame: bytes, planes: Sequence[Plane]) -> bytes:
    need(frame[:4] == bytes.fromhex("28b52ffd"), "zstd magic")
    need(frame[4] & 0b0000_1111 == 0, "zstd frame header: a checksum, a dictionary or a reserved bit")
    need(frame[4] & 0b1110_0000 != 0, "zstd frame header: no content size")
    machine = zstandard.ZstdDecompressor().decompressobj()
    body = machine.decompress(frame)
    need(machine.eof and not machine.unused_data, "size")
    return body


def planes_of(kind: str, numbers: list[str], inner: Inner) -> list[Plane]:
    count, extra, tensors = inner.count, inner.extra, inner.tensors
    if kind.startswith("int"):
        scales = sum(len(rows(tensor, not kind.endswith("-tensor"))) for tensor in tensors)
        return [(scales, None, 1)] * 2 + [(count, tensors, 1), (4 * extra, None, 1)]
    if kind == "eden":
        sizes = [size for each in inner.sizes for _, size in blocks(each)]
        bits = (sum(sizes) * int(numbers[0]) + 7) // 8
        return [(8, None, 1), (4 * len(sizes), None, 1), (bits, None, 1), (2 * extra, None, 1)]
    known: dict[str, list[Plane]] = {
        "float32": [(4 * (count + extra), None, 1)],
        "plain": [(4 * (count + extra), None, 1)],
        "float16": [(count, None, 1), (count, None, 1), (4 * extra, None, 1)],
        "step": [(7, None, 1), (2 * count, tensors, 2), (2 * extra, None, 1)],
        "sign": [(2 * len(tensors), None, 1), ((count + 7) // 8, None, 1), (2 * extra, None, 1)],
        "ring": [
            (2 * count, tensors, 2) if numbers[:1] == ["16"] else (4 * count, None, 1),
            (4 * extra, None, 1),
        ],
    }
    return known[kind]


def float32(body: bytes, kind: str, numbers: list[str], inner: Inner) -> tuple[list[float], list[float]]:
    count = len(body) // 4
    if kind == "float32":
        body = bytes(body[i * count + j] for j in range(count) for i in range(4))
    values = list(struct.unpack(f"<{count}f", body))
    return values[: inner.count], values[inner.count :]


def float16(body: bytes, kind: str, numbers: list[str], inner: Inner) -> tuple[list[float], list[float]]:
    count = inner.count
    octets = bytes(body[i * count + j] for j in range(count) for i in range(2))
    return list(struct.unpack(f"<{count}e", octets)), list(
        struct.unpack(f"<{inner.extra}f", body[2 * count :])
    )


def integers(body: bytes, kind: str, numbers: list[str], inner: Inner) -> tuple[list[float], list[float]]:
    runs = [run for tensor in inner.tensors for run in rows(tensor, not kind.endswith("-tensor"))]
    top = 2 ** (int(kind[3]) - 1) - 1
    limit = struct.unpack("<I", struct.pack("<f", MOST / top if top > 1 else MOST))[0] >> 15
    if top * struct.unpack("<f", struct.pack("<I", limit << 15))[0] > MOST:
        limit -= 1
    levels = struct.unpack_from(f"<{inner.count}b", body, 2 * len(runs))
    values: list[float] = []
    for row, run in enumerate(runs):
        code = body[row] << 8 | body[len(runs) + row]
        need(code == 0 or 0x0100 <= code <= limit, "scale")
        mine = levels[len(values) : len(values) + run]
        peak = max(map(abs, mine))
        need(peak <= top and (peak >= max(top - 1, 1) if code else peak == 0), "levels")
        scale = struct.unpack("<f", struct.pack("<I", code << 15))[0]
        values += [level * scale for level in mine]  # exact: 9 bits times 7 bits
    return values, list(struct.unpack_from(f"<{inner.extra}f", body, 2 * len(runs) + inner.count))


def halves(data: bytes) -> list[float]:
    """Upper halves of float32."""
    count = len(data) // 2
    return [
        struct.unpack("<f", struct.pack("<I", each << 16))[0] for each in struct.unpack(f"<{count}H", data)
    ]


def step(body: bytes, kind: str, numbers: list[str], inner: Inner) -> tuple[list[float], list[float]]:
    size, *shifts = struct.unpack_from("<f3B", body)
    need(size == 0 or 2.0**-120 <= size <= 2.0**112, "step")
    levels = iter(struct.unpack_from(f"<{inner.count}h", body, 7))
    finer = any(map(is_matrix, inner.tensors))
    values = []
    for tensor in inner.tensors:
        for _ in range(sum(tensor[1])):
            level = next(levels)
            need(level != -32768, "level")
            place = abs(level)
            wide = f32(f32(place + shifts[min(place, 3) - 1] / 256 - 0.5) * size) if place else 0.0
            wide = f32(wide / 8) if finer and not is_matrix(tensor) else wide
            values.append(math.copysign(wide, level))
    return values, halves(body[7 + 2 * inner.count :])


def sign(body: bytes, kind: str, numbers: list[str], inner: Inner) -> tuple[list[float], list[float]]:
    begin, count = 2 * len(inner.tensors), inner.count
    scales, end = halves(body[:begin]), begin + (count + 7) // 8
    need(all(math.copysign(1, scale) > 0 and math.isfinite(scale) for scale in scales), "scale")
    raw, values = Bits(body[begin:end]), []
    for size, scale in zip(inner.sizes, scales, strict=True):
        for _ in range(size):
            below = raw.take(1)
            need(not below or scale > 0, "sign of nothing")
            values.append(-scale if below else scale)
    raw.close()
    return values, halves(body[end:])


def ring(body: bytes, kind: str, numbers: list[str], inner: Inner) -> tuple[list[float], list[float]]:
    bits, unit, clients = int(numbers[0]), float(numbers[1]), int(numbers[2])
    levels = struct.unpack_from(f"<{inner.count}{'h' if bits == 16 else 'i'}", body)
    rest = struct.unpack_from(f"<{inner.extra}i", body, inner.count * bits // 8)
    need(all(abs(each) <= (2 ** (bits - 1) - 1) // clients for each in levels), "level")
    need(all(abs(each) <= (2**31 - 1) // clients for each in rest), "statistic")
    return [f32(each * unit) for each in levels], [each / 2**16 for each in map(f32, rest)]


def blocks(size: int) -> list[tuple[int, int]]:
    """(weights, coordinates)."""
    found = []
    while size:
        wide = 1
        while wide < size if size < 256 else 2 * wide <= min(size, 1 << 16):
            wide *= 2
        found.append((min(size, wide), wide))
        size -= found[-1][0]
    return found


def eden(body: bytes, kind: str, numbers: list[str], inner: Inner) -> tuple[list[float], list[float]]:
    width, seed = int(numbers[0]), int.from_bytes(body[:8], "little")
    every = [block for size in inner.sizes for block in blocks(size)]
    scales = struct.unpack_from(f"<{len(every)}f", body, 8)
    begin, total = 8 + 4 * len(every), sum(wide for _, wide in every)
    end = begin + (total * width + 7) // 8
    raw, place, values = Bits(body[begin:end]), 0, list[float]()
    levels = [*(-each for each in reversed(EDEN[width])), *EDEN[width]]
    for scale, (size, wide) in zip(scales, every, strict=True):
        need(math.isfinite(scale) and math.copysign(1, scale) > 0, "scale")
        indices = [raw.take(width) for _ in range(wide)]
        need(scale > 0 or not any(indices), "levels of nothing")
        some, length = [levels[index] for index in indices], wide
        while length > 1:
            pairs = list(zip(some[0::2], some[1::2], strict=True))
            some, length = [a + b for a, b in pairs] + [a - b for a, b in pairs], length // 2
        for i in range(size):
            signed = -1.0 if mixed(seed, place + i) >> 63 else 1.0
            values.append(f32(some[i] / math.sqrt(wide) * signed * scale))
        place += wide
    raw.close()
    return values, halves(body[end:])


Load = Callable[[bytes, str, list[str], Inner], tuple[list[float], list[float]]]
SERIALIZERS: dict[str, Load] = {
    "int8": integers,
    "int4": integers,
    "int2": integers,
    "float32": float32,
    "plain": float32,
    "float16": float16,
    "step": step,
    "sign": sign,
    "ring": ring,
    "eden": eden,
}
