"""A stacked cohort against devices over a grid: the same federation, the same parameters, the same record."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from fedlite.apps.device import open_teacher
from fedlite.apps.job import Workshop, make_job, node, unsigned
from fedlite.apps.server import run_with
from fedlite.apps.settings import JobSettings
from fedlite.apps.stacked import Stacked
from fedlite.data.base import Dataset
from fedlite.errors import QuorumError, SettingsError
from fedlite.ledger.store import Ledger
from fedlite.rounds import Model
from fedlite.types import Params
from fedlite.uplink import Clear
from fedlite.virtual.engines.base import Engine, Share
from fedlite.virtual.engines.compiled import Compiled
from fedlite.virtual.engines.loop import Loop
from fedlite.virtual.lessons import taught
from fedlite.virtual.samples import Picked, Samples
from tests.integration.federation import Notes, shares, virtually

CLIENTS = 7
EngineOf = Callable[[Share], Engine]


def samples(empty: int = -1) -> list[Dataset]:
    """Unequal shares of some digits; `empty` is a client that has none."""
    data = shares(CLIENTS)
    return [each.take(np.arange(0)) if client == empty else each for client, each in enumerate(data)]


def by_messages(settings: JobSettings, folder: Path, *, empty: int = -1) -> tuple[Model, Notes]:
    """Devices on a grid, each answering its offer alone."""
    folder.mkdir()
    return virtually(settings, samples(empty), folder)


def stacked(
    settings: JobSettings,
    folder: Path,
    engine_of: EngineOf = Loop,
    *,
    data: Sequence[Dataset] = (),
    empty: int = -1,
    memory: int = 2**28,
    threads: int = 1,
    stop: Event | None = None,
) -> tuple[Model, Notes]:
    """The same clients, or those of `data`, as a stacked cohort; run again in a folder, it goes on."""
    folder.mkdir(exist_ok=True)
    held, notes, stop = data or samples(empty), Notes(), stop or Event()
    teacher = open_teacher(settings.teacher)

    def share(client: int) -> Samples | Picked:
        return held[client].x, held[client].y

    with (
        Ledger.open(folder / "ledger.db", settings.identity()) as ledger,
        Stacked(
            settings=settings,
            ledger=ledger,
            clients=len(held),
            engine_of=lambda work, clients: engine_of(taught(share, teacher.logits) if teacher else share),
            watcher=notes,
            stop=stop,
            folder=folder,
            memory=memory,
            threads=threads,
        ) as crew,
    ):
        job = make_job(Workshop(settings), Clear(), unsigned, node)
        try:
            model = run_with(crew, job, ledger, notes, stop)
        finally:
            crew.keep()
    return model, notes


def record(notes: Notes) -> list[dict[str, Any]]:
    """Rows without what a clock measured, and without the words for who was dropped."""
    rows = []
    for row in notes.rows:
        clients = {
            name: {key: value for key, value in client.items() if key != "seconds"}
            for name, client in row["clients"].items()
        }
        rows.append(
            {**row, "seconds": None, "clients": clients, "dropped": set(row["dropped"]), "engine": None}
        )
    return rows


def assert_same(got: Params, want: Params) -> None:
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox:mu=0.1", "fedadam", "flwr:FedMedian"])
@pytest.mark.parametrize("codec", ["int8", "int8-tensor", "float32", "plain"])
def test_the_same_bits_and_the_same_record(tmp_path: Path, codec: str, strategy: str) -> None:
    """Pruning on the way, more asked than count, one client without samples: torch on both sides."""
    settings = JobSettings(
        rounds=5, model="linear", strategy=strategy, epochs=1, cohort=4, over_selection=1.5, uplink_codec=codec,
        downlink_codec="int8", prune_round=2,
    )  # fmt: skip
    want, told = by_messages(settings, tmp_path / "messages", empty=3)
    got, noted = stacked(settings, tmp_path / "stacked", empty=3)
    assert_same(got.params, want.params)
    assert_same(got.held.params, want.held.params)
    assert_same(got.state, want.state)
    assert record(noted) == record(told)


@pytest.mark.parametrize(
    "codec", ["threshold:1:0.5+int8+zstd:1", "lowrank:2+step:1+ans", "randomk:0.2+int8-random"]
)
def test_what_filters_remember_is_the_same_on_devices_and_in_rows(tmp_path: Path, codec: str) -> None:
    """Some reports are lost, and half of the weights are pruned on the way."""
    settings = JobSettings(
        rounds=5, model="2nn", epochs=1, cohort=4, over_selection=1.5, uplink_codec=codec, downlink_codec="int8",
        prune_round=3,
    )  # fmt: skip
    want, told = by_messages(settings, tmp_path / "messages")
    got, noted = stacked(settings, tmp_path / "stacked")
    assert_same(got.params, want.params)
    assert record(noted) == record(told)


def test_threads_do_not_show(tmp_path: Path) -> None:
    settings = JobSettings(rounds=3, evaluate_every=0, prune_round=1)
    hashes = set()
    for threads in (1, 2, 5):
        engine_of = partial(Compiled, threads=threads)
        model, _ = stacked(settings, tmp_path / str(threads), engine_of, threads=threads)
        hashes.add(model.held.hash)
    assert len(hashes) == 1


def one_clients_memory(settings: JobSettings, folder: Path) -> int:
    """Bytes that a block of one client takes; a linear model on digits has 650 parameters and two ranges."""
    return 2 * 5 * 4 * (650 + 2)


def test_neither_blocks_nor_disk_show(tmp_path: Path) -> None:
    """Memory for one client at a time: what the others owe lies in a file."""
    settings = JobSettings(rounds=4, model="linear", epochs=1, evaluate_every=0, prune_round=2)
    large, _ = stacked(settings, tmp_path / "large")
    small, _ = stacked(settings, tmp_path / "small", memory=one_clients_memory(settings, tmp_path))
    assert small.held.hash == large.held.hash


def test_memory_for_less_than_one_client_is_refused(tmp_path: Path) -> None:
    settings = JobSettings(rounds=1, model="linear", evaluate_every=0)
    with pytest.raises(SettingsError, match="one client of this model"):
        stacked(settings, tmp_path / "run", memory=one_clients_memory(settings, tmp_path) - 2)


@pytest.mark.parametrize("field", ["cohort", "quorum"])
def test_more_than_there_are_is_refused(tmp_path: Path, field: str) -> None:
    settings = replace(JobSettings(rounds=1, model="linear"), **{field: CLIENTS + 1})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=f"--{field} is 8, but there are 7 clients"):
        stacked(settings, tmp_path / "run")


def test_going_on_is_as_if_never_stopped(tmp_path: Path) -> None:
    """What clients owe and hold outlives the program."""
    whole = JobSettings(rounds=6, model="linear", epochs=1, cohort=4, over_selection=1.5, prune_round=2)
    want, told = stacked(whole, tmp_path / "whole")
    stacked(replace(whole, rounds=3), tmp_path / "parts")
    got, noted = stacked(whole, tmp_path / "parts")
    assert got.held.hash == want.held.hash
    assert record(noted) == record(told)[3:]


def test_an_error_costs_nothing_of_what_is_owed(tmp_path: Path) -> None:
    """A client that fails from round 3 on breaks the quorum; without it, the run goes on as if never stopped."""
    settings = JobSettings(
        rounds=5, model="linear", epochs=1, quorum=CLIENTS, evaluate_every=0, prune_round=2
    )
    want, _ = stacked(settings, tmp_path / "whole")
    later = replace(settings, rounds=2)
    stacked(later, tmp_path / "broken")
    with pytest.raises(QuorumError, match="6 of 7 clients"):
        stacked(settings, tmp_path / "broken", empty=3)
    got, _ = stacked(settings, tmp_path / "broken")
    assert got.held.hash == want.held.hash


def test_a_lost_state_is_told(tmp_path: Path) -> None:
    settings = JobSettings(rounds=2, model="linear", epochs=1, evaluate_every=0)
    stacked(settings, tmp_path / "run")
    (tmp_path / "run" / "clients.state").unlink()
    _, notes = stacked(replace(settings, rounds=3), tmp_path / "run")
    assert any("forgotten" in text for text in notes.texts)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    settings = JobSettings(rounds=2, model="linear", epochs=1, evaluate_every=0)
    stacked(settings, tmp_path / "run")
    path = tmp_path / "run" / "clients.state"
    data = bytearray(path.read_bytes())
    data[-600] ^= 1
    path.write_bytes(data)
    with pytest.raises(SettingsError, match="check value"):
        stacked(replace(settings, rounds=3), tmp_path / "run")


def test_a_client_without_samples_fails_alone(tmp_path: Path) -> None:
    settings = JobSettings(rounds=2, evaluate_every=0)
    _, notes = stacked(settings, tmp_path / "run", lambda share: Compiled(share, 2), empty=3)
    assert [row["num_clients"] for row in notes.rows] == [6, 6]
    assert all("no samples" in row["dropped"]["5"] for row in notes.rows)
