from pathlib import Path

import numpy as np
import pytest
import torch

from fedlite.compress import deep, stored, units
from fedlite.compress.cluster import Shared, share
from fedlite.compress.deep_train import (
    Examples,
    Training,
    cubic,
    error_of,
    load,
    logits_of,
    train_masked,
    train_shared,
)
from fedlite.compress.lowrank import factorize, fedpara
from fedlite.compress.prune import magnitude_masks
from fedlite.data.spec import open_data
from fedlite.errors import DataError, SettingsError, UpdateError
from fedlite.models import ModelSpec, build, initial_params
from fedlite.models.registry import resolve
from fedlite.tensors import apply_masks
from fedlite.types import Params

SPEC = resolve("lenet_300_100", {"input_shape": (1, 8, 8)})
CONV = resolve("lenet5", {"input_shape": (1, 16, 16)})


def params_of(spec: ModelSpec, seed: int = 0) -> Params:
    return initial_params(build(spec), seed)


@pytest.fixture(scope="module")
def digits() -> tuple[Examples, Examples]:
    train, test = open_data("digits", split="train"), open_data("digits", split="test")
    return Examples(train.x.reshape(-1, 1, 8, 8), train.y), Examples(test.x.reshape(-1, 1, 8, 8), test.y)


@pytest.fixture(scope="module")
def trained(digits: tuple[Examples, Examples]) -> Params:
    net = load(build(SPEC), params_of(SPEC))
    return train_masked(net, digits[0], Training(8, 32), seed=0)[0]


def error(spec: ModelSpec, params: Params, data: Examples) -> float:
    return error_of(load(build(spec), params), data.x, data.y)


def test_cubic_schedule_by_hand() -> None:
    # Half way to the end, (1 − 1/2)³ = 1/8 of it is left.
    assert [cubic(t, 0.8) for t in (0, 0.3, 0.6, 1)] == pytest.approx([0, 0.7, 0.8, 0.8])


def test_importance_by_hand() -> None:
    # Squares 1, 4, 9: 1/(1 + 4 + 9), 4/(4 + 9), 9/9. (Lee et al. 2021, equation 4)
    scores = deep.importance(np.array([[1, 2, -3]], np.float32))
    assert scores == pytest.approx(np.array([[1 / 14, 4 / 13, 1]]))
    assert (deep.importance(np.zeros((2, 2), np.float32)) == 0).all()


@pytest.mark.parametrize("spec", [SPEC, CONV])
def test_units_that_nothing_reads_go_without_a_trace(spec: ModelSpec) -> None:
    params = {name: value.copy() for name, value in params_of(spec).items()}
    names = units.layers_of(params)
    kept = {}
    for name, reader in zip(names, [*names[1:], ""], strict=True):
        outputs = len(params[f"{name}.weight"])
        kept[name] = np.arange(0, outputs, 3 if reader else 1)
        if reader:
            weight = params[f"{reader}.weight"].reshape(
                -1, outputs, params[f"{reader}.weight"][0].size // outputs
            )
            weight[:, np.setdiff1d(np.arange(outputs), kept[name])] = 0
    small = units.narrow(params, kept)
    net = load(build(ModelSpec(spec.name, spec.options, units.sizes(small))), small)
    x = np.random.default_rng(0).random((5, *dict(spec.options)["input_shape"]), dtype=np.float32)  # type: ignore[misc]
    assert np.allclose(logits_of(net, x), logits_of(load(build(spec), params), x), atol=1e-5)
    wide = units.widen(small, kept, params)
    again = units.narrow(wide, kept)
    assert all(np.array_equal(again[name], small[name]) for name in small)
    assert sum(np.count_nonzero(each) for each in wide.values()) == sum(
        np.count_nonzero(each) for each in small.values()
    )


@pytest.mark.parametrize("spec", [SPEC, CONV])
def test_tidied_masks_change_no_answer(spec: ModelSpec) -> None:
    params, random = params_of(spec), np.random.default_rng(1)
    masks = {name: random.random(value.shape) < 0.01 for name, value in params.items() if value.ndim > 1}
    live = units.tidied(params, masks)
    assert sum(each.sum() for each in live.values()) < sum(each.sum() for each in masks.values())
    x = random.random((5, *dict(spec.options)["input_shape"]), dtype=np.float32)  # type: ignore[misc]
    before, after = (logits_of(load(build(spec), apply_masks(params, each)), x) for each in (masks, live))
    assert np.array_equal(before, after)


def test_strongest_units_by_hand() -> None:
    params = {
        "a.weight": np.array([[3, 4], [1, 0], [0, 2]], np.float32),  # norms 5, 1, 2
        "b.weight": np.array([[0.1, 2, 2]], np.float32),  # times .1, 2, 2: 0.5, 2, 4
    }
    assert units.strongest(params, [("a", 2)])["a"].tolist() == [1, 2]


def test_pruned_weights_are_zero_and_the_others_learn(
    digits: tuple[Examples, Examples], trained: Params
) -> None:
    """Masks close in two steps; the schedule is asked from progress 0 to 1 and its last word holds."""
    asked: list[float] = []
    masks = magnitude_masks(trained, 0.5)

    def half(params: Params, progress: float) -> dict[str, np.ndarray]:
        asked.append(progress)
        return masks if progress > 0.5 else {}

    net = load(build(SPEC), trained)
    found, last = train_masked(net, digits[0], Training(2, 64), seed=0, masks_at=half, updates=4)
    assert asked[0] == 0
    assert asked[-1] == 1
    assert last is masks
    for name, mask in masks.items():
        assert (found[name][~mask] == 0).all()
        assert (found[name][mask] != trained[name][mask]).any()
    assert error(SPEC, found, digits[0]) < 5


def test_trained_centroids_lower_the_loss_and_keep_the_indices(
    digits: tuple[Examples, Examples], trained: Params
) -> None:
    shared = share(trained, {}, dict.fromkeys(trained, 3))
    moved = train_shared(build(SPEC), shared, digits[0], Training(4, 32, 2e-3), seed=0)

    def loss(of: dict[str, Shared]) -> float:
        logits = logits_of(load(build(SPEC), {name: each.dense() for name, each in of.items()}), digits[0].x)
        return float(
            torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(digits[0].y))
        )

    assert loss(moved) < 0.7 * loss(shared)
    for name, each in moved.items():
        assert np.array_equal(each.indices, shared[name].indices)
        assert len(np.unique(each.dense())) <= 3


def test_the_whole_recipe_is_small_and_as_good(
    digits: tuple[Examples, Examples], trained: Params, tmp_path: Path
) -> None:
    recipe = deep.Recipe(
        sparsity=0.9, prune_epochs=8, share_epochs=2, batch_size=32, units=(("hidden1", 150),)
    )
    model = deep.compress(SPEC, trained, recipe, digits[0], seed=3)
    size = stored.save(tmp_path / "model.fedlite", model)
    spec, params = stored.load(tmp_path / "model.fedlite")
    dense = sum(value.nbytes for value in trained.values())
    assert dense / size > 30
    assert error(ModelSpec.from_json(spec), params, digits[1]) <= error(SPEC, trained, digits[1]) + 1.5
    assert params["hidden1.weight"].any(1).sum() <= 150
    assert all(len(np.unique(params[name])) <= 17 for name in params)


def test_the_same_seed_gives_the_same_file(digits: tuple[Examples, Examples], trained: Params) -> None:
    recipe = deep.Recipe(prune_epochs=1, share_epochs=1)
    one, two, other = (deep.compress(SPEC, trained, recipe, digits[0], seed=seed) for seed in (3, 3, 4))
    assert stored.dumps(one) == stored.dumps(two) != stored.dumps(other)


def test_without_data_the_smallest_go_and_the_rest_is_shared(trained: Params) -> None:
    recipe = deep.Recipe(sparsity=0.5, sparsities=(("output", 0.2),), clusters=32)
    model = deep.compress(SPEC, trained, recipe)
    rest = [model.tensors[name].mask for name in ("hidden1.weight", "hidden2.weight")]
    assert sum(each.sum() for each in rest) <= 0.5 * sum(each.size for each in rest)
    assert model.tensors["output.weight"].mask.sum() == 800
    for name, value in model.params().items():
        assert np.abs(value - trained[name])[model.tensors[name].mask].max() < 0.05


def test_what_a_batch_norm_has_measured_is_kept_exactly() -> None:
    """Beside float16 codebooks of what is learned: 40 different variances stay to the bit, trained or not."""
    options = {"input_shape": (3, 16, 16), "num_classes": 4, "width": 0.25, "norm": "batch"}
    spec, random = resolve("mobilenet_v2", options), np.random.default_rng(0)
    params = {
        name: random.random(value.shape, np.float32) + 0.1 if "running" in name else value
        for name, value in params_of(spec).items()
    }
    measured = [name for name in params if "running" in name]
    assert measured
    data = Examples(random.random((8, 3, 16, 16), np.float32), random.integers(0, 4, 8))
    recipe = deep.Recipe(sparsity=0.0, prune_epochs=0, share_epochs=1)
    for found in (
        deep.compress(spec, params, deep.RECIPES["light"]),
        deep.compress(spec, params, recipe, data),
    ):
        assert list(found.tensors) == list(params)
        few = [name for name in measured if params[name].size <= 256]
        assert all(np.array_equal(found.params()[name], params[name]) for name in few)


def test_a_recipe_in_toml(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("sparsity = 0.8\nprune-epochs = 2\n[sparsities]\noutput = 0.5\n[units]\nhidden1 = 30\n")
    wanted = deep.Recipe(
        sparsity=0.8, prune_epochs=2, sparsities=(("output", 0.5),), units=(("hidden1", 30),)
    )
    assert deep.open_recipe(str(file)) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sparsity = 1.0", r"sparsity of all is 1.0; it must be in \[0, 1\)"),
        ("[sparsities]\nx = -0.1", "sparsity of x is -0.1"),
        ("[sparsities]\nx = 'much'", "must say a number"),
        ("units = 3", "must say a number"),
        ("clusters = 0", "clusters is 0; it must be 1 to 256"),
        ("prune-epochs = -1", "epochs is -1"),
        ("clusterz = 3", "unknown key 'clusterz'"),
        ("soft = 1.5", "soft is 1.5"),
        ("learning-rate = 0.0", "learning_rate is 0.0"),
        ("batch-size = 0", "batch_size is 0"),
        ("sparsity =", "is not TOML"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words):
        deep.open_recipe(str(file))


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no recipe 'tiny'; there are deep-compression, light"):
        deep.open_recipe("tiny")
    with pytest.raises(SettingsError, match="cannot read"):
        deep.open_recipe(str(tmp_path / "none.toml"))


def test_models_and_recipes_that_do_not_fit(trained: Params) -> None:
    for recipe, words in (
        (deep.Recipe(sparsities=(("middle", 0.5),)), "'middle'; there are hidden1, hidden2, output"),
        (
            deep.Recipe(units=(("middle", 5),)),
            "no units of a layer 'middle' can go; there are hidden1, hidden2",
        ),
        (deep.Recipe(units=(("output", 5),)), "no units of a layer 'output' can go"),
        (deep.Recipe(units=(("hidden2", 101),)), "101 units of 'hidden2' are to stay; it must be 1 to 100"),
    ):
        with pytest.raises(SettingsError, match=words):
            deep.compress(SPEC, trained, recipe)
    with pytest.raises(UpdateError, match=r"'hidden2\.bias' holds NaN"):
        deep.compress(SPEC, dict(trained) | {"hidden2.bias": np.full(100, np.nan, np.float32)}, deep.Recipe())
    mobile = resolve("mobilenet_v2", {"input_shape": (3, 32, 32), "num_classes": 4, "width": 0.25})
    with pytest.raises(SettingsError, match="mobilenet_v2 is no chain of layers"):
        deep.compress(mobile, params_of(mobile), deep.Recipe(units=(("stem", 5),)))


def test_training_that_cannot_be(trained: Params) -> None:
    x, y = np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64)
    with pytest.raises(DataError, match="3 labels"):
        Examples(x, y[:3])
    with pytest.raises(SettingsError, match="diverged"):
        deep.compress(SPEC, trained, deep.Recipe(prune_epochs=1), Examples(x * np.float32("nan"), y))
    for odd in (np.zeros((4, 1, 9, 9), np.float32), np.zeros((4, 7), np.float32)):
        with pytest.raises(DataError, match="takes no examples"):
            deep.compress(SPEC, trained, deep.Recipe(prune_epochs=1), Examples(odd, y))
    with pytest.raises(DataError, match="labels run from 0 to 12"):
        deep.compress(SPEC, trained, deep.Recipe(prune_epochs=1), Examples(x, y + np.array([0, 1, 2, 12])))


def test_factors_of_fedpara_are_refused() -> None:
    spec = fedpara(SPEC)
    with pytest.raises(
        SettingsError, match=r"FedPara's factors.*merge first: fedlite\.compress\.lowrank\.merge"
    ):
        deep.compress(spec, initial_params(build(spec), 0), deep.RECIPES["light"])


def test_factors_in_a_row_are_compressed_like_any_layer() -> None:
    spec, params = factorize(SPEC, params_of(SPEC), rank=8)
    found = stored.loads(stored.dumps(deep.compress(spec, params, deep.Recipe(sparsity=0.5))))
    assert ModelSpec.from_json(found.spec) == spec
    assert list(found.tensors) == list(params)


def test_a_teacher_of_other_classes(digits: tuple[Examples, Examples], trained: Params) -> None:
    x, y = digits[0].x, digits[0].y
    taught = Examples(x, y, np.zeros((len(y), 4), np.float32))
    with pytest.raises(DataError, match="give a teacher of the same classes"):
        deep.compress(SPEC, trained, deep.Recipe(soft=0.5), taught)
