"""The families after the first: their sizes and functions are the published ones, and each of them trains."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedlite import models
from fedlite.compress import quantize
from fedlite.compress.integer import to_integer
from fedlite.data.torchvision_shim import torchvision
from fedlite.errors import SettingsError
from fedlite.models.fold import fold_norms
from fedlite.models.registry import ModelSpec, resolve, skeleton
from fedlite.train import TrainSettings, evaluate, local_train, predict

BATCH = {"norm": "batch"}
RESNET18 = {
    "width": 1,
    "blocks": (2, 2, 2, 2),
    "stem_stride": 2,
    "input_shape": (3, 224, 224),
    "num_classes": 1000,
}
SMALL_IMAGE = {"input_shape": (1, 16, 16), "num_classes": 3, "width": 0.125, "stem_stride": 1}
IMAGES: dict[str, dict[str, Any]] = {
    "mobilenet_v2": SMALL_IMAGE,
    "shufflenet_v2": SMALL_IMAGE,
    "squeezenet": SMALL_IMAGE | {"width": 0.25},
    "slim_resnet": SMALL_IMAGE | {"blocks": (1, 1)},
}
TEXTS: dict[str, dict[str, Any]] = {
    "text_gru": {"num_classes": 3, "vocabulary": 20, "embedding": 8, "hidden": 12},
    "text_lstm": {"num_classes": 3, "vocabulary": 20, "embedding": 8, "hidden": 12},
    "text_transformer": {"num_classes": 3, "vocabulary": 20, "length": 12, "width": 16, "heads": 2},
}


def count(name: str, **options: object) -> int:
    return sum(value.numel() for value in skeleton(resolve(name, options)).parameters())


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        # as published with torchvision's weights
        ("shufflenet_v2", {"width": 0.5}, 1_366_792),
        ("shufflenet_v2", {}, 2_278_604),
        ("shufflenet_v2", {"width": 1.5}, 3_503_624),
        ("shufflenet_v2", {"width": 2}, 7_393_996),
        ("squeezenet", {}, 1_235_496),
        ("slim_resnet", RESNET18, 11_689_512),
        # ResNet-20 of He et al. 2016 (Table 6: 0.27 M), its two shortcuts as convolutions: 16 · 32 + 2 · 32 and
        # 32 · 64 + 2 · 64 on top of stem 432 + 32, stages 3 · (2 · 2304 + 64), 4608 + 64 + 5 · (9216 + 64),
        # 18432 + 128 + 5 · (36864 + 128), and output 650
        (
            "slim_resnet",
            {},
            432 + 32 + 3 * (4608 + 64) + (4672 + 5 * 9280) + (18560 + 5 * 36992) + 576 + 2176 + 650,
        ),
        # three gates (GRU) or four (LSTM) × 64 hidden × (32 + 64 inputs, two biases)
        ("text_gru", {}, 4096 * 32 + 3 * 64 * (32 + 64 + 2) + 64 * 2 + 2),
        ("text_lstm", {}, 4096 * 32 + 4 * 64 * (32 + 64 + 2) + 64 * 2 + 2),
        # tokens, positions, norm; a layer: two norms, four dense 64 × 64, 64 → 256 → 64; norm, output
        (
            "text_transformer",
            {},
            (4096 + 80 + 2) * 64
            + 2 * (4 * 64 + 4 * (64 * 64 + 64) + (64 * 256 + 256) + (256 * 64 + 64))
            + 2 * 64
            + 2 * 64
            + 2,
        ),
    ],
)
def test_parameter_counts(name: str, options: dict[str, object], parameters: int) -> None:
    assert count(name, **options) == parameters


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("mobilenet_v2", BATCH, "mobilenet_v2"),
        ("shufflenet_v2", BATCH | {"width": 0.5}, "shufflenet_v2_x0_5"),
        ("squeezenet", {}, "squeezenet1_1"),
        ("slim_resnet", BATCH | RESNET18, "resnet18"),
    ],
)
def test_with_torchvisions_weights_it_is_torchvisions_function(
    name: str, options: dict[str, object], theirs: str
) -> None:
    """The same tensors in the same order, and the same logits from them."""
    make: Callable[..., nn.Module] = getattr(torchvision().models, theirs)
    there = make(num_classes=1000).eval()
    if name == "squeezenet":
        there.get_submodule("classifier")[2] = nn.Identity()  # the last ReLU, which ours leaves out
    random = np.random.default_rng(1)
    values = [v for n, v in there.state_dict().items() if not n.endswith("num_batches_tracked")]
    with torch.no_grad():
        for value in values:
            value.add_(torch.from_numpy(random.uniform(0, 0.01, tuple(value.shape)).astype(np.float32)))
    ours = models.build(name, **options).eval()
    models.load_params(ours, dict(zip(models.params_of(ours), [v.numpy() for v in values], strict=True)))
    x = torch.from_numpy(random.random((2, 3, 96, 96), np.float32))
    with torch.no_grad():
        want, got = there(x), ours(x)
    assert float((got - want).abs().max()) <= 1e-4 * float(want.abs().max())


def examples(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with a bright row, column or neither; texts with one of three words in them."""
    random = np.random.default_rng(5)
    y = random.integers(0, 3, size)
    if name in IMAGES:
        x = random.random((size, 1, 16, 16), np.float32)
        x[y == 0, :, 3:7] += 2
        x[y == 1, :, :, 3:7] += 2
        return x, y
    tokens = random.integers(4, 20, (size, 12))
    tokens[np.arange(size), random.integers(0, 6, size)] = y + 1
    tokens[np.arange(12)[None] >= random.integers(6, 13, size)[:, None]] = 0
    return tokens, y


def small(name: str, **more: object) -> nn.Module:
    return models.build(name, **((IMAGES | TEXTS)[name] | more))


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_it_trains_rounds_and_becomes_integers(name: str) -> None:
    model, (x, y) = small(name), examples(name, 64)
    shape = model(torch.from_numpy(x)).shape
    assert shape == (64, 3)
    assert ModelSpec.from_json(models.spec_of(model).to_json()) == models.spec_of(model)
    params = models.params_of(model)
    models.load_params(model, params)
    rate = 0.02 if name in TEXTS else 0.003
    settings = TrainSettings(epochs=6, batch_size=16, optimizer="adam", learning_rate=rate)
    trained = local_train(model, params, x, y, settings, seed=1).params
    assert evaluate(model, trained, x, y)["loss"] < 0.7 * evaluate(model, params, x, y)["loss"]
    aware = TrainSettings(epochs=1, batch_size=16, optimizer="adam", learning_rate=0.001, bits=8)
    start = models.params_of(quantize.at(model, 8)) | trained
    rounded = local_train(model, start, x, y, aware, seed=2).params
    assert evaluate(model, rounded, x, y, bits=8)["loss"] < 0.7 * evaluate(model, params, x, y)["loss"]
    answers = to_integer(model, rounded).run(x).argmax(1)
    assert (answers == predict(model, rounded, x, bits=8)).mean() >= 0.98


@pytest.mark.parametrize("name", IMAGES)
def test_every_norm_has_the_same_layers_and_batch_norm_folds(name: str) -> None:
    nets = [small(name, norm=norm) for norm in ("group", "batch", "none")]
    assert len({tuple(dict(net.named_modules())) for net in nets}) == 1
    batch, random = nets[1].eval(), np.random.default_rng(2)
    params = models.params_of(batch)
    for each, value in params.items():
        if value.ndim == 1:
            value[...] = random.uniform(0.5, 2, value.shape) * (1 if each.endswith("running_var") else 0.5)
    models.load_params(batch, params)
    spec, folded = fold_norms(models.spec_of(batch), params)
    plain = models.build(spec).eval()
    models.load_params(plain, folded)
    x = torch.from_numpy(examples(name, 8)[0])
    with torch.no_grad():
        want, got = batch(x), plain(x)
    assert float((got - want).abs().max()) <= 1e-4 * float(want.abs().max())


@pytest.mark.parametrize("name", TEXTS)
def test_padding_counts_for_nothing(name: str) -> None:
    """The same text, padded to 8 or to 12, has the same logits; a text of padding alone has finite ones."""
    model = small(name).eval()
    texts = torch.tensor([[5, 9, 3, 7, 0, 0, 0, 0], [4, 4, 8, 2, 6, 1, 9, 3], [0] * 8])
    with torch.no_grad():
        short, long = model(texts), model(torch.cat((texts, torch.zeros(3, 4, dtype=torch.int64)), 1))
    assert torch.isfinite(short).all()
    np.testing.assert_allclose(short.numpy(), long.numpy(), atol=1e-6)


def test_attention_is_vaswanis() -> None:
    """torch's own attention of as many heads, from the same weights."""
    layer = small("text_transformer").get_submodule("layers.0.attention")
    theirs = nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        for part in ("weight", "bias"):
            packed = [layer.get_parameter(f"{each}.{part}") for each in ("query", "key", "value")]
            theirs.get_parameter(f"in_proj_{part}").copy_(torch.cat(packed))
            theirs.get_parameter(f"out_proj.{part}").copy_(layer.get_parameter(f"output.{part}"))
        x = torch.from_numpy(np.random.default_rng(0).random((2, 5, 16), np.float32))
        padded = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        want, _ = theirs(x, x, x, key_padding_mask=padded)
        got = layer(x, padded.float()[:, None, None, :] * -1e9)
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-6)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(SettingsError, match="5 heads"):
        models.build("text_transformer", heads=5)
