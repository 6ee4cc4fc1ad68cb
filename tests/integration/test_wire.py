"""Bytes on the wire in a run's rows, against relays between the server and each of its devices."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedlite.apps.settings import JobSettings
from fedlite.link import wire
from tests.integration.federation import over_the_link, shares, virtually
from tests.link.proxy import Proxy

SETTINGS = JobSettings(rounds=3, quorum=3, deadline_seconds=120.0, dataset="digits", epochs=1)
AFTERWARDS_BYTES = 1500  # the last acknowledgement, goodbye, and keeping alive: in no round of this run


def test_each_rounds_bytes_are_what_was_passed_on(tmp_path: Path) -> None:
    proxies: list[Proxy] = []

    def through(address: str) -> str:
        proxies.append(Proxy(address))
        return proxies[-1].address

    _, notes = over_the_link(SETTINGS, shares(3), tmp_path, through=through)
    assert len(notes.rows) == 3
    for row in notes.rows:
        clients = row["clients"].values()
        for way in ("up", "down"):
            assert row[f"wire_{way}"] == sum(each[f"wire_{way}"] for each in clients)
            assert all(0 < each[f"bytes_{way}"] < each[f"wire_{way}"] for each in clients)
    for number, proxy in enumerate(proxies):
        proxy.close()  # all it passed on is counted then
        rows = [row["clients"][f"device-{number}"] for row in notes.rows]
        assert 0 <= proxy.up - sum(row["wire_up"] for row in rows) < AFTERWARDS_BYTES
        assert 0 <= proxy.down - sum(row["wire_down"] for row in rows) < AFTERWARDS_BYTES


def test_a_simulation_has_nothing_on_a_wire(tmp_path: Path) -> None:
    _, notes = virtually(SETTINGS, shares(3), tmp_path)
    for row in notes.rows:
        assert not any(key.startswith("wire") for key in row)
        assert not any(key.startswith("wire") for each in row["clients"].values() for key in each)


def test_where_the_system_does_not_count_the_run_goes_on_without_these_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on macOS, where a process's sockets are not listed in this place."""
    monkeypatch.setattr(wire, "_DESCRIPTORS", str(tmp_path / "nowhere"))
    caplog.set_level("INFO", "fedlite")
    _, notes = over_the_link(replace(SETTINGS, rounds=1), shares(3), tmp_path)
    [row] = notes.rows
    assert row["num_clients"] == 3
    assert not any(key.startswith("wire") for table in (row, *row["clients"].values()) for key in table)
    assert any("report of" in text for text in caplog.messages)
    assert not any("on the wire" in text for text in caplog.messages)
