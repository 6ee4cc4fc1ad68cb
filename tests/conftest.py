"""Shared by all tests: where the real data are, and one thread per process so that results do not vary."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

DATA_DIR = Path(os.environ.get("FEDLITE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    assert DATA_DIR.is_dir(), f"{DATA_DIR} is missing: set FEDLITE_DATA to the folder with the npz data sets"
    return DATA_DIR
