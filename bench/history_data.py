"""Bars for the history benchmark: seeded, made by numpy, the same for every engine.

A session is a weekday from 14:30 to 21:00 UTC, 390 minutes; 252 of them are called a year. `Year` is kept in files
because half of the engines want it by day and half by symbol; a `Day` of many symbols fits in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from marketd.calendars import Calendar, Calendars, CalendarsConfig, VenueConfig
from marketd.model import BAR_SCHEMA

NS = 1_000_000_000
MINUTE_NS = 60 * NS
DAY_NS = 86_400 * NS
MINUTES = 390
OPEN_NS = (14 * 60 + 30) * MINUTE_NS
FIRST_DAY = np.datetime64("2025-01-06")
"""A Monday."""
PROVIDER = "bench"
HOLES = 0.002
"""Of all minutes, so many have no bar."""
REVISED = 0.01
"""Of all bars, so many get a second version the day after."""

FLOATS = ("open", "high", "low", "close", "volume", "vwap")
_NS_UTC = pa.timestamp("ns", tz="UTC")

Values = dict[str, np.ndarray]


def names(symbols: int) -> list[str]:
    return [f"S{n:04d}" for n in range(symbols)]


def open_of(session: int, first: np.datetime64 = FIRST_DAY) -> int:
    """When a session opens, in nanoseconds."""
    day = first + 7 * (session // 5) + session % 5
    return int(day.astype(np.int64)) * DAY_NS + OPEN_NS


def starts(sessions: int, first: np.datetime64 = FIRST_DAY) -> np.ndarray:
    """When each minute of the first so many sessions begins."""
    opens = np.array([open_of(session, first) for session in range(sessions)], np.int64)
    return (opens[:, None] + np.arange(MINUTES) * MINUTE_NS).ravel()


def calendar() -> Calendar:
    """What expects a bar in each of these minutes and in no other."""
    venue = VenueConfig(time_zone="UTC", open="Mon 14:30", close="Fri 21:00", breaks=("21:00-14:30",))
    return Calendars(CalendarsConfig(venues={"BENCH": venue})).named("BENCH")


def walk(rng: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """Random walks along the last axis: prices in cents, vwap in hundredths of them, whole volumes."""
    base = rng.uniform(20, 500, (*shape[:-1], 1))
    close = (base * np.exp(np.cumsum(rng.normal(0, 4e-4, shape), axis=-1))).round(2)
    before = np.concatenate([base, close[..., :-1]], axis=-1)
    opened = (before * (1 + rng.normal(0, 1e-4, shape))).round(2)
    high = (np.maximum(opened, close) * (1 + rng.exponential(3e-4, shape))).round(2)
    low = (np.minimum(opened, close) * (1 - rng.exponential(3e-4, shape))).round(2)
    volume = np.floor(rng.lognormal(8, 1, shape))
    return {
        "open": opened,
        "high": high,
        "low": low,
        "close": close,
        "volume": volume,
        "vwap": ((opened + high + low + close) / 4).round(4),
        "trades": 1 + (volume // 120).astype(np.int64),
    }


def known_at(ts: np.ndarray, seed: int = 7) -> np.ndarray:
    """When the bars of a minute were known: 0.2 to 2 s after its end, the same for all symbols."""
    minute = (ts // MINUTE_NS).astype(np.uint64)
    mixed = (minute * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)) >> np.uint64(33)
    return ts + MINUTE_NS + 200_000_000 + (mixed % np.uint64(1_800_000_000)).astype(np.int64)


def table(
    symbol: pa.Array | str, ts: np.ndarray, values: Values, as_of: np.ndarray, status: str | pa.Array
) -> pa.Table:
    """One-minute trade bars as `BAR_SCHEMA`."""
    n = len(ts)

    def words(word: str | pa.Array) -> pa.Array:
        return pa.repeat(word, n) if isinstance(word, str) else word

    columns = {
        "symbol": words(symbol),
        "interval": words("1m"),
        "side": words("trade"),
        "ts": pa.array(ts).cast(_NS_UTC),
        **{name: pa.array(values[name]) for name in FLOATS},
        "trades": pa.array(values["trades"].astype(np.int64)),
        "provider": words(PROVIDER),
        "status": words(status),
        "as_of": pa.array(as_of).cast(_NS_UTC),
    }
    return pa.table(columns, schema=BAR_SCHEMA)


def revise(values: Values, times: int = 1) -> Values:
    """The same bars with another close, and what follows from it."""
    close = (values["close"] + 0.01 * times).round(2)
    return {**values, "close": close, "high": np.maximum(values["high"], close), "volume": values["volume"] + times}


def series(number: int, sessions: int, first: np.datetime64 = FIRST_DAY) -> tuple[np.ndarray, Values]:
    """One symbol without holes."""
    ts = starts(sessions, first)
    return ts, walk(np.random.default_rng((11, number)), ts.shape)


class Day:
    """One session of many symbols. holes: whether some minutes have no bar."""

    def __init__(self, symbols: int, minutes: int, session: int, *, holes: bool) -> None:
        self.names = names(symbols)
        self.ts = open_of(session) + np.arange(minutes, dtype=np.int64) * MINUTE_NS
        rng = np.random.default_rng((23, session))
        by_symbol = walk(rng, (symbols, minutes))
        self._values = {name: np.ascontiguousarray(values.T) for name, values in by_symbol.items()}
        self._present = rng.random((minutes, symbols)) >= HOLES if holes else np.ones((minutes, symbols), np.bool_)
        self._symbol = pa.array(self.names)
        self._as_of = known_at(self.ts)

    @property
    def holes(self) -> int:
        return int((~self._present).sum())

    def minute(self, number: int) -> pa.Table:
        """The bars of one minute, by symbol."""
        at = np.flatnonzero(self._present[number])
        values = {name: column[number][at] for name, column in self._values.items()}
        ts, as_of = np.full(len(at), self.ts[number]), np.full(len(at), self._as_of[number])
        return table(self._symbol.take(at), ts, values, as_of, "final")


@dataclass(frozen=True)
class Year:
    """Sessions of some symbols, in a folder, with holes and with revisions on the day after."""

    folder: Path
    symbols: int
    sessions: int

    def make(self) -> None:
        """Write the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = (self.symbols, self.sessions * MINUTES)
        kinds = {**dict.fromkeys(FLOATS, np.float64), "trades": np.int32, "present": np.bool_, "revised": np.bool_}
        files = {
            name: np.lib.format.open_memmap(self._path(name), mode="w+", dtype=kind, shape=shape)
            for name, kind in kinds.items()
        }
        for number in range(self.symbols):
            _, values = series(number, self.sessions)
            rng = np.random.default_rng((31, number))
            values["present"] = rng.random(shape[1]) >= HOLES
            values["revised"] = values["present"] & (rng.random(shape[1]) < REVISED)
            for name, file in files.items():
                file[number] = values[name]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _file(self, name: str) -> np.ndarray:
        return np.load(self._path(name), mmap_mode="r")

    @property
    def names(self) -> list[str]:
        return names(self.symbols)

    @property
    def ts(self) -> np.ndarray:
        return starts(self.sessions)

    @property
    def holes(self) -> int:
        return int((~self._file("present")).sum())

    @property
    def revisions(self) -> int:
        return int(self._file("revised").sum())

    def session(self, number: int) -> pa.Table:
        """What came in on one session: its bars, minute by minute, after revisions of the session before.

        The number after the last has revisions alone.
        """
        parts = []
        if number:
            as_of = np.full(1, open_of(number) - 60 * MINUTE_NS)
            parts.append(self._part(number - 1, "revised", lambda ts: np.repeat(as_of, len(ts)), "corrected"))
        if number < self.sessions:
            parts.append(self._part(number, "present", known_at, "final"))
        return pa.concat_tables(parts).combine_chunks()

    def _part(self, session: int, mask: str, as_of, status: str) -> pa.Table:
        place = slice(session * MINUTES, (session + 1) * MINUTES)
        minute, symbol = np.nonzero(self._file(mask)[:, place].T)
        values = {name: self._file(name)[:, place].T[minute, symbol] for name in (*FLOATS, "trades")}
        ts = open_of(session) + minute * MINUTE_NS
        values = revise(values) if status == "corrected" else values
        return table(pa.array(self.names).take(symbol), ts, values, as_of(ts), status)

    def symbol(self, number: int, *, versions: bool) -> pa.Table:
        """One symbol by ts and as_of: every version, or the last of each minute."""
        every = self.ts
        values = {name: self._file(name)[number] for name in (*FLOATS, "trades")}
        present, revised = self._file("present")[number], self._file("revised")[number]
        first = present if versions else present & ~revised
        known = known_at(every)
        # revisions come an hour before the next session opens
        opens = np.array([open_of(session + 1) for session in range(self.sessions)], np.int64)
        revised_at = np.repeat(opens - 60 * MINUTE_NS, MINUTES)
        new = revise(values)
        ts = np.concatenate([every[first], every[revised]])
        as_of = np.concatenate([known[first], revised_at[revised]])
        both = {name: np.concatenate([values[name][first], new[name][revised]]) for name in values}
        status = pa.array(["final", "corrected"]).take(np.repeat([0, 1], [first.sum(), revised.sum()]))
        order = np.lexsort((as_of, ts))
        return table(
            self.names[number],
            ts[order],
            {name: column[order] for name, column in both.items()},
            as_of[order],
            status.take(order),
        )


def version(number: int, sessions: int, times: int) -> pa.Table:
    """One symbol as it was revised so many times, each 20 days after the one before; 0: as it came first."""
    ts, values = series(number, sessions)
    values = revise(values, times) if times else values
    as_of = known_at(ts, 7 + times) + times * 20 * DAY_NS
    return table(names(number + 1)[-1], ts, values, as_of, "corrected" if times else "final")


def digest(bars: pa.Table) -> list[float]:
    """What two engines that gave the same bars agree on."""
    close = bars["close"].to_numpy()
    return [bars.num_rows, round(float(close.sum()), 2), round(float((close * (1 + np.arange(len(close)))).sum()), 0)]
