"""marketd's part of the history benchmark: the embedded store by its contract, the ledger, the encoders.

Every job opens the store that is in the folder, with the configuration that a server has by default, and closes it.
The clock shows the time that the job is about, so that what is a day file and what a month is decided.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

import history_data as data
from history_work import batches, timed, timed_each
from marketd.model import Interval

MINUTE, DAY = Interval.parse("1m"), Interval.parse("1d")
ALL_NS = (0, 2**62)


class SetClock:
    """Time that a job sets. paced: the store also believes in the pauses between one time and the next.

    It seals in pauses. Where it is not to see any, its monotonic clock is the machine's.
    """

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.paced = False

    def time_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns if self.paced else time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nobody waits here, and not {seconds} s")


@contextmanager
def _open(folder: Path, now_ns: int, **config: int) -> Iterator:
    from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig

    clock = SetClock(now_ns)
    with closing(EmbeddedStore(folder / "bars", EmbeddedStoreConfig(**config), clock)) as store:
        yield store, clock


def append_day(
    folder: Path,
    *,
    symbols: int,
    minutes: int,
    session: int,
    holes: bool = False,
    paced: bool = False,
    end: str = "close",
    config: dict[str, int] | None = None,
) -> dict:
    """A day, minute by minute without pause. paced: it seals as if there were pauses, beside the appends.

    end: what becomes of the process: `close`, `seal` (what is not sealed yet, which is timed), or `kill`.
    """
    day = data.Day(symbols, minutes, session, holes=holes)
    tables = [day.minute(number) for number in range(minutes)]
    with _open(folder, int(day.ts[0]), **(config or {})) as (store, clock):
        clock.paced = paced
        times = []
        for table, ts in zip(tables, day.ts.tolist(), strict=True):
            clock.now_ns = ts + data.MINUTE_NS
            ms, _ = timed(lambda table=table: store.append(table))
            times.append(ms)
        result = batches(times, sum(table.num_rows for table in tables))
        if end == "seal":
            seal_ms, _ = timed(store.seal)
            result |= {"seal_s": seal_ms / 1e3, "sealed_rows_s": result["rows"] / (sum(times) + seal_ms) * 1e3}
        if end == "kill":
            (folder / "before").write_text(str(store.stats().versions))
            os.kill(os.getpid(), signal.SIGKILL)
    return result


def backfill(folder: Path, *, symbols: int, sessions: int, rows_a_batch: int) -> dict:
    """Whole series, one after the other, each in batches of so many rows."""
    now_ns = data.open_of(sessions)
    with _open(folder, now_ns) as (store, _):
        times, rows = [], 0
        for number in range(symbols):
            ts, values = data.series(number, sessions)
            bars = data.table(data.names(number + 1)[-1], ts, values, np.full(len(ts), now_ns), "backfill")
            parts = [bars.slice(at, rows_a_batch) for at in range(0, bars.num_rows, rows_a_batch)]
            times.append(sum(timed(lambda part=part: store.append(part))[0] for part in parts))
            rows += bars.num_rows
    return batches(times, rows)


def build_year(folder: Path, *, year: str, symbols: int, sessions: int) -> dict:
    """Day after day, each sealed when it is over; then what is due is merged."""
    source = data.Year(Path(year), symbols, sessions)
    append_ms = seal_ms = 0.0
    with _open(folder, data.open_of(0)) as (store, clock):
        for session in range(sessions + 1):
            clock.now_ns = data.open_of(session) + 10 * 3600 * data.NS
            bars = source.session(session)
            append_ms += timed(lambda bars=bars: store.append(bars))[0]
            seal_ms += timed(store.seal)[0]
        compact_ms, _ = timed(store.compact)
        stats = store.stats()
    times = {"append_s": append_ms / 1e3, "seal_s": seal_ms / 1e3, "compact_s": compact_ms / 1e3}
    return times | {"versions": stats.versions, "bytes": stats.bytes, **stats.details}


def build_versions(folder: Path, *, symbols: int, sessions: int, versions: int) -> dict:
    """Series of which each bar has so many versions, merged to the end."""
    with _open(folder, data.open_of(0)) as (store, clock):
        for times in range(versions):
            for number in range(symbols):
                bars = data.version(number, sessions, times)
                clock.now_ns = int(bars["as_of"].cast(pa.int64()).to_numpy().max())
                store.append(bars)
        clock.now_ns = data.open_of(500)
        store.seal()
        store.compact()
        return {"versions": store.stats().versions, "bytes": store.stats().bytes, **store.stats().details}


def settle(folder: Path, *, now_ns: int) -> dict:
    """Seal, merge what is due at a time, and remove what was merged."""
    with _open(folder, now_ns, retire_after_s=0) as (store, _):
        seal_ms, _ = timed(store.seal)
        compact_ms, _ = timed(store.compact)
        stats = store.stats()
    on_disk = sum(path.stat().st_size for path in (folder / "bars").rglob("*") if path.is_file())
    return {
        "seal_s": seal_ms / 1e3,
        "compact_s": compact_ms / 1e3,
        "versions": stats.versions,
        "bytes": stats.bytes,
        "bytes_on_disk": on_disk,
        **stats.details,
    }


def read(folder: Path, *, now_ns: int, numbers: list[int], warm_up: int, as_of_ns: int | None = None) -> dict:
    """Whole series, of another symbol each time."""
    with _open(folder, now_ns) as (store, _):
        times, digests = timed_each(
            lambda number: store.read(data.names(number + 1)[-1], MINUTE, *ALL_NS, as_of_ns=as_of_ns),
            numbers,
            warm_up,
            data.digest,
        )
    return {"ms": statistics.median(times), "all_ms": times, "digests": digests}


def cross_section(folder: Path, *, now_ns: int, minutes: list[int], warm_up: int) -> dict:
    """All symbols at one minute, another each time."""
    with _open(folder, now_ns) as (store, _):
        times, digests = timed_each(lambda ts: store.cross_section(MINUTE, ts), minutes, warm_up, data.digest)
    return {"ms": statistics.median(times), "all_ms": times, "digests": digests}


def gaps(folder: Path, *, now_ns: int, symbols: int, start_ns: int, end_ns: int, times: int) -> dict:
    """What is missing of all symbols, by the ledger, as spans."""
    from marketd.continuity.ledger import LedgerService
    from marketd.store.sqlite import SqliteRecords

    expecting = data.calendar()
    with _open(folder, now_ns) as (store, clock), closing(SqliteRecords(folder / "records.db")) as records:
        ledger = LedgerService(store, records, lambda _: expecting, lambda _: (data.PROVIDER,), clock)
        wanted = data.names(symbols)
        presence = [timed(lambda: store.presence(MINUTE, start_ns, end_ns, symbols=wanted))[0] for _ in range(times)]
        found = [timed(lambda: ledger.scan(MINUTE, start_ns, end_ns, wanted)) for _ in range(times + 1)]
    missing = sum(span.count for gaps in found[0][1] for span in gaps.spans)
    ms = [taken for taken, _ in found]
    return {
        "ms": statistics.median(ms[1:]),
        "first_ms": ms[0],
        "presence_ms": statistics.median(presence),
        "all_ms": ms,
        "missing": missing,
    }


def roll_up(folder: Path, *, now_ns: int, times: int) -> dict:
    """All symbols from minutes to days, latest versions, by the scan of the contract and the one roll-up there is."""
    from marketd.ingest.rollup import roll_up as rolled

    with _open(folder, now_ns) as (store, _):

        def days() -> pa.Table:
            batches = store.scan(MINUTE, *ALL_NS)
            return pa.concat_tables(rolled(pa.Table.from_batches([batch]), DAY) for batch in batches)

        scan_ms, rows = timed(lambda: sum(batch.num_rows for batch in store.scan(MINUTE, *ALL_NS)))
        pairs = [timed(days) for _ in range(times)]
    table = pairs[-1][1]
    volume = float(table["volume"].to_numpy().sum())
    ms = [taken for taken, _ in pairs]
    return {
        "ms": statistics.median(ms),
        "all_ms": ms,
        "scan_ms": scan_ms,
        "rows": rows,
        "digest": [*data.digest(table.sort_by([("symbol", "ascending"), ("ts", "ascending")])), volume],
    }


def encode(folder: Path, *, sessions: int, times: int) -> dict:
    """One series in the formats of the doors."""
    from marketd.api.bars import _CSV, _ROW
    from marketd.api.formats import arrow_stream, coded, csv_stream, json_columns, json_rows, parquet_stream
    from marketd.continuity.history import HISTORY_SCHEMA

    with _open(folder, data.open_of(sessions)) as (store, _):
        bars = store.read("S0000", MINUTE, *ALL_NS)
        as_kept = store.read("S0000", MINUTE, *ALL_NS, coded=True)
    flags = pa.array(np.zeros(bars.num_rows, np.bool_))
    table = pa.table([*bars.columns, flags, flags], schema=HISTORY_SCHEMA).combine_chunks()
    as_kept = pa.table([*as_kept.columns, flags, flags], names=HISTORY_SCHEMA.names).combine_chunks()
    encoders = {
        "arrow": lambda: itertools.chain.from_iterable(arrow_stream(coded(HISTORY_SCHEMA), [as_kept])),
        "json rows": lambda: json_rows(table, _ROW),
        "json columns": lambda: json_columns(table, _ROW),
        "csv": lambda: csv_stream(_CSV, [table]),
        "parquet": lambda: parquet_stream(HISTORY_SCHEMA, [table]),
    }
    return encodings(encoders, bars.num_rows, times)


def encode_alone(folder: Path, *, sessions: int, times: int) -> dict:
    """The same series by pyarrow alone, and by orjson on `to_pylist` (times to microseconds, which orjson can)."""
    import orjson

    with _open(folder, data.open_of(sessions)) as (store, _):
        bars = store.read("S0000", MINUTE, *ALL_NS).combine_chunks()
    told = ("ts", "open", "high", "low", "close", "volume", "vwap", "trades", "status", "provider")
    place = bars.schema.get_field_index("ts")
    in_us = bars.set_column(place, "ts", bars["ts"].cast(pa.timestamp("us", tz="UTC"))).select(told)

    def arrow() -> list[bytes]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, bars.schema) as writer:
            writer.write_table(bars)
        return [sink.getvalue()]

    encoders = {"arrow": arrow, "json rows": lambda: [orjson.dumps(in_us.to_pylist())]}
    return encodings(encoders, bars.num_rows, times)


def encodings(encoders: dict, rows: int, times: int) -> dict:
    """Milliseconds and bytes of each. What comes in pieces is counted piece by piece, as it would be sent."""
    result: dict = {"rows": rows, "ms": {}, "bytes": {}}
    for name, encoder in encoders.items():
        pairs = [timed(lambda encoder=encoder: sum(len(part) for part in encoder())) for _ in range(times + 1)]
        result["ms"][name] = statistics.median(ms for ms, _ in pairs[1:])
        result["bytes"][name] = pairs[0][1]
    return result


def build_long(folder: Path, *, sessions: int, first: str) -> dict:
    """One symbol, for longer than anybody keeps in memory, sealed and merged."""
    ts, values = data.series(0, sessions, np.datetime64(first))
    with _open(folder, int(ts[-1]) + data.DAY_NS) as (store, _):
        bars = data.table("S0000", ts, values, data.known_at(ts), "final")
        for at in range(0, bars.num_rows, 131_072):
            store.append(bars.slice(at, 131_072))
        store.seal()
        store.compact()
    return {"rows": bars.num_rows}


def restart(folder: Path, *, now_ns: int, config: dict[str, int]) -> dict:
    """Open what a killed process left, and count it."""
    from contextlib import ExitStack

    import pyarrow.parquet as pq

    sealed = sum(pq.read_metadata(path).num_rows for path in (folder / "bars" / "bars").rglob("*.parquet"))
    with ExitStack() as stack:
        ms, (store, _) = timed(lambda: stack.enter_context(_open(folder, now_ns, **config)))
        stats = store.stats()
    before = int((folder / "before").read_text())
    return {"ms": ms, "versions": stats.versions, "lost": before - stats.versions, "in_log": before - sealed}


JOBS = {
    "append_day": append_day,
    "backfill": backfill,
    "build_year": build_year,
    "build_versions": build_versions,
    "build_long": build_long,
    "settle": settle,
    "read": read,
    "cross_section": cross_section,
    "gaps": gaps,
    "roll_up": roll_up,
    "encode": encode,
    "encode_alone": encode_alone,
    "restart": restart,
}
