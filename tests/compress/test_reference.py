"""An independent decoder in plain Python, written from docs/format.md, reads what every codec writes, to the bit."""

import struct

import numpy as np
import pytest

from fedlite.compress.codec import Codec
from tests.compress import reference
from tests.conformance.codec_cases import CODECS, chance, large, small

READ = {name: codec for name, codec in CODECS.items() if name not in ("float32", "plain")}


def assert_read(codec: Codec, update: dict[str, np.ndarray], masks: dict[str, np.ndarray]) -> None:
    payload = codec.encode(update, masks=masks, generator=chance())
    model = [(name, value.shape) for name, value in update.items()]
    bits = {name: mask.astype(int).ravel().tolist() for name, mask in masks.items()}
    found = reference.decode(payload, model, bits, codec.key)
    got = codec.decode(payload, update, masks=masks)
    for name, value in got.items():
        want = np.frombuffer(struct.pack(f"<{value.size}f", *found[name]), np.float32)
        np.testing.assert_array_equal(value.ravel(), want, err_msg=name)


@pytest.mark.parametrize("name", READ)
def test_every_codec_is_read(name: str) -> None:
    for update, masks in (small(), large()):
        assert_read(CODECS[name], update, masks)


@pytest.mark.parametrize("name", ["small", "step:0.1+ans", "int8+ans", "int4+bits", "eden:2"])
def test_without_masks_and_at_any_magnitude(name: str) -> None:
    """Rows and columns that are empty, or far larger than others; levels from 1 to thousands; all small tensors."""
    update, _ = large()
    rng = np.random.default_rng(8)
    update["deep"] = update["deep"] * (10.0 ** rng.integers(-5, 3, (48, 1))).astype(np.float32)
    update["deep"][7], update["deep"][:, 9] = 0, 0
    update["wide"][:, 3:] = -np.abs(update["wide"][:, 3:])
    assert_read(CODECS[name], update, {})
    zeros = {name: np.zeros_like(value) for name, value in update.items()}
    assert_read(CODECS[name], zeros, {})
    only = {"deep": update["deep"]}
    assert_read(CODECS[name], only, {})
