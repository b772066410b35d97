"""One symbol's trades without holes: ids are consecutive, so a lost trade is noticed. Pure.

Trades that come while a hole is being filled are held, so that all are released in the order of their ids. Who fetches
what is missing is `marketd.sources.refill`.
"""

from __future__ import annotations

from collections.abc import Sequence

from marketd.model import Trade

__all__ = ["TradeSequence"]


class TradeSequence:
    """last_id: every trade up to it was released or given up; None before the first is known.

    missing: ids that are waited for, None while there are none. Whoever fetches them calls `fill`.
    held: trades that wait for `missing`.
    """

    def __init__(self) -> None:
        self.last_id: int | None = None
        self.missing: range | None = None
        self.held: list[Trade] = []
        self._beat_id: int | None = None

    def trade(self, trade: Trade) -> list[Trade]:
        """A trade came. Returns those that may go on now: it, or none if it has to wait for `missing`."""
        if self.missing is not None:
            self.held.append(trade)
            return []
        return self._release([trade])

    def anchor(self, trade_id: int) -> None:
        """The provider says that this trade is the newest, and that trades after it will be sent.

        A lower id than the last is taken as the new beginning: the exchange's word counts.
        """
        if self.last_id is None or (trade_id < self.last_id and self.missing is None):
            self.last_id = trade_id
        else:
            self.expect(trade_id)

    def heartbeat(self, trade_id: int) -> None:
        """A heartbeat named this trade as the newest.

        It may overtake the trade itself on the exchange's side, so it counts when the next heartbeat comes.
        """
        due_id, self._beat_id = self._beat_id, trade_id
        if self.last_id is None:
            self.last_id = trade_id
        elif due_id is not None:
            self.expect(due_id)

    def expect(self, trade_id: int) -> None:
        """Trades up to this one exist, and those of them that did not come will not.

        Says nothing while a hole is known: the trades after it are held and will show the next.
        """
        if self.missing is None and self.last_id is not None and trade_id > self.last_id:
            self.missing = range(self.last_id + 1, trade_id + 1)

    def fill(self, trades: Sequence[Trade]) -> tuple[list[Trade], list[range]]:
        """What could be fetched of `missing`. Returns the trades that may go on now and the ids given up.

        Afterwards `missing` may be set anew: there can be another hole among the trades that were held.
        """
        assert self.missing is not None, "nothing is missing"
        found = {trade.trade_id: trade for trade in trades if trade.trade_id in self.missing}
        given_up: list[range] = []
        next_id = self.missing.start
        for trade_id in [*sorted(i for i in found if i is not None), self.missing.stop]:
            if trade_id > next_id:
                given_up.append(range(next_id, trade_id))
            next_id = trade_id + 1
        released = [found[trade_id] for trade_id in sorted(i for i in found if i is not None)]
        self.last_id = self.missing.stop - 1
        held, self.held, self.missing = self.held, [], None
        return released + self._release(held), given_up

    def disconnected(self) -> None:
        """The connection is lost. What was held is dropped and will be found missing by the next trade or `anchor`."""
        self.missing = None
        self.held = []
        self._beat_id = None

    def _release(self, trades: list[Trade]) -> list[Trade]:
        for position, trade in enumerate(trades):
            trade_id = trade.trade_id
            assert trade_id is not None, "these trades are numbered"
            if self.last_id is not None and trade_id > self.last_id + 1:
                self.missing = range(self.last_id + 1, trade_id)
                self.held = trades[position:]
                return trades[:position]
            # an older id is a repetition, or fills a hole that was given up: not for us to judge
            self.last_id = trade_id if self.last_id is None else max(self.last_id, trade_id)
        return trades
