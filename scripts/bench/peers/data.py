"""The workloads' data: Fashion-MNIST cut into equal clients, as .npy files that every process maps."""

import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
TEST = 2000  # images the final models are tested on


def cut(folder: Path, clients: int, samples: int, *, wide: bool = False) -> Path:
    """A folder with x, y, test_x and test_y; `wide` pads the images to 3×32×32. Made once."""
    place = folder / f"fashion-{clients}x{samples}{'-wide' if wide else ''}"
    if not (place / "test_y.npy").exists():
        place.mkdir(parents=True, exist_ok=True)
        source = Path(os.environ.get("FEDLITE_DATA", ROOT.parent / "shared" / "data"))
        with np.load(source / "fashion_mnist/fashion_mnist.npz") as raw:
            arrays = {name: raw[name] for name in raw.files}
        order = np.random.default_rng(0).permutation(len(arrays["y_train"]))[: clients * samples]
        x, y = _images(arrays["x_train"][order], wide), arrays["y_train"][order]
        np.save(place / "x.npy", x.reshape(clients, samples, *x.shape[1:]))
        np.save(place / "y.npy", y.reshape(clients, samples).astype(np.int64))
        np.save(place / "test_x.npy", _images(arrays["x_test"][:TEST], wide))
        np.save(place / "test_y.npy", arrays["y_test"][:TEST].astype(np.int64))
    return place


def _images(raw: np.ndarray, wide: bool) -> np.ndarray:
    """uint8 (n, 28, 28) → float32 (n, 1, 28, 28) in [0, 1], or (n, 3, 32, 32)."""
    x = raw.reshape(-1, 1, 28, 28).astype(np.float32) / 255
    return np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2))).repeat(3, 1) if wide else x
