"""Stored payloads, good and bad, read by fedlite and by an independent decoder in plain Python."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from fedlite.compress.presets import codec_by_name
from fedlite.errors import CodecError
from fedlite.types import Array
from tests.compress import reference
from tests.vectors.codec_v2.freeze import frozen_update

FOLDER = Path(__file__).parents[1] / "vectors" / "codec_v2"
GOOD: dict[str, Any] = json.loads((FOLDER / "good.json").read_text())
BAD: dict[str, Any] = json.loads((FOLDER / "bad.json").read_text())
FROZEN: dict[str, Any] = json.loads((FOLDER / "ans.json").read_text())


def arrays(case: dict[str, Any], key: str) -> dict[str, Array]:
    return {name: np.array(case[key][name], np.float32).reshape(shape) for name, shape in case["model"]}


def masks_of(case: dict[str, Any]) -> dict[str, np.ndarray]:
    shapes = dict(map(tuple, case["model"]))
    return {name: np.array(bits, bool).reshape(shapes[name]) for name, bits in case["masks"].items()}


def plain(case: dict[str, Any]) -> dict[str, list[float]]:
    return reference.decode(bytes.fromhex(case["payload"]), case["model"], case["masks"], case["key"])


@pytest.mark.parametrize("name", GOOD)
def test_good_decodes_to_the_stored_values(name: str) -> None:
    case = GOOD[name]
    want = arrays(case, "values")
    got = codec_by_name(case["codec"]).decode(bytes.fromhex(case["payload"]), want, masks=masks_of(case))
    assert {n: v.tobytes() for n, v in got.items()} == {n: v.tobytes() for n, v in want.items()}


@pytest.mark.parametrize("name", GOOD)
def test_good_decodes_alike_in_plain_python(name: str) -> None:
    bits = {n: struct.pack(f"<{len(v)}f", *v) for n, v in plain(GOOD[name]).items()}
    assert bits == {n: v.tobytes() for n, v in arrays(GOOD[name], "values").items()}


@pytest.mark.parametrize("name", [name for name, case in GOOD.items() if "update" in case])
def test_good_is_what_the_encoder_writes(name: str) -> None:
    case = GOOD[name]
    stored = bytes.fromhex(case["payload"])
    written = codec_by_name(case["codec"]).encode(arrays(case, "update"), masks=masks_of(case))
    assert written[:16] == stored[:16]
    if case["key"].endswith("zstd"):
        assert zstandard.decompress(written[16:-4]) == zstandard.decompress(stored[16:-4])
    else:
        assert written == stored


@pytest.mark.parametrize("name", BAD)
def test_bad_is_refused_for_the_stored_reason(name: str) -> None:
    case = BAD[name]
    like = {n: np.zeros(shape, np.float32) for n, shape in case["model"]}
    with pytest.raises(CodecError, match=case["reason"]):
        codec_by_name(case["codec"]).decode(bytes.fromhex(case["payload"]), like)


@pytest.mark.parametrize("name", BAD)
def test_bad_is_refused_in_plain_python(name: str) -> None:
    with pytest.raises((ValueError, struct.error, zstandard.ZstdError, IndexError)):
        plain(BAD[name])


@pytest.mark.parametrize("name", FROZEN)
def test_the_bytes_of_levels_do_not_change(name: str) -> None:
    """Made by the encoder once: another version, and another implementation, must read and write the same."""
    case = FROZEN[name]
    update, masks = frozen_update(name)
    codec, payload = codec_by_name(case["codec"]), base64.b64decode(case["payload"])
    assert codec.encode(update, masks=masks) == payload
    want = codec.decode(payload, update, masks=masks)
    model = [(n, value.shape) for n, value in update.items()]
    bits = {n: mask.astype(int).ravel().tolist() for n, mask in masks.items()}
    found = reference.decode(payload, model, bits, codec.key)
    assert {n: v.tobytes() for n, v in want.items()} == {
        n: struct.pack(f"<{len(v)}f", *v) for n, v in found.items()
    }
