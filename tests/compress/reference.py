"""Update payload v2 decoded in plain Python from docs/format.md: shares no code with fedlite, needs no NumPy."""

import hashlib
import math
import struct
import zlib

import zstandard

Shape = tuple[int, ...]
KEYS = ("int8+zstd", "int8-tensor+zstd", "float32+zstd", "plain")


def decode(
    payload: bytes, model: list[tuple[str, Shape]], masks: dict[str, list[int]]
) -> dict[str, list[float]]:
    """Name → values, row-major. Raises ValueError for anything the format does not allow."""
    magic, codec, binding = struct.unpack_from("<4s4s8s", payload)
    need(magic == b"FLU2", "magic")
    need(struct.unpack("<I", payload[-4:])[0] == zlib.crc32(payload[:-4]), "check value")
    need(binding == hashlib.sha256(description(model, masks)).digest()[:8], "binding")
    known = {hashlib.sha256(key.encode()).digest()[:4]: key for key in KEYS}
    need(codec in known, "codec")
    key = known[codec]
    plain, per_channel = key == "plain", key.startswith("int8+")
    weights = {name: masks.get(name, [1] * math.prod(shape)) for name, shape in model if not statistic(name)}
    count = sum(map(sum, weights.values()))
    extra = sum(math.prod(shape) for name, shape in model if statistic(name))
    runs = [
        run for name, shape in model if not statistic(name) for run in rows(shape, weights[name], per_channel)
    ]
    size = 4 * (count + extra) if not key.startswith("int8") else 2 * len(runs) + count + 4 * extra
    body = payload[16:-4] if plain else unpack(payload[16:-4], size)
    need(len(body) == size, "size")
    if plain:
        values = list(struct.unpack(f"<{count + extra}f", body))
    else:
        values = float32(body) if key == "float32+zstd" else int8(body, runs, count, extra)
    need(all(map(math.isfinite, values)), "finite")
    learned, measured = iter(values[:count]), iter(values[count:])
    return {
        name: [next(measured) for _ in range(math.prod(shape))]
        if statistic(name)
        else [next(learned) if live else 0.0 for live in weights[name]]
        for name, shape in model
    }


def need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def statistic(name: str) -> bool:
    return name.endswith(".act_range")


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


def rows(shape: Shape, live: list[int], per_channel: bool) -> list[int]:
    size = math.prod(shape)
    own = per_channel and len(shape) >= 2 and shape[0] > 0 and size >= 16 * shape[0]
    width = size // shape[0] if own else size
    return (
        [run for start in range(0, size, width) if (run := sum(live[start : start + width]))] if size else []
    )


def unpack(frame: bytes, size: int) -> bytes:
    need(frame[:4] == bytes.fromhex("28b52ffd"), "zstd magic")
    need(frame[4] & 0b0000_1111 == 0, "zstd frame header: a checksum, a dictionary or a reserved bit")
    need(frame[4] & 0b1110_0000 != 0, "zstd frame header: no content size")
    machine = zstandard.ZstdDecompressor().decompressobj()
    body = machine.decompress(frame)
    need(machine.eof and not machine.unused_data and len(body) == size, "size")
    return body


def float32(body: bytes) -> list[float]:
    count = len(body) // 4
    planes = [body[i * count : (i + 1) * count] for i in range(4)]
    return [struct.unpack("<f", bytes(octets))[0] for octets in zip(*planes, strict=True)]


def int8(body: bytes, runs: list[int], count: int, extra: int) -> list[float]:
    levels = struct.unpack_from(f"<{count}b", body, 2 * len(runs))
    values: list[float] = []
    for row, run in enumerate(runs):
        code = body[row] << 8 | body[len(runs) + row]
        need(code == 0 or 0x0100 <= code <= 0xF802, "scale")
        mine = levels[len(values) : len(values) + run]
        peak = max(map(abs, mine))
        need(peak <= 127 and (peak >= 126 if code else peak == 0), "levels")
        scale = struct.unpack("<f", struct.pack("<I", code << 15))[0]
        values += [level * scale for level in mine]  # exact: 9 bits times 7 bits
    return values + list(struct.unpack_from(f"<{extra}f", body, 2 * len(runs) + count))
