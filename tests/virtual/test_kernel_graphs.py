"""Networks that are no chains, or have norms and depthwise convolutions: the compiled kernel gives what torch gives."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite import models
from fedlite.compress.prune import magnitude_masks
from fedlite.compress.quantize import prepare
from fedlite.tensors import digest, subtract
from fedlite.train import TrainSettings, evaluate, local_train
from fedlite.types import Params
from fedlite.virtual import kernel
from tests.virtual.test_kernel import EVERYTHING, PLAIN, SETTINGS, assert_equal, length, one_by_one, together

Client = tuple[NDArray[Any], NDArray[Any]]
SHAPE = (3, 9, 7)


class Residual(nn.Module):
    """Of vectors; the first sum's result is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.output = nn.Linear(189, 20), nn.Linear(20, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).relu()
        x = x + self.second(x).relu()
        logits: Tensor = self.output(torch.add(x, x))
        return logits


class PreActivation(nn.Module):
    """What a block reads passes by it as it is, and by a projection; sums come both ways round."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.norm, self.inner = nn.GroupNorm(5, 10), nn.Conv2d(10, 20, 3, 2, 1, bias=False)
        self.project, self.wide = nn.Conv2d(10, 20, 1, 2), nn.Conv2d(20, 20, 3, padding=1)
        self.output = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = F.relu(self.norm(x))
        h = self.inner(h) + self.project(x)
        h = F.relu6(h + F.relu(self.wide(h)))
        logits: Tensor = self.output(F.adaptive_avg_pool2d(h, 1).flatten(1))
        return logits


def sequential(*layers: nn.Module) -> nn.Module:
    body = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(body, nn.Linear(body(torch.zeros(1, *SHAPE)).shape[1], 5))


NETWORKS: dict[str, nn.Module] = {
    "residual": Residual(),
    "pre-activation": PreActivation(),
    "norm": sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    "norm of few channels": sequential(nn.GroupNorm(1, 3, eps=0.1), nn.Conv2d(3, 4, 1), nn.ReLU6()),
    "norm without weights": sequential(nn.Conv2d(3, 6, 2), nn.GroupNorm(2, 6, affine=False), nn.Identity()),
    "depthwise": sequential(
        nn.Conv2d(3, 3, 3, 1, 1, groups=3), nn.ReLU6(), nn.Conv2d(3, 20, 1), nn.Dropout(0)
    ),
    "depthwise, stride 2": sequential(
        nn.Conv2d(3, 20, 1), nn.Conv2d(20, 20, 3, 2, 1, groups=20, bias=False), nn.ReLU()
    ),
    "depthwise, kernel 4": sequential(nn.Conv2d(3, 40, 1), nn.Conv2d(40, 40, 4, 3, 2, groups=40)),
    "pooled, then norm": sequential(
        nn.Conv2d(3, 18, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2), nn.GroupNorm(2, 18)
    ),
    "kernel 5": sequential(nn.Conv2d(3, 34, 5, 2, 3), nn.GroupNorm(17, 34), nn.Conv2d(34, 3, 2, bias=False)),
}


def clients(sizes: tuple[int, ...] = (19, 8, 1), shape: tuple[int, ...] = SHAPE) -> list[Client]:
    random = np.random.default_rng(5)
    return [(random.random((size, *shape), np.float32), random.integers(0, 5, size)) for size in sizes]


def drawn(model: nn.Module, seed: int = 3) -> Params:
    """Initial parameters; those of norms are not 1 and 0, but near."""
    random = np.random.default_rng(seed)
    return {
        name: value
        + (random.normal(0, 0.2, value.shape).astype(np.float32) if "act_range" not in name else 0)
        for name, value in models.initial_params(model, seed).items()
    }


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_torch_to_rounding(name: str, settings: TrainSettings, pruned: bool) -> None:
    model = NETWORKS[name]
    params, data = drawn(model), clients()
    masks = magnitude_masks(params, 0.5) if pruned else None
    assert kernel.supports(model, settings) is None
    assert_equal(
        together(model, params, data, settings, masks=masks), one_by_one(model, params, data, settings, masks)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_aware_it_is_torch_but_for_values_between_two_steps(name: str) -> None:
    """As in test_kernel.py."""
    model = prepare(NETWORKS[name])
    params, data = drawn(model), clients((19, 8, 16, 1, 13))
    settings = TrainSettings(epochs=2, batch_size=8, momentum=0.5, bits=8)
    got, wanted = together(model, params, data, settings), one_by_one(model, params, data, settings)
    apart = [
        length(subtract(mine.params, theirs.params)) / length(subtract(theirs.params, params))
        for mine, theirs in zip(got, wanted, strict=True)
    ]
    assert np.median(apart) < 1e-5
    assert max(apart) < 1e-1


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_tests_as_torch_does(name: str, bits: int) -> None:
    model = prepare(NETWORKS[name])
    data = clients((70,))[0]
    params = local_train(model, drawn(model), *data, TrainSettings(bits=8), seed=0).params
    wanted = evaluate(model, params, *data, bits=bits)
    assert kernel.evaluate(model, params, *data, bits=bits) == pytest.approx(wanted, rel=1e-4)


def small_mobilenet() -> nn.Module:
    return models.build("mobilenet_v2", input_shape=(3, 16, 16), num_classes=5, width=0.1, stem_stride=1)


def test_mobilenet_is_as_near_to_exact_as_torch_is() -> None:
    """One step, in float64, is exact here. Which ReLU a sum in float32 closes is chance in a net this deep."""
    model, (data,) = small_mobilenet(), clients((20,), (3, 16, 16))
    params, settings = models.initial_params(model, 0), TrainSettings(batch_size=0, learning_rate=1)
    exact = deepcopy(model).double()
    exact.load_state_dict({name: torch.tensor(value).double() for name, value in params.items()})
    logits = exact(torch.tensor(data[0]).double())
    F.cross_entropy(logits, torch.tensor(data[1])).backward()
    step = {
        name: -weight.grad.numpy() for name, weight in exact.named_parameters() if weight.grad is not None
    }

    def error(trained: Params) -> float:
        return length(subtract(subtract(trained, params), step))

    (mine,) = together(model, params, [data], settings)
    (theirs,) = one_by_one(model, params, [data], settings)
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert error(mine.params) < 1.5 * error(theirs.params) + 1e-5 * length(step)


@pytest.mark.parametrize("more", [{}, {"momentum": 0.9, "clip_norm": 1.0}], ids=["plain", "momentum"])
def test_neither_threads_nor_the_others_change_a_bit(more: dict[str, float]) -> None:
    """Also where a batch passes in parts, and a cohort's largest client takes one part or many.

    A plain step goes into a dense layer's weights at once if its batch is one part; else gradients are kept.
    """
    torch.manual_seed(0)
    model = nn.Sequential(small_mobilenet(), nn.ReLU(), nn.Linear(5, 37), nn.ReLU(), nn.Linear(37, 5))
    data = clients((30, 3, 9), (3, 16, 16))
    params = models.initial_params(model, 0)
    settings = TrainSettings(batch_size=20, epochs=2, **more)

    def digests(chosen: list[int], threads: int) -> list[bytes]:
        seeds, some = [10 + i for i in chosen], [data[i] for i in chosen]
        done = kernel.train_cohort(model, params, some, settings, seeds=seeds, threads=threads)
        return [digest(each.params) for each in done]

    alone = [digests([i], 1)[0] for i in range(3)]
    assert digests([0, 1, 2], 3) == alone
    assert digests([2, 1], 1) == [alone[2], alone[1]]


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.output(x)
        g = F.relu(h, inplace=True)
        logits: Tensor = self.output(h + g)
        return logits


class Unused(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        x.add(x)
        logits: Tensor = self.output(x)
        return logits


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), "BatchNorm2d"),
        (sequential(nn.Dropout(0.5)), "Dropout"),
        (sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.MaxPool2d(2)), "MaxPool2d"),
        (sequential(nn.Conv2d(3, 6, 1, groups=3)), "groups"),
        (InPlace(), "in place"),
        (Unused(), "no part"),
    ],
)
def test_it_says_what_it_cannot_train(model: nn.Module, reason: str) -> None:
    assert reason in str(kernel.supports(model, PLAIN))


def test_everything_on_images_of_one_place() -> None:
    model = sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(3, 8, 1), nn.ReLU(), nn.GroupNorm(2, 8))
    params, data = drawn(model), clients()
    assert_equal(together(model, params, data, EVERYTHING), one_by_one(model, params, data, EVERYTHING))
