"""These tests need an environment of their own, which scripts/test_runtimes makes; a normal run leaves them out."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Collect a runtime's file only where scripts/test_runtimes named that runtime."""
    runtime = collection_path.stem.removeprefix("test_")
    if collection_path.parent == HERE and collection_path.name.startswith("test_"):
        return True if runtime != os.environ.get("FEDLITE_RUNTIME") else None
    return None
