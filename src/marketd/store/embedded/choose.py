"""Which version of a bar a reader is given: the policy at the top of `store.contract`, a whole table at a time.

Pure. Rows may come from memory and several files, in any order, and a version may be among them twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marketd.model import ADJUSTED
from marketd.store.embedded.columns import I64, Columns, Mask, Names
from marketd.store.embedded.coverage import WITHDRAWN

__all__ = ["in_force", "in_force_at"]


def in_force(rows: Columns, names: Names, prefer: Sequence[str]) -> Columns:
    """Of rows of one symbol, interval and side the bars in force, ascending by ts."""
    if not _ascending(rows.ts):
        rows = rows.take(_chosen(rows, rows.ts, names, prefer))
    gone = rows.status == WITHDRAWN
    return rows.take(np.flatnonzero(~gone)) if gone.any() else rows


def in_force_at(rows: Columns, names: Names, prefer: Sequence[str]) -> Columns:
    """Of rows of one ts, interval and side the bars in force, ascending by symbol."""
    ranks = names.symbols.ranks()[rows.symbol]
    if len(names.symbols) < 2**16:
        ranks = ranks.astype(np.uint16)  # which sorts in linear time
    order = np.argsort(ranks, kind="stable")
    rows, ranks = rows.take(order), ranks[order]
    if not _ascending(ranks):
        rows = rows.take(_chosen(rows, ranks, names, prefer))
    gone = rows.status == WITHDRAWN
    return rows.take(np.flatnonzero(~gone)) if gone.any() else rows


def _ascending(values: I64) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _last_of(*keys: I64) -> Mask:
    last = np.zeros(len(keys[0]), np.bool_)
    last[-1:] = True
    for key in keys:
        last[:-1] |= key[1:] != key[:-1]
    return last


def _chosen(rows: Columns, places: I64, names: Names, prefer: Sequence[str]) -> I64:
    """The row that is given at each place, ascending by place; a withdrawn one if nothing else is there."""
    providers = rows.provider
    order: I64 = np.argsort(places, kind="stable")
    if _ascending(places[order]):
        return order
    order = np.lexsort((rows.as_of, providers, places))
    order = order[_last_of(places[order], providers[order])]
    order = order[rows.status[order] != WITHDRAWN]
    if _ascending(places[order]):
        return order
    codes = [names.providers.code(name) for name in prefer]
    preferred = np.array([-name.endswith(ADJUSTED) for name in names.providers.names], np.int64)
    for weight, code in enumerate(reversed(codes), 1):
        if code is not None:
            preferred[code] = weight
    provider = providers[order]
    by_name = -names.providers.ranks()[provider]
    again = np.lexsort((by_name, rows.as_of[order], preferred[provider], places[order]))
    order = order[again]
    return order[_last_of(places[order])]
