"""`ans` and `bits` undone in plain Python from docs/format.md: shares no code with fedlite, needs no NumPy."""

import struct
from collections.abc import Callable, Sequence

Tensor = tuple[
    tuple[int, ...], list[int]
]  # shape, 1 for each live weight and 0 for each pruned one, row-major
Plane = tuple[int, Sequence[Tensor] | None, int]  # bytes, whose levels they are, bytes of a level

EMPTY, CONTEXTS = 15, 29
ABSENT = 63


def need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def is_matrix(tensor: Tensor) -> bool:
    shape, live = tensor
    return len(shape) >= 2 and columns_of(shape) >= 2 and sum(live) >= 1024


def columns_of(shape: tuple[int, ...]) -> int:
    found = 1
    for each in shape[1:]:
        found *= each
    return found


class Reader:
    """One range ANS decoder of several lanes."""

    def __init__(self, data: bytes, lanes: int) -> None:
        need(len(data) >= 4 * lanes and len(data) % 2 == 0, "entropy coded bytes")
        self.states = list(struct.unpack_from(f"<{lanes}I", data))
        need(min(self.states) >= 1 << 16, "states")
        self.words = list(struct.unpack(f"<{len(data) // 2 - 2 * lanes}H", data[4 * lanes :]))[::-1]

    def run(self, count: int, table_of: Callable[[int], list[int]]) -> list[int]:
        """`count` symbols, the i-th by the frequencies table_of(i); the first is in lane 0."""
        found = []
        for i in range(count):
            lane, frequencies = i % len(self.states), table_of(i)
            slot, symbol, start = self.states[lane] & 0x7FFF, 0, 0
            while start + frequencies[symbol] <= slot:
                start += frequencies[symbol]
                symbol += 1
            state = frequencies[symbol] * (self.states[lane] >> 15) + slot - start
            if state < 1 << 16:
                need(bool(self.words), "words")
                state = state << 16 | self.words.pop()
            self.states[lane] = state
            found.append(symbol)
        return found

    def code(self, count: int, alphabet: int) -> list[int]:
        """Symbols whose frequencies are learned."""
        found, seen, size = list[int](), [0] * alphabet, 16
        while len(found) < count:
            table = shares([2 * each + 1 for each in seen], 1 << 15)
            part = self.run(min(size, count - len(found)), lambda _, table=table: table)
            for symbol in part:
                seen[symbol] += 1
            found, size = found + part, min(2 * size, 4096)
        return found

    def close(self) -> None:
        need(not self.words and set(self.states) == {1 << 16}, "end")


class Bits:
    """Bits, lowest first."""

    def __init__(self, data: bytes) -> None:
        self.number, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, width: int) -> int:
        need(width <= self.left, "raw bits")
        found = self.number & ((1 << width) - 1)
        self.number, self.left = self.number >> width, self.left - width
        return found

    def close(self) -> None:
        need(self.left < 8 and self.number == 0, "raw bits left")


def shares(weights: list[int], whole: int) -> list[int]:
    """At least 1 for each weight above 0; the first of the largest has what is over."""
    total, room = sum(weights), whole - sum(weight > 0 for weight in weights)
    found = [weight * room // total + (weight > 0) for weight in weights]
    found[weights.index(max(weights))] += whole - sum(found)
    return found


def tables(reader: Reader, used: list[int]) -> dict[int, list[int]]:
    """Tables sent ahead, by their numbers."""
    lengths = [1 + each for each in reader.code(len(used), 64)]
    parts, found = iter(reader.code(sum(lengths), 64)), {}
    for number, length in zip(used, lengths, strict=True):
        row = [next(parts) for _ in range(length)] + [ABSENT] * (64 - length)
        weights = [0 if part == ABSENT else round(2 ** (20 - part / 4)) for part in row]
        if not any(weights):
            weights[0] = 1
        found[number] = [8 * each for each in shares(weights, 4096)]
    return found


def levels(data: bytes, tensors: Sequence[Tensor], top: int) -> list[int]:
    """One level for each live weight."""
    size = sum(sum(live) for _, live in tensors)
    need(len(data) >= 8, "levels")
    count, coded = struct.unpack_from("<II", data)
    need(count <= size and 8 + coded <= len(data), "head of levels")
    lanes = 1
    while 2 * lanes * 256 <= count and lanes < 1024:
        lanes *= 2
    reader, raw = Reader(data[8 : 8 + coded], lanes), Bits(data[8 + coded :])
    cells = contexts(reader, tensors)
    counts = context_counts(reader, raw, cells, count)
    chosen = ranks(reader, raw, cells, counts)
    found = [0] * size
    for (place, _), value in zip(chosen, values(reader, raw, counts, chosen), strict=True):
        need(abs(value) <= top, "level")
        found[place] = value
    reader.close()
    raw.close()
    return found


def contexts(reader: Reader, tensors: Sequence[Tensor]) -> list[list[tuple[int, int]]]:
    """For each context of each grid in turn, its weights as (number among the live ones, sign symbol of the row)."""
    starts, place = [], 0
    for _, live in tensors:
        starts.append(place)
        place += sum(live)
    matrices = [i for i, tensor in enumerate(tensors) if is_matrix(tensor)]
    rows = reader.code(sum(tensors[i][0][0] for i in matrices), 16)
    columns = reader.code(sum(columns_of(tensors[i][0]) for i in matrices), 16)
    sent = iter(reader.code(sum(each != EMPTY for each in rows), 8))
    signs = [0 if each == EMPTY else next(sent) for each in rows]
    cells: list[list[tuple[int, int]]] = []
    row0 = column0 = 0
    for i in matrices:
        (shape, live), width, place = tensors[i], columns_of(tensors[i][0]), starts[i]
        mine: list[list[tuple[int, int]]] = [[] for _ in range(CONTEXTS)]
        for flat, alive in enumerate(live):
            row, column = row0 + flat // width, column0 + flat % width
            if alive and EMPTY not in (rows[row], columns[column]):
                mine[rows[row] + columns[column]].append((place, signs[row]))
            place += alive
        cells += mine
        row0, column0 = row0 + shape[0], column0 + width
    rest = [(starts[i] + j, 0) for i, t in enumerate(tensors) if not is_matrix(t) for j in range(sum(t[1]))]
    if any(not is_matrix(tensor) for tensor in tensors):
        cells += [rest] + [[]] * (CONTEXTS - 1)
    return cells


def context_counts(reader: Reader, raw: Bits, cells: list[list[tuple[int, int]]], count: int) -> list[int]:
    lengths = iter(reader.code(sum(bool(cell) for cell in cells), 32))
    counts = []
    for cell in cells:
        length = next(lengths) if cell else 0
        counts.append((1 << length - 1) + raw.take(length - 1) if length else 0)
        need(counts[-1] <= len(cell), "levels of a context")
    need(sum(counts) == count, "levels of all contexts")
    return counts


def ranks(
    reader: Reader, raw: Bits, cells: list[list[tuple[int, int]]], counts: list[int]
) -> list[tuple[int, int]]:
    """The weights that are not zero, context by context."""
    lengths = [
        (16 * (len(cell) - count) // max(count, 1)).bit_length()
        for cell, count in zip(cells, counts, strict=True)
    ]
    which = [i for i, count in enumerate(counts) for _ in range(count)]
    used = tables(reader, sorted({min(lengths[i], 8) for i in which}))
    gaps = reader.run(len(which), lambda i: used[min(lengths[which[i]], 8)])
    far = [place for place, gap in enumerate(gaps) if gap == 47]
    widths = [raw.take(5) for _ in far]
    for place, width in zip(far, widths, strict=True):
        gaps[place] += raw.take(width)
    found, before = [], {}
    for i, gap in zip(which, gaps, strict=True):
        cut = max(lengths[i] - 7, 0)
        rank = before.get(i, -1) + 1 + (gap << cut) + raw.take(cut)
        need(rank < len(cells[i]), "rank")
        before[i] = rank
        found.append(cells[i][rank])
    return found


def values(reader: Reader, raw: Bits, counts: list[int], chosen: list[tuple[int, int]]) -> list[int]:
    groups = iter(reader.code(sum(count > 0 for count in counts), 8))
    of_level = [group for count in counts if count for group in [next(groups)] * count]
    which = [4 * group + (sign >> 1) for group, (_, sign) in zip(of_level, chosen, strict=True)]
    used = tables(reader, sorted(set(which)))
    found = []
    for symbol, (_, sign) in zip(reader.run(len(which), lambda i: used[which[i]]), chosen, strict=True):
        half = symbol >> 1
        size = half + 1 if half < 12 else 12 + (1 << half - 12) + raw.take(half - 12)
        found.append(-size if (symbol ^ sign) & 1 else size)
    return found


def ans(data: bytes, planes: Sequence[Plane]) -> bytes:
    found, place = b"", 0
    for size, tensors, width in planes:
        need(place < len(data) and data[place] < 2, "way")
        coded, place = data[place] == 1, place + 1
        length = size
        if coded:
            length, place = struct.unpack_from("<I", data, place)[0], place + 4
        need(place + length <= len(data) and (not coded or length + 4 < size), "plane")
        part, place = data[place : place + length], place + length
        if coded and tensors is not None:
            part = struct.pack(
                f"<{size // width}{' bh'[width]}", *levels(part, tensors, 127 if width == 1 else 32767)
            )
        elif coded:
            lanes = 1
            while 2 * lanes * 16384 <= size and lanes < 1024:
                lanes *= 2
            reader = Reader(part, lanes)
            part = bytes(reader.code(size, 256))
            reader.close()
        found += part
    need(place == len(data), "rest")
    return found


def bits(data: bytes, planes: Sequence[Plane]) -> bytes:
    found, place = b"", 0
    for size, tensors, width in planes:
        if tensors is None:
            part, place = data[place : place + size], place + size
            need(len(part) == size, "plane")
            found += part
            continue
        each, count, place = data[place], size // width, place + 1
        length = (count * each + 7) // 8
        need(each != 1 and each <= 8 * width and place + length <= len(data), "width")
        raw, place = Bits(data[place : place + length]), place + length
        codes = [raw.take(each) for _ in range(count)]
        raw.close()
        signed = [code - (1 << each) if each and code >> each - 1 else code for code in codes]
        most = max(map(abs, signed), default=0)
        need(each == (most.bit_length() + 1 if most else 0), "least width")
        found += struct.pack(f"<{count}{' bh'[width]}", *signed)
    need(place == len(data), "rest")
    return found
