"""Vectors of the serializers, filters and compressors that version 2 brought: bytes by hand, as in make.py."""

import math
import struct
from collections.abc import Iterator
from typing import Any

from tests.compress.reference_filters import mixed

SMALL = [["w", [4]], ["x.running_mean", [1]]]
MATRIX = [["m", [32, 32]], ["b", [2]]]  # 1024 weights: the least that is a matrix
ONES = [1.0, -1.0, -1.0, 1.0] * 256


def two(values: list[int]) -> bytes:
    """As int16."""
    return struct.pack(f"<{len(values)}h", *values)


def good() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and {model, update, values, codec, key, body}; without update where the encoder draws."""
    # Root mean square 2 is the step; every weight is one step, so its level lies at 1 + 128/256 − 1/2 steps. A
    # statistic is its upper half: 0x3F80 is 1; 1.00390625 = 0x3F808000 is half way to 0x3F81 and goes to even.
    yield (
        "step",
        {
            "model": SMALL,
            "codec": "step:1",
            "key": "step",
            "update": {"w": [2.0, 2.0, -2.0, 2.0], "x.running_mean": [1.00390625]},
            "values": {"w": [2.0, 2.0, -2.0, 2.0], "x.running_mean": [1.0]},
            "body": struct.pack("<f3B", 2.0, 128, 128, 128) + two([1, 1, -1, 1]) + bytes.fromhex("803f"),
        },
    )
    # Decoding alone: step 4; level 1 at 1 + 0/256 − 1/2 = 0.5 steps, 2 at 2 + 255/256 − 1/2, 5 at 5 + 64/256 − 1/2.
    yield (
        "step_places",
        {
            "model": [["w", [4]]],
            "codec": "step:1",
            "key": "step",
            "values": {"w": [2.0, -9.984375, 19.0, 0.0]},
            "body": struct.pack("<f3B", 4.0, 0, 255, 64) + two([1, -2, 5, 0]),
        },
    )
    # Root mean square √28.5 = 5.3, of which 4 is the nearest power of two; 9 is two steps and a quarter, 1 a quarter.
    yield (
        "exact",
        {
            "model": SMALL,
            "codec": "exact:1:0.5",
            "key": "step",
            "update": {"w": [4.0, 9.0, -4.0, 1.0], "x.running_mean": [1.0]},
            "values": {"w": [4.0, 8.0, -4.0, 0.0], "x.running_mean": [1.0]},
            "body": struct.pack("<f3B", 4.0, 128, 128, 128) + two([1, 2, -1, 0]) + bytes.fromhex("803f"),
        },
    )
    # Beside a matrix, other tensors have an eighth of the step: the matrix' root mean square, 1. Levels −1 … 3 take
    # 3 bits: 1 = 001, −1 = 111, 3 = 011. Four of the matrix are 001 111 111 001 from the right.
    packed = 0
    for place, level in enumerate([int(each) for each in ONES] + [1, 3]):
        packed |= (level & 7) << 3 * place
    update = {"m": ONES, "b": [0.125, 0.375]}
    for kind, levels in (
        ("", two([*map(int, ONES), 1, 3])),
        ("+bits", b"\3" + packed.to_bytes((3 * 1026 + 7) // 8, "little")),
    ):
        yield (
            f"step_finer{kind}",
            {
                "model": MATRIX,
                "codec": f"step:1{kind}",
                "key": f"step{kind}",
                "update": update,
                "values": update,
                "body": struct.pack("<f3B", 1.0, 128, 128, 128) + levels,
            },
        )
    # Peak 7: scale 1.0 = 0x7F00. 7, −3.6, 2.5, 0.2 → 7, −4, 2 (to even), 0: 0111, 1100, 0010, 0000, lowest first.
    yield (
        "int4_bits",
        {
            "model": [["w", [4]]],
            "codec": "int4+bits",
            "key": "int4+bits",
            "update": {"w": [7.0, -3.6, 2.5, 0.2]},
            "values": {"w": [7.0, -4.0, 2.0, 0.0]},
            "body": bytes([0x7F, 0, 4, 0xC7, 0x02]),
        },
    )
    # 1.5 = 0x3E00, −2^-24 = 0x8001, 10^6 is cut to 65504 = 0x7BFF, 0.1 = 0x2E66 = 0.0999755859375.
    yield (
        "float16",
        {
            "model": [["w", [4]]],
            "codec": "float16",
            "key": "float16",
            "update": {"w": [1.5, -(2.0**-24), 1e6, 0.1]},
            "values": {"w": [1.5, -(2.0**-24), 65504.0, 0.0999755859375]},
            "body": bytes([0x00, 0x01, 0xFF, 0x66, 0x3E, 0x80, 0x7B, 0x2E]),
        },
    )
    # Mean magnitude 1.5 = 0x3FC0; the second and the fourth are below zero: bits 0101 from the left, 0b1010.
    yield (
        "sign",
        {
            "model": SMALL,
            "codec": "sign",
            "key": "sign",
            "update": {"w": [1.0, -2.0, 0.0, -3.0], "x.running_mean": [-2.0]},
            "values": {"w": [1.5, -1.5, 1.5, -1.5], "x.running_mean": [-2.0]},
            "body": bytes.fromhex("c03f0a00c0"),
        },
    )
    # Steps of a half, for ten clients: at most 3276 of them; statistics in steps of 2^-16, −1 is −65536 of them.
    yield (
        "ring",
        {
            "model": SMALL,
            "codec": "ring:16:0.5:10",
            "key": "ring:16:0.5:10",
            "update": {"w": [1.5, -0.5, 1e9, 0.2], "x.running_mean": [-1.0]},
            "values": {"w": [1.5, -0.5, 1638.0, 0.0], "x.running_mean": [-1.0]},
            "body": two([3, -1, 3276, 0]) + struct.pack("<i", -65536),
        },
    )
    # ⌊(2^31 − 1) / 10⌋ = 214748364 halves are 107374182, in float32 107374184.
    yield (
        "ring32",
        {
            "model": SMALL,
            "codec": "ring:32:0.5:10",
            "key": "ring:32:0.5:10",
            "update": {"w": [1.5, -0.5, 1e9, 0.2], "x.running_mean": [-1.0]},
            "values": {"w": [1.5, -0.5, 107374184.0, 0.0], "x.running_mean": [-1.0]},
            "body": struct.pack("<5i", 3, -1, 214748364, 0, -65536),
        },
    )
    # SplitMix64 of the seed 0 begins E220A8397B1DCDAF 6E789E6AA1B965F4 06C45D188009454F: signs −, +, +. Two levels of
    # 0.798 are turned to 1.596/√2 and 0, signed and scaled by 2; −0.798 of the second block is halved. Bits 1, 1, 0.
    yield (
        "eden",
        {
            "model": [["w", [2]], ["v", [1]]],
            "codec": "eden:1",
            "key": "eden:1",
            "values": {"w": [-2 * 1.596 / math.sqrt(2), 0.0], "v": [-0.399]},
            "body": bytes(8) + struct.pack("<2f", 2.0, 0.5) + b"\3",
        },
    )
    # Levels −1.510, −0.4528, 0.4528, 1.510: numbers 3, 2, and 1 are 11, 10 and 01 from the right.
    yield (
        "eden2",
        {
            "model": [["w", [2]], ["v", [1]]],
            "codec": "eden:2",
            "key": "eden:2",
            "values": {"w": [-2 * 1.9628 / math.sqrt(2), 2 * 1.0572 / math.sqrt(2)], "v": [-0.2264]},
            "body": bytes(8) + struct.pack("<2f", 2.0, 0.5) + b"\x1b",
        },
    )
    # ⌈0.0015 · 1024⌉ = 2 weights of the matrix: those of the two smallest numbers; then the other tensor.
    chosen = sorted(sorted(range(1024), key=lambda i: mixed(0, i))[:2])
    sparse = [0.0] * 1024
    sparse[chosen[0]], sparse[chosen[1]] = 5.0, -7.0
    yield (
        "randomk",
        {
            "model": MATRIX,
            "codec": "randomk:0.0015+plain",
            "key": "randomk:0.0015+plain",
            "values": {"m": sparse, "b": [1.0, 2.0]},
            "body": bytes(8) + struct.pack("<4f", 5.0, -7.0, 1.0, 2.0),
        },
    )
    # Left is 2 everywhere, of length 2 · √64 = 16; right, j/64, is shorter. So a row is 2/16 · j/64.
    right = [j / 64 for j in range(33)]
    yield (
        "lowrank",
        {
            "model": [["m", [64, 33]]],
            "codec": "lowrank:1+plain",
            "key": "lowrank:1+plain",
            "values": {"m": [each / 8 for each in right] * 64},
            "body": struct.pack("<97f", *[2.0] * 64, *right),
        },
    )


def bad() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and {reason, codec, key, body}: one thing wrong each."""
    nan, inf, shifts, one = float("nan"), float("inf"), bytes([128] * 3), bytes.fromhex("803f")
    levels = two([1, 1, -1, 1])
    for name, number in (
        ("nan", nan),
        ("infinite", inf),
        ("negative", -1.0),
        ("subnormal", 1e-40),
        ("large", 1e38),
    ):
        body = struct.pack("<f", number) + shifts + levels + one
        yield f"step_{name}", {"reason": "a step of", "codec": "step:2", "body": body}
    fine = struct.pack("<f", 1.0) + shifts
    cases: dict[str, list[tuple[str, str, bytes]]] = {
        "step:2": [
            ("level", "level -32768", fine + two([1, -32768, 0, 0]) + one),
            ("statistic", "statistic", fine + levels + bytes.fromhex("807f")),
            ("short", "bytes", fine + levels),
        ],
        "int4": [
            ("level", "level", bytes([0x7F, 0, 8, 0, 0, 0]) + bytes(4)),
            ("range", "row", bytes([0x7F, 0, 5, 0, 0, 0]) + bytes(4)),
            ("scale", "scale outside", bytes([0xFC, 0x25, 7, 0, 0, 0]) + bytes(4)),
        ],
        "int4+bits": [
            ("width_1", "1 bits", bytes([0x7F, 0, 1, 1]) + bytes(4)),
            ("width_9", "9 bits", bytes([0x7F, 0, 9, 7]) + bytes(4)),
            ("not_least", "4 bits in 5", bytes([0x7F, 0, 5, 7, 0, 0]) + bytes(4)),
            ("beyond", "bits in 4", bytes([0x7F, 0, 4, 8, 0]) + bytes(4)),
            ("padding", "behind its last", bytes([0x7F, 0, 3, 3, 0x80]) + bytes(4)),
            ("cut", "ends at byte", bytes([0x7F, 0, 4, 7])),
            ("more", "behind its last plane", bytes([0, 0, 0]) + bytes(5)),
        ],
        "float16": [
            ("nan", "NaN", bytes([1, 0, 0, 0, 0x7C, 0, 0, 0]) + bytes(4)),
            ("infinite", "NaN or infinity", bytes([0, 0, 0, 0, 0xFC, 0, 0, 0]) + bytes(4)),
        ],
        "sign": [
            ("negative", "scale", bytes.fromhex("c0bf0a") + one),
            ("minus_zero", "scale", bytes.fromhex("008000") + one),
            ("infinite", "scale", bytes.fromhex("807f0a") + one),
            ("of_zeros", "tensor of zeros", bytes.fromhex("000002") + one),
            ("padding", "behind its last", bytes.fromhex("c03f1a") + one),
        ],
        "ring:16:0.5:10": [
            ("beyond", "beyond ±3276", two([3277, 0, 0, 0]) + bytes(4)),
            ("statistic", "beyond ±214748364", two([0] * 4) + struct.pack("<i", -(2**31))),
        ],
        "eden:1": [
            ("negative", "scale", bytes(8) + struct.pack("<f", -1.0) + b"\3" + one),
            ("nan", "scale", bytes(8) + struct.pack("<f", nan) + b"\3" + one),
            ("of_zeros", "block of zeros", bytes(12) + b"\1" + one),
            ("padding", "behind its last", bytes(8) + struct.pack("<f", 1.0) + b"\x13" + one),
        ],
        "step:2+ans": [
            ("way", "unknown way 2", b"\2" + fine + b"\0" + levels + b"\0" + one),
            ("cut", "cannot", b"\0" + fine + b"\0" + levels[:-1]),
            ("no_plane", "where a plane", b"\0" + fine + b"\0" + levels),
            ("more", "41 bytes, 20 to 40", b"\0" + fine + b"\0" + levels + b"\0" + one + b"\0"),
            ("longer_than_plain", "cannot", b"\0" + fine + b"\1\4\0\0\0" + bytes(4) + b"\0" + one),
            ("claim", "cannot", b"\0" + fine + b"\1\xff\xff\xff\xff" + b"\0" + one),
        ],
    }
    for codec, some in cases.items():
        for name, reason, body in some:
            yield (
                f"{codec.replace(':', '_').replace('+', '_')}_{name}",
                {
                    "reason": reason,
                    "codec": codec,
                    "body": body,
                },
            )
    # Levels in ans: a head of count and bytes, a lane's state, raw bits. A matrix of 1024 levels has room for them.
    plane = {
        "many": ("claims 1027 levels", struct.pack("<III", 1027, 4, 1 << 16)),
        "coded": ("claims 1 levels in 5", struct.pack("<III", 1, 5, 1 << 16)),
        "state": ("a state", struct.pack("<III", 0, 4, 1 << 15)),
        "no_head": ("at least 8", bytes(4)),
        "no_state": ("no entropy coded", struct.pack("<II", 0, 0)),
        "words": ("too early", struct.pack("<IIIH", 0, 6, 1 << 16, 7)),
    }
    for name, (reason, coded) in plane.items():
        body = b"\0" + struct.pack("<f", 1.0) + shifts + b"\1" + struct.pack("<I", len(coded)) + coded + b"\0"
        yield f"levels_{name}", {"reason": reason, "codec": "step:2+ans", "model": MATRIX, "body": body}
