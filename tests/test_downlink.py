"""Steps and snapshots lead every client to the same bytes; what they lose, the next step carries."""

import hashlib
import struct
import zlib

import numpy as np
import pytest
import zstandard

from fedlite.compress.presets import codec_by_name
from fedlite.compress.prune import magnitude_masks
from fedlite.downlink import (
    Version,
    advance,
    bundle,
    first,
    merged,
    moves_between,
    moves_of,
    origin,
    receive,
    snapshot,
)
from fedlite.errors import CodecError, OriginError
from fedlite.types import Masks, Params
from tests.compress.reference import description

INT8 = codec_by_name("int8")
EXACT = codec_by_name("exact:1+ans")


def params(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((8, 16)).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
    }


START = Version(0, params(0))


def test_every_way_to_a_version_ends_in_the_same_bytes() -> None:
    steps, held = [], START
    for seed in (1, 2, 3):
        step, held = advance(held, params(seed), {}, INT8)
        steps.append(step)
    by_steps = receive(bundle(steps), START, START.params, INT8)
    by_snapshot = receive(snapshot(held), None, START.params, INT8)
    assert by_steps.hash == by_snapshot.hash == held.hash
    assert by_steps.number == 3


def test_the_residual_is_carried() -> None:
    """Stepping to the same target again and again comes ever nearer: the loss is not forgotten."""
    target, held, errors = params(1), START, []
    for _ in range(3):
        _, held = advance(held, target, {}, INT8)
        errors.append(max(float(np.abs(target[name] - held.params[name]).max()) for name in target))
    assert errors[0] > 20 * errors[1] > 0
    assert errors[2] <= errors[1]


def test_pruned_weights_are_zero_on_arrival() -> None:
    masks = magnitude_masks(START.params, 0.5)
    step, held = advance(START, params(1), masks, INT8)
    got = receive(step, START, START.params, INT8)
    assert not got.params["w"][~masks["w"]].any()
    assert np.array_equal(got.masks["w"], masks["w"])
    assert got.hash == held.hash


def test_nothing_is_needed_when_up_to_date() -> None:
    assert receive(b"", START, START.params, INT8) is START


@pytest.mark.parametrize("held", [None, Version(1, params(0))])
def test_a_step_from_elsewhere_is_refused(held: Version | None) -> None:
    step, _ = advance(START, params(1), {}, INT8)
    with pytest.raises(CodecError):
        receive(step, held, START.params, INT8)


def test_parts_are_as_documented() -> None:
    """docs/format.md by hand: a snapshot of two weights as float32+zstd, and a step that adds (0.5, −1) as plain."""
    like = {"w": np.zeros(2, np.float32)}
    binding = hashlib.sha256(description([["w", [2]]], {})).digest()[:8]

    def payload(key: str, body: bytes) -> bytes:
        head = b"FLU2" + hashlib.sha256(key.encode()).digest()[:4] + binding + body
        return head + struct.pack("<I", zlib.crc32(head))

    def part(kind: int, base: int, number: int, body: bytes) -> bytes:
        head = struct.pack(">BIIII", kind, base, number, 0, len(body))
        return head + struct.pack(">I", zlib.crc32(head)) + body

    raw = struct.pack("<2f", 1.5, 2.0)
    planes = b"".join(raw[place::4] for place in range(4))
    whole = part(2, 7, 7, payload("float32+zstd", zstandard.compress(planes)))
    step = part(1, 7, 8, payload("plain", struct.pack("<2f", 0.5, -1.0)))
    plain = codec_by_name("plain")
    got = receive(whole + step, None, like, plain)
    assert (got.number, got.params["w"].tolist()) == (8, [2.0, 1.0])
    held = Version(7, {"w": np.array([1.5, 2.0], np.float32)})
    assert advance(held, {"w": np.array([2, 1], np.float32)}, {}, plain)[0] == step
    assert receive(snapshot(held), None, like, plain).hash == receive(whole, None, like, plain).hash


def test_damage_is_refused() -> None:
    step, _ = advance(START, params(1), {}, INT8)
    for bad in (step[:-1], step + b"\0", step[:5], b"\x07" + step[1:]):
        with pytest.raises(CodecError):
            receive(bad, START, START.params, INT8)
    for position in range(len(step)):
        altered = bytearray(step)
        altered[position] ^= 1
        with pytest.raises(CodecError):
            receive(bytes(altered), START, START.params, INT8)


SHAPES = {"w": (40, 60), "b": (40,), "n.running_var": (40,)}
SMALL_SHAPES = {"w": (10, 20), "b": (10,)}  # where nothing is a matrix of a step, nothing has an eighth of it


def walk(
    masks: list[Masks], sizes: int = 3, shapes: dict[str, tuple[int, ...]] = SHAPES
) -> tuple[list[bytes], list[Version]]:
    """Steps of the exact codec over a random walk whose steps change in size, and the versions between."""
    rng = np.random.default_rng(5)
    params = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    steps, versions = [], [first(params, masks[0], EXACT)]
    for number, after in enumerate(masks[1:]):
        size = 10.0 ** -(1 + number % sizes)
        params = {
            name: value + rng.normal(0, size, value.shape).astype(np.float32)
            for name, value in params.items()
        }
        step, held = advance(versions[-1], params, after, EXACT)
        steps.append(step)
        versions.append(held)
    return steps, versions


def changed(steps: list[bytes], versions: list[Version]) -> list[bool]:
    """Which steps change masks."""
    moves = [moves_of(step, after, EXACT) for step, after in zip(steps, versions[1:], strict=True)]
    return [each is not None and each.mask_bytes > 0 for each in moves]


@pytest.mark.parametrize("shapes", [SHAPES, SMALL_SHAPES], ids=["a matrix", "no matrix"])
@pytest.mark.parametrize("sizes", [1, 3])
def test_steps_of_an_exact_codec_as_one_lead_to_the_same_bytes(
    sizes: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    """From every version to every later one; equal steps are shorter as one than side by side."""
    steps, versions = walk([{}] * 9, sizes, shapes)
    for base in range(8):
        for end in range(base + 2, 9):
            moves = [moves_of(step, versions[end], EXACT) for step in steps[base:end]]
            one = merged(steps[base:end], [each for each in moves if each], versions[end], EXACT)
            assert one is not None
            got = receive(one, versions[base], versions[0].params, EXACT)
            assert (got.number, got.hash) == (end, versions[end].hash)
            if sizes == 1:
                assert len(one) < len(bundle(steps[base:end]))


def test_one_step_for_several_may_begin_with_new_masks() -> None:
    before = first({"w": np.ones((40, 60), np.float32)}, {}, EXACT)
    masks = magnitude_masks({"w": np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)}, 0.5)
    steps, versions = walk([{}, masks, masks, masks])
    assert changed(steps, versions) == [True, False, False]
    moves = [moves_of(step, versions[3], EXACT) for step in steps]
    one = merged(steps, [each for each in moves if each], versions[3], EXACT)
    assert one is not None
    assert receive(one, versions[0], versions[0].params, EXACT).hash == versions[3].hash
    with pytest.raises(CodecError):
        receive(one, before, before.params, EXACT)


def test_masks_cost_nothing_while_they_stay() -> None:
    masks = magnitude_masks({"w": np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)}, 0.5)
    assert changed(*walk([masks, masks, {}, masks])) == [False, True, True]


def test_moves_between_versions_are_those_that_are_decoded() -> None:
    masks = magnitude_masks({"w": np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)}, 0.5)
    steps, versions = walk([{}, {}, masks, masks, {}])
    for step, before, after in zip(steps, versions, versions[1:], strict=False):
        got, want = moves_between(before, after, step), moves_of(step, after, EXACT)
        assert got is not None
        assert want is not None
        assert got.mask_bytes == want.mask_bytes
        for one, other in (
            (got.places, want.places),
            (got.values, want.values),
            (got.statistics, want.statistics),
        ):
            np.testing.assert_array_equal(one, other)
    assert moves_between(versions[0], versions[2], steps[1]) is None, "not the version before"
    assert moves_between(versions[0], versions[0], origin(versions[0])) is None, "no step"


def test_a_new_device_makes_version_0_itself() -> None:
    masks = magnitude_masks(START.params, 0.5)
    zero = first(START.params, masks, EXACT)
    step, after = advance(zero, params(1), masks, EXACT)

    def begin() -> Params:
        return START.params

    got = receive(origin(zero) + step, None, START.params, EXACT, begin)
    assert (got.number, got.hash) == (1, after.hash)
    assert len(origin(zero)) < 60, "masks of 136 weights, half of them pruned"
    assert receive(origin(zero) + step, zero, START.params, EXACT).hash == after.hash, "held already"
    with pytest.raises(OriginError):
        receive(origin(zero) + step, None, START.params, EXACT)
    with pytest.raises(CodecError):
        receive(origin(zero) + b"\0", None, START.params, EXACT, begin)


def test_sums_that_cannot_be_exact_are_not_made() -> None:
    """Weights beyond 16 lie on no grid of 2^-20 in float32."""
    zero = first({"w": np.full((2, 4), 20.0, np.float32)}, {}, EXACT)
    one, version = advance(zero, {"w": np.full((2, 4), 60.0, np.float32)}, {}, EXACT)
    two, version = advance(version, {"w": np.full((2, 4), 20.0, np.float32)}, {}, EXACT)
    three, version = advance(version, {"w": np.full((2, 4), 90.0, np.float32)}, {}, EXACT)
    moves = [moves_of(step, version, EXACT) for step in (one, two, three)]
    assert merged([one, two, three], [each for each in moves if each], version, EXACT) is None


@pytest.mark.parametrize("name", ["lowrank:4+step:0.2+ans", "randomk:0.5+int8+zstd", "eden:4", "int8-random"])
def test_a_codec_that_draws_goes_down_too_and_the_same_bytes_again(name: str) -> None:
    codec = codec_by_name(name)
    rng = np.random.default_rng(2)
    zero = first({"w": rng.normal(size=(40, 60)).astype(np.float32)}, {}, codec)
    target = {"w": rng.normal(size=(40, 60)).astype(np.float32)}
    step, held = advance(zero, target, {}, codec)
    assert advance(zero, target, {}, codec)[0] == step
    assert receive(step, zero, zero.params, codec).hash == held.hash
