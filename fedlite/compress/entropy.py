"""Lossless coding of small alphabets close to their entropy: range ANS in interleaved lanes, in NumPy alone.

`encode` and `decode` are for one array. A format with models of its own writes through a `Writer` and reads through a
`Reader`; both have the same two methods, so one function that asks a `Coder` describes the model in both directions.

A payload: a uint32 state per lane, then uint16 words, all little-endian. How many lanes there are follows from the
number of symbols (`lanes_for`), which both sides know. Every lane begins coding, and must end decoding, in the state
2^16, with no word left over: damage is found in all but about one of 2^16 cases per lane, and never costs more memory
than the symbols that were asked for. (Duda 2014, "Asymmetric numeral systems", arXiv:1311.2540, §3; interleaved as
Giesen 2014, "Interleaved entropy coders", arXiv:1402.3392)
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import CodecError, SettingsError

Ints = NDArray[np.int64]
States = NDArray[np.uint32]

SCALE_BITS = 15
SCALE = 1 << SCALE_BITS  # frequencies of one symbol's alternatives sum to this
MIXED_UNIT = 8  # of frequencies in many tables at once: so they are looked up fast
LARGEST_ALPHABET = 1 << 12
_LOW, _SHIFT = np.uint32(1 << 16), np.uint32(16)  # states are in [2^16, 2^32); words have 16 bits
_ALL, _BITS, _SLOT = np.uint32(SCALE), np.uint32(SCALE_BITS), np.uint32(SCALE - 1)
_UNIT, _FREQUENCY = np.uint32(MIXED_UNIT.bit_length() - 1), np.uint32(0xFFFF)
_MOST_LANES = 1 << 10
_STEPS = 1 << 14  # of one lane before there are two
_FIRST_BLOCK, _LAST_BLOCK = 16, 4096  # symbols coded before the frequencies are counted again


class Coder(Protocol):
    """One direction of coding. What is passed in is coded by a Writer, ignored by a Reader; both return it."""

    def bits(self, zeros: Ints, values: NDArray[Any] | None) -> NDArray[np.bool_]:
        """Bits, each 0 with probability zeros/SCALE, zeros in 1 … SCALE − 1."""

    def symbols(self, frequencies: Ints, count: int, values: NDArray[Any] | None) -> Ints:
        """`count` symbols s, each of probability frequencies[s]/SCALE; frequencies ≥ 1 and sum to SCALE."""

    def mixed(self, tables: Ints) -> "Mixed":
        """Symbols of many tables at once, in runs: see `Mixed`."""


class Mixed(Protocol):
    """A run of symbols s, the i-th of probability tables[which[i], s]/SCALE: multiples of MIXED_UNIT that sum to SCALE.

    All runs but the last are multiples of the coder's lanes long.
    """

    def __call__(self, which: Ints, values: NDArray[Any] | None) -> Ints: ...  # noqa: D102


class Writer:
    """Collects symbols and their probabilities; `finish` makes the payload in that many lanes."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._blocks: list[tuple[States, States]] = []  # (frequency, start) of each symbol

    def bits(self, zeros: Ints, values: NDArray[Any] | None) -> NDArray[np.bool_]:
        """As Coder.bits."""
        bits, first = np.asarray(values, np.bool_), zeros.astype(np.uint32)
        self._blocks.append((np.where(bits, _ALL - first, first), first * bits))
        return bits

    def symbols(self, frequencies: Ints, count: int, values: NDArray[Any] | None) -> Ints:
        """As Coder.symbols."""
        found = np.asarray(values, np.int64)
        of, starts = _spans(frequencies)
        self._blocks.append((of[found], starts[found]))
        return found

    @property
    def cost_bits(self) -> float:
        """The bits of what was collected: −Σ log2 of its probabilities."""
        return float(sum((SCALE_BITS - np.log2(each)).sum() for each, _ in self._blocks))

    def mixed(self, tables: Ints) -> Mixed:
        """As Coder.mixed."""
        frequencies, starts = _spans(tables)

        def run(which: Ints, values: NDArray[Any] | None) -> Ints:
            found = np.asarray(values, np.int64)
            place = which * tables.shape[1] + found
            self._blocks.append((frequencies[place], starts[place]))
            return found

        return run

    def finish(self) -> bytes:
        """The payload of all blocks, in order."""
        states, words = np.full(self._lanes, _LOW, np.uint32), [np.zeros(0, np.uint32)]
        for frequencies, starts in reversed(self._blocks):
            _push(states, frequencies, starts, words)
        tail = np.concatenate(words[::-1])  # of which the lower halves count
        return states.astype("<u4", copy=False).tobytes() + tail.astype("<u2").tobytes()


def _spans(tables: Ints) -> tuple[States, States]:
    """(frequency, start) of each symbol, numbered through all tables; their last axis is a table's."""
    starts = np.cumsum(tables, axis=-1) - tables
    return tables.ravel().astype(np.uint32), starts.ravel().astype(np.uint32)


def _push(states: States, frequencies: States, starts: States, words: list[States]) -> None:
    """Code one block, last symbol first; symbol i is in lane i mod lanes, which change in place."""
    lanes, rest = len(states), _ALL - frequencies
    most = (frequencies << np.uint32(32 - SCALE_BITS)) - np.uint32(1)  # of a state that needs no word; wraps
    for begin in range((len(frequencies) - 1) // lanes * lanes, -1, -lanes):
        part = slice(begin, begin + lanes)
        some = frequencies[part]
        state = states[: len(some)]
        full = state > most[part]
        words.append(state[full])
        np.copyto(state, state >> _SHIFT, where=full)
        more = state // some
        more *= rest[part]
        more += starts[part]
        state += more


class Reader:
    """Reads what a Writer wrote; CodecError as soon as the payload cannot be that. Call `close` at the end."""

    def __init__(self, payload: bytes | memoryview, lanes: int) -> None:
        begin = 4 * lanes
        if len(payload) < begin or len(payload) % 2:
            raise CodecError(f"{len(payload)} bytes are no entropy coded payload of {lanes} lanes")
        self._states = np.frombuffer(payload[:begin], "<u4").astype(np.uint32)
        self._words = np.frombuffer(payload, "<u2", offset=begin)
        self._place = 0
        self._more = np.zeros(lanes, np.uint32)
        if (self._states < _LOW).any():
            raise CodecError("an entropy coded payload begins in a state that none ends in")

    def bits(self, zeros: Ints, values: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        """As Coder.bits."""
        found, lanes = np.empty(len(zeros), np.bool_), len(self._states)
        first = zeros.astype(np.uint32)
        for begin in range(0, len(zeros), lanes):
            some = first[begin : begin + lanes]
            state = self._states[: len(some)]
            slot = state & _SLOT
            ones = slot >= some
            found[begin : begin + lanes] = ones
            self._pull(state, np.where(ones, _ALL - some, some), slot - some * ones)
        return found

    def symbols(self, frequencies: Ints, count: int, values: NDArray[Any] | None = None) -> Ints:
        """As Coder.symbols."""
        found, lanes = np.empty(count, np.int64), len(self._states)
        of, starts = _spans(frequencies)
        symbol = np.repeat(np.arange(len(frequencies)), frequencies)
        for begin in range(0, count, lanes):
            state = self._states[: min(lanes, count - begin)]
            slot = state & _SLOT
            chosen = symbol[slot]
            found[begin : begin + lanes] = chosen
            self._pull(state, of[chosen], slot - starts[chosen])
        return found

    def mixed(self, tables: Ints) -> Mixed:
        """As Coder.mixed."""
        lanes, width = len(self._states), tables.shape[1]
        units = (tables // MIXED_UNIT).ravel()
        of, starts = _spans(tables)
        spans = np.repeat(of | starts << _SHIFT, units)  # by table and slot
        symbol = np.repeat((np.arange(units.size) % width).astype(np.min_scalar_type(width - 1)), units)

        def run(which: Ints, values: NDArray[Any] | None = None) -> Ints:
            found = which * (SCALE // MIXED_UNIT)
            for begin in range(0, len(which), lanes):
                place = found[begin : begin + lanes]
                state = self._states[: len(place)]
                slot = state & _SLOT
                place += slot >> _UNIT
                span = spans[place]
                slot -= span >> _SHIFT
                self._pull(state, span & _FREQUENCY, slot)
            numbers: Ints = symbol[found].astype(np.int64)
            return numbers

        return run

    def _pull(self, state: States, frequency: States, offset: States) -> None:
        """Take a decoded symbol out of each lane, in place, and refill the lanes that ran low."""
        state >>= _BITS
        state *= frequency
        state += offset
        low = state < _LOW
        needed = int(np.count_nonzero(low))
        if needed:
            words = self._words[self._place : self._place + needed]
            if len(words) < needed:
                raise CodecError(f"an entropy coded payload ends after {len(self._words)} words, too early")
            more = self._more[: len(state)]
            more[low] = words
            more |= state << _SHIFT
            np.copyto(state, more, where=low)
            self._place += needed

    def close(self) -> None:
        """CodecError unless everything was read and the lanes are back where the writer began."""
        if self._place != len(self._words) or (self._states != _LOW).any():
            left = len(self._words) - self._place
            raise CodecError(f"an entropy coded payload does not end as written: {left} words are left")


def lanes_for(count: int) -> int:
    """How many lanes code `count` symbols: a power of two; few, for a few symbols; at most 1024."""
    return min(1 << (max(count // _STEPS, 1).bit_length() - 1), _MOST_LANES)


def code(
    coder: Coder, count: int, alphabet: int, values: NDArray[Any] | None = None, dtype: Any = np.int64
) -> NDArray[Any]:
    """`count` symbols below `alphabet`, whose frequencies are learned on the way, as `dtype`.

    Those of each block are the counts in all blocks before it, plus one half each (Krichevsky and Trofimov 1981).
    """
    found, seen = np.empty(count, dtype), np.zeros(alphabet, np.int64)
    for begin, end in _growing(count):
        frequencies = normalised(2 * seen + 1)
        part = None if values is None else values[begin:end]
        found[begin:end] = coder.symbols(frequencies, end - begin, part)
        seen += np.bincount(found[begin:end], minlength=alphabet)
    return found


def normalised(weights: Ints) -> Ints:
    """Frequencies ≥ 1 that sum to SCALE, in proportion to integer weights > 0; what is over goes to the largest."""
    room = SCALE - len(weights)
    frequencies: Ints = 1 + weights * room // int(weights.sum())
    frequencies[int(np.argmax(weights))] += SCALE - int(frequencies.sum())
    return frequencies


def encode(symbols: NDArray[np.unsignedinteger[Any]], alphabet: int) -> bytes:
    """The payload of a flat array of symbols below `alphabet` ≤ 4096. SettingsError for others."""
    _check_alphabet(alphabet)
    if symbols.ndim != 1 or symbols.dtype.kind != "u":
        raise SettingsError(f"symbols are {symbols.dtype} {symbols.shape}; a flat unsigned array is wanted")
    if len(symbols) and int(symbols.max()) >= alphabet:
        raise SettingsError(f"symbol {int(symbols.max())} is not below {alphabet}")
    writer = Writer(lanes_for(len(symbols)))
    code(writer, len(symbols), alphabet, symbols)
    return writer.finish()


def decode(payload: bytes | memoryview, count: int, alphabet: int) -> NDArray[np.unsignedinteger[Any]]:
    """The `count` symbols that `encode` was given: uint8 where that holds the alphabet, else uint16.

    Memory depends on `count` and `alphabet` alone. CodecError for bytes that are cut short, too long or, but for
    chance, altered.
    """
    _check_alphabet(alphabet)
    reader = Reader(payload, lanes_for(count))
    symbols = code(reader, count, alphabet, dtype=np.uint8 if alphabet <= 256 else np.uint16)
    reader.close()
    return symbols


def _check_alphabet(alphabet: int) -> None:
    if not 1 <= alphabet <= LARGEST_ALPHABET:
        raise SettingsError(f"an alphabet of {alphabet} symbols; 1 to {LARGEST_ALPHABET} are possible")


def _growing(count: int) -> Iterator[tuple[int, int]]:
    """[begin, end) of blocks that double from _FIRST_BLOCK to _LAST_BLOCK symbols."""
    begin, size = 0, _FIRST_BLOCK
    while begin < count:
        yield begin, min(begin + size, count)
        begin, size = begin + size, min(2 * size, _LAST_BLOCK)
