"""What XTS remembers: bars, by request."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.xts.config import XtsConfig
from marketd.sources.xts.instruments import XtsInstruments
from marketd.sources.xts.parse import IST_NS, NAME, Ohlc, parse_ohlc
from marketd.sources.xts.session import XtsSession

__all__ = ["COMPRESSION", "XtsHistory"]

COMPRESSION: dict[str, str] = {"1m": "60", "5m": "300", "15m": "900", "1d": "D"}
"""`compressionValue` by interval. Its longer ones begin with the session at 09:15 in India, so they are not on our
grid, which is that of UTC; they are made of these."""

_DAY_NS = 86_400 * NS_PER_S
_DAILY_PAGE_NS = 365 * _DAY_NS
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class XtsHistory:
    """Implements `BarHistory`."""

    def __init__(self, session: XtsSession, instruments: XtsInstruments, config: XtsConfig, clock: Clock) -> None:
        self._session = session
        self._instruments = instruments
        self._config = config
        self._clock = clock

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. Minutes without trades are absent; `vwap` and `trades` are not told, nor is the
        volume of an index."""
        compression = COMPRESSION.get(interval.name)
        if compression is None:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(COMPRESSION)}")
        instrument = await self._instruments.one(symbol)
        daily = interval.name == "1d"
        shift_ns = 0 if daily else IST_NS
        step_ns = _DAILY_PAGE_NS if daily else self._config.days_per_call * _DAY_NS
        tables: list[pa.Table] = []
        page_ns = interval.ceil(start_ns)
        end_ns = min(end_ns, self._clock.time_ns())
        while page_ns < end_ns:
            page_end_ns = min(page_ns + step_ns, interval.ceil(end_ns))
            params: dict[str, str | int] = {
                "exchangeSegment": instrument.segment,
                "exchangeInstrumentID": instrument.id,
                "startTime": _wall(page_ns + shift_ns),
                "endTime": _wall(page_end_ns + shift_ns - NS_PER_S),
                "compressionValue": compression,
            }
            answer = await self._session.call("GET", "/instruments/ohlc", Ohlc, endpoint="ohlc", params=params)
            tables.append(
                parse_ohlc(
                    answer.dataReponse,
                    symbol=symbol,
                    interval=interval,
                    start_ns=page_ns,
                    end_ns=min(page_end_ns, end_ns),
                    as_of_ns=self._clock.time_ns(),
                    index=instrument.index,
                    cash=instrument.segment not in ("MCXFO", "NSECD"),
                )
            )
            page_ns = page_end_ns
        return pa.concat_tables(tables) if tables else BAR_SCHEMA.empty_table()


def _wall(wall_ns: int) -> str:
    """`Jan 06 2025 091500`, whatever the locale."""
    time = datetime.fromtimestamp(wall_ns // NS_PER_S, UTC)
    return f"{_MONTHS[time.month - 1]} {time:%d %Y %H%M%S}"
