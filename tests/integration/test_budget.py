"""Updates within a budget: devices on a grid, rows of a simulated cohort and devices over the link choose alike."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedlite.apps.job import Workshop
from fedlite.apps.settings import JobSettings
from fedlite.budget import EACH_ROUND, SHARE
from fedlite.errors import QuorumError, SettingsError
from fedlite.virtual.engines.compiled import Compiled
from tests.integration.federation import over_the_link, shares, virtually
from tests.integration.test_cohort import CLIENTS, assert_same, by_messages, record, stacked

SETTINGS = JobSettings(
    rounds=3, model="2nn", epochs=1, cohort=4, over_selection=1.5, uplink_codec="sparse", downlink_codec="int8",
    prune_round=2, uplink_budget="1200", learning_rate=0.05,
)  # fmt: skip


@pytest.mark.parametrize("codec", ["sparse", "topk:0.2+step:2+ans", "lowrank:2+step:1+ans"])
def test_rows_choose_as_devices_do(codec: str, tmp_path: Path) -> None:
    """Pruning on the way, reports that come too late; the compiled coder, and client by client."""
    settings = replace(SETTINGS, uplink_codec=codec)
    want, told = by_messages(settings, tmp_path / "messages")
    got, noted = stacked(settings, tmp_path / "stacked", threads=2)
    assert_same(got.params, want.params)
    assert record(noted) == record(told)
    for row in noted.rows:
        counted = [each for each in row["clients"].values() if each["bytes_up"]]
        assert len(counted) == 4
        assert all(each["bytes_up"] <= each["uplink_budget"] == 1200 for each in counted)
        steps = [each["deviations"] for each in counted]
        assert min(steps) - 1e-9 < row["deviations"] < max(steps) + 1e-9


def test_neither_threads_nor_blocks_show(tmp_path: Path) -> None:
    hashes = set()
    for threads in (1, 3):
        engine_of = partial(Compiled, threads=threads)
        model, _ = stacked(SETTINGS, tmp_path / str(threads), engine_of, threads=threads)
        hashes.add(model.held.hash)
    small, _ = stacked(SETTINGS, tmp_path / "small", partial(Compiled, threads=1), memory=3 * 10**6)
    assert hashes == {small.held.hash}


def test_going_on_is_as_if_never_stopped(tmp_path: Path) -> None:
    want, told = stacked(SETTINGS, tmp_path / "whole")
    stacked(replace(SETTINGS, rounds=2), tmp_path / "parts")
    got, noted = stacked(SETTINGS, tmp_path / "parts")
    assert got.held.hash == want.held.hash
    assert record(noted) == record(told)[2:]


def test_a_budget_can_be_changed_on_the_way(tmp_path: Path) -> None:
    stacked(replace(SETTINGS, rounds=2), tmp_path / "run")
    _, notes = stacked(replace(SETTINGS, uplink_budget="2.5kB"), tmp_path / "run")
    assert [row["round"] for row in notes.rows] == [3]
    sizes = [each["bytes_up"] for row in notes.rows for each in row["clients"].values() if each["bytes_up"]]
    assert all(2300 < size <= 2500 for size in sizes)


def test_who_has_a_better_link_sends_more_and_who_has_a_worse_one_less(tmp_path: Path) -> None:
    own = {"2": 5000, "3": 700}
    settings = replace(SETTINGS, cohort=0, over_selection=1.0, rounds=2)
    _, notes = virtually(
        settings,
        shares(3),
        tmp_path,
        wrap=lambda device: replace(device, uplink_budget=own.get(device.client_id, 0)),
    )
    for row in notes.rows:
        found = [row["clients"][name] for name in ("2", "3", "4")]
        assert [each["uplink_budget"] for each in found] == [5000, 700, 1200]
        assert all(0.9 * each["uplink_budget"] < each["bytes_up"] <= each["uplink_budget"] for each in found)
        assert found[0]["deviations"] < found[2]["deviations"] < found[1]["deviations"]


def test_over_the_link_the_sealed_report_is_within_the_budget(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS, cohort=0, over_selection=1.0, rounds=2, uplink_budget="", link="8kbit/s", round_time="2s"
    )
    _, notes = over_the_link(settings, shares(2), tmp_path)
    budget = 8000 * 2 // 8 * 95 // 100 - 400
    for row in notes.rows:
        for each in row["clients"].values():
            assert 0.9 * budget < each["bytes_up"] <= each["uplink_budget"] == budget
    later = [each["wire_up"] for each in notes.rows[1]["clients"].values() if "wire_up" in each]
    assert all(size < 2000 for size in later)  # what the link carries in that time, handshakes aside


@pytest.mark.parametrize("codec", ["int8", "plain"])
def test_what_goes_up_beside_a_report_is_what_links_are_reckoned_with(codec: str, tmp_path: Path) -> None:
    """Without TCP and IP headers, 52 of each 1500 bytes, and without the handshake of the first round."""
    settings = replace(SETTINGS, cohort=0, over_selection=1.0, rounds=2, uplink_budget="", uplink_codec=codec)
    _, notes = over_the_link(settings, shares(2), tmp_path)
    for each in notes.rows[1]["clients"].values():
        if "wire_up" in each:
            assert each["wire_up"] * 1500 / 1448 <= (each["bytes_up"] + EACH_ROUND) / SHARE


def test_a_client_whose_budget_is_too_small_is_told_the_smallest_and_the_round_goes_on(
    tmp_path: Path,
) -> None:
    settings = replace(SETTINGS, cohort=0, over_selection=1.0, rounds=1)

    def once(folder: str, budget: int) -> dict[str, Any]:
        (tmp_path / folder).mkdir()
        _, notes = virtually(
            settings,
            shares(3),
            tmp_path / folder,
            wrap=lambda device: replace(device, uplink_budget=budget if device.client_id == "3" else 0),
        )
        return dict(notes.rows[0])

    row = once("small", 100)
    assert row["num_clients"] == 2
    assert "100 bytes is too small for this update" in row["dropped"]["3"]
    smallest = int(row["dropped"]["3"].split("smallest that works is ")[1].split()[0])
    row = once("enough", smallest)
    assert row["dropped"] == {}
    assert row["clients"]["3"]["bytes_up"] <= smallest


def test_rows_with_a_budget_that_is_too_small_owe_what_they_did(tmp_path: Path) -> None:
    """Round 2 fits nothing: the run then goes on from round 1 as if it had not been tried."""
    settings = replace(SETTINGS, cohort=0, over_selection=1.0, prune_round=0)
    want, _ = stacked(settings, tmp_path / "whole")
    stacked(replace(settings, rounds=1), tmp_path / "parts")
    with pytest.raises(
        QuorumError, match=f"0 of {CLIENTS} clients .* too small for this update: the smallest"
    ):
        stacked(replace(settings, uplink_budget="150"), tmp_path / "parts")
    got, _ = stacked(settings, tmp_path / "parts")
    assert got.held.hash == want.held.hash


def test_a_server_counts_the_seal_of_what_no_update_is_below() -> None:
    """250 bytes of an envelope, where nothing is sealed 8; twice as much as is named is let through."""
    settings = replace(SETTINGS, uplink_budget="10")

    def least(sealed: bool) -> int:
        with pytest.raises(SettingsError, match="too small for any update of this model") as error:
            Workshop(settings, sealed=sealed).check()
        return int(str(error.value).split("zeros takes ")[1].split()[0])

    assert least(True) - least(False) == 250 - 8
    Workshop(replace(settings, uplink_budget=str(2 * least(True))), sealed=True).check()


def test_where_one_cannot_send_the_next_one_counts(tmp_path: Path) -> None:
    """Six of seven are asked and three count; what works for four of the seven is too small for the others."""
    settings = replace(SETTINGS, cohort=3, over_selection=2.0, rounds=1, prune_round=0)
    with pytest.raises(QuorumError) as error:
        stacked(replace(settings, cohort=0, over_selection=1.0, uplink_budget="150"), tmp_path / "none")
    smallest = [int(text.split()[0]) for text in str(error.value).split("smallest that works is ")[1:]]
    assert len(set(smallest)) == CLIENTS  # that this budget suits four is a property of the data
    enough = replace(settings, uplink_budget=str(sorted(smallest)[3]))
    model, notes = stacked(enough, tmp_path / "whole")
    (row,) = notes.rows
    assert sum(each["bytes_up"] > 0 for each in row["clients"].values()) == row["num_clients"] == 3
    assert any("too small for this update" in why for why in row["dropped"].values())
    alone, noted = stacked(enough, tmp_path / "alone", memory=3 * 10**6)  # a client at a time
    assert alone.held.hash == model.held.hash
    assert record(noted) == record(notes)


def test_a_codec_without_a_step_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    settings = replace(SETTINGS, uplink_codec="int8")
    with pytest.raises(QuorumError, match="small or smallest"):
        virtually(settings, shares(2), tmp_path)
    with pytest.raises(SettingsError, match="small or smallest"):
        stacked(settings, tmp_path / "rows")
