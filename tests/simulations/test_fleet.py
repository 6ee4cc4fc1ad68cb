"""Simulations on the virtual clock: the same command gives the same bytes, and a resumed run the same time."""

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from fedlite.errors import QuorumError, SettingsError, StateError
from fedlite.results.lines import JsonLines
from simulations.config import Config
from simulations.run import simulate

ROUGH = "churn:60/20+dropout:0.2+straggler:0.2,30"


@pytest.fixture
def config(data_dir: Path, tmp_path: Path) -> Config:
    return Config(
        dataset="digits",
        data_dir=data_dir,
        model="linear",
        clients=40,
        cohort=6,
        over_selection=1.7,
        deadline_seconds=0.2,
        quorum=1,
        rounds=3,
        epochs=1,
        prune_round=1,
        devices="pi4:0.5,pi_zero_2w:0.5",
        availability=ROUGH,
        run_dir=tmp_path / "run",
    )


def run(config: Config, folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """(the model, the rows without what took real time)."""
    simulate(replace(config, run_dir=folder), Event())
    rows = [row | {"seconds": None} for row in JsonLines(folder / "metrics.jsonl").read()]
    return (folder / "model.safetensors").read_bytes(), rows


def test_the_same_command_gives_the_same_bytes(config: Config, tmp_path: Path) -> None:
    assert run(config, tmp_path / "a") == run(config, tmp_path / "b")


def test_a_resumed_run_goes_on_by_the_same_clock(config: Config, tmp_path: Path) -> None:
    whole = run(replace(config, rounds=5), tmp_path / "whole")
    run(config, tmp_path / "parts")
    assert run(replace(config, rounds=5), tmp_path / "parts") == whole
    times = [row["fleet"]["now"] for row in whole[1]]
    assert times == sorted(set(times))


def test_rounds_name_who_was_lost_and_count_the_cohort(config: Config, tmp_path: Path) -> None:
    _, rows = run(replace(config, rounds=6), tmp_path / "a")
    for row in rows:
        lost = {name: row["fleet"][name] for name in ("late", "failed", "left", "absent", "unfit")}
        assert sum(lost.values()) == len(row["dropped"])
        assert row["num_clients"] <= 6
        assert row["num_clients"] + len(row["dropped"]) == 10  # 6 · 1.7 asked
        assert row["fleet"]["seconds"] <= 0.2
    reasons = {reason for row in rows for reason in row["dropped"].values()}
    assert {"broke off its training", "was still at work when the round ended"} <= reasons
    html = (tmp_path / "a" / "report.html").read_text("utf-8")
    assert "virtual time" in html
    assert "Accuracy by the virtual clock" in html


def test_a_fleet_that_loses_nobody_learns_what_one_without_a_clock_does(
    config: Config, tmp_path: Path
) -> None:
    calm = replace(config, availability="always", over_selection=1.0, deadline_seconds=600.0)
    clocked, rows = run(calm, tmp_path / "a")
    plain, others = run(replace(calm, devices=""), tmp_path / "b")
    assert clocked == plain
    assert [{key: value for key, value in row.items() if key != "fleet"} for row in rows] == others


def test_each_kind_of_device_sends_what_its_link_bears(config: Config, tmp_path: Path) -> None:
    """In half a millisecond 45.74 Mbit/s carry 2858 bytes and 40 Mbit/s 2500: 2315 and 1975 of reports."""
    timed = replace(
        config, model="2nn", uplink_codec="small", round_time="0.5ms", availability="always", rounds=2,
        over_selection=1.0, deadline_seconds=600.0,
    )  # fmt: skip
    _, rows = run(timed, tmp_path / "a")
    sent = [each for row in rows for each in row["clients"].values()]
    assert {each["uplink_budget"] for each in sent} == {2315, 1975}
    assert all(0.9 * each["uplink_budget"] < each["bytes_up"] <= each["uplink_budget"] for each in sent)
    _, rows = run(replace(timed, uplink_budget="2000"), tmp_path / "b")
    assert {each["uplink_budget"] for row in rows for each in row["clients"].values()} == {2000, 1975}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"round_time": "1ms"}, "take --uplink-codec small or smallest"),
        (
            {"uplink_codec": "small", "uplink_budget": "60"},
            "60 bytes is too small for any update of this model: one of nothing but zeros takes",
        ),
    ],
)
def test_a_budget_that_cannot_be_is_refused_before_a_round(
    config: Config, changed: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        simulate(replace(config, **changed), Event())  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2, 4])
def test_bits_that_the_kernel_does_not_know_are_tested_by_torch(
    config: Config, tmp_path: Path, bits: int
) -> None:
    _, rows = run(replace(config, devices="", availability="always", bits=bits), tmp_path / "a")
    assert all(row["engine"].startswith("torch") for row in rows)
    assert all(0 < row["accuracy"] < 1 for row in rows)


def test_an_address_is_for_ray(config: Config) -> None:
    with pytest.raises(SettingsError, match="add --engine ray"):
        simulate(replace(config, address="somewhere:6379"), Event())


def test_the_wait_for_a_quorum_is_virtual(config: Config, tmp_path: Path) -> None:
    """Forty phones in one time zone at noon: thirty are there in the night."""
    phones = replace(config, devices="phone", availability="diurnal:0", cohort=30, quorum=25, rounds=1)
    _, rows = run(replace(phones, over_selection=1.0, deadline_seconds=600), tmp_path / "a")
    assert rows[0]["fleet"]["waited"] > 8 * 3600
    assert rows[0]["num_clients"] >= 25


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"devices": "toaster"}, "no device profile 'toaster'; there are pi_zero_2w"),
        ({"devices": "pi4:0.4"}, "add up to 0.4"),
        ({"availability": "sometimes"}, "no trace 'sometimes'"),
        ({"devices": "", "availability": "diurnal"}, "needs devices"),
        ({"uplink_codec": "small", "round_time": "0.01ms"}, "carries no report in --round-time 0.01ms"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused_before_anything_is_written(
    config: Config, changed: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        simulate(replace(config, **changed), Event())  # type: ignore[arg-type]
    assert config.run_dir is not None
    assert not config.run_dir.exists()


def test_a_run_does_not_change_its_fleet(config: Config, tmp_path: Path) -> None:
    run(config, tmp_path / "a")
    with pytest.raises(StateError, match="devices"):
        run(replace(config, devices="pi5", rounds=4), tmp_path / "a")


def test_a_round_that_nobody_finishes_says_why(config: Config, tmp_path: Path) -> None:
    with pytest.raises(QuorumError, match="was still at work when the round ended"):
        run(replace(config, deadline_seconds=0.001), tmp_path / "a")
