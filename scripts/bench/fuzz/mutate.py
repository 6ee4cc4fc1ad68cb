"""Ways to spoil bytes, from one flipped bit to a splice of two payloads; many of them at once."""

from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[Random, bytearray, Sequence[bytes]], None]

_WIDTHS = (1, 2, 4, 8)
_EDGES = (
    0,
    1,
    -1,
    0x7F,
    0x80,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 62,
    (1 << 64) - 1,
)
_MOST = 1 << 16  # bytes that one mutation adds


def mutate(rng: Random, payload: bytes, others: Sequence[bytes]) -> bytes:
    """One to six mutations of a payload, mostly few; `others` are what it is spliced with."""
    data = bytearray(payload)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(MUTATIONS)(rng, data, others)
    return bytes(data)


def _place(rng: Random, data: bytearray) -> int:
    """Anywhere, but half of the time near the front, where headers are."""
    return rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data)) if data else 0


def flip_bit(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def set_byte(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def set_number(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """A number of 1 to 8 bytes at an edge of its range, or a little off what was there: counts and lengths."""
    width = rng.choice(_WIDTHS)
    if len(data) < width:
        return
    place, order = rng.randrange(min(len(data) - width + 1, 256)), rng.choice(("little", "big"))
    if rng.random() < 0.5:
        place = rng.randrange(len(data) - width + 1)
    old = int.from_bytes(data[place : place + width], order)
    new = rng.choice((rng.choice(_EDGES), old + rng.randrange(-8, 9), old << 1, rng.getrandbits(8 * width)))
    data[place : place + width] = (new % (1 << 8 * width)).to_bytes(width, order)


def cut_tail(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def cut_inside(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    begin = _place(rng, data)
    del data[begin : begin + rng.choice((1, 2, 4, rng.randrange(64)))]


def insert(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    count = rng.choice((1, 2, 4, 16, rng.randrange(256)))
    filled = bytes([rng.randrange(256)]) * count if rng.random() < 0.5 else rng.randbytes(count)
    data[(place := _place(rng, data)) : place] = filled


def append(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    count = rng.choice((1, 4, 64, rng.randrange(4096), _MOST if rng.random() < 0.01 else 8))
    data += bytes(count) if rng.random() < 0.5 else rng.randbytes(count)


def repeat(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    begin, count = _place(rng, data), rng.randrange(1, 64)
    data[begin:begin] = data[begin : begin + count] * rng.randrange(1, 4)


def splice(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """The front of this and the back of another, cut at one place or at two."""
    other = rng.choice(others)
    place = _place(rng, data)
    at = place if rng.random() < 0.7 else rng.randrange(len(other) + 1)
    data[place:] = other[at:]


def paste(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """A run of another in the place of its own."""
    other = rng.choice(others)
    begin = rng.randrange(len(other) + 1)
    run = other[begin : begin + rng.randrange(1, 64)]
    data[begin : begin + len(run)] = run


def blank(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    begin = _place(rng, data)
    run = len(data[begin : begin + rng.randrange(1, 64)])
    data[begin : begin + run] = (
        rng.randbytes(run) if rng.random() < 0.5 else bytes([rng.choice((0, 255))]) * run
    )


def shuffle(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """Everything behind a place is drawn."""
    place = _place(rng, data)
    data[place:] = rng.randbytes(len(data) - place)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bit, flip_bit, set_byte, set_byte, set_number, set_number, cut_tail, cut_inside, insert, append, repeat,
    splice, paste, blank, shuffle,
)  # fmt: skip
