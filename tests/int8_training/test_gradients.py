"""Gradients of int8 training are those that autograd finds on the rounding network."""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from fedlite.compress import quantize
from fedlite.int8_training.passes import Needs, backward, forward
from fedlite.int8_training.plan import read_plan
from fedlite.int8_training.train import begin
from fedlite.models.bridge import params_of
from fedlite.models.registry import build

SMALL_MOBILENET = {"input_shape": (3, 32, 32), "num_classes": 10, "width": 0.25, "stem_stride": 2}
MODELS = [
    ("cnn", {}),
    ("pooled_cnn", {}),
    ("mlp", {}),
    ("lenet5", {}),
    ("sensor_cnn", {}),
    ("mobilenet_v2", SMALL_MOBILENET),
]


def gradients_of_both(name, options, learns=None, clipped=False, in_integers=None):
    """(by int8 training, by autograd), on the same params and ranges; the logits of both."""
    model = build(name, **options)
    shape = dict(model.spec.options)["input_shape"]
    random = np.random.default_rng(1)
    x, y = random.standard_normal((6, *shape), np.float32), torch.from_numpy(random.integers(0, 5, 6))
    net = quantize.at(model, 8).train()
    params = {n: on_grid(v) if n.endswith("weight") and v.ndim > 1 else v for n, v in params_of(net).items()}
    if clipped:  # ranges that half of what comes will leave: they move a tenth of the way
        params = {n: np.array([-0.05, 0.1], np.float32) if "act_range" in n else v for n, v in params.items()}
    tensors = {n: torch.tensor(v, requires_grad="act_range" not in n) for n, v in params.items()}
    logits = functional_call(net, tensors, (torch.from_numpy(x),))
    F.cross_entropy(logits, y).backward()
    wanted = {n: t.grad.numpy() for n, t in tensors.items() if t.requires_grad}

    plan = read_plan(model, shape)
    state, found = begin(params, {}, plan), {}
    state.in_integers = state.in_integers if in_integers is None else in_integers
    needs = Needs.of(plan, frozenset(wanted if learns is None else learns))
    with torch.no_grad():
        got, kept = forward(plan, state, torch.from_numpy(x), needs)
    slope = torch.autograd.grad(F.cross_entropy(leaf := got.clone().requires_grad_(), y), leaf)[0]

    def take(tensor, rows, gradient):
        whole = found.setdefault(tensor, np.zeros(params[tensor].shape, np.float32))
        whole.reshape(len(whole), -1)[rows] += gradient.reshape(-1, whole[0].size).numpy()

    with torch.no_grad():
        backward(plan, state, kept, slope, needs, take)
    return found, wanted, got.numpy(), logits.detach().numpy()


def on_grid(weight):
    """The weight at steps of its largest / 127, so that both sides begin at the same numbers."""
    rows = weight.reshape(len(weight), -1)
    scale = np.abs(rows).max(1, keepdims=True) / 127
    return (np.round(rows / scale) * scale).astype(np.float32).reshape(weight.shape)


def cosine(a, b):
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-30))


@pytest.mark.parametrize(("name", "options"), MODELS, ids=lambda v: v if isinstance(v, str) else "")
def test_gradients_are_those_of_autograd_on_the_rounding_network(name, options):
    found, wanted, logits, wanted_logits = gradients_of_both(name, options)
    assert set(found) == set(wanted)
    assert cosine(logits, wanted_logits) > 0.999
    for tensor, gradient in wanted.items():
        assert cosine(found[tensor], gradient) > 0.999, tensor
        assert np.linalg.norm(found[tensor]) == pytest.approx(np.linalg.norm(gradient), rel=0.02), tensor


def test_gradients_stop_where_a_value_left_its_range():
    found, wanted, _, _ = gradients_of_both("cnn", {}, clipped=True)
    for tensor, gradient in wanted.items():
        assert cosine(found[tensor], gradient) > 0.999, tensor


def test_only_what_learns_gets_a_gradient_and_it_is_the_same():
    learns = ["hidden.weight", "features.3.bias"]
    found, wanted, _, _ = gradients_of_both("cnn", {}, learns)
    assert sorted(found) == sorted(learns)
    assert all(cosine(found[tensor], wanted[tensor]) > 0.999 for tensor in learns)


@pytest.mark.parametrize("name", ["pooled_cnn", "sensor_cnn"])
def test_products_of_integers_and_of_floats_are_the_same(name):
    by_integers, wanted, logits, _ = gradients_of_both(name, {}, in_integers=True)
    by_floats, _, float_logits, _ = gradients_of_both(name, {}, in_integers=False)
    np.testing.assert_allclose(logits, float_logits, rtol=1e-3, atol=1e-3)
    assert all(cosine(by_integers[each], by_floats[each]) > 0.999 for each in wanted)
