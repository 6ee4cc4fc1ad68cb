"""Integers for arrays: hand calculations, and what must hold for any values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedlite.compress import affine, quantize
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

BITS = range(2, 9)
some_values = arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e4, 1e4, width=32)
)


# --- symmetric and affine ------------------------------------------------------------------------------------


def test_symmetric_by_hand() -> None:
    """Row 1: max 1.27, steps of .01. Row 2: max 254, steps of 2; 3 / 2 = 1.5 goes to the even 2."""
    values = np.float32([[1.27, -0.5, 0], [3, -254, 5]])
    rounded = affine.symmetric(values)
    assert rounded.levels.tolist() == [[127, -50, 0], [2, -127, 2]]
    np.testing.assert_allclose(rounded.scale, [[0.01], [2]], rtol=1e-6)
    np.testing.assert_allclose(rounded.values(), [[1.27, -0.5, 0], [4, -254, 4]], rtol=1e-6)
    whole = affine.symmetric(values, per_channel=False)
    assert whole.scale.tolist() == [[2]]
    assert whole.levels.tolist() == [[1, 0, 0], [2, -127, 2]]


def test_symmetric_of_four_bits_by_hand() -> None:
    """−7 … 7: max 14 makes steps of 2."""
    rounded = affine.symmetric(np.float32([[14, -5.2, 1, -14]]), bits=4)
    assert rounded.levels.tolist() == [[7, -3, 0, -7]]


def test_affine_by_hand() -> None:
    """[−1, 4.1]: steps of .02, zero at 50. [2, 5.1] is widened down to 0. Two bits of [0, 3]: 0 to 3."""
    rounded = affine.affine(np.float32([-1, 0, 0.031, 4.1]))
    assert rounded.zero_point.item() == 50
    assert rounded.scale.item() == pytest.approx(0.02, rel=1e-6)
    assert rounded.levels.tolist() == [0, 50, 52, 255]  # .031 / .02 = 1.55 → 2
    assert affine.affine(np.float32([2, 5.1])).zero_point.item() == 0
    assert affine.affine(np.float32([0, 1, 2, 3]), bits=2).levels.tolist() == [0, 1, 2, 3]


def test_affine_within_a_range_and_per_channel_by_hand() -> None:
    within = affine.affine(np.float32([-9, 1, 99]), between=(0, 2.55))
    assert within.levels.tolist() == [0, 100, 255]
    rows = affine.affine(np.float32([[0, 255], [-255, 0]]), per_channel=True)
    assert rows.levels.tolist() == [[0, 255], [0, 255]]
    assert rows.zero_point.ravel().tolist() == [0, 255]
    np.testing.assert_array_equal(rows.values(), [[0, 255], [-255, 0]])


@settings(deadline=None)
@given(some_values, st.sampled_from(BITS), st.booleans())
def test_rounding_moves_a_value_half_a_step_and_zero_not_at_all(
    values: Array, bits: int, per_channel: bool
) -> None:
    """Affine: another half for the shift that puts zero on the grid."""
    for rounded, most in (
        (affine.symmetric(values, bits=bits, per_channel=per_channel), 0.501),
        (affine.affine(values, bits=bits, per_channel=per_channel), 1.001),
    ):
        assert (np.abs(rounded.values() - values) <= rounded.scale * most + 1e-30).all()
        assert (rounded.values()[values == 0] == 0).all()
        if per_channel:
            assert rounded.scale.shape == (len(values), 1)


@settings(deadline=None)
@given(some_values)
def test_the_arrays_grid_is_the_models(values: Array) -> None:
    """Of 8 bits per channel: what compress/quantize rounds weights to."""
    grid = quantize.weight_grid(torch.tensor(values), None, torch.tensor(1.0))
    rounded = affine.symmetric(values)
    np.testing.assert_array_equal(quantize.to_steps(torch.tensor(values), grid).numpy(), rounded.levels)


# --- the min-max rule ----------------------------------------------------------------------------------------


def test_the_min_max_rule_by_hand() -> None:
    """b = 2: (v + 1) / 3 · 3 = v + 1. b = 3 on [0, 14]: v / 2, halves to even. b = 8 on [0, 255]: v."""
    assert affine.min_max(np.float32([-1, -0.4, 0.6, 2]), 2).levels.tolist() == [0, 1, 2, 3]
    assert affine.min_max(np.float32([0, 1, 3, 14]), 3).levels.tolist() == [0, 0, 2, 7]
    assert affine.min_max(np.float32([255, 3, 0]), 8).levels.tolist() == [255, 3, 0]
    # and back: 2 + 1/3 · (8 − 2) = 4
    assert affine.MinMax(np.uint8([0, 1, 3]), 2.0, 8.0, 2).values().tolist() == [2, 4, 8]


@settings(deadline=None)
@given(some_values, st.sampled_from(BITS))
def test_the_min_max_inverse_is_within_half_a_step_and_keeps_the_ends(values: Array, bits: int) -> None:
    rule = affine.min_max(values, bits)
    step = (float(values.max()) - float(values.min())) / (2**bits - 1)
    back = rule.values()
    assert (np.abs(back - values) <= step * 0.5001 + np.abs(values) * 1e-6).all()
    assert back.min() == values.min()
    assert back.max() == values.max()
    again = affine.min_max(back, bits)
    np.testing.assert_array_equal(again.levels, rule.levels)


def test_an_array_of_one_value() -> None:
    rule = affine.min_max(np.full(3, 7.5, np.float32), 4)
    assert rule.levels.tolist() == [0, 0, 0]
    assert rule.values().tolist() == [7.5, 7.5, 7.5]


# --- packing -------------------------------------------------------------------------------------------------


def test_packing_by_hand() -> None:
    """3 bits, low first: 1 + 2·8 + 3·64 = 209 for 1, 2, 3 (its lowest two bits), then 4 from bit 9: 4 · 2 = 8."""
    assert affine.pack(np.array([1, 2, 3, 4]), 3) == bytes([209, 8])
    assert affine.pack(np.array([[15, 1], [0, 9]]), 4) == bytes([0x1F, 0x90])
    assert affine.pack(np.array([3, 0, 1, 2, 1]), 2) == bytes([0b10_01_00_11, 1])
    assert affine.pack(np.array([200, 7]), 8) == bytes([200, 7])
    assert affine.pack(np.zeros(0, np.uint8), 5) == b""


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 70), st.integers(0, 2**32))
def test_packing_is_undone_and_takes_exactly_the_bits(bits: int, count: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 2**bits, count)
    payload = affine.pack(levels, bits)
    assert len(payload) == (count * bits + 7) // 8 == affine.packed_bytes(count, bits)
    np.testing.assert_array_equal(affine.unpack(payload, bits, (count,)), levels)


def test_bytes_that_packing_does_not_write_are_refused() -> None:
    for payload in (b"", b"\0", b"\0\0\0", b"\0\x10"):
        with pytest.raises(CodecError, match="payload"):
            affine.unpack(payload, 3, (2, 2))


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 32, 4.0, True])
def test_bits_outside_two_to_eight_are_refused(bits: int) -> None:
    values = np.float32([[1, 2]])
    for rule in (affine.symmetric, affine.affine, affine.min_max):
        with pytest.raises(SettingsError, match="bits"):
            rule(values, bits=bits)
    if bits != 1:
        with pytest.raises(SettingsError, match="bits"):
            affine.pack(np.zeros(1, np.uint8), bits)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(odd: float) -> None:
    for rule in (affine.symmetric, affine.affine, affine.min_max):
        with pytest.raises(SettingsError, match="NaN or infinity"):
            rule(np.float32([[1, odd]]), bits=8)
        with pytest.raises(SettingsError, match="no values"):
            rule(np.zeros((0, 3), np.float32), bits=8)


def test_levels_that_do_not_fit_are_refused() -> None:
    for levels in ([4], [-1]):
        with pytest.raises(SettingsError, match="2 bits hold 0 to 3"):
            affine.pack(np.array(levels), 2)
