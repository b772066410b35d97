"""Ticks to bars of 1 s, 1 m, 5 m, 15 m, 1 h and 1 d, exactly, whatever order the ticks come in.

A bar in the making is a record that can be merged with another one of the same interval: it remembers the
event times of its first and last tick, so merging needs no order. Ticks are merged into their second, a
closed second into its minute, a closed minute into the next longer bars; a late tick is merged, by the same
operation, into every bar that has already taken the others, and each of those is issued again as `corrected`.

A bar closes when a tick of a later one arrives or when the caller says (`advance`) that time has passed its
end. Closed bars can be corrected for `allowed_lateness_ms`; what comes later than that is reported.
One builder serves one source; symbols are its own small integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.errors import InvalidInput
from marketd.ingest.symbols import SymbolTable
from marketd.model import BAR_SCHEMA, BOOK, BUILT_INTERVALS, TRADE, Bar, BarStatus, Interval, Side, TickBatch
from marketd.model.time import NS_PER_MS

__all__ = ["BarBatch", "BarBuilder", "BarConfig"]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

_NEVER = int(np.iinfo(np.int64).min)
_FOREVER = int(np.iinfo(np.int64).max)
_FOLD_ROWS = 16_384
_MINUTE = Interval.parse("1m")
_SIDES: tuple[Side, ...] = ("trade", "bid", "ask")


class BarConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """allowed_lateness_ms: how long after its end a bar can still be corrected by late ticks.

    allowed_lateness_1s_ms: the same for bars of 1 s, of which there are many.
    close_delay_ms: how long after its end a bar waits for ticks under way before it is closed.
    keep_1s_max_symbols: bars of 1 s are stored (not only streamed) while there are at most so many symbols.
    """

    allowed_lateness_ms: int = 300_000
    allowed_lateness_1s_ms: int = 5_000
    close_delay_ms: int = 250
    keep_1s_max_symbols: int = 500

    def __post_init__(self) -> None:
        for name in ("allowed_lateness_ms", "allowed_lateness_1s_ms", "close_delay_ms", "keep_1s_max_symbols"):
            if getattr(self, name) < 0:
                raise InvalidInput(name, getattr(self, name), "a whole number, 0 or more")


_FLOATS = ("open", "high", "low", "close", "volume", "notional")
_INTS = ("bucket", "first_ns", "last_ns", "count")


@dataclass(slots=True)
class _Records:
    """Columns of mergeable bars. volume is NaN until a size was told; notional is the sum of price × size."""

    symbol: npt.NDArray[np.intp]
    bucket: I64
    first_ns: I64
    last_ns: I64
    count: I64
    open: F64
    high: F64
    low: F64
    close: F64
    volume: F64
    notional: F64

    def __len__(self) -> int:
        return len(self.symbol)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> _Records:
        return _Records(self.symbol[rows], *(getattr(self, name)[rows] for name in (*_INTS, *_FLOATS)))

    def put(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp], other: _Records) -> None:
        for name in ("symbol", *_INTS, *_FLOATS):
            getattr(self, name)[rows] = getattr(other, name)


def _concatenate(parts: list[_Records]) -> _Records:
    if len(parts) == 1:
        return parts[0]
    names = ("symbol", *_INTS, *_FLOATS)
    return _Records(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _packed(records: _Records) -> _Records:
    """The same rows, read-only, with constant columns (one bucket, no sizes) taking no room."""
    columns = {}
    for name in ("bucket", "volume", "notional"):
        column = getattr(records, name)
        if (column == column[0]).all() or np.isnan(column).all():
            columns[name] = np.broadcast_to(column[0], len(column))
    return replace(records, **columns)


def _merge(a: _Records, b: _Records) -> _Records:
    """Row by row the bar of the ticks of both; on equal stamps `a` came first."""
    b_opens = b.first_ns < a.first_ns
    b_closes = b.last_ns >= a.last_ns
    return _Records(
        symbol=a.symbol,
        bucket=a.bucket,
        first_ns=np.minimum(a.first_ns, b.first_ns),
        last_ns=np.maximum(a.last_ns, b.last_ns),
        count=a.count + b.count,
        open=np.where(b_opens, b.open, a.open),
        high=np.maximum(a.high, b.high),
        low=np.minimum(a.low, b.low),
        close=np.where(b_closes, b.close, a.close),
        volume=_sum_known(a.volume, b.volume),
        notional=_sum_known(a.notional, b.notional),
    )


def _sum_known(a: F64, b: F64) -> F64:
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, a + b))


def _reduce(records: _Records, bucket: I64) -> _Records:
    """Merge the rows of the same symbol and bucket, in the order of their first stamps (then as given).

    The result is sorted by (symbol, bucket) and shares no column with its argument.
    """
    n = len(records)
    order = None
    if n > 1:
        symbol, first = records.symbol, records.first_ns
        rising = (symbol[1:] > symbol[:-1]) | ((symbol[1:] == symbol[:-1]) & (first[1:] >= first[:-1]))
        if not rising.all():
            order = np.lexsort((first, symbol))
    if order is not None:
        records, bucket = records.take(order), bucket[order]
    symbol = records.symbol
    starts = np.flatnonzero(np.r_[True, (symbol[1:] != symbol[:-1]) | (bucket[1:] != bucket[:-1])])
    if len(starts) == n:
        return replace(records.take(np.arange(n)) if order is None else records, bucket=bucket)
    ends = np.r_[starts[1:], n] - 1
    last_ns = np.maximum.reduceat(records.last_ns, starts)
    if (records.last_ns[ends] == last_ns).all():
        close = records.close[ends]
    else:  # a record that began earlier ended later: the newest last tick closes, the later row on ties
        group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, n]))
        close = records.close[np.lexsort((np.arange(n), records.last_ns, group))[ends]]
    return _Records(
        symbol=symbol[starts],
        bucket=bucket[starts],
        first_ns=records.first_ns[starts],
        last_ns=last_ns,
        count=np.add.reduceat(records.count, starts),
        open=records.open[starts],
        high=np.maximum.reduceat(records.high, starts),
        low=np.minimum.reduceat(records.low, starts),
        close=close,
        volume=_add_known(records.volume, starts),
        notional=_add_known(records.notional, starts),
    )


def _add_known(values: F64, starts: npt.NDArray[np.intp]) -> F64:
    unknown = np.isnan(values)
    if not unknown.any():
        return np.add.reduceat(values, starts)
    total = np.add.reduceat(np.where(unknown, 0.0, values), starts)
    total[np.logical_and.reduceat(unknown, starts)] = np.nan
    return total


class _Level:
    """The running bar of every symbol for one interval and side, and the bars closed a short while ago."""

    def __init__(self, interval: Interval) -> None:
        self.interval = interval
        self.running = _empty(0)
        self.closed_bucket = np.empty(0, np.int64)
        self.recent: list[_Records] = []

    def grow(self, size: int) -> None:
        have = len(self.running)
        if size <= have:
            return
        grown = _empty(max(size, have + have // 4))
        if have:
            grown.put(np.arange(have), self.running)
        self.running = grown
        closed = np.full(len(grown), _NEVER, np.int64)
        closed[:have] = self.closed_bucket
        self.closed_bucket = closed

    def add(self, new: _Records) -> tuple[_Records | None, _Records | None]:
        """Merge records sorted by (symbol, bucket), one a pair. Returns (bars now closed, records that are late)."""
        bucket_running = self.running.bucket[new.symbol]
        late = (new.bucket < bucket_running) | (new.bucket <= self.closed_bucket[new.symbol])
        late_records = None
        if late.any():
            late_records = new.take(late)
            new = new.take(~late)
            if not len(new):
                return None, late_records
            bucket_running = bucket_running[~late]
        symbol = new.symbol
        n = len(symbol)
        is_first, is_last = np.ones(n, np.bool_), np.ones(n, np.bool_)
        if n > 1:
            same = symbol[1:] == symbol[:-1]
            is_first[1:] = ~same
            is_last[:-1] = ~same
        closed: list[_Records] = []
        continues = is_first & (new.bucket == bucket_running)
        if continues.any():
            merged = _merge(self.running.take(symbol[continues]), new.take(continues))
            if continues.all():
                new = merged
            else:
                new.put(continues, merged)
        replaced = is_first & ~continues & (bucket_running != _NEVER)
        if replaced.any():
            closed.append(self.running.take(symbol[replaced]))
        if not is_last.all():
            closed.append(new.take(~is_last))
            new = new.take(is_last)
        self.running.put(new.symbol, new)
        return (self._close(closed) if closed else None), late_records

    def seen(self, symbol: int) -> bool:
        """Whether the symbol has or had a bar here."""
        return symbol < len(self.running) and bool(
            self.running.bucket[symbol] != _NEVER or self.closed_bucket[symbol] != _NEVER
        )

    def close_until(self, watermark_ns: int) -> _Records | None:
        """Close every running bar whose end is at or before `watermark_ns`."""
        bucket = self.running.bucket
        over = np.flatnonzero((bucket != _NEVER) & (bucket <= watermark_ns - self.interval.ns))
        if not len(over):
            return None
        closed = self.running.take(over)
        bucket[over] = _NEVER
        return self._close([closed])

    def _close(self, parts: list[_Records]) -> _Records:
        closed = _concatenate(parts)
        np.maximum.at(self.closed_bucket, closed.symbol, closed.bucket)
        self.recent.append(_packed(closed))
        return closed

    def correct(self, late: _Records, oldest_bucket_ns: int) -> _Records | None:
        """Merge late records into recently closed bars; returns those as they are now.

        A record whose bar had no tick when time passed it makes that bar, as long as the bars of its age are
        remembered; a record older than that is left out.
        """
        found = np.zeros(len(late), np.bool_)
        corrected: list[_Records] = []
        if self.recent:
            pool = _concatenate([_empty(0), *self.recent])  # a copy: what is packed cannot be written to
            self.recent = [pool]
            order = np.lexsort((pool.bucket, pool.symbol))
            keys = _keys(pool.symbol[order], pool.bucket[order], self.interval)
            wanted = _keys(late.symbol, late.bucket, self.interval)
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found = keys[place] == wanted
            if found.any():
                rows = order[place[found]]
                merged = _merge(pool.take(rows), late.take(found))
                pool.put(rows, merged)
                corrected.append(merged)
        fresh = late.take(~found & (late.bucket >= oldest_bucket_ns))
        if len(fresh):
            self.recent.append(fresh)
            corrected.append(fresh)
        return _concatenate(corrected) if corrected else None

    def forget(self, oldest_bucket_ns: int) -> None:
        """Drop closed bars that can no longer be corrected."""
        if self.recent:
            self.recent = [kept for r in self.recent if len(kept := _not_older(r, oldest_bucket_ns))]


def _not_older(records: _Records, oldest_bucket_ns: int) -> _Records:
    young = records.bucket >= oldest_bucket_ns
    return records if young.all() else records.take(young)


def _keys(symbol: npt.NDArray[np.intp], bucket: I64, interval: Interval) -> I64:
    return symbol.astype(np.int64) * (1 << 40) + bucket // interval.ns


def _empty(size: int) -> _Records:
    return _Records(
        symbol=np.arange(size),
        bucket=np.full(size, _NEVER, np.int64),
        first_ns=np.zeros(size, np.int64),
        last_ns=np.zeros(size, np.int64),
        count=np.zeros(size, np.int64),
        open=np.zeros(size),
        high=np.zeros(size),
        low=np.zeros(size),
        close=np.zeros(size),
        volume=np.zeros(size),
        notional=np.zeros(size),
    )


@dataclass(frozen=True, slots=True)
class BarBatch:
    """Bars of one provider, interval and side that were closed, corrected or looked at together, as columns.

    status: "live" for bars in the making; else one of "final", "provisional", "corrected" a row.
    """

    provider: str
    interval: Interval
    side: Side
    names: list[str]
    records: _Records
    status: list[BarStatus]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def symbols(self) -> list[str]:
        names = self.names
        return [names[i] for i in self.records.symbol.tolist()]

    def take(self, rows: npt.NDArray[np.intp]) -> BarBatch:
        status = [self.status[i] for i in rows.tolist()]
        return replace(self, records=self.records.take(rows), status=status)

    def _vwap(self) -> F64:
        volume = self.records.volume
        vwap: F64 = np.divide(self.records.notional, volume, out=np.full(len(volume), np.nan), where=volume > 0)
        return vwap

    def table(self, as_of_ns: int) -> pa.Table:
        """The rows as a `BAR_SCHEMA` table."""
        r, n = self.records, len(self)
        ts_type = BAR_SCHEMA.field("ts").type
        columns = {
            "symbol": pa.array(self.symbols),
            "interval": pa.repeat(self.interval.name, n),
            "side": pa.repeat(self.side, n),
            "ts": pa.array(r.bucket).cast(ts_type),
            "open": pa.array(r.open),
            "high": pa.array(r.high),
            "low": pa.array(r.low),
            "close": pa.array(r.close),
            "volume": pa.array(r.volume, from_pandas=True),
            "vwap": pa.array(self._vwap(), from_pandas=True),
            "trades": pa.array(r.count),
            "provider": pa.repeat(self.provider, n),
            "status": pa.array(self.status, pa.string()),
            "as_of": pa.array(np.full(n, as_of_ns)).cast(ts_type),
        }
        return pa.Table.from_pydict(columns, BAR_SCHEMA)

    def bars(self, as_of_ns: int) -> list[Bar]:
        """The rows as values."""
        r = self.records
        columns = zip(
            self.symbols,
            r.bucket.tolist(),
            r.open.tolist(),
            r.high.tolist(),
            r.low.tolist(),
            r.close.tolist(),
            r.volume.tolist(),
            self._vwap().tolist(),
            r.count.tolist(),
            self.status,
            strict=True,
        )
        return [
            Bar(
                symbol=symbol,
                interval=self.interval.name,
                side=self.side,
                ts_ns=ts,
                open=o,
                high=h,
                low=lo,
                close=c,
                volume=None if v != v else v,  # noqa: PLR0124 - NaN is what differs from itself
                vwap=None if w != w else w,  # noqa: PLR0124
                trades=count,
                provider=self.provider,
                status=status,
                as_of_ns=as_of_ns,
            )
            for symbol, ts, o, h, lo, c, v, w, count, status in columns
        ]


class BarBuilder:
    """Builds the bars of one source.

    `add` ticks, `advance` time, and `drain` what came of it: bars closed or corrected, in the order in which
    it happened, shorter intervals first.
    """

    def __init__(self, source: str, config: BarConfig | None = None) -> None:
        self._source = source
        self._config = config = config or BarConfig()
        self._lateness_ns = config.allowed_lateness_ms * NS_PER_MS
        self._lateness_1s_ns = config.allowed_lateness_1s_ms * NS_PER_MS
        self._symbols = SymbolTable()
        self._levels: dict[Side, list[_Level]] = {}
        self._waiting: list[tuple[TickBatch, npt.NDArray[np.intp]]] = []
        self._waiting_rows = 0
        self._watermark_ns = 0
        self._covered_from_ns = 0
        self._since_ns = np.empty(0, np.int64)
        self._finishing = False
        self._out: list[BarBatch] = []
        self._issue_1s_from_ns: int | None = 0
        self.too_late: list[tuple[str, int]] = []
        """(symbol, event time) of ticks that came too late even for the bar of their minute; they are in no bar."""

    def issue_1s(self, wanted: bool) -> None:
        """Whether bars of 1 s are issued and remembered for correction (at first they are). Built they are always."""
        if not wanted:
            self._issue_1s_from_ns = None
            for levels in self._levels.values():
                levels[0].recent.clear()
        elif self._issue_1s_from_ns is None:
            self._issue_1s_from_ns = self._watermark_ns

    def covered_from(self, time_ns: int | None) -> None:
        """From `time_ns` on every tick is seen (None: some are being missed). Bars begun before are provisional."""
        self._covered_from_ns = _FOREVER if time_ns is None else time_ns

    @property
    def covered_since_ns(self) -> int | None:
        """Since when every tick is seen, None while some are being missed."""
        return None if self._covered_from_ns == _FOREVER else self._covered_from_ns

    def watched_from(self, symbols: Iterable[str], time_ns: int | None) -> None:
        """The same for some symbols: those subscribed later than others, or no longer."""
        ids = [self._symbols.add(symbol) for symbol in symbols]
        since = np.full(len(self._symbols), _FOREVER)
        since[: len(self._since_ns)] = self._since_ns
        since[ids] = _FOREVER if time_ns is None else time_ns
        self._since_ns = since

    def seed(self, bars: Sequence[Bar]) -> None:
        """Go on from bars of 1 m that an earlier run left unfinished."""
        for side in _SIDES:
            mine = [bar for bar in bars if bar.side == side]
            if not mine:
                continue
            if side not in self._levels:
                self._levels[side] = [_Level(interval) for interval in BUILT_INTERVALS]
            ids = np.array([self._symbols.add(bar.symbol) for bar in mine], np.intp)
            new = len(self._symbols) - len(self._since_ns)
            self._since_ns = np.append(self._since_ns, np.full(new, _FOREVER))
            volume = np.array([np.nan if bar.volume is None else bar.volume for bar in mine])
            vwap = np.array([np.nan if bar.vwap is None else bar.vwap for bar in mine])
            starts = np.array([bar.ts_ns for bar in mine])
            records = _Records(
                symbol=ids,
                bucket=starts,
                first_ns=starts,
                last_ns=np.array([min(bar.as_of_ns, bar.ts_ns + _MINUTE.ns - 1) for bar in mine]),
                count=np.array([bar.trades for bar in mine]),
                open=np.array([bar.open for bar in mine]),
                high=np.array([bar.high for bar in mine]),
                low=np.array([bar.low for bar in mine]),
                close=np.array([bar.close for bar in mine]),
                volume=volume,
                notional=volume * vwap,
            )
            self._merge_up(side, BUILT_INTERVALS.index(_MINUTE), records)

    def add(self, batch: TickBatch, since_ns: int = 0) -> None:
        """Take accepted ticks. since_ns: from when on the symbols that are new in this batch have been watched."""
        ids = self._symbols.translate(batch.symbols, batch.symbol_index)
        new = len(self._symbols) - len(self._since_ns)
        if new:
            self._since_ns = np.append(self._since_ns, np.full(new, since_ns))
        self._waiting.append((batch, ids))
        self._waiting_rows += len(batch)
        if self._waiting_rows >= _FOLD_ROWS:
            self._fold()

    def advance(self, watermark_ns: int) -> None:
        """No tick before `watermark_ns` is expected any more: close what ended by then."""
        self._fold()
        self._watermark_ns = max(self._watermark_ns, watermark_ns)
        for side in self._levels:
            self._close_until(side, self._watermark_ns)
            for level in self._levels[side]:
                level.forget(self._oldest(level))

    def finish(self) -> None:
        """The source has ended: close every running bar, `provisional` unless its end had been reached."""
        self._fold()
        self._finishing = True
        for side in self._levels:
            self._close_until(side, _FOREVER)

    def drain(self) -> list[BarBatch]:
        """What was issued since the last call."""
        out, self._out = self._out, []
        return out

    def running(self, interval: Interval, side: Side, symbol: str | None = None) -> BarBatch | None:
        """The bars in the making (a symbol may have two for an instant: one over but not closed), status `live`."""
        self._fold()
        levels = self._levels.get(side)
        number = self._symbols.get(symbol) if symbol is not None else None
        if levels is None or (symbol is not None and number is None):
            return None
        live: _Records | None = None
        for level in levels:
            if number is None:
                rows = np.flatnonzero(level.running.bucket != _NEVER)
            elif number < len(level.running) and level.running.bucket[number] != _NEVER:
                rows = np.array([number])
            else:
                rows = np.empty(0, np.intp)
            parts = [level.running.take(rows)] if len(rows) else []
            if live is not None:
                parts.append(live)
            if parts:
                joined = _concatenate(parts)
                live = _reduce(joined, joined.first_ns - joined.first_ns % level.interval.ns)
            if level.interval is interval:
                break
        if live is None:
            return None
        return BarBatch(self._source, interval, side, self._symbols.names, live, ["live"] * len(live))

    def sides(self, symbol: str) -> tuple[Side, ...]:
        """The sides of which the symbol has had ticks."""
        self._fold()
        number = self._symbols.get(symbol)
        if number is None:
            return ()
        return tuple(s for s, levels in self._levels.items() if levels[-1].seen(number) or levels[0].seen(number))

    def _fold(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        for side in _SIDES:
            parts = [part for batch, ids in waiting if (part := _ticks_of(batch, ids, side)) is not None]
            if parts:
                if side not in self._levels:
                    self._levels[side] = [_Level(interval) for interval in BUILT_INTERVALS]
                ticks = self._in_time(_concatenate(parts))
                if len(ticks):
                    self._merge_up(side, 0, ticks)

    def _in_time(self, ticks: _Records) -> _Records:
        """Without those that came too late."""
        oldest_ns = self._watermark_ns - self._lateness_ns - _MINUTE.ns
        old = ticks.first_ns - ticks.first_ns % _MINUTE.ns < oldest_ns
        if not old.any():
            return ticks
        names = self._symbols.names
        lost = ticks.take(old)
        self.too_late += [(names[i], t) for i, t in zip(lost.symbol.tolist(), lost.first_ns.tolist(), strict=True)]
        return ticks.take(~old)

    def _merge_up(self, side: Side, depth: int, records: _Records) -> None:
        """Merge records into the running bars at `depth`; what closes there goes on to the next."""
        level = self._levels[side][depth]
        level.grow(len(self._symbols))
        closed, late = level.add(_reduce(records, records.first_ns - records.first_ns % level.interval.ns))
        if closed is not None:
            self._closed(side, depth, closed)
        if late is not None:
            self._late(side, depth, late)

    def _close_until(self, side: Side, watermark_ns: int) -> None:
        for depth, level in enumerate(self._levels[side]):
            closed = level.close_until(watermark_ns)
            if closed is not None:
                self._closed(side, depth, closed)

    def _closed(self, side: Side, depth: int, closed: _Records) -> None:
        self._issue(side, depth, closed, "final")
        if depth + 1 < len(BUILT_INTERVALS):
            self._merge_up(side, depth + 1, closed)

    def _late(self, side: Side, depth: int, late: _Records) -> None:
        level = self._levels[side][depth]
        corrected = level.correct(late, self._oldest(level))
        if corrected is not None:
            self._issue(side, depth, corrected, "corrected")
        if depth + 1 < len(BUILT_INTERVALS):
            self._merge_up(side, depth + 1, late)

    def _oldest(self, level: _Level) -> int:
        if level.interval is not BUILT_INTERVALS[0]:
            return self._watermark_ns - self._lateness_ns - level.interval.ns
        oldest_ns = self._watermark_ns - self._lateness_1s_ns - level.interval.ns
        return oldest_ns if self._issue_1s_from_ns is None else max(oldest_ns, self._issue_1s_from_ns)

    def _issue(self, side: Side, depth: int, records: _Records, status: BarStatus) -> None:
        interval = BUILT_INTERVALS[depth]
        if depth == 0 and self._issue_1s_from_ns is None:
            self._levels[side][0].recent.clear()
            return
        watched_ns = np.maximum(self._since_ns[records.symbol], self._covered_from_ns)
        partial = records.bucket < watched_ns
        if self._finishing:
            partial |= records.bucket + interval.ns > self._watermark_ns
        # A copy, because a later correction changes the records in place.
        copy = records.take(np.arange(len(records)))
        statuses: list[BarStatus] = ["provisional" if p else status for p in partial.tolist()]
        self._out.append(BarBatch(self._source, interval, side, self._symbols.names, copy, statuses))


def _ticks_of(batch: TickBatch, ids: npt.NDArray[np.intp], side: Side) -> _Records | None:
    """Each tick of one side as a record of its own.

    Trades make trade bars; books make bid and ask bars, unless the same row is a trade.
    """
    if side == "trade":
        chosen = (batch.flags & TRADE) > 0
        price, size = batch.last, batch.last_size
    else:
        price = batch.bid if side == "bid" else batch.ask
        chosen = ((batch.flags & (BOOK | TRADE)) == BOOK) & ~np.isnan(price)
        size = None
    if not chosen.all():
        rows = np.flatnonzero(chosen)
        if not len(rows):
            return None
        ids, price, size = ids[rows], price[rows], None if size is None else size[rows]
        time_ns = batch.time_event_ns[rows]
    else:
        time_ns = batch.time_event_ns
    n = len(ids)
    unknown = np.full(n, np.nan) if size is None else size
    return _Records(
        symbol=ids,
        bucket=time_ns,
        first_ns=time_ns,
        last_ns=time_ns,
        count=np.ones(n, np.int64),
        open=price,
        high=price,
        low=price,
        close=price,
        volume=unknown,
        notional=unknown if size is None else price * size,
    )
