import io
import os
import re
import subprocess
import sys

import pytest

from fedlite.results import live
from fedlite.results.live import COLUMNS, FLEET_COLUMNS, WIRE_COLUMNS
from tests.results.rows import rows


def test_one_plain_line_per_round_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with live(3, "fedavg [red]x[/red]", stream=out) as table:
        table.status("waiting for clients 1/3")
        table.status("waiting for clients 2/3")
        for row in rows(3):
            table.add(row)
            table.status("collecting")
        table.note("a client\x1b[31m\nleft")
    lines = out.getvalue().splitlines()
    assert lines[0] == "fedavg [red]x[/red]"
    assert lines[1] == "waiting for clients 1/3"
    assert lines[2].startswith("round 1/3  clients ")
    # 2.3 · 0.9 and 0.9 − 0.8 · 0.85
    assert "accuracy 22.0 %" in lines[2]
    assert "loss 2.07" in lines[2]
    assert lines[5] == "a client�[31m left"
    assert len(lines) == 6


def test_a_bare_row_is_shown() -> None:
    out = io.StringIO()
    with live(1, "run", stream=out) as table:
        table.add({"round": 1})
    assert out.getvalue() == "run\nround 1/1  clients 0\n"


def test_a_simulated_fleets_clock_is_shown() -> None:
    """Three rounds of half an hour."""
    out = io.StringIO()
    with live(3, "run", stream=out) as table:
        for row in rows(3, fleet=True):
            table.add(row)
    clocks = [
        line.rpartition("clock ")[2].partition("  left ")[0] for line in out.getvalue().splitlines()[1:]
    ]
    assert clocks == [
        "30 min",
        "1 h 00 min",
        "1 h 30 min",
    ]


def test_a_simulation_says_how_fast_it_is_and_how_long_it_will_take() -> None:
    """Twelve clients in a round of 4 s; a round over a link has no such rate, and the last has nothing left."""
    out = io.StringIO()
    with live(2, "run", stream=out) as table:
        table.add(
            {"round": 1, "num_clients": 12, "engine": "compiled", "seconds": {"train": 3.0, "test": 1.0}}
        )
        table.add({"round": 2, "num_clients": 12, "seconds": {"train": 3.0}})
    first, last = out.getvalue().splitlines()[1:]
    assert re.search(r"  clients/s 3  left \S+ \S+$", first)
    assert "clients/s" not in last
    assert "left" not in last


def test_the_step_chosen_within_a_budget_is_shown() -> None:
    out = io.StringIO()
    with live(1, "run", stream=out) as table:
        table.add(rows(1)[0] | {"deviations": 2.3456})
    assert "  step 2.346  " in out.getvalue()


@pytest.mark.parametrize("columns", [COLUMNS, FLEET_COLUMNS, WIRE_COLUMNS])
def test_a_line_fits_the_narrowest_terminal(columns: tuple[tuple[str, int], ...]) -> None:
    assert sum(width for _, width in columns) == 79
    assert all(len(name) < width for name, width in columns[1:])


def test_bytes_on_the_wire_stand_beside_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round says how many; of the second they are not known."""
    monkeypatch.setenv("TERM", "xterm-256color")
    main, other = os.openpty()
    first, second = rows(2)
    with os.fdopen(other, "w") as stream, live(2, "run", stream=stream) as table:
        table.add(first | {"wire_up": 215_000, "wire_down": 834_000})
        table.add(second)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", _drain(main))
    assert re.search(r" up +wire up +down +wire dn +ratio ", plain)
    clients = len(first["clients"])
    assert re.search(rf" {50 * clients} kB +215 kB +{200 * clients} kB +834 kB ", plain)
    assert re.search(r" kB +– +\d+ kB +– ", plain)


def test_a_line_without_a_terminal_says_bytes_on_the_wire_where_they_are_known() -> None:
    out = io.StringIO()
    with live(2, "run", stream=out) as table:
        table.add({"round": 1, "wire_up": 1200, "wire_down": 3400})
        table.add({"round": 2, "wire_up": "many"})
    assert [line.partition("  left ")[0] for line in out.getvalue().splitlines()[1:]] == [
        "round 1/2  clients 0  wire up 1.2 kB  wire dn 3.4 kB",
        "round 2/2  clients 0",
    ]


def test_the_clock_is_a_column_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    main, other = os.openpty()
    with os.fdopen(other, "w") as stream, live(2, "run", stream=stream) as table:
        for row in rows(2, fleet=True):
            table.add(row)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", _drain(main))
    assert re.search(r"seconds +clock\s*$", plain, re.M)
    assert re.search(r" 1 h 00 min\s*$", plain, re.M)


@pytest.mark.parametrize("done", [0, 5])
def test_on_a_terminal_rounds_scroll_and_the_bar_stays(done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    main, other = os.openpty()
    with os.fdopen(other, "w") as stream, live(done + 3, "run [b]", done=done, stream=stream) as table:
        table.status("collecting [b]")
        for row in rows(3):
            table.add(row | {"round": done + row["round"]})
    text = _drain(main)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert f"{done + 3}/{done + 3}" in plain
    assert "run [b]" in plain
    assert "collecting [b]" in plain
    assert re.search(rf"(?:^|\r)\s*{done + 2}\s+\d+\s+32\.2 %", plain, re.M)  # 0.9 − 0.8 · 0.85²
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back


def _drain(handle: int) -> str:
    data = b""
    while True:
        try:
            part = os.read(handle, 65536)
        except OSError:  # Linux says EIO when the other side is closed
            part = b""
        if not part:
            os.close(handle)
            return data.decode()
        data += part


def test_importing_it_brings_no_heavy_package() -> None:
    program = "import sys, fedlite.results; print(*sorted({'torch', 'rich', 'flwr', 'matplotlib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
