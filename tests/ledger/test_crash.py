"""kill -9 at random moments: what was acknowledged is there, whole and once."""

import random
import subprocess
import sys
import time
from pathlib import Path

from fedlite.ledger.shelf import Shelf
from fedlite.ledger.store import Counted, Ledger
from tests.ledger.crash import blob

KILLS = 30


def killed_after(folder: Path, seconds: float) -> int | None:
    """Run the committing program, kill it this long after its first acknowledgement; the last one it gave."""
    command = [sys.executable, "-m", "tests.ledger.crash", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        first = child.stdout.readline()
        time.sleep(seconds)
        child.kill()
        rest = child.stdout.read()
    lines = (first + rest).decode().rpartition("\n")[0].split()  # a line cut short was not given
    return int(lines[-1]) if lines else None


def check(folder: Path, acknowledged: int) -> int:
    """The round that is there; one more than acknowledged if the kill came between commit and answer."""
    with Ledger.open(folder / "ledger.db", {"run": "crash"}) as ledger, Shelf(folder / "shelf.db") as shelf:
        latest = ledger.latest()
        last = latest.round_num
        assert acknowledged <= last <= acknowledged + 1
        assert latest.state == {"params": blob(last, "params"), "masks": blob(last, "masks")}
        assert [row["round"] for row in ledger.history()] == list(range(last + 1))
        for number in range(last + 1):
            assert ledger.counted_in(number) == [Counted(number, "pi", number, b"%d" % number)]
        assert ledger.steps(max(0, last - 8), last) == [
            b"step %d" % n for n in range(max(1, last - 7), last + 1)
        ]
        assert shelf.get("a") == shelf.get("b")
        assert acknowledged <= int(shelf.get("a")) <= last
    return last


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    moments = random.Random(20_240_501)
    last = -1
    for _ in range(KILLS):
        acknowledged = killed_after(tmp_path, moments.uniform(0, 0.06))
        assert acknowledged is not None
        assert acknowledged > last
        last = check(tmp_path, acknowledged)
    assert last >= KILLS - 1


def test_a_kill_while_the_files_are_made_leaves_a_folder_that_works(tmp_path: Path) -> None:
    """Before the first acknowledgement there may be nothing, but the next start must succeed."""
    moments = random.Random(7)
    command = [sys.executable, "-m", "tests.ledger.crash"]
    for number in range(10):
        folder = tmp_path / str(number)
        with subprocess.Popen(
            [*command, str(folder)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as child:
            while not (folder / "ledger.db").exists():
                time.sleep(0.0005)
            time.sleep(moments.uniform(0, 0.004))
            child.kill()
        with Ledger.open(folder / "ledger.db", {"run": "crash"}) as ledger:
            latest = ledger.latest()
            ledger.commit(latest.round_num + 1 if latest else 0, state={}, step=None, counted=[], metrics={})
