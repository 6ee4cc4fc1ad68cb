"""scripts/reproduce/fedavg.py: the rules that make a number, resumption, the search, and what is printed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fedlite.data.base import Dataset
from fedlite.data.datasets import load, load_stored
from fedlite.data.partition import split
from fedlite.errors import StateError
from fedlite.models import build, initial_params
from scripts.reproduce.table2 import plot, report, run, search, stages
from scripts.reproduce.table2.cells import CELLS, Cell, crossing, rate

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/reproduce/fedavg.py"
TINY = Cell("iid", 1, 10, 5, -8)


@pytest.mark.parametrize(
    ("curve", "round_num"),
    [
        ([0.97, 0.98, 1.0], 2.5),  # half of the way from .98 to 1 between rounds 2 and 3
        ([0.97, 0.98, 0.90, 1.0], 3.5),  # the dip to .90 counts as .98
        ([0.97, 0.99], 2.0),
        ([0.995, 0.999], 1.0),
        ([0.97, 0.98, 0.9899], None),
        ([], None),
    ],
)
def test_crossing_by_hand(curve: list[float], round_num: float | None) -> None:
    assert crossing(curve) == (pytest.approx(round_num) if round_num is not None else None)


def test_the_table_is_the_paper_s() -> None:
    """McMahan et al. 2017, Table 2, CNN: E, B, IID, non-IID."""
    paper = {
        ("1", "inf"): (626, 483), ("5", "inf"): (179, 1000), ("1", "50"): (65, 600), ("20", "inf"): (234, 672),
        ("1", "10"): (34, 350), ("5", "50"): (29, 334), ("20", "50"): (32, 426), ("5", "10"): (20, 229),
        ("20", "10"): (18, 173),
    }  # fmt: skip
    ours = {(c.partition, str(c.epochs), str(c.batch_size or "inf")): c.rounds for c in CELLS.values()}
    assert ours == {
        (partition, *key): rounds[index]
        for key, rounds in paper.items()
        for index, partition in enumerate(("iid", "noniid"))
    }


def test_weights_begin_with_the_variance_of_he_and_no_class_before_another() -> None:
    """2 / inputs, of which a normal cut at two deviations keeps 1 - 4 φ(2) / (2 Φ(2) - 1) = 0.7737."""
    model = build("cnn")
    params = run.begin(model, 1)
    assert params.keys() == initial_params(model, 1).keys()
    for name, inputs in {"features.3.weight": 32 * 25, "hidden.weight": 64 * 49}.items():
        assert params[name].std() == pytest.approx((2 / inputs * 0.7737) ** 0.5, rel=0.01)
        assert np.abs(params[name]).max() <= 2 * (2 / inputs) ** 0.5
    zeros = [name for name, value in params.items() if not value.any()]
    assert zeros == ["features.0.bias", "features.3.bias", "hidden.bias", "output.weight", "output.bias"]
    again, other = run.begin(model, 1), run.begin(model, 2)
    np.testing.assert_array_equal(again["hidden.weight"], params["hidden.weight"])
    assert (other["hidden.weight"] != params["hidden.weight"]).mean() > 0.99


def test_grid_of_rates() -> None:
    """A third, a sixth and a twelfth of a decade."""
    assert [rate(place) for place in (-12, -8, -4, 0)] == [0.1, 0.215, 0.464, 1.0]
    assert [rate(place) for place in (-10, -9, -6)] == [0.147, 0.178, 0.316]


def test_the_paper_s_partitions(data_dir: Path) -> None:
    """Non-IID: each client's 600 images are two runs of 300 of the images sorted by label."""
    stored = load_stored("mnist", "train", data_dir)
    parts = split(stored, CELLS["noniid-e5-b10"].scheme, 100, 3)
    rank = np.empty(60_000, np.int64)
    rank[np.argsort(stored.y, kind="stable")] = np.arange(60_000)
    shards = [np.unique(rank[part] // 300, return_counts=True) for part in parts]
    assert all(counts.tolist() == [300, 300] for _, counts in shards)
    assert sorted(np.concatenate([numbers for numbers, _ in shards])) == list(range(200))
    few = [len(np.unique(stored.y[part])) for part in parts]
    assert max(few) <= 4
    assert np.mean(few) < 2.5
    iid = split(stored, CELLS["iid-e5-b10"].scheme, 100, 3)
    assert {len(part) for part in iid} == {600}
    assert sorted(np.concatenate(iid)) == list(range(60_000))


def world(threads: int = 1) -> run.World:
    train, test = load("digits", "train"), load("digits", "test")
    return run.World(train, test, "small_cnn", clients=10, cohort=4, threads=threads)


def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    whole = run.advance(world(), TINY, -8, 7, 5, tmp_path / "whole.npz")
    halves = tmp_path / "halves.npz"
    for cap in (2, 3, 5):
        parts = run.advance(world(threads=2), TINY, -8, 7, cap, halves)
    assert whole.curve == parts.curve == run.load(halves).curve
    assert len(set(whole.curve)) > 1
    for name, value in run.load(halves).params.items():
        assert value.tobytes() == whole.params[name].tobytes()


def test_a_run_that_is_over_is_not_run_again(tmp_path: Path) -> None:
    file = tmp_path / "over.npz"
    run.save(file, run.State((0.5, 0.995), params={"w": np.ones(3, np.float32)}))
    state = run.advance(world(), TINY, -8, 7, 9, file)
    assert state.curve == (0.5, 0.995)
    assert not state.params  # needed no more, not kept


def test_divergence_ends_a_run(tmp_path: Path) -> None:
    state = run.advance(world(), TINY, 48, 7, 50, tmp_path / "wild.npz")  # rate 10,000
    assert state.diverged
    assert len(state.curve) < 50
    assert run.load(tmp_path / "wild.npz").diverged


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(StateError, match=r"bad\.npz"):
        run.load(tmp_path / "bad.npz")


def test_testing_ends_at_too_many_errors() -> None:
    """Of 1000 images 15 may be wrong: a model that is always wrong is through after one piece of 250."""
    model = build("linear")
    params = {name: np.zeros_like(value) for name, value in initial_params(model, 0).items()}

    def score(labels: list[int]) -> float:
        y = np.array(labels, np.int64)
        data = Dataset(np.zeros((len(y), 1, 28, 28), np.float32), y, 10, "zeros")
        return run.accuracy(run.World(data, data, "linear"), params)

    assert score([0] * 1000) == 1.0
    assert score([1] * 15 + [0] * 985) == 0.985
    assert score([1] * 16 + [0] * 984) == pytest.approx(234 / 250)


def searched(rounds: Callable[[int], float], step: int, table: dict[int, search.Tried]) -> list[int]:
    """The places that a search runs, where a run at a place crosses at rounds(place)."""
    cell, tried = Cell("iid", 5, 10, 20, -6), []
    while (place := search.next_place(cell, table, step)) is not None:
        cap = search.cap(cell, table)
        tried.append(place)
        crossed = rounds(place) <= cap
        table[place] = search.Tried(rounds(place) if crossed else None, cap)
        assert len(tried) < 30
    return tried


def test_search_walks_to_the_best_rate() -> None:
    table: dict[int, search.Tried] = {}
    tried = searched(
        lambda place: 15.5 + abs(place + 1), 2, table
    )  # best at -1; of the even ones at -2 and 0
    assert tried == [-6, -8, -4, -2, 0]
    assert search.best(table) == -2
    assert searched(lambda place: 15.5 + abs(place + 1), 1, table) == [-3, -1]
    assert search.best(table) == -1


def test_search_gives_up() -> None:
    table: dict[int, search.Tried] = {}
    assert searched(lambda place: 1e9, 2, table) == [-6, -8, -4, -10, -2]
    assert search.cap(TINY, table) == 10


def test_rates_above_a_divergence_are_not_tried() -> None:
    table = {-6: search.Tried(None, 3, diverged=True)}
    assert search.next_place(TINY, {-8: search.Tried(None, 3, diverged=True)}, 4) == -12
    assert search.next_place(Cell("iid", 5, 10, 20, -6), table, 2) == -8


def results(folder: Path) -> dict[str, object]:
    """One cell measured with two seeds, its upper neighbour worse, another on its way."""
    params = {"w": np.ones(3, np.float32)}
    cell = CELLS["iid-e5-b10"]
    run.save(run.place_of(folder, cell, -12, 1), run.State((0.97, 0.98, 1.0), commit="abc"))  # 2.5
    run.save(run.place_of(folder, cell, -12, 2), run.State((0.97, 0.98, 0.98, 1.0), commit="abc"))  # 3.5
    run.save(run.place_of(folder, cell, -8, 1), run.State((0.9, 0.9, 0.9), params=params))
    run.save(run.place_of(folder, CELLS["noniid-e1-b10"], -12, 1), run.State((0.5, 0.6), params=params))
    return report.collect(folder, [1, 2])


def test_collected(tmp_path: Path) -> None:
    found = results(tmp_path)
    cells = found["cells"]
    assert isinstance(cells, dict)
    done, begun, other = (cells[name] for name in ("iid-e5-b10", "noniid-e1-b10", "iid-e1-b10"))
    assert (done["ours"], done["ratio"], done["learning_rate"]) == (3.0, 0.15, 0.1)
    assert (done["crossings"], done["searched"]) == ([2.5, 3.5], "not yet")
    assert done["rates"] == {1: {"0.1": 2.5, "0.215": ">3"}, 2: {"0.1": 3.5}}
    assert done["on_grid"] == {"10^(1/3)": 3.0, "10^(1/6)": 3.0, "10^(1/6) shifted": None}
    assert done["at_one_rate"] == {"learning_rate": 0.1, "rounds": 3.0}
    assert (begun["ours"], begun["so_far"]) == (None, ">2")
    assert (other["ours"], other["so_far"]) == (None, "not run")
    assert found["iid_e5_b10_rounds"] == 3.0
    assert found["worst_ratio_iid"] is None  # not all of them are measured
    assert found["commit"] == "abc"


def test_a_seed_counts_with_its_best_rate_on_any_grid(tmp_path: Path) -> None:
    """Of seed 1 the best is between; on the grid through 1, 3.5 was. Seed 2 has crossed on that alone."""
    cell = CELLS["iid-e5-b10"]
    runs = {(-12, 1): (0.97, 0.98, 0.98, 1.0), (-11, 1): (0.97, 1.0), (-12, 2): (0.97, 0.98, 1.0)}
    for (place, seed), curve in runs.items():
        run.save(run.place_of(tmp_path, cell, place, seed), run.State(curve))
    found = report.collect(tmp_path, [1, 2])["cells"]["iid-e5-b10"]
    assert found["crossings"] == [1.67, 2.5]  # two thirds of the way from .97 to 1
    assert found["ours"] == pytest.approx((1 + 2 / 3 + 2.5) / 2, abs=0.005)
    assert found["on_grid"] == {"10^(1/3)": 3.0, "10^(1/6)": 3.0, "10^(1/6) shifted": None}
    assert found["at_one_rate"] == {"learning_rate": 0.1, "rounds": 3.0}
    assert stages.near(tmp_path, cell, 1, search.SHIFTED).first == -11
    assert stages.near(tmp_path, cell, 2, search.SHIFTED).first == -11  # beside 0.1
    assert stages.near(tmp_path, cell, 1, search.FINE).first == -12


@pytest.mark.parametrize(
    ("rounds", "diverged", "said"),
    [(40, False, ">40"), (8, True, "diverged at 8")],  # twice the paper's 20
)
def test_a_seed_that_never_crossed_is_not_averaged_away(
    tmp_path: Path, rounds: int, diverged: bool, said: str
) -> None:
    results(tmp_path)
    file = run.place_of(tmp_path, CELLS["iid-e5-b10"], -12, 3)
    run.save(file, run.State((0.98,) * rounds, diverged, params={"w": np.ones(3, np.float32)}))
    cell = report.collect(tmp_path, [1, 2, 3])["cells"]["iid-e5-b10"]
    assert (cell["ours"], cell["ratio"], cell["so_far"]) == (None, None, f"{said} with seed 3")
    assert (cell["crossings"], cell["unfinished_seeds"]) == ([2.5, 3.5], {3: said})


def test_plot_stands_alone(tmp_path: Path) -> None:
    root = ElementTree.fromstring(plot.svg(results(tmp_path)))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(root.itertext())
    assert "iid-e5-b10: 3.0 rounds, paper 20" in text
    assert "noniid" not in text  # below the floor so far


def test_report_prints_the_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results(tmp_path / "runs")))
    done = subprocess.run([sys.executable, SCRIPT, "--report", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    [row] = [line.split() for line in table if line.startswith("iid-e5-b10")]
    assert row == [
        "iid-e5-b10",
        "*",
        "5",
        "10",
        "20",
        "3.0",
        "0.15",
        "0.1",
        "not",
        "yet",
        "1:",
        "2.5,",
        "2:",
        "3.5",
    ]
    assert json.loads(last)["cells"]["iid-e5-b10"]["ours"] == 3.0


def test_every_wanted_cell_is_planned_once_at_first() -> None:
    firsts = [
        cell.name
        for stage in stages.plan([*CELLS])
        if stage.grid is None and not stage.all
        for cell in stage.cells
    ]
    assert sorted(firsts) == sorted(name for name, cell in CELLS.items() if cell.wanted)
