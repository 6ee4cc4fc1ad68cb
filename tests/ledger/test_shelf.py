"""A device's shelf: what was put is there, all of it or none."""

import stat
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedlite.errors import StorageError
from fedlite.ledger.shelf import Shelf


def test_put_get_delete_and_names(tmp_path: Path) -> None:
    with Shelf(tmp_path / "shelf.db") as shelf:
        assert shelf.get("a") is None
        shelf.put({"b": b"two", "a": b"", "é/1": b"\0\xff"})
        assert (shelf.get("a"), shelf.get("b"), shelf.get("é/1")) == (b"", b"two", b"\0\xff")
        assert shelf.names() == ["a", "b", "é/1"]
        shelf.put({"b": None, "a": b"one", "never there": None})
        assert shelf.names() == ["a", "é/1"]
        shelf.put({})
    with Shelf(tmp_path / "shelf.db") as shelf:
        assert shelf.get("a") == b"one"


def test_files_and_new_folders_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    with Shelf(folder / "shelf.db") as shelf:
        shelf.put({"a": b"secret"})
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        assert len(list(folder.iterdir())) == 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "shelf.db").chmod(0o644)
    with Shelf(folder / "shelf.db"):
        assert stat.S_IMODE((folder / "shelf.db").stat().st_mode) == 0o600


def test_a_failing_put_changes_nothing(tmp_path: Path) -> None:
    with Shelf(tmp_path / "shelf.db") as shelf:
        shelf.put({"a": b"old"})
        with pytest.raises(TypeError):
            shelf.put({"a": b"new", "b": object()})  # type: ignore[dict-item]
        assert shelf.get("a") == b"old"
        shelf.put({"a": b"newer"})
        assert shelf.get("a") == b"newer"


def test_a_closed_shelf_says_so(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf.db")
    shelf.close()
    shelf.close()
    with pytest.raises(StorageError, match="is closed"):
        shelf.get("a")


def test_used_from_other_threads_than_the_one_that_opened_it(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(shelf: Shelf, name: str) -> None:
        try:
            for number in range(20):
                shelf.put({name: b"%d" % number, "common": name.encode()})
                assert shelf.get(name) == b"%d" % number
        except BaseException as error:
            errors.append(error)

    with Shelf(tmp_path / "shelf.db") as shelf:
        threads = [threading.Thread(target=work, args=(shelf, f"thread {i}")) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert [shelf.get(f"thread {i}") for i in range(4)] == [b"19"] * 4


class ShelfLikeADict(RuleBasedStateMachine):
    """A shelf behaves as a dict that is opened again now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "shelf.db"
        self.shelf, self.model = Shelf(self.path), {}

    @rule(values=st.dictionaries(st.text(max_size=3), st.none() | st.binary(max_size=20), max_size=4))
    def put(self, values: dict[str, bytes | None]) -> None:
        self.shelf.put(values)
        self.model = {n: v for n, v in {**self.model, **values}.items() if v is not None}

    @rule()
    def open_again(self) -> None:
        self.shelf.close()
        self.shelf = Shelf(self.path)

    @invariant()
    def same(self) -> None:
        assert self.shelf.names() == sorted(self.model)
        assert {name: self.shelf.get(name) for name in self.model} == self.model

    def teardown(self) -> None:
        self.shelf.close()
        self.folder.cleanup()


TestShelfLikeADict = ShelfLikeADict.TestCase
TestShelfLikeADict.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, derandomize=True
)
