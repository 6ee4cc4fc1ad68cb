"""ExecuTorch's file answers as the integer model does."""

from pathlib import Path

import pytest

from tests.runtimes import shared

RUNTIME = "executorch"


@pytest.mark.parametrize(("name", "smaller"), [("small_cnn", 3.5), ("cnn", 3.7), ("mobilenet_v2", 2.5)])
def test_answers_as_trained(name: str, smaller: float, tmp_path: Path) -> None:
    shared.answers_as_trained(RUNTIME, name, tmp_path, smaller)


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    shared.refuses_what_is_no_file(RUNTIME, tmp_path)


def test_leaves_no_half_file(tmp_path: Path) -> None:
    shared.leaves_no_half_file(RUNTIME, tmp_path)


def test_command(tmp_path: Path) -> None:
    shared.command(RUNTIME, tmp_path)
