"""Which methods at which settings are measured, and which codecs of ours beside them."""

import itertools
import math
from dataclasses import dataclass

from fedlite.compress.codec import Codec
from fedlite.compress.presets import PRESETS, codec_by_name
from fedlite.seeds import generator
from fedlite.types import Array, Params, Update
from scripts.reproduce.published.base import Setting
from scripts.reproduce.published.powersgd import PowerSgd
from scripts.reproduce.published.qsgd import FedPaq, Qsgd
from scripts.reproduce.published.rotated import Eden
from scripts.reproduce.published.sparse import TopK

OURS = "fedlite"
METHODS = ("QSGD", "FedPAQ", "DRIVE/EDEN", "DGC", "PowerSGD")
DGC_SHARES = (0.25, 0.0625, 0.015625, 0.004, 0.001)  # kept, by epoch of its warm-up (Lin et al. 2018, §3.3)
RANKS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Ours:
    """A codec of ours as a Method: its payload is complete, with header, binding and check value."""

    codec: Codec

    def encode(self, update: Update, seed: int) -> bytes:
        """The payload."""
        return self.codec.encode(update, generator=generator(seed, "codec"))

    def decode(self, payload: bytes, like: Params, seed: int) -> dict[str, Array]:
        """The update."""
        return self.codec.decode(payload, like)


def published(size: int, *, quick: bool) -> list[Setting]:
    """For an update of `size` values."""
    found = [*_qsgd(size), *_fedpaq(), *_rotated(), *_topk(), *_powersgd()]
    return [each for index, each in enumerate(found) if not quick or index % 2 == 0]


def ours(*, quick: bool) -> list[Setting]:
    """Every preset, and what lies between them."""
    sweep = [*_SWEEP, *_FACTORED, *_OTHERS]
    texts = [*PRESETS, *(sweep[::3] if quick else sweep)]
    return [Setting(OURS, text, Ours(codec_by_name(text))) for text in dict.fromkeys(texts)]


_STEPS = (
    0.01,
    0.02,
    0.03,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    1.0,
    1.4,
    2.0,
    2.8,
    4.0,
    5.6,
    8.0,
    11.0,
    16.0,
    22.0,
    32.0,
)
_SWEEP = [f"step:{step}+ans" for step in _STEPS]
_OTHERS = [
    "float16+zstd:3", "int4+ans", "int2+ans", "sign+bits", "drive+bits", "eden:2+bits", "eden:4+bits",
    "topk:0.01+int8+ans", "topk:0.05+step:1+ans", "topk-layer:0.01+int8+ans", "randomk:0.05+int8+ans",
    "threshold:2:1+step:2+ans",
]  # fmt: skip
_FACTORED = [
    f"lowrank:{rank}+step:{step}+ans"
    for rank in (4, 8, 16, 32, 64)
    for step in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0)
]


def _qsgd(size: int) -> list[Setting]:
    root = math.sqrt(size)
    found = [
        Setting("QSGD", f"s = {share:g} √n, Elias", Qsgd(max(1, round(share * root))))
        for share in (1 / 32, 1 / 8, 1 / 2, 1, 4, 16)
    ]
    found += [
        Setting("QSGD", f"s = {levels}, bucket {bucket}, Elias", Qsgd(levels, bucket))
        for levels, bucket in ((1, 128), (1, 512), (1, 8192), (4, 512), (16, 512))
    ]
    for width, bucket in ((2, 128), (4, 512), (8, 512)):
        levels = (1 << width - 1) - 1
        found.append(
            Setting("QSGD", f"{width} bits, bucket {bucket}, max", Qsgd(levels, bucket, "max", "fixed"))
        )
        kinder = Qsgd(levels, bucket, "max")
        found.append(Setting("QSGD", f"s = {levels}, bucket {bucket}, max, Elias", kinder, kinder=True))
    return found


def _fedpaq() -> list[Setting]:
    return [
        Setting("FedPAQ", f"s = {levels}{', per tensor' * per}", FedPaq(levels, per), kinder=per)
        for levels, per in itertools.product((1, 5, 10, 63, 127), (False, True))
    ]


def _rotated() -> list[Setting]:
    found = [
        Setting("DRIVE/EDEN", f"EDEN, {width:g} bits", Eden(width))
        for width in (0.1, 0.2, 0.3, 0.5, 0.7, 2, 3, 4, 5, 6, 8)
    ]
    found.append(Setting("DRIVE/EDEN", "DRIVE, unbiased", Eden(1, "unbiased")))
    return [*found, Setting("DRIVE/EDEN", "DRIVE", Eden(1))]


def _topk() -> list[Setting]:
    found = [Setting("DGC", f"top {share:.3%}", TopK(share)) for share in DGC_SHARES]
    found += [
        Setting(
            "DGC", f"top {share:.3%} of all, gaps, float16", TopK(share, "gaps", "<f2", True), kinder=True
        )
        for share in (0.4, 0.25, 0.125, 0.0625, 0.03, 0.015625, 0.008, 0.004)
    ]
    return found


def _powersgd() -> list[Setting]:
    found = []
    for rank in RANKS:
        found.append(Setting("PowerSGD", f"rank {rank}, cold", PowerSgd(rank, 1)))
        found.append(Setting("PowerSGD", f"rank {rank}", PowerSgd(rank)))
        found.append(Setting("PowerSGD", f"rank {rank}, float16", PowerSgd(rank, 2, "<f2"), kinder=True))
    return found
