"""A round's cost by hand, fleets by their shares, and what is counted of a model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlite.errors import SettingsError
from fedlite.models.registry import build, spec_of
from fedlite.modules import module_of
from fedlite.virtual import workload
from fedlite.virtual.devices import PROFILES, Profile, cost, fleet, profile

ROUND = Profile(
    name="round",
    flops_per_second=1e9,
    memory_bytes=1000,
    uplink_bits_per_second=8e6,
    downlink_bits_per_second=16e6,
    latency_seconds=0.5,
    idle_watts=1.0,
    busy_watts=5.0,
    radio_watts=2.0,
    battery_joules=None,
    source="round numbers",
)


def test_cost_by_hand() -> None:
    """Down 0.5 s + 4 MB at 2 MB/s; 3 GFLOP at 1 GFLOP/s; up 0.5 s + 1 MB at 1 MB/s; 3 W on air, 5 W at work."""
    got = cost(ROUND, flops=3e9, payload_up_bytes=10**6, payload_down_bytes=4 * 10**6, memory_bytes=1000)
    assert (got.seconds_down, got.seconds_compute, got.seconds_up) == (2.5, 3.0, 1.5)
    assert (got.joules_down, got.joules_compute, got.joules_up) == (7.5, 15.0, 4.5)
    assert (got.seconds, got.energy_joules) == (7.0, 27.0)
    assert (got.bytes_down, got.bytes_up, got.fits) == (4 * 10**6, 10**6, True)


def test_a_small_model_takes_the_time_of_its_operations() -> None:
    """1 GFLOP at 1 GFLOP/s, and 2000 operations of 2 ms: 1 + 4 s at 5 W."""
    slow = replace(ROUND, operation_seconds=0.002)
    got = cost(slow, flops=1e9, payload_up_bytes=0, payload_down_bytes=0, memory_bytes=0, operations=2000)
    assert (got.seconds_compute, got.joules_compute) == (5.0, 25.0)


def test_a_model_too_large_for_the_memory_does_not_fit() -> None:
    assert not cost(ROUND, flops=1, payload_up_bytes=1, payload_down_bytes=1, memory_bytes=1001).fits


def test_a_large_network_trains_on_a_pi_4_and_not_on_a_zero() -> None:
    """MobileNetV2 at 224 px keeps some 78 MB of every image for the backward pass: 32 of them are 2.4 GiB."""
    model = build("mobilenet_v2")
    needed = workload.training_memory(model, (3, 224, 224), 32)
    fits = {
        name: cost(each, flops=0, payload_up_bytes=0, payload_down_bytes=0, memory_bytes=needed).fits
        for name, each in PROFILES.items()
    }
    assert not fits["pi_zero_2w"]
    assert not fits["pi3"]
    assert fits["pi4"]
    assert fits["pi5"]


@pytest.mark.parametrize("each", PROFILES.values(), ids=PROFILES)
def test_profiles_are_of_this_world(each: Profile) -> None:
    assert each.name in PROFILES
    assert 1e9 < each.flops_per_second < 1e12
    assert 2**28 < each.memory_bytes < 2**34
    assert 1e6 < each.uplink_bits_per_second <= each.downlink_bits_per_second < 1e9
    assert 0 < each.latency_seconds < 0.1
    assert 0 < each.idle_watts < each.busy_watts <= 15
    assert "measured" in each.source or "data sheet" in each.source
    assert 1e-5 < each.operation_seconds < 1e-3
    assert each.battery_joules is None or each.battery_joules > 1e4


def test_what_is_published_is_what_stands_here() -> None:
    """HPL: 11.889 GFLOPS at 7.2 W on a Pi 4, 30.249 at 11 W on a Pi 5. (top500-benchmark, README)"""
    assert (profile("pi4").flops_per_second, profile("pi4").busy_watts) == (11.889e9, 7.2)
    assert (profile("pi5").flops_per_second, profile("pi5").busy_watts) == (30.249e9, 11.0)


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        SettingsError, match=r"'cray'; there are pi_zero_2w, pi3, pi4, pi5, jetson_nano, phone"
    ):
        profile("cray")


def test_a_fleet_has_the_shares_it_is_given() -> None:
    """A share s of 100,000 draws has a deviation of √(s(1 − s)/100,000) < 0.0016: five of them."""
    made = fleet("pi4:0.5,pi3:0.3,phone:0.2", seed=3)
    shares = np.bincount(made.kinds(np.arange(100_000))) / 100_000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.008)


def test_a_clients_device_depends_on_the_seed_and_the_client_alone() -> None:
    made = fleet("pi4:0.5,phone:0.5", 1)
    names = [made.of(client).name for client in range(10)]
    assert names == [made.profiles[kind].name for kind in made.kinds(np.arange(1_000_000))[:10]]
    assert names != [fleet("pi4:0.5,phone:0.5", 2).of(client).name for client in range(10)]
    assert {fleet("pi4:0.5,phone:0.5", seed).of(0).name for seed in range(20)} == {"pi4", "phone"}


def test_a_fleet_of_one_kind() -> None:
    assert {fleet("pi5", 0).of(client).name for client in range(50)} == {"pi5"}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("pi4:0.5,pi3:0.4", "add up to 0.9"),
        ("pi4,pi3", "add up to 2"),
        ("pi4:0.5,pi4:0.5", "twice"),
        ("pi4:0.5,toaster:0.5", "no device profile 'toaster'; there are pi_zero_2w, pi3"),
        ("toaster,pi4", "no device profile 'toaster'"),
        ("pi4:many", "not a share"),
        ("pi4:-1", "not a share"),
        ("pi4:nan", "not a share"),
        ("", "no device profile ''"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(spec: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        fleet(spec, 0)


def test_training_is_three_forward_passes_of_each_sample_and_epoch() -> None:
    """784 × 10 products, two operations each; × 3 × 60 samples × 2 epochs."""
    assert workload.forward_flops(build("linear"), (1, 28, 28)) == 2 * 784 * 10
    assert workload.training_flops(build("linear"), (1, 28, 28), 60, 2) == 3 * 2 * 7840 * 60 * 2


def test_operations_of_a_round_are_counted_by_the_step() -> None:
    """Three steps of each of two epochs for 25 samples in tens; one of each for all at once."""
    work = workload.Workload(0, 0, 0, batch_size=10, operations_per_step=7, epochs=2)
    assert [work.operations(samples) for samples in (0, 1, 25, 30)] == [0, 14, 42, 42]
    assert replace(work, batch_size=0).operations(25) == 14


def test_int8_aware_training_and_more_layers_start_more_operations() -> None:
    """A linear layer at least multiplies and adds forwards, twice backwards, and has its loss; 2nn has three."""
    linear, deeper = build("linear"), build("2nn")
    one = workload.step_operations(linear, (1, 28, 28))
    assert 6 <= one < workload.step_operations(deeper, (1, 28, 28)) < 20 * one
    aware = module_of(spec_of(deeper).to_json(), 8)
    assert workload.step_operations(aware, (1, 28, 28)) > 2 * workload.step_operations(deeper, (1, 28, 28))


def test_mobilenet_v2_has_the_multiply_adds_of_its_paper() -> None:
    """300 million (Sandler et al. 2018, Table 4), two operations each."""
    assert workload.forward_flops(build("mobilenet_v2"), (3, 224, 224)) == pytest.approx(600e6, rel=0.01)


def test_recurrent_layers_count() -> None:
    """Per symbol 4 gates of 256 from (8 + 256) and (256 + 256) inputs; 80 symbols; the output of 256 × 65 once."""
    by_hand = 2 * (80 * 4 * 256 * (8 + 256 + 256 + 256) + 256 * 65)
    assert workload.forward_flops(build("char_lstm"), (80,)) == by_hand


def test_counting_leaves_the_model_as_it_was_and_is_done_once() -> None:
    model = build("linear")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert workload.forward_flops(model, (1, 28, 28)) == workload.forward_flops(model, (1, 28, 28))
    workload.training_memory(model, (1, 28, 28), 8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.device.type == "cpu" and value.grad is None for value in model.parameters())


def test_memory_grows_by_what_is_kept_of_each_sample() -> None:
    """Of one sample: 784 inputs and 10 log-probabilities of 4 bytes, and a label of 8."""
    model = build("linear")
    one, two = (workload.training_memory(model, (1, 28, 28), size) for size in (16, 32))
    assert two - one == 16 * (784 * 4 + 10 * 4 + 8)
    momentum = workload.training_memory(model, (1, 28, 28), 16, optimizer_copies=1)
    assert momentum - one == 4 * 7850


def test_memory_by_hand() -> None:
    """Three copies of 511,500 weights; of a sample 10 inputs, 1000 activations once, 500 log-probabilities, a label.

    The rest is a number or two that the loss keeps; the weights that the second layer keeps are counted already.
    """
    model = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 500))
    by_hand = workload.RUNTIME_BYTES + 3 * 4 * (11_000 + 500_500) + 4 * (10 + 1000 + 500) + 8
    assert 0 <= workload.training_memory(model, (10,), 1) - by_hand <= 64


def test_an_input_of_another_shape_is_refused() -> None:
    with pytest.raises(SettingsError, match="takes no examples of shape"):
        workload.forward_flops(nn.Linear(3, 2), (4,))


def test_a_profile_can_be_given_a_measurement() -> None:
    measured = replace(profile("pi4"), flops_per_second=2e9)
    slow = cost(measured, flops=2e9, payload_up_bytes=0, payload_down_bytes=0, memory_bytes=0)
    assert slow.seconds_compute == 1.0
