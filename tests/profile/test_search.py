"""The search on figures known beforehand, on a real small problem, and what is said when nothing fits."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from fedlite.errors import SettingsError, StorageError
from fedlite.models.registry import resolve
from fedlite.profile.budget import Kind, parse_budget
from fedlite.profile.cache import Cache
from fedlite.profile.candidates import Candidate, relatives
from fedlite.profile.search import NOT_ASKED, Standing, halve, within
from fedlite.profile.unknown import Unknown

LINEAR = resolve("linear", {})
NAMES = "abcdefghi"


def candidates(count: int = 9) -> list[Candidate]:
    return [Candidate(LINEAR, name) for name in NAMES[:count]]


class Table:
    """Figures by kind and candidate, and how often each was asked."""

    def __init__(self, **figures: Mapping[str, float]) -> None:
        self.figures, self.asked = figures, list[str]()

    def __call__(self, kind: Kind, candidate: Candidate) -> float | Unknown:
        self.asked.append(f"{kind.name} {candidate.label}")
        value = self.figures[kind.name].get(candidate.label)
        return Unknown("the meter is away") if value is None else value


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("latency=5ms", {"latency": 0.005}),
        ("size=1MB,latency=2.5us", {"latency": 2.5e-6, "size": 1e6}),
        ("memory=20MiB, macs=3M", {"macs": 3e6, "memory": 20 * 2**20}),
        ("parameters=1e3,size_float32=4kB", {"parameters": 1000, "size_float32": 4000}),
    ],
)
def test_a_budget_in_words(text: str, want: dict[str, float]) -> None:
    assert {limit.kind.name: limit.most for limit in parse_budget(text)} == pytest.approx(want)


def test_what_costs_little_is_asked_first() -> None:
    names = [limit.kind.name for limit in parse_budget("memory=1MB,latency=1s,size=1MB,macs=1")]
    assert names == ["macs", "size", "latency", "memory"]


@pytest.mark.parametrize(
    "text",
    ["", "latency", "latency=", "latency=5", "latency=5MB", "latency=0ms", "latency=-1ms", "speed=5ms", "size=1mb",
     "size=nan", "size=1e400MB", "size=1MB,size=2MB", "latency=5 ms ms", "macs=1e99999"],
)  # fmt: skip
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_budget(text)


def test_limits_are_kept_and_dear_figures_asked_of_few() -> None:
    limits = parse_budget("macs=5,latency=2s,memory=10B")
    table = Table(
        macs=dict(zip(NAMES, [9, 8, 5, 4, 3, 2, 1, 1, 1], strict=True)),
        latency=dict(zip(NAMES, [9, 9, 3, 2, 2, 1, 1, 1, 1], strict=True)),
        memory={"d": 11, "e": 10, "f": 9, "g": 8},
    )
    got = {each.candidate.label: each.misses for each in within(candidates(), limits, table, 2)}
    assert [name for name, misses in got.items() if not misses] == ["e", "f"]
    assert got["a"] == "macs 9 > 5"
    assert got["c"] == "latency 3 s > 2 s"
    assert got["d"] == "memory 11 B > 10 B"
    assert {got[name] for name in "ghi"} == {NOT_ASKED}
    assert [each for each in table.asked if "macs" not in each] == [
        "latency c", "latency d", "memory d", "latency e", "memory e", "latency f", "memory f",
    ]  # fmt: skip


def test_nothing_fits_says_the_smallest_possible() -> None:
    table = Table(latency=dict(zip("abc", [3, 2, 4], strict=True)), memory={"b": 50, "a": 60})
    with pytest.raises(SettingsError) as caught:
        within(candidates(3), parse_budget("latency=1us"), table, 1)
    assert "none of 3" in str(caught.value)
    assert "latency 2 s (b)" in str(caught.value)
    with pytest.raises(SettingsError, match=r"latency 2 s \(b\), memory 50 B \(b\)"):
        within(candidates(3), parse_budget("latency=3s,memory=1B"), table, 1)


def test_a_figure_that_cannot_be_had_keeps_no_limit() -> None:
    table = Table(memory={"b": 5})
    got = within(candidates(2), parse_budget("memory=10B"), table, 2)
    assert [each.misses for each in got] == ["memory: the meter is away", ""]
    with pytest.raises(SettingsError, match="the meter is away"):
        within(candidates(1), parse_budget("memory=10B"), Table(memory={}), 1)


def test_the_contest_finds_the_best_and_trains_few_for_long() -> None:
    final = dict(zip(NAMES, [0.1, 0.2, 0.9, 0.3, 0.8, 0.4, 0.5, 0.7, 0.6], strict=True))
    asked: list[tuple[str, int]] = []

    def score(candidate: Candidate, epochs: int) -> float:
        asked.append((candidate.label, epochs))
        return final[candidate.label] - 0.05 / epochs

    got = halve([Standing(each, {}) for each in candidates()], score)
    assert [each.candidate.label for each in got] == list("cehigfdba")
    assert got[0].accuracy == pytest.approx({1: 0.85, 3: 0.9 - 0.05 / 3})
    # nine for one epoch, three for three; and then one is left
    assert [epochs for _, epochs in asked] == [1] * 9 + [3] * 3
    assert [name for name, epochs in asked if epochs == 3] == ["c", "e", "h"]


def test_of_equals_the_first_wins_and_one_needs_no_contest() -> None:
    same = [Standing(each, {}) for each in candidates(4)]
    assert [each.candidate.label for each in halve(same, lambda c, e: 0.5)] == list("abcd")
    assert halve(same[:1], lambda c, e: 1 / 0) == same[:1]


def test_relatives_are_smaller_and_each_network_comes_once() -> None:
    base = resolve("mlp", {"hidden": (64, 32), "input_shape": (1, 8, 8)})
    got, missing = relatives(base, [0.0])
    shapes = {dict(each.spec.options)["hidden"] for each in got}
    assert shapes == {(16,), (32,), (48,), (64,), (16, 8), (32, 16), (48, 24), (64, 32)}
    assert len(got) == 8
    assert not missing
    assert got[-1].spec == base


def test_a_network_reached_in_two_ways_comes_once() -> None:
    got, _ = relatives(resolve("mlp", {"hidden": (64,)}), [0.5, 0.0])
    whole = {
        "mlp",
        "mlp:hidden=48",
        "mlp:hidden=32",
        "mlp:hidden=16",
    }  # half of 64 and of 32 are there already
    assert {each.label for each in got} == whole | {"mlp:hidden=48 pruned 0.5", "mlp:hidden=16 pruned 0.5"}


def test_depth_where_the_family_has_one() -> None:
    got, _ = relatives(resolve("slim_resnet", {"blocks": (2, 4, 2)}), [0.0])
    blocks = {dict(each.spec.options)["blocks"] for each in got}
    assert blocks == {
        (1, 1, 1),
        (1, 2, 1),
        (2, 3, 2),
        (2, 4, 2),
    }  # halves round to even: round(0.5) is 0, so 1
    assert len(got) == 4 * 4  # and four widths of each
    layers = {
        dict(each.spec.options)["layers"] for each in relatives(resolve("text_transformer", {}), [0.0])[0]
    }
    assert layers == {1, 2}


def test_a_family_without_widths_is_pruned() -> None:
    got, missing = relatives(resolve("small_cnn", {}), [0.0, 0.5])
    assert not missing
    assert [each.label for each in got] == ["small_cnn", "small_cnn pruned 0.5"]
    assert got[1].spec.changes


@pytest.mark.parametrize("ratios", [[1.0], [-0.1], [float("nan")]])
def test_what_is_no_ratio(ratios: list[float]) -> None:
    with pytest.raises(SettingsError, match="ratio"):
        relatives(LINEAR, ratios)


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("small_cnn", 0.999),
        ("shufflenet_v2", 0.5),
    ],  # one channel of each layer is kept; shuffled ones are not cut
)
def test_no_candidate_is_left(name: str, ratio: float) -> None:
    with pytest.raises(SettingsError, match=f"no candidate is left: .*{name}.*smaller --ratios"):
        relatives(resolve(name, {}), [ratio])


def test_a_folder_that_refuses_is_no_state_directory(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "search", "pi")
    (tmp_path / "search").touch()  # a file, where a folder is to be
    with pytest.raises(StorageError, match="another --out") as refused:
        cache.get("memory", 1, lambda: 5.0)
    assert "state-dir" not in str(refused.value)


def test_the_cache_is_of_one_device_and_outlives_a_power_cut(tmp_path: Path) -> None:
    asked: list[int] = []

    def measure() -> float:
        asked.append(1)
        return float(len(asked))

    first = Cache(tmp_path, "pi")
    assert [first.get("latency", [1, "x"], measure) for _ in range(2)] == [1.0, 1.0]
    assert first.get("latency", [2, "x"], measure) == 2.0
    path = tmp_path / "figures.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # the last line is cut
    second = Cache(tmp_path, "pi")
    assert second.get("latency", [1, "x"], measure) == 1.0
    assert second.get("latency", [2, "x"], measure) == 3.0
    third = Cache(tmp_path, "pi")
    assert third.get("latency", [2, "x"], measure) == 3.0
    assert Cache(tmp_path, "laptop").get("latency", [1, "x"], measure) == 4.0


def test_what_could_not_be_had_is_asked_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "pi")
    assert cache.get("memory", 1, lambda: Unknown("not now")) == Unknown("not now")
    assert cache.get("memory", 1, lambda: 5.0) == 5.0


def test_another_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "figures.jsonl").write_text(json.dumps({"rounds": 3}) + "\n")
    with pytest.raises(SettingsError, match="holds no measurements"):
        Cache(tmp_path, "pi")
