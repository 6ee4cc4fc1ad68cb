"""Students, by every way of making a model small: devices on a grid and a stacked cohort train the same one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.apps.job import Workshop
from fedlite.apps.settings import JobSettings
from fedlite.compress.integer import to_integer
from fedlite.compress.prune import sparsity_of
from fedlite.config import parse
from fedlite.errors import QuorumError, SettingsError
from fedlite.models import ModelSpec, build, initial_params
from fedlite.models.registry import resolve
from fedlite.models.saved import save_model
from fedlite.modules import module_of
from fedlite.seeds import derive
from fedlite.tensors import size_bytes
from fedlite.train import predict
from fedlite.types import is_statistic
from fedlite.virtual.engines.compiled import Compiled
from tests.integration.federation import over_the_link, shares
from tests.integration.test_cohort import assert_same, by_messages, record, stacked

PLAIN: dict[str, Any] = {
    "rounds": 6, "model": "small_cnn", "epochs": 1, "sparsity": 0.0, "cohort": 4, "learning_rate": 0.05,
}  # fmt: skip
STUDENTS: dict[str, dict[str, Any]] = {
    "half the channels": {"channels": 0.5},
    "factorized": {"energy": 0.6},
    "fedpara": {"fedpara": 0.2, "bits": 32},
    "gradual": {"sparsity": 0.8, "prune": "gradual", "prune_round": 1, "prune_end": 5, "prune_every": 2},
    "prunefl": {"sparsity": 0.6, "prune": "prunefl", "prune_round": 0, "prune_every": 2},
    "rigl": {"sparsity": 0.7, "prune": "rigl", "prune_round": 0, "prune_every": 2, "prune_end": 6},
    "4 bits": {"bits": 4},
    "int8 arithmetic": {"arithmetic": "int8"},
    "int8 arithmetic, the last layer": {"arithmetic": "int8", "learn": "output.*"},
    "int8 arithmetic, the head": {"arithmetic": "int8", "learn": "head"},
    "mixed precision": {"autocast": "bf16", "bits": 32},
    "fused by the server": {"strategy": "feddf", "public": "digits:3/20", "rounds": 2},
    "taught": {"teacher": "teacher", "distill_alpha": 0.3, "temperature": 3.0},
    "all at once": {
        "channels": 0.5, "sparsity": 0.5, "prune": "gradual", "prune_round": 1, "prune_end": 4,
        "teacher": "teacher", "distill_alpha": 0.5,
    },
}  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A network with other layers and other weights; what it says is some function of the samples."""
    spec = resolve("mlp", {"input_shape": (1, 8, 8)})
    save_model(tmp_path / "teacher.safetensors", spec.to_json(), 32, initial_params(build(spec), 7))
    return tmp_path / "teacher.safetensors"


def settings_of(name: str, teacher: Path) -> JobSettings:
    given = PLAIN | STUDENTS[name]
    return JobSettings(**given | ({"teacher": teacher} if "teacher" in given else {}))


@pytest.mark.parametrize("name", STUDENTS)
def test_the_same_bits_by_messages_and_stacked(name: str, teacher: Path, tmp_path: Path) -> None:
    settings = settings_of(name, teacher)
    want, told = by_messages(settings, tmp_path / "messages")
    got, noted = stacked(settings, tmp_path / "stacked")
    assert got.spec == want.spec
    assert_same(got.params, want.params)
    assert_same(got.masks, want.masks)
    assert record(noted) == record(told)


@pytest.mark.parametrize("name", ["taught", "half the channels", "gradual"])
def test_the_compiled_engine_trains_students_too(name: str, teacher: Path, tmp_path: Path) -> None:
    settings = settings_of(name, teacher)
    want, _ = stacked(settings, tmp_path / "torch")
    got, noted = stacked(settings, tmp_path / "kernel", lambda share: Compiled(share, 2))
    assert noted.rows[-1]["engine"] == "compiled"
    for key, value in want.params.items():  # at 8 bits a rounding may fall differently
        assert np.linalg.norm(got.params[key] - value) <= 0.05 * np.linalg.norm(value) + 1e-4, key


def test_over_real_sockets_a_student_is_the_same(teacher: Path, tmp_path: Path) -> None:
    settings = JobSettings(
        **PLAIN | STUDENTS["all at once"] | {"teacher": teacher, "cohort": 0, "quorum": 3, "rounds": 4}
    )
    model, notes = over_the_link(settings, shares(3), tmp_path)
    assert len(notes.rows) == 4
    net = build(ModelSpec.from_json(model.spec))
    assert sum(each.numel() for each in net.parameters()) < 0.5 * sum(
        each.numel() for each in build("small_cnn").parameters()
    )
    trained, x = module_of(model.spec, 8), shares(1)[0].x
    integer = to_integer(trained, model.params).run(x).argmax(1)
    assert (integer == predict(trained, model.params, x, bits=8)).mean() >= 0.99


@pytest.mark.parametrize(("name", "wanted"), [("gradual", 0.8), ("prunefl", 0.6), ("rigl", 0.7)])
def test_masks_end_where_they_should(name: str, wanted: float, teacher: Path, tmp_path: Path) -> None:
    """Of the weights that may be pruned. PruneFL may stop before all that may live do."""
    model, _ = stacked(settings_of(name, teacher), tmp_path / "run")
    live = sum(int(mask.sum()) for mask in model.masks.values())
    density = live / sum(mask.size for mask in model.masks.values())
    assert 0.05 < density < 1 - wanted + 0.02
    assert name == "prunefl" or density == pytest.approx(1 - wanted, abs=0.02)
    assert sparsity_of(model.params, model.masks) > 0
    for key, mask in model.masks.items():
        assert not model.params[key][~mask].any()


@pytest.mark.parametrize("name", ["prunefl", "rigl"])
def test_masks_that_move_bring_weights_back(name: str, teacher: Path, tmp_path: Path) -> None:
    """A round that looks where pruned weights would go trains them too, so its updates are larger."""
    early, _ = stacked(JobSettings(**PLAIN | STUDENTS[name] | {"rounds": 1}), tmp_path / "early")
    late, notes = stacked(settings_of(name, teacher), tmp_path / "late")
    back = sum(int((late.masks[key] & ~mask).sum()) for key, mask in early.masks.items())
    assert back > 0
    sizes = [sum(client["bytes_up"] for client in row["clients"].values()) for row in notes.rows]
    assert min(sizes[1], sizes[3]) > max(sizes[0], sizes[2], sizes[4])


def test_stopped_and_resumed_masks_move_alike(teacher: Path, tmp_path: Path) -> None:
    whole, _ = stacked(settings_of("rigl", teacher), tmp_path / "whole")
    for rounds in (1, 2, 3, 6):
        model, _ = stacked(JobSettings(**PLAIN | STUDENTS["rigl"] | {"rounds": rounds}), tmp_path / "pieces")
    assert_same(model.params, whole.params)
    assert_same(model.masks, whole.masks)


def test_a_device_without_the_teacher_does_not_take_part(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("taught", teacher)
    monkeypatch.setattr("tests.integration.federation.open_teacher", lambda path: None)
    with pytest.raises(QuorumError):
        by_messages(settings, tmp_path / "messages")


def test_a_teacher_of_other_classes_is_refused_at_the_start(tmp_path: Path) -> None:
    spec = resolve("mlp", {"input_shape": (1, 8, 8), "num_classes": 7})
    save_model(tmp_path / "teacher.safetensors", spec.to_json(), 32, initial_params(build(spec), 7))
    settings = JobSettings(**PLAIN | {"teacher": tmp_path / "teacher.safetensors"})
    with pytest.raises(SettingsError, match="7 classes"):
        Workshop(settings).check()


def test_moving_masks_begin_after_the_round_named(tmp_path: Path) -> None:
    late = {"sparsity": 0.6, "prune": "rigl", "prune_round": 2, "prune_every": 2, "rounds": 1}
    model, _ = stacked(JobSettings(**PLAIN | late), tmp_path / "run")
    assert not model.masks
    model, _ = stacked(JobSettings(**PLAIN | late | {"rounds": 2}), tmp_path / "run")
    assert model.masks


def test_a_recipe_is_a_file(teacher: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "student.toml"
    recipe.write_text(
        'channels = 0.25\nprune = "gradual"\nsparsity = 0.9\nteacher = "teacher.safetensors"\nbits = 4\n'
    )
    settings = parse(JobSettings, ["--student", str(recipe), "--bits", "8"], prog="test", description="")
    assert (settings.channels, settings.prune, settings.sparsity) == (0.25, "gradual", 0.9)
    assert settings.bits == 8  # flags win
    assert settings.teacher == teacher  # beside the recipe
    recipe.write_text("rounds = 3\n")
    with pytest.raises(SettingsError, match="unknown key 'rounds'"):
        parse(JobSettings, ["--student", str(recipe)], prog="test", description="")


def test_a_run_goes_on_with_its_own_student_alone(teacher: Path, tmp_path: Path) -> None:
    """What the teacher's file holds is part of the run; where it lies is not."""
    settings = settings_of("taught", teacher)
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(teacher.read_bytes())
    assert JobSettings(**PLAIN | STUDENTS["taught"] | {"teacher": moved}).identity() == settings.identity()
    other = resolve("mlp", {"input_shape": (1, 8, 8)})
    save_model(moved, other.to_json(), 32, initial_params(build(other), 8))
    assert JobSettings(**PLAIN | STUDENTS["taught"] | {"teacher": moved}).identity() != settings.identity()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"sparsity": 1.0}, "--sparsity is 1.0"),
        ({"channels": 1.0}, "--channels is 1.0"),
        ({"energy": 0.0}, "--energy is 0.0"),
        ({"energy": 0.5, "fedpara": 0.5}, "at once"),
        ({"fedpara": 0.5, "start": Path("model.safetensors")}, "would be lost"),
        ({"prune": "gradual", "sparsity": 0.5, "prune_round": 5, "prune_end": 5}, "round 5 to 5"),
        ({"distill_alpha": 1.5}, "--distill-alpha is 1.5"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"arithmetic": "int8", "bits": 32}, "it needs 8"),
        ({"strategy": "feddf"}, "public examples"),
        ({"public": "digits"}, "with it alone"),
        ({"learn": "output.*"}, "only int8 arithmetic"),
        ({"arithmetic": "int8", "learn": "last:x"}, "last:BLOCKS"),
        ({"arithmetic": "int8", "learn": "nothing.*"}, "no tensor is named"),
        ({"arithmetic": "int8", "momentum": 0.9}, "momentum"),
        ({"arithmetic": "int8", "optimizer": "adam"}, "adam"),
        ({"prune": "rigl", "sparsity": 0.5, "prune_every": 1}, "leave some between"),
        ({"autocast": "bf16"}, "bits round"),
        ({"teacher": Path("nowhere.safetensors")}, "cannot read nowhere.safetensors"),
        ({"start": Path("nowhere.safetensors")}, "cannot read nowhere.safetensors"),
    ],
)
def test_what_makes_no_student(given: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=text):
        Workshop(JobSettings(**PLAIN | given)).check()


def test_only_the_layers_that_learn_move(teacher: Path, tmp_path: Path) -> None:
    model, _ = stacked(settings_of("int8 arithmetic, the last layer", teacher), tmp_path / "run")
    first = initial_params(module_of(model.spec, 8), derive(0, "model"))
    moved = {name for name in first if (model.params[name] != first[name]).any() and not is_statistic(name)}
    assert moved == {"output.weight", "output.bias"}


def test_a_smaller_student_sends_less(teacher: Path, tmp_path: Path) -> None:
    whole, _ = stacked(JobSettings(**PLAIN), tmp_path / "whole")
    half, _ = stacked(settings_of("half the channels", teacher), tmp_path / "half")
    assert size_bytes(half.params) < 0.6 * size_bytes(whole.params)
