"""Several files as one, by event time, a chunk at a time.

Each file is a stream of `Rows` whose key never goes back. Whatever lies before the earliest last row of the chunks
at hand cannot be preceded by anything not yet read, so it is sorted at once (stably: at equal times the files keep
their order, and each file its own) and handed on. Memory is one chunk a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from marketd.sources.replay.rows import Rows

__all__ = ["cut", "merge", "window"]


def merge(files: Sequence[Iterator[Rows]]) -> Iterator[Rows]:
    """Rows of all files ordered by (key, position of the file, position in the file)."""
    if len(files) == 1:
        yield from files[0]
        return
    heads: dict[int, Rows] = {}
    hungry = list(range(len(files)))
    while True:
        for position in hungry:
            heads.pop(position, None)
            chunk = _next_not_empty(files[position])
            if chunk is not None:
                heads[position] = chunk
        if not heads:
            return
        # The first file whose chunk ends earliest may have more rows of that very time: those of later files wait.
        first = min(heads, key=lambda position: (int(heads[position].key[-1]), position))
        limit = heads[first].key[-1]
        ready: list[Rows] = []
        for position in sorted(heads):
            chunk = heads[position]
            count = int(np.searchsorted(chunk.key, limit, side="right" if position <= first else "left"))
            if count:
                ready.append(chunk.take(slice(None, count)))
                heads[position] = chunk.take(slice(count, None))
        hungry = [position for position, chunk in heads.items() if not len(chunk.key)]
        if len(ready) == 1:
            yield ready[0]
        else:
            rows = Rows.concatenate(ready)
            yield rows.take(np.argsort(rows.key, kind="stable"))


def _next_not_empty(chunks: Iterator[Rows]) -> Rows | None:
    for chunk in chunks:
        if len(chunk.key):
            return chunk
    return None


def window(chunks: Iterable[Rows], start_ns: int | None, end_ns: int | None) -> Iterator[Rows]:
    """Only rows with start_ns <= key < end_ns; reads no further than needed."""
    for rows in chunks:
        first = 0 if start_ns is None else int(np.searchsorted(rows.key, start_ns, side="left"))
        last = len(rows.key) if end_ns is None else int(np.searchsorted(rows.key, end_ns, side="left"))
        if first < last:
            yield rows.take(slice(first, last))
        if last < len(rows.key):
            return


def cut(chunks: Iterable[Rows], rows_max: int) -> Iterator[Rows]:
    """The same rows in pieces of at most `rows_max`."""
    for rows in chunks:
        for start in range(0, len(rows.key), rows_max):
            yield rows.take(slice(start, start + rows_max))
