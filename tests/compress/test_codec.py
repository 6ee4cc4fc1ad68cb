"""The codec beyond what every codec shares: rounding, filters, feedback over rounds, and sizes on a real update."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlite.compress.codec import Codec, encode_with_feedback
from fedlite.compress.int8 import Int8, scale_codes, scales
from fedlite.compress.presets import PRESETS, codec_by_name
from fedlite.errors import SettingsError, UpdateError
from fedlite.types import Array


def one(values: list[float]) -> dict[str, Array]:
    return {"w": np.array(values, np.float32)}


def test_scale_is_the_peak_over_127_rounded_up_to_nine_bits() -> None:
    """127 → 1.0 exactly; a hair more → the next of 256 steps; 1.0 → 259/32768 (see tests/vectors)."""
    peaks = np.array([127, np.nextafter(np.float32(128), np.float32(0)), 1, 0], np.float32)
    np.testing.assert_array_equal(scales(scale_codes(peaks)), np.float32([1, 1 + 3 / 256, 259 / 32768, 0]))


def test_every_scale_is_at_least_the_peak_over_127_and_at_most_a_256th_more() -> None:
    peaks = np.exp(np.random.default_rng(0).uniform(-80, 80, 10**5)).astype(np.float32)
    ratio = scales(scale_codes(peaks)) / (peaks.astype(np.float64) / 127)
    assert ratio.min() >= 1 - 2**-23
    assert ratio.max() <= 1 + 2**-8 + 2**-23


def test_rows_have_their_own_scale_only_where_they_are_long() -> None:
    """A 2 × 16 matrix: the small row keeps its detail. A 2 × 15 matrix: one scale, the small row vanishes."""
    for width, kept in ((16, True), (15, False)):
        update = {"w": np.array([[1.0] * width, [1e-4] * width], np.float32)}
        got = Codec().decode(Codec().encode(update), update)
        assert got["w"][1].all() == kept


def test_stochastic_rounding_is_unbiased_and_named() -> None:
    """A step is 1/128: 0.3 steps round to a mean of 0.3; standard error over 40 000 draws is 0.0023."""
    codec = Codec(serializer=Int8(stochastic=True))
    update = one([127 / 128] + [0.3 / 128] * 40_000 + [-0.3 / 128] * 40_000)
    payload = codec.encode(update, generator=np.random.default_rng(7))
    got = codec.decode(payload, update)["w"] * 128
    assert set(np.unique(got)) == {-1, 0, 1, 127}
    assert abs(got[1:40_001].mean() - 0.3) < 0.01
    assert abs(got[40_001:].mean() + 0.3) < 0.01
    assert payload == codec.encode(update, generator=np.random.default_rng(7))
    assert payload != codec.encode(update, generator=np.random.default_rng(8))
    np.testing.assert_array_equal(Codec().decode(payload, update)["w"], got / 128)  # one format, one decoder


def test_stochastic_rounding_needs_a_generator() -> None:
    with pytest.raises(SettingsError, match="generator"):
        Codec(serializer=Int8(stochastic=True)).encode(one([1.0]))


def test_stochastic_rounding_stays_in_range_for_any_peak() -> None:
    codec = Codec(serializer=Int8(stochastic=True))
    rng = np.random.default_rng(0)
    for peak in np.exp(rng.uniform(-80, 80, 500)):
        update = one([peak, -peak, peak / 3])
        got = codec.decode(codec.encode(update, generator=rng), update)["w"]
        assert (np.abs(got - update["w"]) <= peak / 126).all()


def test_feedback_delivers_what_plain_encoding_always_drops() -> None:
    """0.001 beside 1.0 is an eighth of a step: always rounded to 0, but sent in time when owed.

    The residual stays within half a step, so after 400 rounds the mean of what was sent is 0.001 to within
    0.004 / 400.
    """
    codec, update = Codec(), one([1.0, 0.001])
    residual, sent = None, np.zeros(2)
    for _ in range(400):
        payload, residual = encode_with_feedback(codec, update, residual)
        sent += codec.decode(payload, update)["w"]
    plain = codec.decode(codec.encode(update), update)["w"]
    assert plain[1] == 0
    np.testing.assert_allclose(sent / 400, update["w"], atol=1e-5)
    assert sent[1] > 0


def test_a_newly_pruned_weight_takes_its_residual_with_it() -> None:
    update = one([1.0, 0.003])
    _, residual = encode_with_feedback(Codec(), update, None)
    assert residual["w"][1] != 0
    masks = {"w": np.array([True, False])}
    _, residual = encode_with_feedback(Codec(), update, residual, masks=masks)
    assert residual["w"][1] == 0


def test_feedback_refuses_a_residual_of_another_model_and_an_infinite_sum() -> None:
    with pytest.raises(UpdateError, match="residual"):
        encode_with_feedback(Codec(), one([1.0]), one([1.0, 2.0]))
    with pytest.raises(UpdateError, match="infinity"):
        encode_with_feedback(Codec(), one([3e38]), one([3e38]))


def test_a_decoder_must_know_the_parts_that_leave_a_trace_and_nothing_else() -> None:
    """Levels of compressors, step sizes and filters that only leave zeros are the encoder's own affair."""
    keys = {name: codec_by_name(name).key for name in PRESETS}
    assert keys["int8"] == codec_by_name("topk:0.1+int8-random+zstd:9").key == "int8+zstd"
    assert keys["sparse"] == keys["exact"] == codec_by_name("step:0.3+ans").key == "step+ans"
    assert keys["small"] == keys["smallest"] == "lowrank:32+step+ans"
    assert keys["float32"] == "float32+zstd"
    assert keys["plain"] == "plain"
    assert codec_by_name("int8").id == hashlib.sha256(b"int8+zstd").digest()[:4]


@pytest.mark.parametrize(
    "text",
    ["int7", "", "zstd", "zstd+int8", "topk:0.1", "int8+topk:0.1", "int8+int8", "int8+zstd:x", "step:1:2:3:4:5",
     "int8++zstd", "step:nan", "topk:", "step:0", "int8+zstd:99", "int8+zstd+ans",
     "int8+zstd:1.5", "int8+zstd:3.0", "eden:2.0", "ring:16.0:0.01:10", "lowrank:4.0+step", "topk:0.01+sign",
     "threshold:1:0.5+drive", "lowrank:2+topk-layer:0.1+eden:2"],
)  # fmt: skip
def test_texts_that_name_no_codec_that_works_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        codec_by_name(text)


def test_an_unknown_codec_is_told_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"no codec .int7.; there are int8, int8-tensor"):
        codec_by_name("int7")


@pytest.fixture(scope="module")
def pruned_cnn(data_dir: Path) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """The update of 25 SGD steps of a 48 k-parameter CNN on Fashion-MNIST, half of its weights pruned."""
    with np.load(data_dir / "fashion_mnist" / "fashion_mnist.npz") as data:
        images = torch.tensor(data["x_train"][:800, None], dtype=torch.float32) / 255
        labels = torch.tensor(data["y_train"][:800], dtype=torch.int64)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(layer for i, o in ((1, 16), (16, 32), (32, 64)) for layer in (
            torch.nn.Conv2d(i, o, 3, padding=1), torch.nn.GroupNorm(4, o), torch.nn.ReLU(), torch.nn.MaxPool2d(2))),
        torch.nn.Flatten(), torch.nn.Linear(576, 42), torch.nn.ReLU(), torch.nn.Linear(42, 10),
    )  # fmt: skip
    weights = dict(net.named_parameters())
    masks = {n: p.abs() > p.abs().median() for n, p in weights.items() if p.ndim > 1}
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name] *= mask
    before = {name: p.detach().clone() for name, p in weights.items()}
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for batch in torch.arange(800).split(32):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    update = {name: (p.detach() - before[name]).numpy() for name, p in weights.items()}
    return update, {name: mask.numpy() for name, mask in masks.items()}


@pytest.mark.parametrize(("name", "ratio", "error"), [("int8", 8, 0.01), ("int8-tensor", 11, 0.03)])
def test_how_small_and_how_true_an_update_of_a_half_pruned_cnn_is(
    pruned_cnn: tuple[dict[str, Array], dict[str, np.ndarray]], name: str, ratio: float, error: float
) -> None:
    update, masks = pruned_cnn
    dense = 4 * sum(value.size for value in update.values())
    payload = codec_by_name(name).encode(update, masks=masks)
    assert dense > 190_000
    assert dense / len(payload) > ratio
    got = codec_by_name(name).decode(payload, update, masks=masks)
    live = {n: np.where(masks[n], v, 0) if n in masks else v for n, v in update.items()}
    wrong = sum(float(np.square(live[n] - got[n]).sum()) for n in update)
    assert wrong < error**2 * sum(float(np.square(v).sum()) for v in live.values())


@pytest.mark.parametrize(
    "name", ["sparse", "step:4:0.9+ans", "step:3:1+ans", "exact", "exact:4:0.6+ans", "exact:4:1+ans"]
)
def test_up_to_four_deviations_something_passes_the_dead_zone(name: str) -> None:
    """Whatever the tails: of numbers that are all alike in size, even, and normal."""
    rng, codec = np.random.default_rng(4), codec_by_name(name)
    for scale in np.geomspace(0.01, 0.02, 12):
        for values in (
            rng.choice([-1, 1], (64, 48)),
            rng.uniform(-1, 1, (64, 48)),
            rng.normal(size=(64, 48)),
        ):
            update = {"w": (scale * values).astype(np.float32)}
            assert codec.decode(codec.encode(update), update)["w"].any()


@pytest.mark.parametrize("name", ["sparse", "step:4+ans", "small", "smallest", "exact"])
def test_what_is_owed_stays_bounded_under_the_same_update_again_and_again(name: str) -> None:
    """Also when all weights of an update are alike, and of what is owed: something always passes the dead zone."""
    rng = np.random.default_rng(3)
    codec = codec_by_name(name)
    for values in (rng.normal(size=(64, 48)), np.sign(rng.normal(size=(64, 48)))):
        update, residual = {"w": values.astype(np.float32)}, None
        sizes = []
        for _ in range(60):
            _, residual = encode_with_feedback(codec, update, residual, generator=rng)
            sizes.append(float(np.linalg.norm(residual["w"]) / np.linalg.norm(values)))
        assert max(sizes[-10:]) < 20
