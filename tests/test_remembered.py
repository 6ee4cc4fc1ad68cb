"""Figures that are kept, and what is damaged is measured again."""

import math
from pathlib import Path

import pytest

from fedlite import remembered


def test_what_is_kept_is_found_by_all_it_depends_on(tmp_path: Path) -> None:
    place = remembered.place(tmp_path, "rates", ["mlp", {"a": 1, "b": 2}])
    assert remembered.read(place, ("one", "two")) is None
    remembered.write(place, {"one": 2.5, "two": math.inf})
    assert remembered.read(place, ("one", "two")) == {"one": 2.5, "two": math.inf}
    assert remembered.read(place, ("one", "three")) is None
    assert remembered.place(tmp_path, "rates", ["mlp", {"b": 2, "a": 1}]) == place
    others = (["cnn", {"a": 1, "b": 2}], ["mlp", {"a": 1, "b": 3}], ["mlp"])
    assert all(remembered.place(tmp_path, "rates", each) != place for each in others)
    assert remembered.place(tmp_path, "other", ["mlp", {"a": 1, "b": 2}]) != place
    assert list(tmp_path.iterdir()) == [place]


DAMAGED = ("", "[]", "{", '{"one": "x"}', '{"one": 0}', '{"one": -1}', '{"one": NaN}', '{"one": null}', "[" * 60_000,
           '{"one": 1' + "0" * 400 + "}")  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_damaged_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "figures.json").write_text(text)
    assert remembered.read(tmp_path / "figures.json", ("one",)) is None


def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path) -> None:
    remembered.write(None, {"one": 1.0})
    remembered.write(tmp_path / "missing" / "figures.json", {"one": 1.0})
    assert remembered.read(None, ("one",)) is None
    assert not list(tmp_path.iterdir())
