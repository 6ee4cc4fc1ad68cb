"""One word names the data, and a word that cannot be served says what could be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedlite.data.base import Dataset
from fedlite.data.datasets import load
from fedlite.data.spec import describe, open_data
from fedlite.errors import DataError


def rows(data: Dataset) -> list[bytes]:
    return sorted(sample.tobytes() for sample in data.x)


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5", "shards:2"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_parts_are_the_whole(partition: str, split: str) -> None:
    parts = [open_data(f"digits:{part}/3", split=split, partition=partition, seed=4) for part in range(3)]
    whole = open_data("digits", split=split)
    assert sum(map(len, parts)) == len(whole)
    assert rows(whole) == sorted(row for part in parts for row in rows(part))
    again = open_data("digits:1/3", split=split, partition=partition, seed=4)
    np.testing.assert_array_equal(again.x, parts[1].x)


def test_natural_picks_and_parts_agree(data_dir: Path) -> None:
    whole = load("motionsense", "test", data_dir)
    assert whole.keys is not None
    picked = open_data("motionsense:subject=22", split="test", data_dir=data_dir)
    by_key = open_data("motionsense:key=22", split="test", data_dir=data_dir)
    part = open_data("motionsense:2/5", split="test", partition="natural", data_dir=data_dir)
    for data in (picked, by_key, part):
        np.testing.assert_array_equal(data.x, whole.x[whole.keys == 22])


def test_a_writer_of_mnist(data_dir: Path) -> None:
    data = open_data("mnist:0/539", partition="natural", data_dir=data_dir)
    assert data.keys is not None
    (writer,) = set(data.keys.tolist())
    assert len(open_data(f"mnist:writer={writer}", data_dir=data_dir)) == len(data)


def write_table(path: Path, samples: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a,y,kind\n" + "".join(f"{row},{row % 2},7\n" for row in range(samples)))
    return path


def test_own_data_without_a_test_folder_keeps_a_fifth_for_testing(tmp_path: Path) -> None:
    path = write_table(tmp_path / "d.csv")
    train, test = open_data(str(path)), open_data(str(path), split="test")
    assert np.bincount(train.y).tolist() == [8, 8]
    assert np.bincount(test.y).tolist() == [2, 2]
    both = np.concatenate([train.x[:, 0], test.x[:, 0]])
    assert sorted(both.tolist()) == list(range(20))


def test_own_data_with_train_and_test_folders(tmp_path: Path) -> None:
    for place, name in enumerate(("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png")):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (2, 2), place * 51).save(tmp_path / name)
    assert open_data(str(tmp_path)).x[:, 0, 0, 0].tolist() == [0, np.float32(0.2)]
    assert open_data(str(tmp_path), split="test").x[:, 0, 0, 0].tolist() == [np.float32(0.4), np.float32(0.6)]


def test_parts_and_columns_of_paths(tmp_path: Path) -> None:
    path = write_table(tmp_path / "d.csv")
    assert len(open_data(f"{path}:0/4")) == 4
    assert open_data(f"{path}:kind").num_classes == 8
    assert len(open_data(f"{path}:kind:3/4")) == 4
    keys = np.arange(20) % 3
    np.savez(tmp_path / "d.npz", x=np.arange(20.0)[:, None], y=np.zeros(20, np.int64), keys=keys)
    data = open_data(f"{tmp_path / 'd.npz'}:key=2")
    assert data.keys is not None
    assert set(data.keys.tolist()) == {2}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digits:3/3", "no part 3 of 3; possible are 0/3 to 2/3"),
        ("digits:0/0", "no part 0 of 0"),
        ("digits:a/b", r"unknown part 'a/b'; possible are digits, digits:0/3"),
        ("digits:1", "unknown part '1'"),
        ("digits:", "unknown part ''"),
        ("digits:-1/3", "unknown part"),
        ("digits:0/3/4", "unknown part"),
        ("digits:0/100000", "cannot serve 100000 clients"),
        ("digits:writer=3", "unknown part"),
        ("digits:key=3", "no natural keys"),
        ("digit", "neither a data set nor a path; give one of digits, mnist"),
        ("nowhere/d.csv:label", "neither a data set nor a path"),
        ("nowhere/d.npz:0/3", "neither a data set nor a path"),
        ("", "neither a data set nor a path"),
        (":", "neither a data set nor a path"),
    ],
)
def test_bad_specs_say_what_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=says):
        open_data(spec)


def test_an_absent_key_tells_the_range(data_dir: Path) -> None:
    with pytest.raises(DataError, match="19 keys from 1 to 19"):
        open_data("motionsense:subject=22", data_dir=data_dir)
    with pytest.raises(DataError, match="5 natural keys"):
        open_data("motionsense:0/6", split="test", partition="natural", data_dir=data_dir)


def test_too_few_own_samples_for_a_test_split(tmp_path: Path) -> None:
    path = write_table(tmp_path / "d.csv", samples=4)
    assert len(open_data(str(path))) == 4
    with pytest.raises(DataError, match="too few samples for a test split"):
        open_data(str(path), split="test")


def test_description() -> None:
    data = Dataset(np.zeros((3, 1, 8, 8), np.float32), np.array([0, 2, 2]), 3, "mine")
    assert describe(data) == "mine: 3 samples of 1x8x8 float32, 2 of 3 classes (0:1 2:2)"


def test_description_of_many_classes_names_the_largest() -> None:
    y = np.repeat(np.arange(12), np.arange(1, 13))
    line = describe(Dataset(np.zeros((78, 4), np.int64), y, 65, "text"))
    assert line == (
        "text: 78 samples of 4 int64, 12 of 65 classes (11:12 10:11 9:10 8:9 7:8 6:7 5:6 4:5 3:4 2:3 …)"
    )
