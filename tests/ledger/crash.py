"""Commits rounds until it is killed, and says after each which one is safe: `python crash.py FOLDER`.

Everything in round n follows from n, so that whoever looks afterwards knows what must be there.
"""

import hashlib
import sys
from pathlib import Path

from fedlite.ledger.shelf import Shelf
from fedlite.ledger.store import Counted, Ledger


def blob(round_num: int, what: str) -> bytes:
    """0 to 60 kB that belong to this round: small commits stay in the write-ahead file, large ones fold it."""
    return hashlib.shake_256(f"{what} {round_num}".encode()).digest(round_num * 7919 % 60_000)


def commit(ledger: Ledger, shelf: Shelf, round_num: int) -> None:
    """Round n: two blobs, a step, one sender in both halves of its name, then the shelf."""
    ledger.commit(
        round_num,
        state={"params": blob(round_num, "params"), "masks": blob(round_num, "masks")},
        step=b"step %d" % round_num if round_num else None,
        counted=[Counted(round_num, "pi", round_num, b"%d" % round_num)],
        metrics={"round": round_num},
        keep_steps=8,
    )
    shelf.put({"a": b"%d" % round_num, "b": b"%d" % round_num})


def main(folder: Path) -> None:
    """Go on where the last process was killed."""
    with Ledger.open(folder / "ledger.db", {"run": "crash"}) as ledger, Shelf(folder / "shelf.db") as shelf:
        latest = ledger.latest()
        round_num = 0 if latest is None else latest.round_num + 1
        while True:
            commit(ledger, shelf, round_num)
            print(round_num, flush=True)
            round_num += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
