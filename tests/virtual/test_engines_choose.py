"""The choice of an engine: by ability, by name, by measurement that is remembered, and within memory."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedlite.errors import SettingsError
from fedlite.virtual import kernel
from fedlite.virtual.engines import memory
from fedlite.virtual.engines.base import Engine, samples_of
from fedlite.virtual.engines.choose import Name, choose
from fedlite.virtual.engines.compiled import Compiled
from fedlite.virtual.engines.loop import Loop
from fedlite.virtual.engines.memory import FORKED_BYTES, MIB, affordable, bytes_each
from fedlite.virtual.engines.pool import Pool
from fedlite.virtual.samples import Samples
from tests.conformance.test_engines import EMPTY, share, work

CLIENTS = [EMPTY, 0, 1, 2]


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rates are recorded in this test."""
    assert kernel.available() is None  # loaded from the user's cache, before there is another one
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path))
    return tmp_path / "kernel"


@pytest.fixture
def chosen() -> Iterator[list[Engine]]:
    """Engines put on this list are closed."""
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.close()


@pytest.mark.parametrize(
    ("wanted", "kind"), [("auto", Compiled), ("compiled", Compiled), ("torch", Loop), ("pool", Pool)]
)
def test_by_ability_or_by_name(chosen: list[Engine], records: Path, wanted: Name, kind: type) -> None:
    chosen.append(choose(share, work(), CLIENTS, workers=2, wanted=wanted))
    assert type(chosen[0]) is kind
    assert not records.exists(), "nothing was measured"


@pytest.mark.parametrize("how", [{"bits": 4}, {"autocast": "bf16"}], ids=str)
def test_few_bits_and_mixed_precision_train_with_torch(chosen: list[Engine], how: dict[str, object]) -> None:
    """And only there: by name the kernel is refused, with what it cannot do."""
    given = work(**how)
    chosen.append(choose(share, given, CLIENTS, workers=1))
    assert type(chosen[0]) is Loop
    done = chosen[0].train(given, [0, 1], [1, 2])
    assert not done.failed
    with pytest.raises(SettingsError, match=r"4 bits|autocast is bf16"):
        choose(share, given, CLIENTS, workers=1, wanted="compiled")


def test_what_the_kernel_does_not_know_is_measured_once(
    chosen: list[Engine], records: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedlite.simulation")
    given = work(optimizer="adam")

    def again() -> str:
        caplog.clear()
        chosen.append(choose(share, given, CLIENTS, workers=2))
        [record] = caplog.records
        assert chosen[-1].name in record.message
        return record.message

    assert "measured now" in again()
    [place] = records.glob("rates-*.json")
    rates = json.loads(place.read_text())
    assert sorted(rates) == ["loop", "pool"]
    assert type(chosen[0]) is (Pool if rates["pool"] > rates["loop"] else Loop)
    assert "as recorded" in again()
    for damaged in ("", "[]", '{"pool": 1}', '{"pool": "x", "loop": 2}', '{"pool": NaN, "loop": 2}'):
        place.write_text(damaged)
        assert "measured now" in again()
    for pool, loop, kind in ((2, 1, Pool), (1, 2, Loop)):
        place.write_text(json.dumps({"pool": pool, "loop": loop}))
        assert "as recorded" in again()
        assert type(chosen[-1]) is kind


def test_other_settings_are_measured_anew(chosen: list[Engine], records: Path) -> None:
    for given in (work("linear", optimizer="adam"), work("linear", optimizer="adam", epochs=1)):
        chosen.append(choose(share, given, CLIENTS, workers=2))
    assert len(list(records.glob("rates-*.json"))) == 2


def test_larger_clients_are_measured_anew(chosen: list[Engine], records: Path) -> None:
    def larger(client: int) -> Samples:
        x, y, _ = samples_of(share, client)
        return np.repeat(x, 4, axis=0), np.repeat(y, 4)

    for each in (share, larger, share):
        chosen.append(choose(each, work("linear", optimizer="adam"), CLIENTS, workers=2))
    assert len(list(records.glob("rates-*.json"))) == 2


def test_one_worker_is_the_loop_and_needs_no_measurement(chosen: list[Engine], records: Path) -> None:
    chosen.append(choose(share, work(optimizer="adam"), CLIENTS, workers=1))
    assert type(chosen[0]) is Loop
    assert not list(records.glob("rates-*"))


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(SettingsError, match="adam"):
        choose(share, work(optimizer="adam"), CLIENTS, workers=2, wanted="compiled")
    with pytest.raises(SettingsError, match="in this process alone"):
        choose(share, work(), CLIENTS, workers=2, wanted="ray")
    with pytest.raises(SettingsError, match="workers is 0"):
        choose(share, work(), CLIENTS, workers=0)


@pytest.mark.parametrize("wanted", ["auto", "compiled", "torch", "pool"])
def test_no_engine_where_not_even_one_client_fits(wanted: Name) -> None:
    with pytest.raises(SettingsError, match="MiB"):
        choose(share, work(), CLIENTS, workers=2, wanted=wanted, max_bytes=1000)


def test_fewer_workers_where_memory_is_short(chosen: list[Engine]) -> None:
    given = work()
    each = bytes_each(given, share(0)) + FORKED_BYTES
    for room, workers in ((each, 1), (2 * each, 2), (4 * each, 3)):
        engine = choose(share, given, [0], workers=3, wanted="pool", max_bytes=room)
        chosen.append(engine)
        engine.train(given, [0, 1, 2], [0, 1, 2])
        assert isinstance(engine, Pool)
        assert len(engine.pids) == workers


def test_an_estimate_by_hand() -> None:
    """2nn on 64 inputs: 64·200 + 200·200 + 200·10 weights and 410 biases, three times 4 bytes, one for momentum;
    and for a batch of 4 at least what the two layers of 200 gave, twice (before and after ReLU) or once."""
    weights = 64 * 200 + 200 * 200 + 200 * 10 + 410
    found = bytes_each(work("2nn"), share(0))
    assert 4 * weights * 4 < found < 4 * weights * 4 + 4 * 4 * (64 + 4 * 200 + 4 * 10)
    assert bytes_each(work("2nn", optimizer="adam"), share(0)) == found + 4 * weights


def test_room_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000 * MIB)  # of which a tenth stays free
    assert [affordable(8, each * MIB) for each in (1, 100, 200, 300, 301, 900)] == [8, 8, 4, 3, 2, 1]
    assert affordable(8, 100 * MIB, 250 * MIB) == 2
    assert affordable(8, 100 * MIB, 5000 * MIB) == 8
    with pytest.raises(SettingsError, match="takes about 901 MiB of memory, 900 MiB may be used"):
        affordable(8, 901 * MIB)


def test_free_memory_is_the_machines_or_the_groups(tmp_path: Path) -> None:
    """Formats of proc(5) and of the kernel's cgroup-v2 document."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24000000 kB\nMemAvailable:    2048 kB\nBuffers:   1 kB\n")
    assert memory._machine(meminfo) == 2 * MIB
    assert memory._machine(tmp_path / "none") > 64 * MIB
    assert memory._group(tmp_path) > 2**60
    (tmp_path / "memory.current").write_text("100\n")
    for limit, free in (("max\n", 2**62), ("400\n", 300), ("50\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        assert memory._group(tmp_path) == free
