"""The cells of McMahan et al. 2017, Table 2, and the two rules by which a cell's number is made.

(AISTATS 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", §3.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

CLIENTS = 100
COHORT = 10  # C = 0.1
TARGET = 0.99


@dataclass(frozen=True)
class Cell:
    """One number of the table: E `epochs`, B `batch_size` (0: all of a client's), and the paper's `rounds`.

    `first` is the learning rate tried first, as a place on the grid; `wanted` marks what must be measured.
    """

    partition: str  # iid | noniid
    epochs: int
    batch_size: int
    rounds: int
    first: int
    wanted: bool = False

    @property
    def name(self) -> str:
        """As on the command line: iid-e5-b10."""
        return f"{self.partition}-e{self.epochs}-b{self.batch_size or 'inf'}"

    @property
    def scheme(self) -> str:
        """As fedlite.data.partition names it. Two shards of 300 for each client (§3)."""
        return "iid" if self.partition == "iid" else "shards:2"


CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("iid", 1, 10, 34, -8, wanted=True),
        Cell("iid", 5, 10, 20, -8, wanted=True),
        Cell("iid", 1, 50, 65, -4, wanted=True),
        Cell("iid", 5, 50, 29, -4, wanted=True),
        Cell("noniid", 1, 10, 350, -12, wanted=True),
        Cell("noniid", 5, 10, 229, -16, wanted=True),
        Cell("iid", 20, 10, 18, -8, wanted=True),
        Cell("iid", 20, 50, 32, -8),
        Cell("noniid", 1, 50, 600, -12),
        Cell("iid", 5, 0, 179, -4),
        Cell("iid", 1, 0, 626, -4),
        Cell("iid", 20, 0, 234, -8),
        Cell("noniid", 20, 10, 173, -16),
        Cell("noniid", 1, 0, 483, -8),
        Cell("noniid", 5, 50, 334, -12),
        Cell("noniid", 5, 0, 1000, -8),
        Cell("noniid", 20, 50, 426, -12),
        Cell("noniid", 20, 0, 672, -8),
    )
}


def rate(place: int) -> float:
    """The learning rate at a place of the grid, 10^(place/12).

    Places 4 apart are 10^(1/3) apart and places 2 apart 10^(1/6), the paper's two resolutions. It does not say where
    its grids lie: the places in between are those of another one.
    """
    return float(f"{10 ** (place / 12):.3g}")


def crossing(curve: Sequence[float], target: float = TARGET) -> float | None:
    """The round at which the curve reaches the target; None if it does not. `curve[0]` is after round 1.

    The curve is made monotone by the best value over all rounds so far, and is linear between rounds (§3).
    A curve that begins above the target crosses at 1.
    """
    best = 0.0
    for index, accuracy in enumerate(curve):
        if accuracy >= target:
            return index + (target - best) / (accuracy - best) if index else 1.0
        best = max(best, accuracy)
    return None
