"""BatchNorm in a federation: what becomes of its statistics, and that int8-aware training takes it."""

import numpy as np
import pytest
import torch

from fedlite import models
from fedlite.compress import quantize
from fedlite.compress.integer import IntegerModel, to_integer
from fedlite.models.fold import fold_norms
from fedlite.tensors import subtract
from fedlite.train import TrainSettings, evaluate, local_train, predict, with_stats_of
from fedlite.types import is_range, is_statistic

TINY = {"input_shape": (1, 8, 8), "num_classes": 3, "width": 0.125, "blocks": (1, 1), "norm": "batch"}
SETTINGS = TrainSettings(epochs=6, batch_size=16, learning_rate=0.02, momentum=0.9)


def stripes(count: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one bright row, column or nothing: what three classes look like."""
    random = np.random.default_rng(5)
    x, y = random.random((count, 1, 8, 8), np.float32), random.integers(0, 3, count)
    x[y == 0, :, 3] += 2
    x[y == 1, :, :, 3] += 2
    return x + np.float32(shift), y


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("policy", ["averaged", "local", "none"])
def test_every_policy_learns_and_leaves_what_it_was_given(policy: str, bits: int) -> None:
    model = models.build("slim_resnet", batch_stats=policy, **TINY)
    net = quantize.at(model, bits)
    params = models.params_of(net)
    before = {name: value.copy() for name, value in params.items()}
    (x, y), settings = stripes(96), TrainSettings(**{**vars(SETTINGS), "bits": bits})
    result = local_train(net, params, x, y, settings, seed=1)
    again = local_train(net, params, x, y, settings, seed=1)
    for name, value in params.items():
        np.testing.assert_array_equal(value, before[name])
        np.testing.assert_array_equal(result.params[name], again.params[name])
    first, after = (evaluate(net, each, *stripes(60), bits=bits) for each in (params, result.params))
    assert after["loss"] < first["loss"]
    assert after["accuracy"] > 0.7
    moved = {n: bool(v.any()) for n, v in subtract(result.params, params).items() if is_statistic(n)}
    of_norms = {moved[name] for name in moved if not is_range(name)}
    assert of_norms == {"averaged": {True}, "local": {False}, "none": set()}[policy]
    assert all(moved[name] for name in moved if is_range(name))


def test_local_statistics_are_those_of_the_data_seen() -> None:
    """A client whose camera adds a constant is answered as well as any: its own mean takes the constant away."""
    model = models.build("slim_resnet", batch_stats="local", **TINY)
    trained = local_train(model, models.params_of(model), *stripes(96), SETTINGS, seed=1).params
    plain, shifted = (predict(model, trained, stripes(60, by)[0], batch_size=60) for by in (0.0, 4.0))
    assert (plain == stripes(60)[1]).mean() > 0.7
    assert (plain == shifted).mean() > 0.9  # but for the border, where padding is 0 in both


def test_measured_statistics_are_numpys() -> None:
    """Those of the first norm, over all batches together: of what the first convolution gives."""
    model = models.build("slim_resnet", batch_stats="local", **TINY)
    x, _ = stripes(50)
    params = models.params_of(model)
    found = with_stats_of(model, params, x, batch_size=20)
    with torch.no_grad():
        maps = model.get_submodule("features.0")(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found["features.1.running_mean"], maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["features.1.running_var"], maps.var((0, 2, 3)), rtol=1e-2)
    assert not params["features.1.running_mean"].any()


def test_a_last_batch_of_one_example_trains() -> None:
    """8×8 shrinks to 1×1, and 17 = 16 + 1: the last batch has one value per channel."""
    model = models.build("slim_resnet", **(TINY | {"blocks": (1, 1, 1, 1)}))
    x, y = stripes(17)
    result = local_train(model, models.params_of(model), x, y, SETTINGS, seed=1)
    assert all(np.isfinite(value).all() for value in result.params.values())


def test_batch_norm_as_deployed() -> None:
    """Integer layers with float norms, and folded and trained on for the rounding: both answer as was trained."""
    model = models.build("slim_resnet", **TINY)
    (x, y), held_out = stripes(96), stripes(60)
    trained = local_train(model, models.params_of(model), x, y, SETTINGS, seed=1).params
    eight = TrainSettings(epochs=2, batch_size=16, learning_rate=0.001, bits=8)
    prepared = models.params_of(quantize.prepare(model)) | trained
    aware = local_train(model, prepared, x, y, eight, seed=2).params
    integer = to_integer(model, aware)
    assert isinstance(integer, IntegerModel)
    assert (integer.run(held_out[0]).argmax(1) == predict(model, aware, held_out[0], bits=8)).mean() >= 0.98
    spec, folded = fold_norms(models.spec_of(model), trained)
    plain = models.build(spec)
    start = models.params_of(quantize.prepare(plain)) | folded
    done = local_train(plain, start, x, y, eight, seed=2).params
    assert evaluate(plain, done, *held_out, bits=8)["accuracy"] > 0.7
