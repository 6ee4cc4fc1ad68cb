"""Writes good.json and bad.json beside it: `python -m tests.vectors.codec_v2.make`, from the repository's root.

The bytes are put together by hand from docs/format.md with `struct`, never by fedlite's encoder, and the values
are calculated in the comments, so the vectors prove something about the code. Run it only for a new format version.

good: {model, masks, codec, key, update, values, payload}; encoding `update`, where there is one, gives `payload` (but
for zstd's choices) and decoding `payload` gives `values`. bad: {model, masks, codec, key, reason, payload}; `reason`
stands in the message. Version 2's own parts are in more.py; what step+ans writes is frozen in ans.json (freeze.py).
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from tests.compress.reference import description
from tests.vectors.codec_v2 import more

HERE = Path(__file__).parent
INT8, FLOAT32, TENSOR = "int8+zstd", "float32+zstd", "int8-tensor+zstd"
CODECS = {INT8: "int8", FLOAT32: "float32", TENSOR: "int8-tensor"}
LARGE = 3.4028234663852886e38  # the largest float32, (2 − 2^-23) · 2^127
TINY = 1.401298464324817e-45  # the smallest subnormal, 2^-149


def payload(model: Any, masks: Any, key: str, frame: bytes, magic: bytes = b"FLU2") -> bytes:
    """Header, frame and check value."""
    binding = hashlib.sha256(description(model, masks)).digest()[:8]
    head = magic + codec_id(key) + binding + frame
    return head + struct.pack("<I", zlib.crc32(head))


def codec_id(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:4]


def zstd(body: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(3, write_checksum=options.pop("checksum", False), **options).compress(
        body
    )


def int8(codes: list[int], levels: list[int], statistics: list[float] = []) -> bytes:  # noqa: B006
    planes = bytes(code >> 8 for code in codes) + bytes(code & 0xFF for code in codes)
    return planes + struct.pack(f"<{len(levels)}b{len(statistics)}f", *levels, *statistics)


def planes(values: list[float]) -> bytes:
    octets = struct.pack(f"<{len(values)}f", *values)
    return octets[0::4] + octets[1::4] + octets[2::4] + octets[3::4]


def good() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and {model, masks, update, values, key, body}."""
    # Scales that are powers of two lose nothing. 2^-7: exponent 127 − 7 = 120 = 0x78, fraction 0. 2^-10: 117 = 0x75.
    # The first tensor has 32 ≥ 16 · 2 values, so each of its two rows has a scale; the second row is all zeros.
    levels = [127, -127, 1, -1, 0, 64, -64, 2, 3, 5, 7, 11, 13, 17, 19, 23]
    exact = {"conv.weight": [q / 128 for q in levels] + [0.0] * 16, "conv.bias": [127 / 1024, -3 / 1024, 0.0]}
    yield (
        "int8_exact",
        {
            "model": [["conv.weight", [2, 16]], ["conv.bias", [3]]],
            "update": exact,
            "values": exact,
            "body": int8([0x7800, 0, 0x7500], [*levels, *[0] * 16, 127, -3, 0]),
        },
    )
    # 1/127 is 0x3C010204 as float32; its upper 16 bits below the sign are 0x7802 and a bit, up: 0x7803 = 259/256 · 2^-7
    # = 259/32768. Then 1.0 = 126.52 steps → 127, 0.5 = 63.26 → 63, −0.25 = −31.63 → −32, 0.001 = 0.13 → 0.
    yield (
        "int8_rounding",
        {
            "model": [["w", [4]]],
            "update": {"w": [1.0, 0.5, -0.25, 0.0010000000474974513]},
            "values": {"w": [127 * 259 / 32768, 63 * 259 / 32768, -32 * 259 / 32768, 0.0]},
            "body": int8([0x7803], [127, 63, -32, 0]),
        },
    )
    # Ties go to the even level: with scale 2^-7, 2.5 steps → 2, 3.5 → 4, −0.5 → 0.
    yield (
        "int8_ties",
        {
            "model": [["w", [2, 2]]],  # 4 < 16 · 2: one scale for the whole tensor
            "update": {"w": [127 / 128, 2.5 / 128, 3.5 / 128, -0.5 / 128]},
            "values": {"w": [127 / 128, 2 / 128, 4 / 128, 0.0]},
            "body": int8([0x7800], [127, 2, 4, 0]),
        },
    )
    # Pruned coordinates and whole pruned rows do not travel, whatever they hold; a statistic stays float32.
    # The first row is all pruned, so the matrix has one scale; mask bits 0000000000000000 1000…001.
    yield (
        "int8_masked",
        {
            "model": [["w", [2, 16]], ["w.act_range", [2]], ["b", []]],
            "masks": {"w": [0] * 16 + [1] + [0] * 14 + [1]},
            "update": {
                "w": [9.0] * 16 + [127 / 128] + [9.0] * 14 + [-1.0 / 128],
                "w.act_range": [-0.5, TINY],
                "b": [-127.0],
            },
            "values": {
                "w": [0.0] * 16 + [127 / 128] + [0.0] * 14 + [-1.0 / 128],
                "w.act_range": [-0.5, TINY],
                "b": [-127.0],
            },
            "body": int8([0x7800, 0x7F00], [127, -1, -127], [-0.5, TINY]),
        },
    )
    # The largest float32 / 127 is 1.00787 · 2^121, rounded down to 0xF802 = 258/256 · 2^121 so that 127 steps stay
    # finite; 2^-149 is far below 127 · 2^-126 and travels as zero.
    yield (
        "int8_extremes",
        {
            "model": [["huge", [2]], ["tiny", [1]], ["none", [0, 3]]],
            "update": {"huge": [LARGE, -LARGE], "tiny": [TINY], "none": []},
            "values": {"huge": [127 * 258 * 2.0**113, -127 * 258 * 2.0**113], "tiny": [0.0], "none": []},
            "body": int8([0xF802, 0], [127, -127, 0]),
        },
    )
    yield (
        "int8_nothing_lives",
        {
            "model": [["w", [2, 2]]],
            "masks": {"w": [0, 0, 0, 0]},
            "update": {"w": [1.0, 2.0, 3.0, 4.0]},
            "values": {"w": [0.0] * 4},
            "body": b"",
        },
    )
    # One scale, 2^-7, for both rows of a matrix that is 16 wide: 0.4 steps in the second row are lost.
    first = [127 / 128] + [1 / 128] * 15
    yield (
        "int8_tensor",
        {
            "model": [["w", [2, 16]]],
            "update": {"w": [*first, *[0.4 / 128] * 8, *[-0.6 / 128] * 8]},
            "values": {"w": [*first, *[0.0] * 8, *[-1 / 128] * 8]},
            "key": TENSOR,
            "body": int8([0x7800], [127, *[1] * 15, *[0] * 8, *[-1] * 8]),
        },
    )
    values = {"w": [1.0, -2.5, LARGE, TINY, -0.0], "w.act_range": [0.10000000149011612, 3.0]}
    yield (
        "float32",
        {
            "model": [["w", [5]], ["w.act_range", [2]]],
            "update": values,
            "values": values,
            "key": FLOAT32,
            "body": planes([*values["w"], *values["w.act_range"]]),
        },
    )


MODEL = [["w", [4]], ["w.act_range", [2]]]
LEVELS = [127, 63, -32, 0]
RANGE = [0.0, 1.0]
FINE = int8([0x7803], LEVELS, RANGE)


def bad() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and {reason, payload}: one thing wrong each, and the check value right unless it is the thing."""
    fine = payload(MODEL, {}, INT8, zstd(FINE))
    yield "empty", {"reason": "has 0 bytes", "payload": b""}
    yield "cut", {"reason": "damaged", "payload": fine[:-1]}
    yield "padded", {"reason": "damaged", "payload": fine + b"\0"}
    yield "oversize", {"reason": "bytes, 20 to", "payload": fine + bytes(1000)}
    yield "check_value", {"reason": "damaged", "payload": fine[:-1] + bytes([fine[-1] ^ 1])}
    for name, (reason, model, masks, key, magic) in {
        "magic": ("begins with", MODEL, {}, INT8, b"FLU1"),
        "codec": ("written by codec", MODEL, {}, FLOAT32, b"FLU2"),
        "per_tensor": ("written by codec", MODEL, {}, TENSOR, b"FLU2"),
        "uncompressed": ("written by codec", MODEL, {}, "int8", b"FLU2"),
        "name": ("model and masks", [["v", [4]], MODEL[1]], {}, INT8, b"FLU2"),
        "order": ("model and masks", MODEL[::-1], {}, INT8, b"FLU2"),
        "shape": ("model and masks", [["w", [2, 2]], MODEL[1]], {}, INT8, b"FLU2"),
        "mask": ("model and masks", MODEL, {"w": [1, 1, 1, 1]}, INT8, b"FLU2"),
    }.items():
        yield name, {"reason": reason, "payload": payload(model, masks, key, zstd(FINE), magic)}
    size = len(FINE)
    header = bytes.fromhex("28b52ffde0")  # frame header: 8-byte content size, single segment
    frames = {
        "bomb_claim": ("claims", header + struct.pack("<Q", 1 << 40) + bytes.fromhex("010000")),
        "bomb": ("claims", zstd(bytes(1 << 20))),
        "size_unknown": ("claims", zstd(FINE, write_content_size=False)),
        "short": (f"{size - 1} bytes of values", zstd(FINE[:-1])),
        "long": ("claims", zstd(FINE + b"\0")),
        "nothing": ("0 bytes of values", zstd(b"")),
        "after_nothing": ("after an empty", zstd(b"") + b"\0"),
        "after_the_frame": ("not a zstd frame", zstd(FINE) + b"\0"),
        "two_frames": ("not a zstd frame", zstd(FINE) + zstd(b"")),
        "cut_frame": ("not a zstd frame", zstd(FINE)[:-1]),
        "checksum": ("not a plain", zstd(FINE, checksum=True)),
        "skippable": ("not a plain", bytes.fromhex("502a4d1804000000") + b"abcd"),
        "not_zstd": ("not a zstd frame", FINE),
        "lying_size": ("not a zstd frame", header + struct.pack("<Q", size) + bytes.fromhex("010000")),
    }
    for name, (reason, frame) in frames.items():
        yield name, {"reason": reason, "payload": payload(MODEL, {}, INT8, frame)}
    nan, inf = float("nan"), float("inf")
    bodies = {
        "scale_subnormal": ("scale outside", int8([0x00FF], LEVELS, RANGE)),
        "scale_too_large": ("scale outside", int8([0xF803], LEVELS, RANGE)),
        "scale_infinite": ("scale outside", int8([0xFF00], LEVELS, RANGE)),
        "scale_missing": ("row", int8([0], LEVELS, RANGE)),
        "scale_unused": ("row", int8([0x7803], [0, 0, 0, 0], RANGE)),
        "range_unused": ("row", int8([0x7803], [125, 63, -32, 0], RANGE)),
        "level": ("level -128", int8([0x7803], [-128, 127, 0, 0], RANGE)),
        "statistic_nan": ("statistic", int8([0x7803], LEVELS, [nan, 1.0])),
        "statistic_infinite": ("statistic", int8([0x7803], LEVELS, [0.0, inf])),
    }
    for name, (reason, body) in bodies.items():
        yield name, {"reason": reason, "payload": payload(MODEL, {}, INT8, zstd(body))}
    for name, value in (("float32_nan", nan), ("float32_infinite", -inf)):
        wrong = payload(MODEL, {}, FLOAT32, zstd(planes([1.0, 2.0, value, 4.0, *RANGE])))
        yield name, {"reason": "NaN or infinity", "codec": "float32", "payload": wrong}


def main() -> None:
    """Write both files."""
    vectors: dict[str, Any] = {}
    for name, case in good():
        masks, key = case.get("masks", {}), case.pop("key", INT8)
        packed = payload(case["model"], masks, key, zstd(case.pop("body")))
        vectors[name] = {"masks": masks, "codec": CODECS[key], "key": key, **case, "payload": packed.hex()}
    for name, case in more.good():
        packed = payload(case["model"], {}, case["key"], case.pop("body"))
        vectors[name] = {"masks": {}, **case, "payload": packed.hex()}
    (HERE / "good.json").write_text(json.dumps(vectors) + "\n")
    refused = {}
    for name, case in bad():
        key = FLOAT32 if case.get("codec") == "float32" else INT8
        common = {"model": MODEL, "masks": {}, "codec": "int8", "key": key}
        refused[name] = {**common, **case, "payload": case["payload"].hex()}
    for name, case in more.bad():
        model, key = case.get("model", more.SMALL), case["codec"].replace("step:2", "step")
        packed = payload(model, {}, key, case.pop("body"))
        refused[name] = {"model": model, "masks": {}, "key": key, **case, "payload": packed.hex()}
    (HERE / "bad.json").write_text(json.dumps(refused, indent=1) + "\n")


if __name__ == "__main__":
    main()
