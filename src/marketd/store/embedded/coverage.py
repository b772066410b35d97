"""Which bars exist, one bit each, kept at ingest and beside every sealed file: what `presence` is answered from.

Slots are numbered from the epoch (from the first Monday for weeks); `BLOCK_SLOTS` of them are a *block*. A set of bits
is kept only for a (symbol, interval, side, block) that has a bar. A bit says that the slot has a row, of any status;
a second set, mostly empty, says where some key's last version is a withdrawal: only there rows must be read.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.model import INTERVALS
from marketd.store.batch import STATUSES
from marketd.store.embedded.columns import I64, Columns, Mask

__all__ = ["BLOCK_BYTES", "BLOCK_SLOTS", "WITHDRAWN", "Blocks", "Grid", "HotCoverage"]

Bits = npt.NDArray[np.uint8]

BLOCK_SLOTS = 1_440
BLOCK_BYTES = BLOCK_SLOTS // 8
WITHDRAWN = STATUSES.index("withdrawn")

_BLOCK_BITS = 24
_SPARSE = 64
_LENGTHS = np.array([i.ns for i in INTERVALS], np.int64)
_OFFSETS = np.array([i.offset_ns for i in INTERVALS], np.int64)


def _slots(rows: Columns) -> I64:
    interval = rows.interval
    if len(interval) and (interval == interval[0]).all():
        code = int(interval[0])
        slots: I64 = (rows.ts - _OFFSETS[code]) // _LENGTHS[code]
    else:
        slots = (rows.ts - _OFFSETS[interval]) // _LENGTHS[interval]
    return slots


def _block_keys(groups: I64, blocks: I64) -> I64:
    """One number for a (symbol, interval, side) and a block; ascending with the block."""
    keys: I64 = (groups << _BLOCK_BITS) + (blocks + (1 << (_BLOCK_BITS - 1)))
    return keys


def _gathered(keys: I64, slots: I64) -> tuple[I64, I64, Bits]:
    """Bits of rows, those of one byte put together where they follow one another: where each starts, byte, bits."""
    byte_of_slot = slots % BLOCK_SLOTS // 8
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:] != keys[:-1]) | (byte_of_slot[1:] != byte_of_slot[:-1])
    starts = np.flatnonzero(new)
    bits = np.left_shift(1, slots % 8).astype(np.uint8)
    return starts, byte_of_slot[starts], np.bitwise_or.reduceat(bits, starts) if len(starts) else bits


class Blocks:
    """Sets of bits of one sealed file. Immutable.

    groups: int64 (n,), `Columns.group`. blocks: int64 (n,). rows: int64 (n,), rows of the file in that block.
    bits: uint8 (n, BLOCK_BYTES). withdrawn: the same, or None if there are none.
    """

    __slots__ = ("_keys", "_order", "bits", "blocks", "groups", "rows", "withdrawn")

    def __init__(self, groups: I64, blocks: I64, rows: I64, bits: Bits, withdrawn: Bits | None) -> None:
        self.groups = groups
        self.blocks = blocks
        self.rows = rows
        self.bits = bits
        self.withdrawn = withdrawn
        keys = _block_keys(groups, blocks)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    @classmethod
    def of(cls, rows: Columns) -> Blocks:
        """Of rows that are ordered by (group, ts) in any order of groups, and by as_of within a key."""
        slots = _slots(rows)
        groups, blocks = rows.group, slots // BLOCK_SLOTS
        keys = _block_keys(groups, blocks)
        begins = np.ones(len(keys), np.bool_)
        begins[1:] = keys[1:] != keys[:-1]
        firsts = np.flatnonzero(begins)
        block_of_row = np.cumsum(begins) - 1
        counts = np.diff(np.append(firsts, len(keys)))
        bits = _scatter(len(firsts), block_of_row, slots)
        withdrawn = None
        gone = np.flatnonzero(rows.status == WITHDRAWN)
        if len(gone):
            gone = gone[_is_last_version(rows, gone)]
            withdrawn = _scatter(len(firsts), block_of_row[gone], slots[gone]) if len(gone) else None
        return cls(groups[firsts], blocks[firsts], counts.astype(np.int64), bits, withdrawn)

    @property
    def nbytes(self) -> int:
        held = (self.groups, self.blocks, self.rows, self.bits, self.withdrawn, self._keys, self._order)
        return sum(array.nbytes for array in held if array is not None)

    def doubtful_groups(self) -> I64:
        """The groups of which the file has more than one row somewhere, or a withdrawal: where one must choose."""
        several = np.bitwise_count(self.bits).sum(axis=1) != self.rows
        if self.withdrawn is not None:
            several |= self.withdrawn.any(axis=1)
        return np.unique(self.groups[several])

    def has(self, rows: Columns) -> Mask:
        """Of each row, whether the file can have one of its symbol, interval, side and ts."""
        found = np.zeros(len(rows), np.bool_)
        if not len(self._keys):
            return found
        slots = _slots(rows)
        keys = _block_keys(rows.group, slots // BLOCK_SLOTS)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        hit = np.flatnonzero(self._keys[at] == keys)
        line, slot = self._order[at[hit]], slots[hit]
        found[hit] = (self.bits[line, slot % BLOCK_SLOTS // 8] >> (slot % 8).astype(np.uint8)) & 1
        return found


def _by_place(place: I64) -> list[Any]:
    """The rows of each place. Most often all are of one."""
    if (place == place[0]).all():
        return [slice(None)]
    changes = np.flatnonzero(np.diff(place)) + 1
    if (np.diff(place) >= 0).all():
        edges = [0, *changes.tolist(), len(place)]
        return [slice(start, stop) for start, stop in pairwise(edges)]
    order = np.argsort(place, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(place[order])) + 1)


def _scatter(count: int, lines: I64, slots: I64) -> Bits:
    bits = np.zeros((count, BLOCK_BYTES), np.uint8)
    starts, byte, value = _gathered(lines, slots)
    np.bitwise_or.at(bits, (lines[starts], byte), value)
    return bits


def _is_last_version(rows: Columns, at: I64) -> Mask:
    """Whether each of these rows is the last of its key in `rows`. Few rows, so it may sort them all."""
    order = np.lexsort((rows.as_of, rows.ts, rows.series))
    last = np.empty(len(rows), np.bool_)
    last[order] = rows.take(order).last_of_key()
    answer: Mask = last[at]
    return answer


class HotCoverage:
    """Bits of the rows in memory: a matrix of symbols for each (interval, side, block) that has a bar.

    Written by the one thread that appends, read by any: a reader that races sees a bar or does not.
    """

    def __init__(self) -> None:
        self.bits: dict[tuple[int, int], Bits] = {}
        self.withdrawn: dict[tuple[int, int], Bits] = {}
        self._symbols: dict[int, Mask] = {}

    def has(self, symbol: int, kind: int) -> bool:
        """Whether there is any bar of a symbol, interval and side."""
        seen = self._symbols.get(kind)
        return seen is not None and symbol < len(seen) and bool(seen[symbol])

    def known(self, rows: Columns) -> Mask:
        """Of each row, whether there can be one of its symbol, interval, side and ts."""
        known = np.zeros(len(rows), np.bool_)
        if not len(rows) or not self.bits:
            return known
        group = rows.group
        if (group == group[0]).all() and not self.has(int(group[0]) >> 7, int(group[0]) & 127):
            return known  # history of a symbol that is new here
        slots = _slots(rows)
        symbol, kind, block = rows.symbol, rows.kind, slots // BLOCK_SLOTS
        byte, bit = slots % BLOCK_SLOTS // 8, (slots % 8).astype(np.uint8)
        for part in _by_place(kind + (block << 8)):
            matrix = self.bits.get((int(kind[part][0]), int(block[part][0])))
            if matrix is not None:
                at = symbol[part]
                inside = at < len(matrix)
                held = matrix[np.where(inside, at, 0), byte[part]] >> bit[part]
                known[part] = inside & (held & 1).astype(np.bool_)
        return known

    def mark(self, rows: Columns) -> None:
        """Set the bits of rows that are in the order `by_version`."""
        self._set(self.bits, rows)
        gone = np.flatnonzero(rows.status == WITHDRAWN)
        if len(gone):
            self._set(self.withdrawn, rows.take(gone))

    def _set(self, matrices: dict[tuple[int, int], Bits], rows: Columns) -> None:
        if not len(rows):
            return
        slots = _slots(rows)
        if self._set_one(matrices, rows, slots):
            return
        starts, byte, value = _gathered(_block_keys(rows.group, slots // BLOCK_SLOTS), slots)
        symbol, kind, block = rows.symbol[starts], rows.kind[starts], slots[starts] // BLOCK_SLOTS
        one_provider = bool((rows.provider == rows.provider[0]).all())
        for part in _by_place(kind + (block << 8)):
            at, byte_at = symbol[part], byte[part]
            self._note(int(kind[part][0]), at)
            matrix = self._matrix(matrices, int(kind[part][0]), int(block[part][0]), int(at.max()))
            if one_provider:  # then no byte occurs twice
                matrix[at, byte_at] |= value[part]
            else:
                np.bitwise_or.at(matrix, (at, byte_at), value[part])

    def _set_one(self, matrices: dict[tuple[int, int], Bits], rows: Columns, slots: I64) -> bool:
        """The same for many bars of one symbol, which is history. False if they are not that, and nothing was done."""
        first, group = int(slots[0]) // BLOCK_SLOTS, int(rows.group[0])
        span = (int(slots[-1]) // BLOCK_SLOTS + 1 - first) * BLOCK_SLOTS
        series = rows.series
        if not (len(rows) >= BLOCK_SLOTS and 0 < span <= _SPARSE * len(rows) and (series == series[0]).all()):
            return False
        self._note(group & 127, rows.symbol[:1])
        marks = np.zeros(span, np.bool_)
        marks[slots - first * BLOCK_SLOTS] = True
        bits = np.packbits(marks, bitorder="little").reshape(-1, BLOCK_BYTES)
        for block in np.flatnonzero(bits.any(axis=1)).tolist():
            matrix = self._matrix(matrices, group & 127, first + block, group >> 7)
            matrix[group >> 7] |= bits[block]
        return True

    def _note(self, kind: int, symbols: I64) -> None:
        """Remember that there are bars of these symbols."""
        seen = self._symbols.get(kind)
        most = int(symbols.max())
        if seen is None or len(seen) <= most:
            grown = np.zeros(most + 64 + most // 2, np.bool_)
            if seen is not None:
                grown[: len(seen)] = seen
            self._symbols[kind] = seen = grown
        seen[symbols] = True

    def _matrix(self, matrices: dict[tuple[int, int], Bits], kind: int, block: int, symbol: int) -> Bits:
        """The bits of a block, with room for symbols up to this one."""
        matrix = matrices.get((kind, block))
        if matrix is None or len(matrix) <= symbol:
            grown = np.zeros((max(64, symbol + 1 + symbol // 2), BLOCK_BYTES), np.uint8)
            if matrix is not None:
                grown[: len(matrix)] = matrix
            matrices[kind, block] = matrix = grown
        return matrix


class Grid:
    """The bits of some symbols over some slots, put together from many places.

    symbols: their numbers, -1 for one that has none. kind: interval and side.
    """

    def __init__(self, symbols: I64, kind: int, interval: int, start_ns: int, slots: int) -> None:
        self._kind = kind
        self._slots = slots
        first = (start_ns - int(_OFFSETS[interval])) // int(_LENGTHS[interval])
        self._first_block = first // BLOCK_SLOTS
        self._skip = first - self._first_block * BLOCK_SLOTS
        self._blocks = max(1, -(-(self._skip + slots) // BLOCK_SLOTS))
        self._symbols = symbols
        known = np.flatnonzero(symbols >= 0)
        self._line = np.full(int(symbols.max(initial=-1)) + 1, -1, np.int64)
        self._line[symbols[known]] = known
        self._bits = np.zeros((len(symbols), self._blocks * BLOCK_BYTES), np.uint8)
        self._withdrawn: Bits | None = None

    def add_hot(self, hot: HotCoverage) -> None:
        for (kind, block), matrix in list(hot.bits.items()):
            if kind == self._kind:
                self._add_matrix(self._bits, block, matrix)
        for (kind, block), matrix in list(hot.withdrawn.items()):
            if kind == self._kind:
                self._add_matrix(self._taken_back(), block, matrix)

    def _add_matrix(self, target: Bits, block: int, matrix: Bits) -> None:
        column = block - self._first_block
        if not 0 <= column < self._blocks:
            return
        lines = np.flatnonzero((self._symbols >= 0) & (self._symbols < len(matrix)))
        target[lines, column * BLOCK_BYTES : (column + 1) * BLOCK_BYTES] |= matrix[self._symbols[lines]]

    def add_sealed(self, sealed: Blocks) -> None:
        column = sealed.blocks - self._first_block
        symbol = sealed.groups >> 7
        wanted = (sealed.groups & 127) == self._kind
        wanted &= (column >= 0) & (column < self._blocks) & (symbol < len(self._line))
        at = np.flatnonzero(wanted)
        at = at[self._line[symbol[at]] >= 0]
        if not len(at):
            return
        lines, columns = self._line[symbol[at]], column[at]
        self._bits.reshape(len(self._bits), self._blocks, BLOCK_BYTES)[lines, columns] |= sealed.bits[at]
        if sealed.withdrawn is not None:
            target = self._taken_back().reshape(len(self._bits), self._blocks, BLOCK_BYTES)
            target[lines, columns] |= sealed.withdrawn[at]

    def _taken_back(self) -> Bits:
        if self._withdrawn is None:
            self._withdrawn = np.zeros_like(self._bits)
        return self._withdrawn

    def doubtful(self) -> list[tuple[int, I64]]:
        """Line and slots (from the first one) where a withdrawal was seen, so that rows must decide."""
        if self._withdrawn is None:
            return []
        bits = self._cut(self._withdrawn)
        answer = []
        for line in np.flatnonzero(bits.any(axis=1)).tolist():
            slots = np.flatnonzero(np.unpackbits(bits[line], count=self._slots, bitorder="little"))
            answer.append((int(line), slots.astype(np.int64)))
        return answer

    def bits(self) -> Bits:
        """uint8 (symbols, bytes), as in `Presence`; the caller's to change."""
        return self._cut(self._bits)

    def _cut(self, bits: Bits) -> Bits:
        count = -(-self._slots // 8)
        byte, shift = divmod(self._skip, 8)
        cut: Bits
        if shift == 0:
            cut = bits[:, byte : byte + count].copy()
        else:
            cut = bits[:, byte : byte + count] >> np.uint8(shift)
            above = bits[:, byte + 1 : byte + 1 + count]
            cut[:, : above.shape[1]] |= above << np.uint8(8 - shift)
        if self._slots % 8:
            cut[:, -1] &= (1 << self._slots % 8) - 1
        return cut
