"""The data sets are what their authors published, and damaged files are refused."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite.data import text
from fedlite.data.base import Dataset, holdout
from fedlite.data.datasets import NAMES, load, load_stored
from fedlite.data.sensors import MEAN, STD
from fedlite.data.text import VOCABULARY, roles, shakespeare
from fedlite.errors import DataError


def check_form(data: Dataset, shape: tuple[int, ...]) -> None:
    assert data.x.shape == shape
    assert len(data) == shape[0] == len(data.y)
    assert data.y.dtype == np.int64
    assert data.x.flags.c_contiguous
    assert set(np.unique(data.y)) <= set(range(data.num_classes))


@pytest.mark.parametrize(("split", "count"), [("train", 1438), ("test", 359)])
def test_digits(split: str, count: int) -> None:
    """1,797 images; a fifth of each class, rounded, is 359."""
    data = load("digits", split)
    check_form(data, (count, 1, 8, 8))
    assert data.x.dtype == np.float32
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.keys is None


def test_digits_splits_are_all_of_it_once_and_stratified() -> None:
    from sklearn.datasets import load_digits

    train, test = load("digits", "train"), load("digits", "test")
    every = np.concatenate([train.x, test.x]).reshape(-1, 64) * 16
    published = load_digits().data
    np.testing.assert_array_equal(np.sort(every, axis=0), np.sort(published, axis=0))
    np.testing.assert_allclose(np.bincount(test.y) * 5, np.bincount(train.y) + np.bincount(test.y), atol=2.5)
    np.testing.assert_array_equal(load("digits", "train").x, train.x)


@pytest.mark.parametrize(("split", "count", "writers"), [("train", 60_000, 539), ("test", 10_000, 297)])
def test_mnist_by_writer(data_dir: Path, split: str, count: int, writers: int) -> None:
    data = load("mnist", split, data_dir)
    check_form(data, (count, 1, 28, 28))
    assert data.x.dtype == np.float32
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.keys is not None
    _, sizes = np.unique(data.keys, return_counts=True)
    assert len(sizes) == writers
    assert (sizes.min(), sizes.max()) == ((19, 131) if split == "train" else (8, 130))


def test_mnist_mean_and_deviation_are_the_published_ones(data_dir: Path) -> None:
    data = load("mnist", "train", data_dir)
    assert data.x.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert data.x.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)
    np.testing.assert_array_equal(data.y[:5], [5, 0, 4, 1, 9])


def test_writers_of_the_test_set_are_others(data_dir: Path) -> None:
    train, test = (load_stored("mnist", split, data_dir).keys for split in ("train", "test"))
    assert train is not None
    assert test is not None
    assert not set(train.tolist()) & set(test.tolist())


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist(data_dir: Path, split: str, count: int) -> None:
    data = load("fashion_mnist", split, data_dir)
    check_form(data, (count, 1, 28, 28))
    np.testing.assert_array_equal(np.bincount(data.y), np.full(10, count // 10))
    if split == "train":  # as published
        assert data.x.mean(dtype=np.float64) == pytest.approx(0.2860, abs=5e-5)


def test_motionsense_divides_by_person(data_dir: Path) -> None:
    train, test = (load("motionsense", split, data_dir) for split in ("train", "test"))
    check_form(train, (8661, 9, 128))
    check_form(test, (10_854 - 8661, 9, 128))
    assert train.keys is not None
    assert test.keys is not None
    assert sorted(set(train.keys.tolist())) == list(range(1, 20))
    assert sorted(set(test.keys.tolist())) == list(range(20, 25))
    assert train.x.dtype == np.float32
    np.testing.assert_allclose(train.x.mean(axis=(0, 2), dtype=np.float64), 0, atol=1e-4)
    np.testing.assert_allclose(train.x.std(axis=(0, 2), dtype=np.float64), 1, atol=1e-4)


def test_motionsense_values_are_the_sensor_readings(data_dir: Path) -> None:
    """Undoing the standardisation gives the file's integers times their units."""
    with np.load(data_dir / "motionsense/motionsense_w128.npz", allow_pickle=False) as file:
        raw = file["X"][0].astype(np.float64) * file["scale"]
    first = load("motionsense", "train", data_dir).x[0].T
    np.testing.assert_allclose(first * np.array(STD) + np.array(MEAN), raw, atol=2e-5)


def test_the_play_has_its_roles(data_dir: Path) -> None:
    with gzip.open(data_dir / "shakespeare/tinyshakespeare.txt.gz", "rt") as file:
        play = file.read()
    assert len(play) == 1_115_394
    assert "".join(sorted(set(play))) == VOCABULARY
    found = roles(play)
    assert len(found) == 299
    assert sum(map(len, found.values())) == 7097
    assert sum(len("\n".join(speeches)) >= 1000 for speeches in found.values()) == 141


@pytest.mark.parametrize("split", ["train", "test"])
def test_shakespeare_windows_are_each_role_s_own_text(data_dir: Path, split: str) -> None:
    with gzip.open(data_dir / "shakespeare/tinyshakespeare.txt.gz", "rt") as file:
        found = roles(file.read())
    expected = []
    for place, role in enumerate(sorted(found)):
        words = "\n".join(found[role])
        middle = len(words) * 4 // 5
        part = words[:middle] if split == "train" else words[middle:]
        expected += [(place, part[s : s + 81]) for s in range(0, len(part), 80) if len(part) > s + 80]
    data = load("shakespeare", split, data_dir)
    check_form(data, (len(expected), 80))
    assert data.x.dtype == np.int64
    assert data.num_classes == 65
    assert data.keys is not None
    read = ["".join(VOCABULARY[code] for code in (*x, y)) for x, y in zip(data.x, data.y, strict=True)]
    assert list(zip(data.keys.tolist(), read, strict=True)) == expected


def test_a_smaller_stride_gives_every_window(tmp_path: Path) -> None:
    path = tmp_path / "play.gz"
    path.write_bytes(gzip.compress(("Me:\n" + "abcde" * 40 + "\n\nYou:\nHi").encode()))
    data = shakespeare(path, "train", stride=1)  # 160 characters: windows start at 0 … 79
    assert data.x.shape == (80, 80)
    assert data.keys is not None
    assert set(data.keys.tolist()) == {0}


def test_a_part_is_cut_out_before_it_is_widened(data_dir: Path) -> None:
    """The whole of MNIST is 188 MB in float32; a client's 1/539 must never need that."""
    stored = load_stored("mnist", "train", data_dir)
    tracemalloc.start()
    part = stored.take(np.arange(100)).open()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part.x.shape == (100, 1, 28, 28)
    assert peak < 1_000_000


def test_take_keeps_samples_labels_and_keys_together() -> None:
    data = Dataset(np.arange(8.0).reshape(4, 2), np.array([0, 1, 2, 3]), 4, "four", np.array([7, 8, 9, 10]))
    taken = data.take(np.array([3, 0]))
    assert taken.x.tolist() == [[6, 7], [0, 1]]
    assert taken.y.tolist() == [3, 0]
    assert taken.keys is not None
    assert taken.keys.tolist() == [10, 7]


def test_holdout_is_a_fifth_of_every_class() -> None:
    y = np.repeat([0, 1, 2], [10, 5, 2])
    test = holdout(y, "test")
    assert np.bincount(y[test], minlength=3).tolist() == [2, 1, 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([test, holdout(y, "train")])), np.arange(17))


def write_cifar10(folder: Path, **changes: NDArray[np.generic]) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 10,
        "x_test": rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
        "y_test": np.arange(3),
    }
    (folder / "cifar10").mkdir(exist_ok=True)
    np.savez_compressed(folder / "cifar10/cifar10.npz", **(arrays | changes))


def test_cifar10_from_an_npz(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    data = load("cifar10", "train", tmp_path)
    check_form(data, (12, 3, 32, 32))
    with np.load(tmp_path / "cifar10/cifar10.npz") as file:
        assert data.x[5, 2, 7, 9] == np.float32(file["x_train"][5, 7, 9, 2]) / np.float32(255)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_train": np.zeros((12, 3, 32, 32), np.uint8)}, r"uint8 \(n, 32, 32, 3\) wanted"),
        ({"x_train": np.zeros((12, 32, 32, 3), np.float32)}, "images are float32"),
        ({"x_train": np.zeros((11, 32, 32, 3), np.uint8)}, r"labels have shape \(12,\), \(11,\) wanted"),
        ({"x_train": np.zeros((0, 32, 32, 3), np.uint8), "y_train": np.zeros(0, np.int64)}, "at least one"),
        ({"y_train": np.full(12, 10)}, "labels run from 10 to 10"),
        ({"y_train": np.full(12, -1)}, "labels run from -1"),
        ({"y_train": np.zeros(12, np.float32)}, "integers wanted"),
        ({"y_train": np.array([None] * 12)}, "holds object"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, changes: dict[str, NDArray[np.generic]], says: str) -> None:
    write_cifar10(tmp_path, **changes)
    with pytest.raises(DataError, match=says):
        load("cifar10", "train", tmp_path)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """The format of the original files: two zero bytes, type 8 (uint8), number of dimensions, sizes."""
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(head + values.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvision_reads_the_original_files(tmp_path: Path, name: str, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.array([3, 1, 4, 1, 5], np.uint8))
    data = load(name, "test", tmp_path)
    check_form(data, (5, 1, 28, 28))
    np.testing.assert_array_equal(np.rint(data.x[:, 0] * 255), images)
    assert data.y.tolist() == [3, 1, 4, 1, 5]
    assert data.keys is None


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_without_file_and_network_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens on the discard port
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(DataError, match=rf"put {name}/{name}.npz into --data-dir"):
        load(name, "train", tmp_path)


def test_the_environment_names_the_folder(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLITE_DATA", str(data_dir))
    assert len(load_stored("motionsense", "test")) == 2193
    monkeypatch.setenv("FEDLITE_DATA", str(data_dir / "nowhere"))
    with pytest.raises(DataError, match="is not a folder"):
        load("motionsense", "test")
    assert len(load_stored("motionsense", "test", data_dir)) == 2193  # an explicit folder wins


@pytest.mark.parametrize("name", ["motionsense", "shakespeare"])
def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("FEDLITE_DATA", raising=False)
    with pytest.raises(DataError, match="--data-dir or FEDLITE_DATA"):
        load(name, "train")
    with pytest.raises(DataError, match=rf"{name}/.* is missing"):
        load(name, "train", tmp_path)


def test_unknown_names_and_splits_list_the_known() -> None:
    with pytest.raises(DataError, match=", ".join(NAMES)):
        load("imagenet", "train")
    with pytest.raises(DataError, match="train and test"):
        load("digits", "valid")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"X": np.zeros((4, 9, 128), np.int16)}, r"int16 \(n, 128, 9\) wanted"),
        ({"scale": np.zeros(9, np.float32)}, "9 positive numbers"),
        ({"scale": np.full(9, np.nan, np.float32)}, "9 positive numbers"),
        ({"subject": np.ones(3, np.uint8)}, r"integers \(4,\) wanted"),
        ({"y": np.full(4, 6, np.uint8)}, "labels run from 6 to 6"),
    ],
)
def test_wrong_sensor_files_are_refused(
    tmp_path: Path, changes: dict[str, NDArray[np.generic]], says: str
) -> None:
    arrays = {
        "X": np.zeros((4, 128, 9), np.int16),
        "scale": np.ones(9, np.float32),
        "y": np.zeros(4, np.uint8),
        "subject": np.ones(4, np.uint8),
    }
    (tmp_path / "motionsense").mkdir()
    np.savez(tmp_path / "motionsense/motionsense_w128.npz", **(arrays | changes))
    with pytest.raises(DataError, match=says):
        load("motionsense", "train", tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no gzip", "not gzipped ASCII"),
        (gzip.compress("Me:\né".encode(), mtime=0), "not gzipped ASCII"),
        (gzip.compress(b"Me:\n" + b"a" * 200, mtime=0)[:-9], "not gzipped ASCII"),
        (gzip.compress(b"only lines", mtime=0), "holds no speech"),
        (gzip.compress(b"Me:\nshort", mtime=0), "more than 80 characters"),
        (gzip.compress(b"Me:\n~" + b"a" * 200, mtime=0), "holds '~'"),
    ],
)
def test_wrong_text_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "play.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        shakespeare(path, "train")


def test_a_text_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_BYTES", 1000)
    path = tmp_path / "play.gz"
    path.write_bytes(gzip.compress(b"Me:\n" + b"a" * 2000))
    with pytest.raises(DataError, match="more than 1000 bytes"):
        shakespeare(path, "train")
