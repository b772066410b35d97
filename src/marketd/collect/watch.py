"""What a live stream proves by saying nothing: minutes that were watched and had no trade.

A symbol that was subscribed on an unbroken stream throughout a minute, and has no bar of it, did not tick. That is
an answer like a provider's to a request, and is remembered as one, so that nobody asks again. Minutes that were not
watched throughout are none: they stay unexplained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.model import AnsweredSpan, Interval
from marketd.sources.contract import Subscriptions
from marketd.store.contract import Presence

__all__ = ["StreamWatch", "WatchedSource", "present_in_any"]

_MINUTE = Interval.parse("1m")
_MINUTES_BEHIND_MAX = 60


class WatchedSource(msgspec.Struct, frozen=True, kw_only=True):
    """A live source now. covered_from_ns: since when its stream is unbroken, None while it is down."""

    name: str
    covered_from_ns: int | None
    wanted: Subscriptions


class StreamWatch:
    """Turns silence into spans, minute by minute. Fed by one thread at a time.

    presence: of 1-minute bars of any side, of these symbols, for one minute: a truth value each.
    """

    def __init__(self, presence: Callable[[int, Sequence[str]], npt.NDArray[np.bool_]]) -> None:
        self._presence = presence
        self._subscribed_ns: dict[str, tuple[int, dict[str, int]]] = {}
        """By source: the version of its subscriptions, and since when each symbol is among them."""
        self._open: dict[str, list[tuple[int, int]]] = {}
        self._next_ns: int | None = None

    def observe(self, sources: Iterable[WatchedSource], now_ns: int) -> None:
        """Note the state of the sources; at least a few times a minute, and at once when one changes."""
        for source in sources:
            spans = self._open.setdefault(source.name, [])
            if source.covered_from_ns is not None:
                if spans and spans[-1][0] == source.covered_from_ns:
                    spans[-1] = (source.covered_from_ns, now_ns)
                else:
                    spans.append((source.covered_from_ns, now_ns))
            version, since = self._subscribed_ns.get(source.name, (None, {}))
            if version != source.wanted.version:
                since = {symbol: since.get(symbol, now_ns) for symbol in source.wanted.symbols}
                self._subscribed_ns[source.name] = source.wanted.version, since
        if self._next_ns is None:
            self._next_ns = _MINUTE.ceil(now_ns)

    @property
    def judged_ns(self) -> int | None:
        """Minutes that end by then were judged; None before the first."""
        return self._next_ns

    def silent_minutes(self, stored_until_ns: int, now_ns: int) -> list[AnsweredSpan]:
        """The answers that minutes ending by `stored_until_ns` gave, each minute once; consecutive ones are one span.

        stored_until_ns: up to where bars are in the store. More than an hour behind, older minutes are given up.
        """
        if self._next_ns is None:
            return []
        end_ns = _MINUTE.floor(stored_until_ns)
        start_ns = max(self._next_ns, end_ns - _MINUTES_BEHIND_MAX * _MINUTE.ns)
        found: list[AnsweredSpan] = []
        last: dict[tuple[str, str | None], int] = {}
        for minute_ns in range(start_ns, end_ns, _MINUTE.ns):
            for span in self._silent(minute_ns, now_ns):
                row = last.get((span.provider, span.symbol))
                if row is not None and found[row].end_ns == minute_ns:
                    found[row] = msgspec.structs.replace(found[row], end_ns=span.end_ns)
                else:
                    last[span.provider, span.symbol] = len(found)
                    found.append(span)
        self._next_ns = max(self._next_ns, end_ns)
        for name, spans in self._open.items():
            self._open[name] = [(start, end) for start, end in spans if end > self._next_ns] or spans[-1:]
        return found

    def _silent(self, minute_ns: int, now_ns: int) -> list[AnsweredSpan]:
        until_ns = minute_ns + _MINUTE.ns
        watching = {
            name
            for name, spans in self._open.items()
            if any(start <= minute_ns and until_ns <= end for start, end in spans)
        }
        watched = [
            (name, symbol)
            for name, (_, since) in self._subscribed_ns.items()
            if name in watching
            for symbol, since_ns in since.items()
            if since_ns <= minute_ns
        ]
        if not watched:
            return []
        present = self._presence(minute_ns, [symbol for _, symbol in watched])
        return [
            AnsweredSpan(
                symbol=watched[row][1],
                interval=_MINUTE.name,
                provider=watched[row][0],
                start_ns=minute_ns,
                end_ns=until_ns,
                reason="no_trades",
                as_of_ns=now_ns,
            )
            for row in np.flatnonzero(~present).tolist()
        ]


def present_in_any(parts: Sequence[Presence]) -> npt.NDArray[np.bool_]:
    """Of answers about the same symbols and one slot (one a side): which have a bar in any."""
    present: npt.NDArray[np.bool_] = np.logical_or.reduce([(part.bits[:, 0] & 1).astype(np.bool_) for part in parts])
    return present
