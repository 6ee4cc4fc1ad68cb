"""Weights of 2 to 8 bits: their grids, training with them, and the packed file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from fedlite import models
from fedlite.compress import quantize
from fedlite.compress.integer import IntegerModel, to_integer
from fedlite.compress.prune import magnitude_masks
from fedlite.errors import SettingsError
from fedlite.train import TrainSettings, evaluate, local_train
from fedlite.types import Array
from tests.models.real import digits

ONE = torch.tensor(1.0)


@pytest.mark.parametrize(("bits", "limit"), [(2, 1), (3, 3), (4, 7), (5, 15), (6, 31), (7, 63), (8, 127)])
def test_a_grid_of_each_number_of_bits(bits: int, limit: int) -> None:
    """A row of two equal magnitudes is clipped by no rule, so its largest weights are ± the limit."""
    grid = quantize.weight_grid(torch.tensor([[1.0, -1.0], [0.25, 0.25]]), None, ONE, bits)
    assert (grid.low, grid.high) == (-limit, limit)
    assert grid.scale.flatten().tolist() == pytest.approx([1 / limit, 0.25 / limit])
    assert quantize.limit(bits) == limit


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_few_bits_take_the_step_that_fits_normal_weights_best(bits: int) -> None:
    """No step of a fine search over 200,000 normal weights has a mean square error lower by more than 0.2 %."""
    weight = torch.tensor(np.random.default_rng(0).standard_normal((1, 200_000)).astype(np.float32))
    grid = quantize.weight_grid(weight, None, ONE, bits)

    def error(scale: float) -> float:
        tried = grid._replace(scale=grid.scale * scale)
        return (quantize.fake_quantize(weight, tried) - weight).square().mean().item()

    assert error(1.0) <= 1.002 * min(error(scale) for scale in np.linspace(0.7, 1.4, 57))


def test_pruned_weights_do_not_narrow_the_grid() -> None:
    live = torch.tensor(np.random.default_rng(0).standard_normal((1, 500)).astype(np.float32))
    pruned = torch.cat([live, torch.zeros(1, 1500)], 1)
    for bits in (2, 4, 8):
        alone, beside = (quantize.weight_grid(each, None, ONE, bits).scale for each in (live, pruned))
        torch.testing.assert_close(alone, beside)


def test_one_step_for_a_whole_tensor() -> None:
    weight, bias = torch.tensor([[1.27, 0.5], [0.1, 0.0]]), torch.tensor([0.0, 1.0])
    grid = quantize.weight_grid(weight, bias, ONE, per_channel=False)
    assert grid.scale.flatten().tolist() == pytest.approx([0.01, 0.01])
    assert quantize.to_steps(weight, grid).tolist() == [[127, 50], [10, 0]]


def test_how_weights_are_rounded_is_the_modules_own() -> None:
    """Kept when bits change and are not said, gone at 32."""
    model = quantize.at(nn.Sequential(nn.Linear(2, 2)), 4, per_channel=False)
    assert (model[0].bits, model[0].per_channel) == (4, False)  # type: ignore[index]
    again = quantize.at(model, 6)
    assert (again[0].bits, again[0].per_channel) == (6, False)  # type: ignore[index]
    assert quantize.at(again, 6, per_channel=True)[0].per_channel  # type: ignore[index]
    assert type(quantize.at(model, 32)[0]) is nn.Linear  # type: ignore[index]
    for bits in (0, 1, 9, 16):
        with pytest.raises(SettingsError, match=f"bits is {bits}"):
            quantize.at(model, bits)


@pytest.fixture(scope="module")
def trained() -> dict[int, dict[str, Array]]:
    """Params of small_cnn by bits, trained alike on the digits, the second half of it pruned to half."""
    data, model = digits("train"), models.build("small_cnn")
    done = {}
    for bits in (2, 4, 8):
        how = TrainSettings(epochs=2, momentum=0.9, learning_rate=0.05, bits=bits)
        params = models.initial_params(quantize.at(model, bits), 0)
        params = local_train(model, params, data.x, data.y, how, seed=0).params
        masks = magnitude_masks(params, 0.5)
        last = replace(how, epochs=1)
        done[bits] = local_train(model, params, data.x, data.y, last, seed=1, masks=masks).params
    return done


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_learn_and_the_integer_model_answers_as_trained(
    bits: int, trained: dict[int, dict[str, Array]]
) -> None:
    """4 bits cost less than a point of accuracy here, 2 bits less than five."""
    test, model = digits("test"), models.build("small_cnn")
    params = trained[bits]
    aware = evaluate(model, params, test.x, test.y, bits=bits)["accuracy"]
    full = evaluate(model, trained[8], test.x, test.y, bits=8)["accuracy"]
    assert aware >= full - {4: 0.01, 2: 0.05}[bits]
    integer = to_integer(quantize.at(model, bits), params)
    assert integer.bits == bits
    assert abs(integer.accuracy(test.x, test.y) - aware) <= 0.005
    for name, mask in magnitude_masks(params, 0.5).items():
        levels = integer.tensors[name]
        assert np.abs(levels).max() <= quantize.limit(bits)
        assert not levels[~mask].any()


@pytest.mark.parametrize("bits", [2, 4])
def test_a_packed_file_is_smaller_by_the_bits_and_comes_back(
    bits: int, trained: dict[int, dict[str, Array]], tmp_path: Path
) -> None:
    model = models.build("small_cnn")
    integer = to_integer(quantize.at(model, bits), trained[bits])
    whole = to_integer(model, trained[8])
    path = tmp_path / "model.safetensors"
    whole.save(path)
    size = path.stat().st_size
    integer.save(path)
    weights = sum(value.size for value in integer.tensors.values() if value.dtype == np.int8)
    saved = weights * (8 - bits) // 8
    assert abs(size - path.stat().st_size - saved) <= 64  # names, and offsets in the header
    again = IntegerModel.load(path)
    assert again.bits == bits
    assert set(again.tensors) == set(integer.tensors)
    for name, value in integer.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], value)


def test_a_packed_file_that_is_altered_is_refused(tmp_path: Path) -> None:
    """Four bits hold 0 to 15; weights are −7 to 7, which takes 0 to 14."""
    model = models.build("linear", input_shape=(3,), num_classes=3)
    params = models.initial_params(model, 0) | {"output.act_range": np.float32([0, 1])}
    path = tmp_path / "model.safetensors"
    to_integer(quantize.at(model, 4), params).save(path)
    good, metadata = load_file(path), {"fedlite.int4.v1": models.spec_of(model).to_json()}
    assert good["output.weight"].shape == (5,)  # 9 weights of 4 bits
    save_file(good, path, metadata=metadata)
    IntegerModel.load(path)
    packed = good["output.weight"]
    bad = [packed[:4], np.append(packed, np.uint8(0)), packed.astype(np.int8), packed | np.uint8(0xF0)]
    bad += [packed.reshape(1, 5), np.where(np.arange(5) == 0, np.uint8(0xFF), packed)]
    for weight in bad:
        save_file(good | {"output.weight": weight}, path, metadata=metadata)
        with pytest.raises(SettingsError):
            IntegerModel.load(path)
    for name in ("fedlite.int9.v1", "fedlite.int8.v1"):
        save_file(good, path, metadata={name: metadata["fedlite.int4.v1"]})
        with pytest.raises(SettingsError):
            IntegerModel.load(path)
