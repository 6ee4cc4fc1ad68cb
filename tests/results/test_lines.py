import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlite.errors import StateError, StorageError
from fedlite.results.lines import JsonLines, plain, write_whole


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.append({"round": 1})
    lines.extend([{"round": 2, "name": "a\nb"}, {"round": 3}])
    assert JsonLines(tmp_path / "m.jsonl").read() == [
        {"round": 1},
        {"round": 2, "name": "a\nb"},
        {"round": 3},
    ]
    lines.replace([{"round": 9}])
    assert lines.read() == [{"round": 9}]
    assert [each.name for each in tmp_path.iterdir()] == ["m.jsonl"]


@given(cut=st.integers(0, 40))
def test_a_power_cut_at_any_byte_loses_only_the_line_it_tore(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "m.jsonl"
    whole = b'{"round":1}\n{"round":2}\n{"round":3}\n'
    path.write_bytes(whole[:cut])
    kept = [{"round": n} for n in (1, 2, 3) if 12 * n <= cut]  # each line is 12 bytes
    lines = JsonLines(path)
    assert lines.read() == kept
    lines.append({"round": 7})
    assert lines.read() == [*kept, {"round": 7}]


@pytest.mark.parametrize(
    "tail", [b"\0" * 30, b'{"round":2,"lo', b'{"round":2}', b"\xff\xfe\n", b"[1]\n", b"\n"]
)
def test_a_tail_that_is_no_line_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"round":1}\n' + tail)
    JsonLines(path)
    assert path.read_bytes() == b'{"round":1}\n'


def test_damage_before_the_end_is_said_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"round":1}\nrubbish\n{"round":3}\n')
    with pytest.raises(StateError, match="line 2"):
        JsonLines(path)
    assert b"rubbish" in path.read_bytes()


def test_a_killed_writer_loses_no_line_it_was_told_of(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom fedlite.results.lines import JsonLines\n"
        "lines = JsonLines(Path(sys.argv[1]))\n"
        "for n in range(10**6):\n    lines.append({'n': n}); print(n, flush=True)\n"
    )
    path = tmp_path / "m.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(50)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().splitlines())])
    found = [row["n"] for row in JsonLines(path).read()]
    assert found == list(range(len(found)))
    assert len(found) > told


def test_plain_is_json_of_the_same_numbers() -> None:
    value = {
        "a": np.float32(0.5),
        3: np.arange(2),
        "nan": float("nan"),
        "inf": np.inf,
        "path": Path("x"),
        "t": (1,),
    }
    assert plain(value) == {"a": 0.5, "3": [0, 1], "nan": None, "inf": None, "path": "x", "t": [1]}
    json.dumps(plain(value), allow_nan=False)


def test_a_folder_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_whole(tmp_path / "missing" / "x.json", b"{}")
    with pytest.raises(StorageError):
        JsonLines(tmp_path / "missing" / "x.jsonl").append({})
