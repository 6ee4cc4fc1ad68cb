"""Real data, small enough for a test: scikit-learn's digits, and the first images of Fashion-MNIST."""

from functools import cache
from pathlib import Path

import numpy as np

from fedlite.data.base import Dataset
from fedlite.data.datasets import load, load_stored


@cache
def digits(split: str) -> Dataset:
    return load("digits", "train" if split == "train" else "test")


@cache
def fashion(data_dir: Path, split: str, count: int) -> Dataset:
    name = "train" if split == "train" else "test"
    return load_stored("fashion_mnist", name, data_dir).take(np.arange(count)).open()
