import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.compress import entropy
from fedlite.errors import CodecError, SettingsError


def entropy_bytes(symbols: np.ndarray, alphabet: int) -> float:
    """Shannon's bound for symbols drawn by their own frequencies."""
    share = np.bincount(symbols, minlength=alphabet) / len(symbols)
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum() * len(symbols) / 8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 300), st.integers(0, 2**32))
def test_round_trip(count: int, alphabet: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    symbols = random.choice(alphabet, count, p=random.dirichlet(np.full(alphabet, 0.3))).astype(np.uint16)
    payload = entropy.encode(symbols, alphabet)
    assert (entropy.decode(payload, count, alphabet) == symbols).all()
    assert entropy.encode(symbols, alphabet) == payload


@pytest.mark.parametrize(("count", "alphabet"), [(10_000, 2), (10_000, 16), (50_000, 64), (300_000, 256)])
@pytest.mark.parametrize("skew", [0.1, 1.0, 100.0])
def test_within_two_percent_of_the_entropy(count: int, alphabet: int, skew: float) -> None:
    random = np.random.default_rng(1)
    symbols = random.choice(alphabet, count, p=random.dirichlet(np.full(alphabet, skew))).astype(np.uint8)
    payload = entropy.encode(symbols, alphabet)
    lanes = entropy.lanes_for(count)
    assert len(payload) <= 1.02 * entropy_bytes(symbols, alphabet) + 4 * lanes + 16
    assert (entropy.decode(payload, count, alphabet) == symbols).all()


def test_what_is_always_the_same_costs_nothing() -> None:
    assert len(entropy.encode(np.full(10_000, 3, np.uint8), 4)) < 32
    assert len(entropy.encode(np.zeros(10_000, np.uint8), 1)) == 4


def test_equal_symbols_cost_what_the_alphabet_costs() -> None:
    symbols = np.tile(np.arange(16, dtype=np.uint8), 1000)
    assert abs(len(entropy.encode(symbols, 16)) - 8000) < 100


def test_lanes() -> None:
    assert [entropy.lanes_for(n) for n in (0, 1, 32767, 32768, 2**20, 2**40)] == [1, 1, 1, 2, 64, 1024]


def test_bits_by_their_own_probabilities() -> None:
    random = np.random.default_rng(2)
    zeros = random.integers(1, entropy.SCALE, 20_000)
    bits = random.random(20_000) * entropy.SCALE >= zeros
    writer = entropy.Writer(4)
    writer.bits(zeros, bits)
    payload = writer.finish()
    assert len(payload) == pytest.approx(writer.cost_bits / 8, abs=16)
    reader = entropy.Reader(payload, 4)
    assert (reader.bits(zeros) == bits).all()
    reader.close()


def test_truncated_extended_or_altered_payloads() -> None:
    random = np.random.default_rng(4)
    symbols = random.integers(0, 7, 400).astype(np.uint8)
    payload = entropy.encode(symbols, 7)
    for size in range(len(payload)):
        with pytest.raises(CodecError):
            entropy.decode(payload[:size], 400, 7)
    with pytest.raises(CodecError, match="1 words are left"):
        entropy.decode(payload + b"\0\0", 400, 7)
    unseen = 0
    for place in range(0, len(payload), 3):
        altered = bytearray(payload)
        altered[place] ^= 1 << random.integers(8)
        try:
            unseen += int((entropy.decode(bytes(altered), 400, 7) != symbols).any())
        except CodecError:
            continue
    assert unseen == 0  # one in 65,536 is not found


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 500), st.integers(1, 20))
def test_any_bytes_are_decoded_or_refused(payload: bytes, count: int, alphabet: int) -> None:
    try:
        symbols = entropy.decode(payload, count, alphabet)
    except CodecError:
        return
    assert len(symbols) == count
    assert (symbols < alphabet).all()


def test_refusals() -> None:
    with pytest.raises(SettingsError, match="symbol 5 is not below 5"):
        entropy.encode(np.array([1, 5], np.uint8), 5)
    with pytest.raises(SettingsError, match="flat unsigned"):
        entropy.encode(np.array([1, 5]), 6)
    for alphabet in (0, 4097):
        with pytest.raises(SettingsError, match="1 to 4096"):
            entropy.encode(np.array([0], np.uint8), alphabet)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.9])
def test_as_small_as_a_reference_coder_that_is_told_the_frequencies(share: float) -> None:
    """constriction's ANS codes with the symbols' own frequencies, which ours has to learn: 1 % and 64 bytes more."""
    symbols = np.minimum(np.random.default_rng(1).geometric(share, 50_000) - 1, 63)
    frequencies = (np.bincount(symbols, minlength=64) / len(symbols)).astype(np.float32)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(
        symbols.astype(np.int32), constriction.stream.model.Categorical(frequencies, perfect=False)
    )
    ours = entropy.encode(symbols.astype(np.uint16), 64)
    assert len(ours) <= 1.01 * coder.num_valid_bits() / 8 + 64
