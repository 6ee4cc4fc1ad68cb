"""The compiled kernel gives what torch gives, client by client, whoever else is trained and by how many threads."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedlite import models
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.quantize import prepare
from fedlite.errors import DataError, SettingsError, UpdateError
from fedlite.tensors import apply_masks, digest, subtract
from fedlite.train import TrainResult, TrainSettings, local_train
from fedlite.types import Array, Masks, Params
from fedlite.virtual.kernel import available, build, supports, train_cohort, train_rows
from fedlite.virtual.rows import to_row

Client = tuple[NDArray[Any], NDArray[Any]]

PLAIN = TrainSettings(batch_size=8)
EVERYTHING = TrainSettings(
    epochs=2, batch_size=8, momentum=0.9, weight_decay=1e-3, clip_norm=0.5, proximal_mu=0.1
)
SETTINGS = {
    "plain": PLAIN,
    "full batch": TrainSettings(epochs=2, batch_size=0),
    "momentum": TrainSettings(epochs=2, batch_size=8, momentum=0.9, weight_decay=1e-2),
    "proximal": TrainSettings(epochs=2, batch_size=8, proximal_mu=1.0),
    "clipped": TrainSettings(epochs=2, batch_size=8, clip_norm=0.1),
    "everything": EVERYTHING,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "linear": {"input_shape": (1, 8, 8)},
    "mlp": {"input_shape": (3, 5, 7), "hidden": (33, 20)},
    "2nn": {"input_shape": (50,), "hidden": 24},
    "lenet_300_100": {"input_shape": (1, 8, 8)},
    "small_cnn": {"input_shape": (3, 9, 8)},
    "pooled_cnn": {"input_shape": (2, 13, 12), "channels": (5, 18)},
    "lenet5": {"input_shape": (1, 17, 16)},
    "cnn": {"input_shape": (1, 9, 9)},
}


def made(name: str, bits: int = 32) -> tuple[nn.Module, Params]:
    model = models.build(name, **FAMILIES[name])
    model = prepare(model) if bits == 8 else model
    return model, models.initial_params(model, 3)


def cohort(name: str, sizes: tuple[int, ...] = (19, 8, 1)) -> list[Client]:
    """Clients of unequal size; examples with a background of zeros, as images have."""
    random, shape = np.random.default_rng(5), FAMILIES[name]["input_shape"]
    return [
        (
            (random.random((size, *shape)) * (random.random((size, *shape)) > 0.3)).astype(np.float32),
            random.integers(0, 10, size),
        )
        for size in sizes
    ]


def one_by_one(
    model: nn.Module, params: Params, data: list[Client], settings: TrainSettings, masks: Masks | None = None
) -> list[TrainResult]:
    return [
        local_train(model, params, x, y, settings, seed=seed, masks=masks) for seed, (x, y) in enumerate(data)
    ]


def together(
    model: nn.Module, params: Params, data: list[Client], settings: TrainSettings, **more: Any
) -> Any:
    return train_cohort(model, params, data, settings, seeds=range(len(data)), **more)


def assert_equal(got: list[TrainResult], wanted: list[TrainResult], tolerance: float = 1e-5) -> None:
    """Within `tolerance` of each tensor's largest value."""
    for mine, theirs in zip(got, wanted, strict=True):
        assert list(mine.params) == list(theirs.params)
        assert (mine.num_examples, mine.accuracy) == (theirs.num_examples, theirs.accuracy)
        assert mine.loss == pytest.approx(theirs.loss, rel=tolerance)
        for name, value in theirs.params.items():
            assert mine.params[name].dtype == np.float32
            assert mine.params[name].flags.c_contiguous
            np.testing.assert_allclose(
                mine.params[name], value, rtol=0, atol=tolerance * np.abs(value).max(), err_msg=name
            )


def test_the_kernel_is_here() -> None:
    """CI has a compiler."""
    assert available() is None


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_torch_to_rounding(name: str, settings: TrainSettings, pruned: bool) -> None:
    model, params = made(name, settings.bits)
    masks = magnitude_masks(params, 0.5) if pruned else None
    data = cohort(name)
    assert_equal(
        together(model, params, data, settings, masks=masks), one_by_one(model, params, data, settings, masks)
    )


@pytest.mark.parametrize("batch_size", [1, 7, 24])
@pytest.mark.parametrize("inputs", [1, 15, 16, 33, 1400])
def test_dense_layers_may_have_any_sizes(inputs: int, batch_size: int) -> None:
    """Whole vectors or not, rows that fit the first-level cache or not, tiles of every height."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, 29), nn.ReLU(), nn.Linear(29, 17), nn.ReLU(), nn.Linear(17, 3))
    params, random = models.params_of(model), np.random.default_rng(5)
    masks = magnitude_masks(params, 0.3)
    data = [(random.random((25, inputs)).astype(np.float32), random.integers(0, 3, 25))]
    for settings in (TrainSettings(batch_size=batch_size), replace(EVERYTHING, batch_size=batch_size)):
        assert_equal(
            together(model, params, data, settings, masks=masks),
            one_by_one(model, params, data, settings, masks),
        )


@pytest.mark.parametrize("settings", [PLAIN, replace(PLAIN, bits=8)], ids=["32 bits", "8 bits"])
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_what_was_learned(name: str, settings: TrainSettings) -> None:
    """Trained less the pruned start, bit for bit; at 32 bits, activation ranges stand still."""
    model = models.build(name, **FAMILIES[name])
    params = models.initial_params(prepare(model), 3)
    masks, data = magnitude_masks(params, 0.5), cohort(name)
    rows = train_rows(model, params, data, settings, seeds=range(len(data)), masks=masks)
    start = apply_masks(params, masks)
    whole = together(model, params, data, settings, masks=masks)
    for row, wanted in zip(rows.updates, whole, strict=True):
        np.testing.assert_array_equal(row, to_row(subtract(wanted.params, start)))
    assert list(rows.counts) == [each.num_examples for each in whole]
    assert list(rows.loss) == [each.loss for each in whole]
    assert list(rows.accuracy) == [each.accuracy for each in whole]


@pytest.mark.parametrize(
    "features",
    [
        [nn.Conv2d(3, 7, 1), nn.ReLU()],
        [nn.Conv2d(3, 20, 2, stride=2, bias=False), nn.MaxPool2d(3), nn.ReLU()],
        [
            nn.Conv2d(3, 33, 4, stride=3, padding=2),
            nn.ReLU(),
            nn.Conv2d(33, 4, 3, padding=2),
            nn.MaxPool2d(2),
        ],
        [nn.Conv2d(3, 70, 5, stride=2, padding=1), nn.Conv2d(70, 5, 5, padding=2)],
    ],
    ids=["kernel 1", "kernel 2, pool 3", "kernel 4, stride 3", "70 channels"],
)
def test_convolutions_of_any_square_shape(features: list[nn.Module]) -> None:
    """On images of 17 × 14 with 3 channels; weights are drawn by name, as everywhere."""
    body = nn.Sequential(*features, nn.Flatten())
    model = nn.Sequential(body, nn.Linear(body(torch.zeros(1, 3, 17, 14)).shape[1], 6))
    random = np.random.default_rng(1)
    data = [(random.random((11, 3, 17, 14), np.float32), random.integers(0, 6, 11)) for _ in range(2)]
    params = models.initial_params(model, 0)
    assert_equal(together(model, params, data, EVERYTHING), one_by_one(model, params, data, EVERYTHING))


def length(difference: Params) -> float:
    return float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in difference.values())))


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", FAMILIES)
def test_int8_aware_it_is_torch_but_for_values_between_two_steps(name: str, pruned: bool) -> None:
    """Sums in another order differ in their last bit, and where that decides a rounding, by one step of 255.

    Few clients meet that: so the median client is equal to rounding, and every one nearly.
    """
    model, params = made(name, bits=8)
    masks = magnitude_masks(params, 0.5) if pruned else None
    data = cohort(name, (19, 8, 16, 1, 13))
    settings = TrainSettings(epochs=2, batch_size=8, momentum=0.5, bits=8)
    got = together(model, params, data, settings, masks=masks)
    wanted = one_by_one(model, params, data, settings, masks)
    apart = [
        length(subtract(mine.params, theirs.params)) / length(subtract(theirs.params, params))
        for mine, theirs in zip(got, wanted, strict=True)
    ]
    assert np.median(apart) < 1e-5
    assert max(apart) < 1e-2
    assert [each.loss for each in got] == pytest.approx([each.loss for each in wanted], rel=1e-3)


@pytest.mark.parametrize("settings", [EVERYTHING, replace(EVERYTHING, bits=8)], ids=["float32", "int8"])
@pytest.mark.parametrize("name", ["mlp", "pooled_cnn"])
def test_neither_threads_nor_the_others_change_a_bit(name: str, settings: TrainSettings) -> None:
    model, params = made(name, settings.bits)
    data, seeds = cohort(name, (19, 8, 1, 30, 7)), [3, 1, 4, 1, 5]
    masks = magnitude_masks(params, 0.5)

    def digests(chosen: list[int], threads: int) -> list[bytes]:
        results = train_cohort(
            model,
            params,
            [data[i] for i in chosen],
            settings,
            seeds=[seeds[i] for i in chosen],
            masks=masks,
            threads=threads,
        )
        return [digest(result.params) for result in results]

    alone = [digests([i], 1)[0] for i in range(5)]
    assert len(set(alone)) == 5
    assert digests([0, 1, 2, 3, 4], 1) == alone
    assert digests([0, 1, 2, 3, 4], 3) == alone
    assert digests([4, 2, 0, 1, 3], 2) == [alone[i] for i in (4, 2, 0, 1, 3)]


def test_nothing_given_is_changed() -> None:
    model, params = made("pooled_cnn")
    data = cohort("pooled_cnn")
    before = digest(params), digest(models.params_of(model)), [x.tobytes() + y.tobytes() for x, y in data]
    together(model, params, data, PLAIN, masks=magnitude_masks(params, 0.5))
    after = digest(params), digest(models.params_of(model)), [x.tobytes() + y.tobytes() for x, y in data]
    assert after == before


def test_pruned_weights_stay_zero() -> None:
    model, params = made("pooled_cnn")
    masks = magnitude_masks(params, 0.5)
    for result in together(model, params, cohort("pooled_cnn"), EVERYTHING, masks=masks):
        assert not any(result.params[name][~mask].any() for name, mask in masks.items())


def test_ranges_that_are_not_measured_are_handed_on() -> None:
    """A model made int8-aware, trained at 32 bits: as `local_train`."""
    model, params = made("mlp", bits=8)
    params = {**params, "output.act_range": np.array([-1, 2], np.float32)}
    data = cohort("mlp")
    assert_equal(together(model, params, data, PLAIN), one_by_one(model, params, data, PLAIN))


def test_a_diverged_client_is_not_finite_and_harms_no_other() -> None:
    model, params = made("mlp")
    (x, y), other, _ = cohort("mlp")
    huge: Array = x * np.float32(1e30)
    diverged, sound = together(model, params, [(huge, y), other], PLAIN, threads=1)
    assert not np.isfinite(diverged.params["output.weight"]).all()
    assert_equal([sound], [local_train(model, params, *other, PLAIN, seed=1)])


def test_labels_of_any_integer_and_views_of_examples() -> None:
    model, params = made("mlp")
    (x, y), *_ = cohort("mlp")
    odd: list[Client] = [(np.asfortranarray(x), y.astype(np.uint8)), (np.repeat(x, 2, axis=0)[::2], y)]
    wanted = one_by_one(model, params, [(x, y), (x, y)], PLAIN)
    assert_equal(together(model, params, odd, PLAIN), wanted)


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 3)), TrainSettings(optimizer="adam"), "adam"),
        (nn.Sequential(nn.Linear(4, 3)), TrainSettings(bits=4), "4 bits"),
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), PLAIN, "Tanh"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 3)), PLAIN, "groups"),
        (nn.Sequential(nn.Conv2d(1, 4, (3, 5)), nn.Flatten(), nn.Linear(4, 3)), PLAIN, "differ"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(4, 3)),
            PLAIN,
            "overlap",
        ),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), PLAIN, "last"),
        (models.build("char_lstm"), PLAIN, ""),
        (models.build("sensor_cnn"), PLAIN, "Conv1d"),
    ],
)
def test_it_says_what_it_cannot_train(model: nn.Module, settings: TrainSettings, reason: str) -> None:
    said = supports(model, settings)
    assert said
    assert reason in said
    with pytest.raises(SettingsError, match="train with torch"):
        train_cohort(model, {}, [], settings, seeds=[])


def test_what_does_not_fit_is_refused_as_local_train_does() -> None:
    model, params = made("mlp")
    (x, y), *_ = cohort("mlp")
    for data in [
        (x[:0], y[:0]),
        (x, y[1:]),
        (x[:, :1], y),
        (x.astype(np.float64), y),
        (x, y + 10),
        (x, y - 10),
    ]:
        with pytest.raises(DataError):
            local_train(model, params, *data, PLAIN, seed=0)
        with pytest.raises(DataError):
            together(model, params, [data], PLAIN)
    with pytest.raises(DataError):
        together(model, params, [(x, y), (x[:, :1], y)], PLAIN)
    with pytest.raises(UpdateError):
        together(model, {"output.bias": params["output.bias"]}, [(x, y)], PLAIN)
    with pytest.raises(SettingsError, match="1 clients and 2 seeds"):
        train_cohort(model, params, [(x, y)], PLAIN, seeds=[1, 2])
    assert train_cohort(model, params, [], PLAIN, seeds=[]) == []


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingsError, match="no-such-compiler"):
        build.compiled(build.SOURCES, tmp_path)


def test_several_may_build_at_once(tmp_path: Path) -> None:
    """A stand-in source builds in a moment; what is tested is the naming and renaming."""
    sources, folder = tmp_path / "src", tmp_path / "cache"
    sources.mkdir()
    folder.mkdir()
    (sources / "train.cpp").write_text('extern "C" int answer() { return 7; }')
    with ThreadPoolExecutor(3) as pool:
        built = set(pool.map(lambda _: build.compiled(sources, folder), range(3)))
    assert list(folder.iterdir()) == list(built)
    assert ctypes.CDLL(str(*built)).answer() == 7
    (sources / "train.cpp").write_text("no C++")
    with pytest.raises(SettingsError, match="failed"):
        build.compiled(sources, folder)
    assert list(folder.iterdir()) == list(built)


def test_a_folder_that_others_write_to_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path))
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel").chmod(0o777)
    with pytest.raises(SettingsError, match="others can write"):
        build.cache_folder()
    (tmp_path / "kernel").chmod(0o700)
    assert build.cache_folder() == tmp_path / "kernel"
