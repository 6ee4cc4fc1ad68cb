"""Each operator's ONNX form computes what torch does; what has none is refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlite.errors import SettingsError
from fedlite.export import onnxruntime
from fedlite.export.onnx_graph import to_bytes
from fedlite.export.onnx_lowering import lower
from fedlite.export.onnx_rules import rules
from fedlite.export.traced import trace


class Module(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)


def filled(module: nn.Module) -> nn.Module:
    """Weights from a fixed stream."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=random) * 0.8 + 0.1)
    return module.eval()


def answers(module: nn.Module, x: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    example = torch.from_numpy(x)
    tensors = {name: value.numpy() for name, value in module.state_dict().items()}
    graph, entry, outputs = lower(module, trace(module, example), tensors, {}, rules())
    graph.prune([name for name, _ in outputs])
    shapes = [(name, ["n" if size == -1 else size for size in sizes]) for name, sizes in outputs]
    path.write_bytes(to_bytes(graph, (entry, x.dtype, ["n", *x.shape[1:]]), shapes, {}))
    return onnxruntime.open(path)(x)


def image(x: Tensor) -> Tensor:
    return x.reshape(-1, 4, 6, 6)


def shuffle(x: Tensor) -> Tensor:
    count, channels, height, width = image(x).shape
    return image(x).view(count, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(count, -1)


CASES: dict[str, Module] = {
    "activations": Module(lambda x: x.relu() + x.sigmoid() * x.tanh() - F.gelu(x) + F.silu(x)),
    "hard ones": Module(lambda x: F.hardswish(x) + F.hardsigmoid(x) + F.relu6(3 * x) + F.leaky_relu(x, 0.1)),
    "in place": Module(lambda x: F.relu_(x * 2).add_(1)),
    "arithmetic": Module(lambda x: (2 - x) / (x * x + 1) + x.abs().sqrt() + torch.add(x, x, alpha=3)),
    "powers": Module(lambda x: (x.abs() + 1).rsqrt() + x.pow(2) + (-x).exp()),
    "compare": Module(lambda x: torch.where(x > 0, x, -x) + x.masked_fill(x < 0.5, 7.0) + (x != 0.5).float()),
    "means": Module(lambda x: image(x).mean((2, 3)) + image(x).amax(3).sum(2)),
    "pools": Module(lambda x: F.max_pool2d(image(x), 3, 2, 1, ceil_mode=True).flatten(1)),
    "average": Module(lambda x: F.avg_pool2d(image(x), 2, padding=1).flatten(1)),
    "adaptive": Module(lambda x: F.adaptive_avg_pool2d(image(x), 3).flatten(1)),
    "adaptive to one": Module(lambda x: F.adaptive_avg_pool2d(image(x), 1).flatten(1)),
    "shuffle": Module(shuffle),
    "pieces": Module(lambda x: torch.cat([x.chunk(3, 1)[2], x.split([100, 44], 1)[0], x[:, 3:9:2], x[:, 5:6]], 1)),
    "shapes": Module(lambda x: x[:, None].squeeze(1).unflatten(1, (12, 12)).permute(0, 2, 1)[:, -1]),
    "softmax": Module(lambda x: x.softmax(-1) + x.log_softmax(1)),
    "token before": Module(lambda x, first: torch.cat([first.weight.expand(len_of(x), -1), x], 1), nn.Embedding(1, 3)),
    "filled": Module(lambda x: torch.cat([torch.zeros(len_of(x), 2), torch.full((len_of(x), 1), 3.0), x], 1)),
    "group norm": Module(lambda x, norm: norm(image(x)), nn.GroupNorm(2, 4)),
    "batch norm": Module(lambda x, norm: norm(image(x)), nn.BatchNorm2d(4)),
    "layer norm": Module(lambda x, norm: norm(x), nn.LayerNorm(144)),
    "dense": Module(lambda x, layer: layer(x).relu(), nn.Linear(144, 5)),
    "convolution": Module(
        lambda x, layer: layer(image(x)), nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2)
    ),
    "weight computed": Module(lambda x, layer: F.linear(x, layer.weight * 2), nn.Linear(144, 5)),
    "attention": Module(lambda x: attention(x, None)),
    "attention, causal": Module(lambda x: attention(x, None, causal=True)),
    "attention, masked": Module(lambda x: attention(x, (x[:, None, None, :12] > 0.2))),
    "gru": Module(lambda x, layer: layer(x.view(-1, 12, 12))[0], nn.GRU(12, 5, 2, batch_first=True)),
    "gru, both ways": Module(
        lambda x, layer: layer(x.view(-1, 12, 12))[0], nn.GRU(12, 5, batch_first=True, bidirectional=True)
    ),
    "lstm": Module(lambda x, layer: layer(x.view(-1, 12, 12))[0], nn.LSTM(12, 5, 2, batch_first=True)),
    "lstm's end": Module(
        lambda x, layer: torch.cat([*layer(x.view(-1, 12, 12))[1]], 0).transpose(0, 1),
        nn.LSTM(12, 5, 2, batch_first=True, bidirectional=True),
    ),
}  # fmt: skip


def len_of(x: Tensor) -> int:
    return x.shape[0]


def attention(x: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    parts = x.view(-1, 1, 12, 12)
    return F.scaled_dot_product_attention(parts, parts * 2, parts + 1, attn_mask=mask, is_causal=causal)


@pytest.mark.parametrize("case", CASES)
def test_operators_compute_what_torch_does(case: str, tmp_path: Path) -> None:
    module = filled(CASES[case])
    x = np.random.default_rng(3).random((5, 144), np.float32)  # traced with two examples, run with five
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(answers(module, x, tmp_path / "m.onnx"), wanted, rtol=2e-5, atol=2e-5)


def test_text(tmp_path: Path) -> None:
    module = filled(Module(lambda x, words: words(x).sum(1) * (x != 0).sum(1, True), nn.Embedding(9, 4)))
    x = np.random.default_rng(3).integers(0, 9, (5, 7))
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(answers(module, x, tmp_path / "m.onnx"), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: torch.linalg.inv(x.view(-1, 12, 12)), "inv"),
        (lambda x: F.adaptive_avg_pool2d(x.view(-1, 1, 12, 12), 5), "unequal windows"),
        (lambda x: x if x.sum() > 0 else -x, "no fixed graph"),
        (lambda x: x + len(x), "no fixed graph"),  # a number that only two examples have
    ],
)
def test_what_has_no_form_is_named(function: Any, word: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=word):
        answers(Module(function), np.ones((2, 144), np.float32), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
