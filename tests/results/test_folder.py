import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from fedlite.errors import StateError
from fedlite.results import RunFolder
from fedlite.results.folder import read_config

SETTINGS = {"rounds": 3, "strategy": "fedavg", "data_dir": Path("data")}


def test_config_json_says_how_the_run_was_made(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", SETTINGS)
    found = json.loads((tmp_path / "run" / "config.json").read_text())
    assert found["settings"] == {"rounds": 3, "strategy": "fedavg", "data_dir": "data"}
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["flwr"] == metadata.version("flwr")
    assert set(found) == {"format", "started", "settings", "versions", "python", "platform", "commit"}


def test_a_row_per_round_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, SETTINGS)
    for number in (1, 2, 3):
        folder.append({"round": number, "loss": np.float32(number)})
    folder.append({"round": 2, "loss": 0.5})
    assert folder.rows() == [{"round": 1, "loss": 1.0}, {"round": 2, "loss": 0.5}, {"round": 3, "loss": 3.0}]


def test_resume_goes_on_and_records_what_changed(tmp_path: Path) -> None:
    RunFolder(tmp_path, SETTINGS).append({"round": 1})
    before = read_config(tmp_path)
    folder = RunFolder(tmp_path, SETTINGS | {"rounds": 9}, resume=True)
    folder.append({"round": 1, "loss": 2.0})
    folder.append({"round": 2})
    assert [row["round"] for row in folder.rows()] == [1, 2]
    after = read_config(tmp_path)
    assert after["started"] == before["started"]
    assert after["settings"]["rounds"] == 9
    assert after["resumed"][0]["changed"]["rounds"] == [3, 9]
    RunFolder(tmp_path, SETTINGS | {"rounds": 9}, resume=True)
    assert len(read_config(tmp_path)["resumed"]) == 2


def test_resume_of_nothing_is_a_beginning(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "new", SETTINGS, resume=True).rows() == []


def test_a_folder_of_other_settings_is_refused_untouched(tmp_path: Path) -> None:
    RunFolder(tmp_path, SETTINGS).append({"round": 1})
    with pytest.raises(StateError, match="strategy = 'fedavg', this one has 'fedadam'"):
        RunFolder(tmp_path, SETTINGS | {"strategy": "fedadam"})
    assert RunFolder(tmp_path, SETTINGS, resume=True).rows() == [{"round": 1}]


def test_the_same_settings_begin_anew_and_lose_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path, SETTINGS).append({"round": 1})
    assert RunFolder(tmp_path, SETTINGS).rows() == []
    assert json.loads((tmp_path / "metrics.jsonl.old").read_text()) == {"round": 1}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 99}'])
def test_a_damaged_record_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StateError, match=r"config\.json"):
        RunFolder(tmp_path, SETTINGS, resume=True)
