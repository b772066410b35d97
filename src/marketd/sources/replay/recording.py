"""The JSON lines that `Recorder` writes, as values, and their way back into rows.

Three kinds of line, each with `time_received_ns` and `source`:

    {"time_received_ns":…,"source":"coinbase","raw":"{\\"type\\":\\"match\\",…}"}
    {"time_received_ns":…,"source":"simulator","time_event_ns":…,"symbol":"AAPL","flags":3,"bid":149.98,"ask":150.05}
    {"time_received_ns":…,"source":"coinbase","event":"disconnected","reason":"no message for 5 s"}

Raw messages are decoded again when replayed, by the decoder of their source. Absent values are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from marketd.errors import InvalidInput, MarketDataError
from marketd.model import (
    BOOK,
    LAST,
    TRADE,
    Connected,
    Disconnected,
    Ended,
    Quarantined,
    Quote,
    SourceEvent,
    TickBatch,
    Trade,
)
from marketd.model.ticks import NO_TRADE_ID
from marketd.sources.lines import Block, blocks
from marketd.sources.replay.config import ReplayFile
from marketd.sources.replay.layout import Layout
from marketd.sources.replay.rows import NO_TIME, Asides, Rows, SymbolTable, corrupt_line, running_key

__all__ = ["Decoder", "EventLine", "RawLine", "Recording", "TickLine", "looks_recorded"]

Decoder = Callable[[str, int], Sequence[SourceEvent]]
"""Raw message and receive time to events: a provider's parser."""


class RawLine(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it came."""

    time_received_ns: int
    source: str
    raw: str


class TickLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of a `TickBatch`."""

    time_received_ns: int
    time_event_ns: int
    source: str
    symbol: str
    flags: int
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    last: float | None = None
    last_size: float | None = None
    volume: float | None = None
    trade_id: int | None = None


class EventLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to the connection."""

    time_received_ns: int
    source: str
    event: Literal["connected", "disconnected", "ended"]
    reason: str | None = None


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """Any of the three."""

    time_received_ns: int
    source: str
    raw: str | None = None
    event: Literal["connected", "disconnected", "ended"] | None = None
    reason: str | None = None
    time_event_ns: int | None = None
    symbol: str | None = None
    flags: int = 0
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    last: float | None = None
    last_size: float | None = None
    volume: float | None = None
    trade_id: int | None = None


def looks_recorded(row: Mapping[str, object]) -> bool:
    """Whether the first object of a file is a line of a recording."""
    return {"time_received_ns", "source"} <= row.keys() and bool({"raw", "event", "flags"} & row.keys())


class Recording:
    """Reads a recording. A line that is not one of the three kinds, or cut short by a crash, is quarantined."""

    def __init__(
        self, file: ReplayFile, path: Path, sample: Sequence[Mapping[str, object]], decoders: Mapping[str, Decoder]
    ) -> None:
        self._path = path
        self._decoders = decoders
        self._decode = msgspec.json.Decoder(_Line).decode
        unknown = {str(row["source"]) for row in sample if "raw" in row and "source" in row} - decoders.keys()
        if unknown:
            known = ", ".join(sorted(decoders)) or "none"
            raise InvalidInput(f"{file.path}: source", min(unknown), f"a source whose messages can be decoded: {known}")
        self.layout = Layout(path=file.path, kind="recording", columns=(), symbol=file.symbol)

    def chunks(self, symbols: SymbolTable, asides: Asides, block_bytes: int) -> Iterator[Rows]:
        key = NO_TIME
        for block in blocks(self._path, block_bytes):
            rows = _Gathered(symbols, asides, self.layout.symbol)
            for event in self._events(block):
                rows.add(event)
            built = rows.build(key)
            if len(built.key):
                key = int(built.key[-1])
                yield built

    def _events(self, block: Block) -> Iterator[SourceEvent | _Line]:
        path = self.layout.path
        texts = block.data.decode(errors="replace").split("\n")
        if block.damage is not None:
            yield corrupt_line(path, block.line, texts[0] or block.damage)
            return
        for line_number, text in enumerate(texts, block.line):
            if not text.strip():
                continue
            try:
                events = self._line(text)
            except (MarketDataError, ValueError, OverflowError, RecursionError):
                yield corrupt_line(path, line_number, text)
                continue
            for event in events:
                if isinstance(event, Quarantined) and event.where is None:
                    yield msgspec.structs.replace(event, where=f"{path}:{line_number}")
                else:
                    yield event

    def _line(self, text: str) -> Sequence[SourceEvent | _Line]:
        line = self._decode(text)
        if not -(2**63) < line.time_received_ns < 2**63:
            raise ValueError("a time out of range")
        if line.raw is not None:
            decoder = self._decoders.get(line.source)
            if decoder is None:
                raise ValueError("nothing decodes this source")
            return decoder(line.raw, line.time_received_ns)
        if line.event == "connected":
            return [Connected(source=line.source, time_received_ns=line.time_received_ns)]
        if line.event == "disconnected":
            return [
                Disconnected(
                    source=line.source, time_received_ns=line.time_received_ns, reason=line.reason or "unknown"
                )
            ]
        if line.event == "ended":
            return []
        time_ns, trade_id = line.time_event_ns, line.trade_id
        if time_ns is None or not -(2**63) < time_ns < 2**63 or not line.symbol or not 1 <= line.flags <= 7:
            raise ValueError("not a tick")
        if trade_id is not None and not -(2**63) < trade_id < 2**63:
            raise ValueError("a trade id out of range")
        if line.flags & (LAST | TRADE) and line.last is None:
            raise ValueError("no price")
        return [line]


_Prices = tuple[float | None, float | None, float | None, float | None, float | None, float | None, float | None]
"""bid, ask, bid_size, ask_size, last, last_size, volume."""


class _Gathered:
    """Columns that grow by a row at a time. symbol: put in place of what the recording says, if given."""

    def __init__(self, symbols: SymbolTable, asides: Asides, symbol: str | None) -> None:
        self._symbols = symbols
        self._asides = asides
        self._symbol = symbol
        self._whole: list[tuple[int, int, int, int, int]] = []
        self._prices: list[_Prices] = []

    def add(self, event: SourceEvent | _Line) -> None:
        if isinstance(event, _Line):
            self._tick(
                event.symbol or "",
                event.flags,
                event.time_event_ns or 0,
                event.time_received_ns,
                event.trade_id,
                (event.bid, event.ask, event.bid_size, event.ask_size, event.last, event.last_size, event.volume),
            )
        elif isinstance(event, Quote):
            prices: _Prices = (event.bid, event.ask, event.bid_size, event.ask_size, event.last, None, event.volume)
            flags = BOOK if event.last is None else BOOK | LAST
            self._tick(event.symbol, flags, event.time_event_ns, event.time_received_ns, None, prices)
        elif isinstance(event, Trade):
            prices = (None, None, None, None, event.price, event.size, None)
            self._tick(event.symbol, LAST | TRADE, event.time_event_ns, event.time_received_ns, event.trade_id, prices)
        elif isinstance(event, TickBatch):
            for part in event.to_events():
                self.add(part)
        elif not isinstance(event, Ended):
            self._whole.append((NO_TIME, event.time_received_ns or NO_TIME, 0, 0, self._asides.put(event)))
            self._prices.append((None, None, None, None, None, None, None))

    def _tick(
        self,
        symbol: str,
        flags: int,
        event_ns: int,
        received_ns: int,
        trade_id: int | None,
        prices: _Prices,
    ) -> None:
        position = self._symbols.position(self._symbol or symbol)
        self._whole.append((event_ns, received_ns, position, flags, NO_TRADE_ID if trade_id is None else trade_id))
        self._prices.append(prices)

    def build(self, key_before: int) -> Rows:
        whole = np.array(self._whole, np.int64).reshape(-1, 5).T
        prices = np.array(self._prices, np.float64).reshape(-1, 7)  # None becomes NaN
        event, received, position, flags, trade_id = (np.ascontiguousarray(column) for column in whole)
        key = running_key(event, key_before)
        told: list[Any] = [np.ascontiguousarray(column) for column in prices.T]
        columns: list[Any] = [key, event, received, position.astype(np.int32), flags.astype(np.uint8), *told, trade_id]
        return Rows(*columns)
