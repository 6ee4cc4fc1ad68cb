"""A server's uplink budget, and devices whose links bear more or less: as programs, over real sockets."""

import json
from contextlib import ExitStack
from pathlib import Path

from tests.programs.programs import serving, started


def test_each_device_sends_what_its_link_bears(home: Path, tmp_path: Path) -> None:
    """20 kbit/s for a second are 2500 bytes, of which 1975 are the report's; 700 bytes; and the server's 1200."""
    own = {
        "one": ("--link", "20kbit/s", "--round-time", "1s"),
        "two": ("--uplink-budget", "700"),
        "three": (),
    }
    budgets = {"one": 1975, "two": 700, "three": 1200}
    for left in (home / "server").glob("ledger.db*"):  # of another codec
        left.unlink()
    results = tmp_path / "results"
    job = (
        "--run-dir",
        results,
        "--model",
        "2nn",
        "--uplink-codec",
        "small",
        "--uplink-budget",
        "1.2kB",
        "--rounds",
        "2",
        "--quorum",
        "3",
    )
    with ExitStack() as stack:
        server = stack.enter_context(serving(home / "server", *job))
        for place, (name, link) in enumerate(own.items()):
            arguments = ("--state-dir", home / name, "--data", f"digits:{place}/3", "--threads", 1, *link)
            stack.enter_context(started(tmp_path / f"{name}.log", "client", *arguments))
        done = server.end()
    assert done.code == 0, done.out
    rows = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert {name: each["uplink_budget"] for name, each in row["clients"].items()} == budgets
        assert all(
            0.9 * budgets[name] < each["bytes_up"] <= budgets[name] for name, each in row["clients"].items()
        )
        steps = {name: each["deviations"] for name, each in row["clients"].items()}
        assert steps["one"] < steps["three"] < steps["two"]
        assert steps["one"] < row["deviations"] < steps["two"]
    assert f"  step {rows[0]['deviations']:.4g}  " in done.out
