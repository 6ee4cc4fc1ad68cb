"""Sparse update: only what is named learns, and what is saved is what was counted."""

import numpy as np
import pytest
import torch

from fedlite.compress import quantize
from fedlite.errors import SettingsError
from fedlite.int8_training import (
    SparseUpdate,
    choose_update,
    int8_train,
    last_blocks,
    read_plan,
    saved_bytes,
    update_named,
)
from fedlite.int8_training.choose import contributions
from fedlite.int8_training.passes import Needs, forward
from fedlite.int8_training.saved import Saved
from fedlite.int8_training.train import begin
from fedlite.models.bridge import params_of
from fedlite.models.registry import build
from fedlite.train_settings import TrainSettings

INT8 = TrainSettings(batch_size=8, learning_rate=0.1, bits=8)
SMALL_MOBILENET = {"input_shape": (3, 32, 32), "num_classes": 10, "width": 0.25, "stem_stride": 2}


def start(name="small_cnn", shape=(1, 8, 8), **options):
    model = build(name, **options)
    random = np.random.default_rng(0)
    x, y = random.random((8, *shape), np.float32), random.integers(0, 10, 8)
    return model, params_of(quantize.prepare(model)), x, y


def kept_bytes(model, params, x, update):
    plan = read_plan(model, x.shape[1:])
    needs = Needs.of(plan, frozenset(update.resolve(plan)))
    with torch.no_grad():
        _, kept = forward(plan, begin(params, {}, plan), torch.from_numpy(x), needs)
    return sum(
        each.nbytes if isinstance(each, Saved) else sum(mask.nbytes for mask in each)
        for each in kept.values()
    )


def test_bytes_of_the_head_counted_by_hand():
    model, params, x, _ = start()
    plan = read_plan(model, (1, 8, 8))
    # the last layer reads 80 numbers of each of 8 examples: 80 bytes, and 10 for the bits of a clipped range
    assert saved_bytes(plan, last_blocks(plan, 1), 8) == 8 * (80 + 10)
    # in the first batch nothing is clipped: the range is the batch's own
    assert kept_bytes(model, params, x, last_blocks(plan, 1)) == 8 * 80


def test_bytes_of_the_whole_counted_by_hand():
    model, params, x, _ = start()
    plan = read_plan(model, (1, 8, 8))
    # inputs of the layers: 64 pixels, 16 · 8 · 8 of the first convolution, 32 · 4 · 4 pooled, 80 hidden
    assert saved_bytes(plan, SparseUpdate(), 8) == 8 * (64 + 1024 + 512 + 80) * 9 // 8
    assert kept_bytes(model, params, x, SparseUpdate()) == 8 * (64 + 1024 + 512 + 80)


def test_fewer_blocks_save_less_of_mobilenet():
    model, params, x, _ = start("mobilenet_v2", (3, 32, 32), **SMALL_MOBILENET)
    plan = read_plan(model, (3, 32, 32))
    sizes = [
        kept_bytes(model, params, x, update)
        for update in (SparseUpdate(), last_blocks(plan, 6), last_blocks(plan, 3), last_blocks(plan, 1))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 5 * sizes[1] > 5 * sizes[3]
    assert sizes[3] == 8 * 1280  # what the head reads


def test_only_what_is_named_learns():
    model, params, x, y = start()
    chosen = SparseUpdate(("features.2.weight", "output.bias"), (("features.2.weight", (1, 5)),))
    trained = int8_train(model, params, x, y, INT8, seed=0, update=chosen).params
    changed = {n for n in params if "act_range" not in n and (trained[n] != params[n]).any()}
    assert changed == {"features.2.weight", "output.bias"}
    moved = (trained["features.2.weight"] != params["features.2.weight"]).reshape(32, -1).any(1)
    assert set(np.flatnonzero(moved)) == {1, 5}


def test_updates_by_name():
    plan = read_plan(build("small_cnn"), (1, 8, 8))
    assert update_named(plan, "all") == SparseUpdate()
    assert update_named(plan, "head").tensors == ("output.weight", "output.bias")
    assert update_named(plan, "last:2").tensors == (
        "hidden.weight", "hidden.bias", "output.weight", "output.bias"
    )  # fmt: skip
    assert update_named(plan, "biases:2").tensors == ("hidden.bias", "output.bias")
    for bad in ("", "heads", "last", "last:0", "last:-1", "last:5", "biases:99", "last:1e3"):
        with pytest.raises(SettingsError):
            update_named(plan, bad)


def test_the_choice_keeps_to_the_budget_and_begins_as_deep_as_it_allows():
    model, params, x, y = start()
    plan = read_plan(model, (1, 8, 8))
    for budget in (8 * 90, 8 * 700, 8 * 2000):
        chosen = choose_update(model, params, x, y, budget, batch_size=8)
        assert saved_bytes(plan, chosen, 8) <= budget
        assert chosen.tensors[-2:] == ("output.weight", "output.bias")
    assert set(chosen.tensors) == {n for n in params if "act_range" not in n}
    with pytest.raises(SettingsError, match="the head alone saves 720"):
        choose_update(model, params, x, y, 700, batch_size=8)
    with pytest.raises(SettingsError, match="compute"):
        choose_update(model, params, x, y, 10_000, compute=0)


def test_the_channels_that_pay_are_those_with_most_gradient_for_their_products():
    model, params, x, y = start()
    plan = read_plan(model, (1, 8, 8))
    everything = tuple(n for n in params if "act_range" not in n)
    gains = contributions(plan, params, x, y, everything)
    chosen = dict(choose_update(model, params, x, y, 10**6, batch_size=8, compute=0.2).channels)
    products = {  # of one output channel's gradient: what it reads at each place, times its places
        "features.0.weight": 9 * 64, "features.2.weight": 144 * 64, "hidden.weight": 512, "output.weight": 80
    }  # fmt: skip
    used = sum(len(some) * products[name] for name, some in chosen.items())
    whole = 16 * 576 + 32 * 9216 + 80 * 512 + 10 * 80
    assert 0.15 * whole < used <= 0.2 * whole
    inside = [gains[n][c] / products[n] for n, some in chosen.items() for c in some]
    outside = [
        gains[n][c] / products[n]
        for n in products
        for c in range(len(gains[n]))
        if c not in chosen.get(n, ())
    ]
    assert min(inside) >= max(outside)


def test_a_part_of_the_network_learns_what_it_can():
    model, params, x, y = start()
    chosen = choose_update(model, params, x, y, 10**6, batch_size=8, compute=0.3)
    long = TrainSettings(epochs=20, batch_size=8, learning_rate=0.1, bits=8)
    before = int8_train(model, params, x, y, INT8, seed=0).loss  # of one step: seen before it
    assert int8_train(model, params, x, y, long, seed=0, update=chosen).loss < 0.95 * before
    assert int8_train(model, params, x, y, long, seed=0, update="head").loss < before
