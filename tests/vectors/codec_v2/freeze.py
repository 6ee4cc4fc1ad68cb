"""Writes ans.json beside it: what step+ans writes for updates that need no generator of random numbers to be made.

`python -m tests.vectors.codec_v2.freeze`. Unlike make.py's, these bytes are the encoder's own: they pin the format, and
tests/compress/reference.py, which was written from docs/format.md, reads them. Run it only for a new format version.
"""

import base64
import json
from pathlib import Path

import numpy as np

from fedlite.compress.presets import codec_by_name
from fedlite.types import Array
from tests.compress.reference_filters import mixed

HERE = Path(__file__).parent
CODECS = {"coarse": "step:2+ans", "fine": "step:0.1+ans", "masked": "step:1+ans", "bytes": "int8+ans"}


def frozen_update(name: str) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """(update, masks): products of row and column scales with a heavy tail, from SplitMix64."""
    shapes = {"a": (40, 60), "a.bias": (40,), "b": (30, 4, 3, 3), "c": (9, 7), "n.running_var": (70,)}
    update, place = {}, 0
    for tensor, shape in shapes.items():
        size = int(np.prod(shape))
        drawn = np.array([mixed(20, place + i) >> 11 for i in range(size)], np.float64) / 2**53 - 0.5
        place += size
        value = (drawn / (1.02 - 2 * np.abs(drawn))).reshape(shape)  # to ± 25
        if len(shape) > 1:
            value *= 2.0 ** -(np.arange(shape[0]) % 7).reshape(-1, *[1] * (len(shape) - 1))
        update[tensor] = (value / 64).astype(np.float32)
    update["a"][5], update["a"][:, 11] = 0, np.abs(update["a"][:, 11])
    if name != "masked":
        return update, {}
    alive = np.array([mixed(21, i) >> 62 > 0 for i in range(2400)]).reshape(40, 60)
    alive[2], alive[:, 3] = False, False
    return update, {"a": alive}


def main() -> None:
    """Write the file."""
    vectors = {}
    for name, text in CODECS.items():
        update, masks = frozen_update(name)
        payload = codec_by_name(text).encode(update, masks=masks)
        vectors[name] = {"codec": text, "payload": base64.b64encode(payload).decode()}
    (HERE / "ans.json").write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
