"""What OpenD remembers: bars as they were traded, and what adjusts them, by request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import MalformedMessage, OutOfRange, SymbolNotFound
from marketd.model import BAR_SCHEMA, CorporateAction, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.futu.config import FutuConfig
from marketd.sources.futu.messages import (
    HistoryAnswer,
    HistoryRequest,
    KLine,
    Proto,
    RehabAnswer,
    Security,
    SecurityOnly,
)
from marketd.sources.futu.parse import NAME, corporate_actions, kline_table
from marketd.sources.futu.requests import Requests
from marketd.sources.futu.symbols import security_of, text_of, zone_of
from marketd.sources.symbols import SymbolMap

__all__ = ["KL_TYPES", "FutuHistory", "wanted_security"]

KL_TYPES: dict[str, int] = {"1m": 1, "5m": 6, "15m": 7, "30m": 8, "1d": 2}
"""Qot_Common.KLType by interval. Longer bars within the day begin with the session, not with the hour: they are rolled
up from these."""

_RAW = 0
_EXTENDED_SESSION = 2


def wanted_security(symbols: SymbolMap, symbol: str) -> Security:
    """OpenD's of our name. Raises SymbolNotFound."""
    name = symbols.to_provider(symbol)
    security = None if name is None else security_of(name)
    if security is None:
        raise SymbolNotFound(NAME, f"{symbol} is no symbol of its markets")
    return security


class FutuHistory:
    """Implements `BarHistory` and `ActionHistory`. requests: shared by all parts; the caller closes it."""

    def __init__(self, requests: Requests, config: FutuConfig, symbols: SymbolMap, clock: Clock) -> None:
        self._requests = requests
        self._config = config
        self._symbols = symbols
        self._clock = clock

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. Blank minutes are absent; `vwap` and `trades` are not told."""
        kl_type = KL_TYPES.get(interval.name)
        if kl_type is None:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(KL_TYPES)}")
        security = wanted_security(self._symbols, symbol)
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        if start_ns >= end_ns:
            return BAR_SCHEMA.empty_table()
        rows = await self._rows(security, kl_type, interval, start_ns, end_ns)
        return kline_table(
            rows,
            symbol=symbol,
            market=security.market,
            interval=interval,
            start_ns=start_ns,
            end_ns=end_ns,
            as_of_ns=self._clock.time_ns(),
        )

    async def _rows(
        self, security: Security, kl_type: int, interval: Interval, start_ns: int, end_ns: int
    ) -> list[KLine]:
        """All pages. The last bar is stamped with its end, so an interval more is asked for."""
        days = interval.name == "1d"
        extended = self._config.extended_hours and not days
        rows: list[KLine] = []
        key: bytes | None = None
        what = f"history of {text_of(security)}"
        while True:
            answer = await self._requests.ask(
                Proto.HISTORY_KL,
                HistoryRequest(
                    rehab_type=_RAW,
                    kl_type=kl_type,
                    security=security,
                    begin_time=_day_text(start_ns) if days else _time_text(start_ns, security.market),
                    end_time=_day_text(end_ns) if days else _time_text(end_ns + interval.ns, security.market),
                    count_max=self._config.bars_per_call,
                    next_key=key,
                    extended_time=True if extended else None,
                    session=_EXTENDED_SESSION if extended else None,
                ),
                HistoryAnswer,
                what,
                "history" if key is None else "history_page",
            )
            rows += answer.rows
            if not answer.next_key:
                return rows
            if answer.next_key == key or not answer.rows:
                raise MalformedMessage(NAME, f"{what}: a page that does not go on", answer.next_key)
            key = answer.next_key

    async def actions(self, symbol: str, start_ns: int, end_ns: int) -> Sequence[CorporateAction]:
        """See `ActionHistory.actions`."""
        security = wanted_security(self._symbols, symbol)
        answer = await self._requests.ask(
            Proto.REHAB, SecurityOnly(security), RehabAnswer, f"rehab of {text_of(security)}", "rehab"
        )
        return corporate_actions(
            answer.rows,
            symbol=symbol,
            market=security.market,
            start_ns=start_ns,
            end_ns=end_ns,
            as_of_ns=self._clock.time_ns(),
        )


def _time_text(time_ns: int, market: int) -> str:
    """At the exchange, to the second below."""
    return datetime.fromtimestamp(time_ns // NS_PER_S, zone_of(market)).strftime("%Y-%m-%d %H:%M:%S")


def _day_text(time_ns: int) -> str:
    """A day's bar is stamped with midnight UTC of its date."""
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%d")
