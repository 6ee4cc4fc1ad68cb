"""Counts against hand calculations from the layers' sizes."""

import numpy as np

from fedlite.models import initial_params
from fedlite.models.registry import ModelSpec, build, resolve
from fedlite.profile import counts, memory
from fedlite.profile.examples import example_of
from fedlite.profile.unknown import Unknown
from fedlite.tensors import apply_masks

CNN = resolve("cnn", {})


def counted(spec: ModelSpec) -> counts.Counts:
    return counts.count(spec, initial_params(build(spec), 0), example_of(spec))


def test_the_cnn_by_hand() -> None:
    got = counted(CNN)
    # 5×5 kernels on 28×28 and 14×14 maps, then 7·7·64 → 512 → 10 (McMahan 2017 gives 1,663,370 parameters)
    assert got.macs == 25 * 32 * 784 + 25 * 32 * 64 * 196 + 3136 * 512 + 512 * 10
    assert got.flops == 2 * got.macs
    assert got.parameters == 1_663_370
    assert {each.name: each.macs for each in got.layers} == {
        "features.0": 25 * 32 * 784,
        "features.3": 25 * 32 * 64 * 196,
        "hidden": 3136 * 512,
        "output": 5120,
    }
    assert [each.parameters for each in got.layers] == [26 * 32, (25 * 32 + 1) * 64, 3137 * 512, 5130]


def test_a_recurrent_network_by_hand() -> None:
    # 80 steps of two LSTM layers: four gates, each hidden · (inputs + hidden); then 256 → 65
    got = counted(resolve("char_lstm", {}))
    assert got.macs == 80 * 4 * 256 * ((8 + 256) + (256 + 256)) + 256 * 65


def test_depthwise_convolutions_count_once_per_channel() -> None:
    got = counted(resolve("mobilenet_v2", {}))
    assert got.macs == 300_774_272  # 300 M multiply-adds: Sandler et al. 2018, Table 4
    assert got.parameters == 3_504_872
    first = next(each for each in got.layers if each.name == "features.3.body.0")
    assert first.macs == 112 * 112 * 32 * 9


def test_factorized_layers_count_their_factors() -> None:
    spec = ModelSpec("cnn", CNN.options, (("rank", "hidden", (16,)),))
    got = counted(spec)
    assert got.macs == counted(CNN).macs - 3136 * 512 + 16 * (3136 + 512)
    assert got.parameters == 1_663_370 - 3136 * 512 + 16 * (3136 + 512)


def test_non_zeros_are_what_masks_leave() -> None:
    params = initial_params(build(CNN), 0)
    mask = np.zeros(params["hidden.weight"].shape, np.bool_)
    mask[:100] = True
    got = counts.count(CNN, apply_masks(params, {"hidden.weight": mask}), example_of(CNN))
    assert got.nonzeros == 1_663_370 - 412 * 3136
    assert got.parameters == 1_663_370


def test_sizes_on_disk() -> None:
    # float32: 4 bytes a value; int8: 1 byte a weight, 4 a bias and a channel's scale; and a header of a few hundred
    assert 0 < counts.float32_bytes(CNN) - 4 * 1_663_370 < 1500
    biases = 32 + 64 + 512 + 10
    integers = 1_663_370 - biases + 4 * biases + 4 * biases + 4 * (4 + 1)
    size = counts.int8_bytes(CNN)
    assert isinstance(size, int)
    assert 0 < size - integers < 2500


def test_shapes_alone_take_no_memory_and_count_as_zeros() -> None:
    got = counts.count(CNN, counts.shapes(CNN), example_of(CNN))
    assert (got.parameters, got.nonzeros) == (1_663_370, 0)


def test_what_autograd_saves_by_hand() -> None:
    import torch

    # For each example of the CNN: its 784 inputs, both ReLU's results, both poolings' results, the hidden ReLU's,
    # logits and their log-sum; and int64 places of both poolings' maxima.
    floats = 784 + 32 * 784 + 32 * 196 + 64 * 196 + 64 * 49 + 512 + 10 + 1
    places = 32 * 196 + 64 * 49
    for count in (1, 16):
        x = torch.zeros(count, 1, 28, 28)
        assert memory.saved_bytes(build(CNN), x) == count * (4 * floats + 8 * places)


def test_memory_is_measured_apart_or_has_a_reason() -> None:
    nowhere = ModelSpec("cnn", CNN.options, (("rank", "nowhere", (1,)),))
    with memory.bench(batch=1, train_batch=16, threads=1) as taken:
        failed = taken(nowhere, 32, example_of(CNN)).training
        assert isinstance(failed, Unknown)
        assert "nowhere" in failed.reason
        first, again = (taken(CNN, 32, example_of(CNN)) for _ in range(2))
        assert first.saved == again.saved == 4_298_432  # 16 examples: see above
        for each in (first, again):
            assert isinstance(each.training, int)
            assert isinstance(each.activation, int)
            # at the peak a client holds at least a copy of the weights, their gradients, and what autograd saved
            assert each.training > 2 * 4 * 1_663_370 + 4_298_432
            assert each.activation < each.training
