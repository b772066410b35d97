"""History over HTTP in every format, against bars typed by hand; readers of other makers are the referees."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import tracemalloc
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from history_door import API, MINUTE, Desk, at, row
from hypothesis import given
from hypothesis import strategies as st

from marketd.api.bars import ColumnsReply, ObservationsReply
from marketd.api.formats import arrow_stream, coded, csv_stream, json_columns, json_rows
from marketd.continuity.history import HISTORY_SCHEMA
from marketd.model import BAR_SCHEMA, OBSERVATION_SCHEMA, AnsweredSpan, Bar, CorporateAction, Interval, format_ns
from marketd.store.contract import Presence

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
X = f"{API}/historical/X"


def five() -> list[dict[str, Any]]:
    """10:00 to 10:05 without 10:03."""
    return [row(at("10:00") + i * MINUTE, 100.25 + i) for i in (0, 1, 2, 4)]


@pytest.fixture
def desk() -> Desk:
    return Desk(five())


RANGE = "from=2026-11-20T10:00:00Z&to=2026-11-20T10:05:00Z"
CLOSES = [101.25, 102.25, 103.25, 105.25]
TIMES = [f"2026-11-20T10:0{i}:00Z" for i in (0, 1, 2, 4)]
GAP = {"from": "2026-11-20T10:03:00Z", "to": "2026-11-20T10:04:00Z", "reason": "not_fetched", "count": 1}
HEAD = {
    "symbol": "X",
    "interval": "1m",
    "side": "trade",
    "from": "2026-11-20T10:00:00Z",
    "to": "2026-11-20T10:05:00Z",
    "as_of": None,
    "adjustment": "raw",
    "count": 4,
    "truncated": False,
    "next": None,
    "calendar": "24/7",
    "complete": False,
    "missing": [GAP],
    "missing_total": 1,
}


# --- formats -----------------------------------------------------------------------------------------------------


def test_rows(desk: Desk) -> None:
    answer = desk.get(f"{X}?{RANGE}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    bars = answer.json["bars"]
    assert {k: v for k, v in answer.json.items() if k != "bars"} == HEAD
    assert bars[0] == {
        "timestamp": "2026-11-20T10:00:00Z", "open": 100.25, "high": 102.25, "low": 99.25, "close": 101.25,
        "volume": 10.5, "vwap": None, "trades": 2, "status": "final", "source": "venue",
    }  # fmt: skip
    assert [(b["timestamp"], b["close"]) for b in bars] == list(zip(TIMES, CLOSES, strict=True))


def test_columns(desk: Desk) -> None:
    answer = desk.get(f"{X}?{RANGE}&format=columns").json
    assert answer["columns"] == {
        "timestamp": TIMES,
        "open": [100.25, 101.25, 102.25, 104.25],
        "high": [102.25, 103.25, 104.25, 106.25],
        "low": [99.25, 100.25, 101.25, 103.25],
        "close": CLOSES,
        "volume": [10.5] * 4,
        "vwap": [None] * 4,
        "trades": [2] * 4,
        "status": ["final"] * 4,
        "source": ["venue"] * 4,
        "partial": [False] * 4,
        "filled": [False] * 4,
    }
    assert {k: v for k, v in answer.items() if k != "columns"} == HEAD
    assert msgspec.to_builtins(msgspec.convert(answer, ColumnsReply)) == answer


def test_csv(desk: Desk) -> None:
    answer = desk.get(f"{X}?{RANGE}", Accept="text/csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert lines[0] == {
        "symbol": "X", "interval": "1m", "side": "trade", "timestamp": "2026-11-20T10:00:00Z", "open": "100.25",
        "high": "102.25", "low": "99.25", "close": "101.25", "volume": "10.5", "vwap": "", "trades": "2",
        "status": "final", "source": "venue", "as_of": "2026-11-20T10:01:00Z", "partial": "false", "filled": "false",
    }  # fmt: skip
    assert [line["timestamp"] for line in lines] == TIMES
    assert (answer.headers["x-marketd-complete"], answer.headers["x-marketd-missing-total"]) == ("false", "1")
    assert json.loads(answer.headers["x-marketd-missing"]) == [GAP]


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_arrow_and_parquet(desk: Desk, kind: str) -> None:
    media = {"arrow": ARROW, "parquet": PARQUET}[kind]
    answer = desk.get(f"{X}?{RANGE}", Accept=media)
    assert (answer.headers["content-type"], answer.headers["vary"]) == (media, "Accept")
    table = (
        pa.ipc.open_stream(answer.body).read_all() if kind == "arrow" else pq.read_table(pa.BufferReader(answer.body))
    )
    assert table["close"].to_pylist() == CLOSES
    assert table.column_names[-2:] == ["partial", "filled"]
    head = json.loads(table.schema.metadata[b"marketd"])
    assert {**head, "count": 4} == HEAD


CODED = {
    **dict.fromkeys(("symbol", "interval", "side", "status"), pa.dictionary(pa.int8(), pa.string())),
    "provider": pa.dictionary(pa.int16(), pa.string()),
}


def test_an_arrow_answer_has_its_words_in_dictionaries() -> None:
    bars = five()
    bars[1] |= {"provider": "other", "status": "corrected"}
    answer = Desk(bars).get(f"{X}?{RANGE}&format=arrow")
    assert int(answer.headers["content-length"]) == len(answer.body)
    table = pa.ipc.open_stream(answer.body).read_all()
    table.validate(full=True)
    assert {f.name: f.type for f in table.schema if pa.types.is_dictionary(f.type)} == CODED
    assert table.cast(HISTORY_SCHEMA).select(BAR_SCHEMA.names).equals(_table(bars))
    page = pa.ipc.open_stream(Desk(bars).get(f"{X}?{RANGE}&format=arrow&limit=4").body).read_all()
    assert page.equals(table)


def test_the_symbols_of_a_cross_section_are_plain() -> None:
    """There may be more of them than a dictionary of eight bits holds."""
    bars = [row("10:00", 1.0 + n, symbol=f"S{n:03}") for n in range(300)]
    body = Desk(bars).get(f"{API}/cross-section?interval=1m&ts=2026-11-20T10:00:00Z&format=arrow").body
    table = pa.ipc.open_stream(body).read_all()
    assert {f.name: f.type for f in table.schema if f.name in CODED} == {**CODED, "symbol": pa.string()}
    assert table.cast(BAR_SCHEMA).equals(_table(bars))


SLICES = [
    [row("10:00", 1.0), row("10:01", 2.0)],
    [row("10:02", 3.0, provider="other"), row("10:03", 4.0, status="live"), row("10:04", 5.0)],
    [],
    [row("10:05", 6.0, status="live", provider="third")],
]


def _sliced(*, coded_by_store: bool) -> tuple[bytes, pa.Table]:
    """An Arrow answer whose dictionaries grow on the way, and its bars."""
    other_words = pa.schema(
        [f.with_type(pa.dictionary(pa.int32(), f.type)) if f.name in CODED else f for f in BAR_SCHEMA]
    )
    tables = [_table(rows) for rows in SLICES]
    offered = [table.cast(other_words) for table in tables] if coded_by_store else tables
    pieces = [piece for pieces in arrow_stream(coded(BAR_SCHEMA), offered) for piece in pieces]
    return b"".join(pieces), pa.concat_tables(tables)


@pytest.mark.parametrize("coded_by_store", [False, True])
def test_dictionaries_grow_from_slice_to_slice(coded_by_store: bool) -> None:
    body, bars = _sliced(coded_by_store=coded_by_store)
    batches = list(pa.ipc.open_stream(body))
    assert [batch.num_rows for batch in batches] == [2, 3, 1]
    assert pa.Table.from_batches(batches).cast(BAR_SCHEMA).equals(bars)


PRICES_AND_WORDS = [
    (1.0, "final", "venue"), (2.0, "final", "venue"), (3.0, "final", "other"), (4.0, "live", "venue"),
    (5.0, "final", "venue"), (6.0, "live", "third"),
]  # fmt: skip


def test_duckdb_reads_the_arrow_answer() -> None:
    reader = pa.ipc.open_stream(_sliced(coded_by_store=False)[0])
    with duckdb.connect() as connection:
        found = connection.from_arrow(reader).project("open, status::VARCHAR, provider::VARCHAR").fetchall()
    assert found == PRICES_AND_WORDS


def test_polars_reads_the_arrow_answer() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_ipc_stream(io.BytesIO(_sliced(coded_by_store=False)[0]))
    words = frame.select("open", polars.col("status", "provider").cast(polars.String))
    assert words.rows() == PRICES_AND_WORDS


def test_pandas_reads_the_arrow_answer() -> None:
    pytest.importorskip("pandas")
    frame = pa.ipc.open_stream(_sliced(coded_by_store=False)[0]).read_pandas()
    assert list(zip(frame["open"], frame["status"], frame["provider"], strict=True)) == PRICES_AND_WORDS


def test_duckdb_reads_the_parquet_answer(desk: Desk, tmp_path: Any) -> None:
    (tmp_path / "x.parquet").write_bytes(desk.get(f"{X}?{RANGE}&format=parquet").body)
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT close FROM '{tmp_path}/x.parquet' ORDER BY ts").fetchall()
    assert [close for (close,) in found] == CLOSES


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "application/json"),
        (ARROW, ARROW),
        (f"{ARROW};q=0.5, text/csv;q=0.8", "text/csv; charset=utf-8"),
        (f"application/json;q=0.1, {PARQUET};q=0.2", PARQUET),
        (f"{PARQUET};q=nonsense, {ARROW};q=0", "application/json"),
    ],
)
def test_the_accept_header_chooses_and_format_has_the_last_word(desk: Desk, accept: str, given: str) -> None:
    assert desk.get(f"{X}?{RANGE}", Accept=accept).headers["content-type"] == given
    assert desk.get(f"{X}?{RANGE}&format=arrow", Accept=accept).headers["content-type"] == ARROW


_PRICE = st.floats(allow_nan=False, allow_infinity=False)
_WORD = st.text(min_size=1, max_size=12)


@given(
    prices=st.lists(st.tuples(_PRICE, _PRICE, st.none() | _PRICE), min_size=1, max_size=20),
    sources=st.lists(_WORD, min_size=1, max_size=20),
    step=st.sampled_from([1_000_000_000, MINUTE, 86_400_000_000_000, 999_999_999_999_999]),
    start=st.integers(-2_000_000_000_000_000_000, 4_000_000_000_000_000_000),
)
def test_text_reads_back_exactly(
    prices: list[tuple[float, float, float | None]], sources: list[str], step: int, start: int
) -> None:
    n = len(prices)
    table = pa.table(
        {
            "ts": pa.array([start + i * step for i in range(n)]).cast(pa.timestamp("ns", tz="UTC")),
            "open": pa.array([p[0] for p in prices], pa.float64()),
            "close": pa.array([p[1] for p in prices], pa.float64()),
            "volume": pa.array([p[2] for p in prices], pa.float64()),
            "provider": pa.array([sources[i % len(sources)] for i in range(n)]),
            "partial": pa.array([i % 3 == 0 for i in range(n)]),
        }
    )
    names = table.column_names
    rows = json.loads(b"[" + b",".join(json_rows(table, names)) + b"]")
    expected = [
        {
            "open": p[0],
            "close": p[1],
            "volume": p[2],
            "source": sources[i % len(sources)],
            **({"partial": True} if i % 3 == 0 else {}),
        }
        for i, p in enumerate(prices)
    ]
    assert [{k: v for k, v in r.items() if k != "timestamp"} for r in rows] == expected
    told = [np.datetime64(r["timestamp"].removesuffix("Z"), "ns").astype(np.int64) for r in rows]
    assert told == [start + i * step for i in range(n)]
    columns = json.loads(b"".join(json_columns(table, names)))
    assert columns["volume"] == [p[2] for p in prices]
    assert columns["source"] == [e["source"] for e in expected]
    assert columns["partial"] == [i % 3 == 0 for i in range(n)]
    text = b"".join(csv_stream(names, [table])).decode()
    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert [float(line[1]) for line in lines[1:]] == [p[0] for p in prices]
    assert [line[4] for line in lines[1:]] == [e["source"] for e in expected]


def test_many_different_words_are_all_told() -> None:
    n = 5_000
    table = pa.table(
        {
            "symbol": [f"S{i}" for i in range(n)],
            "provider": [f'p"{i % 70}' for i in range(n)],
            "status": ["final", "live"] * (n // 2),
        }
    )
    rows = json.loads(b"[" + b",".join(json_rows(table, table.column_names)) + b"]")
    assert rows == [{"symbol": f"S{i}", "source": f'p"{i % 70}', "status": ["final", "live"][i % 2]} for i in range(n)]


# --- what is asked -------------------------------------------------------------------------------------------------


def test_as_of_and_prefer_and_fill(desk: Desk) -> None:
    later = row("10:01", 900.0, provider="other", as_of=at("11:00"))
    desk.store.append(_table([later]))
    assert [b["open"] for b in desk.get(f"{X}?{RANGE}").json["bars"]] == [100.25, 900.0, 102.25, 104.25]
    assert [b["open"] for b in desk.get(f"{X}?{RANGE}&prefer=venue,other").json["bars"]][1] == 101.25
    then = desk.get(f"{X}?{RANGE}&as_of=2026-11-20T10:59:00Z").json
    assert ([b["open"] for b in then["bars"]][1], then["as_of"]) == (101.25, "2026-11-20T10:59:00Z")
    filled = desk.get(f"{X}?{RANGE}&fill=forward").json
    assert [b.get("filled") for b in filled["bars"]] == [None, None, None, True, None]
    assert (filled["bars"][3]["close"], filled["bars"][3]["volume"]) == (103.25, None)
    assert (filled["complete"], filled["missing"]) == (False, [GAP])


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, BAR_SCHEMA)


def test_partial_bars_say_so(desk: Desk) -> None:
    (bar,) = desk.get(f"{X}?{RANGE}&interval=5m").json["bars"]
    assert (bar["open"], bar["close"], bar["partial"]) == (100.25, 105.25, True)
    desk.records.note_spans(
        [
            AnsweredSpan(
                symbol="X", interval="1m", provider="venue", start_ns=at("10:03"), end_ns=at("10:04"),
                reason="no_trades", as_of_ns=at("11:00"),
            )
        ]
    )  # fmt: skip
    answer = desk.get(f"{X}?{RANGE}&interval=5m").json
    assert ("partial" in answer["bars"][0], answer["complete"]) == (False, True)


def test_the_running_bar_is_in_the_answer_of_now() -> None:
    desk = Desk(five())
    desk.live = [
        Bar(
            symbol="X", interval="1m", side="trade", ts_ns=at("12:00"), open=7.0, high=7.0, low=7.0, close=7.0,
            volume=None, vwap=None, trades=1, provider="venue", status="live", as_of_ns=at("12:00"),
        )
    ]  # fmt: skip
    asked = f"{X}?from=2026-11-20T11:59:00Z&to=2026-11-20T12:01:00Z"
    assert [(b["timestamp"], b["status"]) for b in desk.get(asked).json["bars"]] == [("2026-11-20T12:00:00Z", "live")]
    assert desk.get(f"{asked}&as_of=2026-11-20T12:00:00Z").json["bars"] == []
    arrow = pa.ipc.open_stream(desk.get(f"{asked}&format=arrow").body).read_all()
    assert arrow["status"].to_pylist() == ["live"]


@pytest.mark.parametrize("kind", ["rows", "arrow", "csv"])
@pytest.mark.parametrize(("order", "first"), [("", [4, 2]), ("&order=asc", [0, 1]), ("&order=desc", [4, 2])])
def test_pages_by_token(desk: Desk, kind: str, order: str, first: list[int]) -> None:
    def page(token: str | None) -> tuple[list[int], str | None]:
        answer = desk.get(f"{X}?{RANGE}{order}&limit=2&format={kind}" + (f"&page={token}" if token else ""))
        assert answer.status == 200
        if kind == "rows":
            return [int(b["timestamp"][15]) for b in answer.json["bars"]], answer.json["next"]
        token = answer.headers.get("x-marketd-next")
        if kind == "csv":
            lines = list(csv.DictReader(io.StringIO(answer.body.decode())))
            return [int(line["timestamp"][15]) for line in lines], token
        table = pa.ipc.open_stream(answer.body).read_all()
        return [int(format_ns(ts)[15]) for ts in table["ts"].cast(pa.int64()).to_pylist()], token

    one, token = page(None)
    assert one == (first if order else sorted(first))
    assert token is not None
    two, end = page(token)
    assert sorted(one + two) == [0, 1, 2, 4]
    assert end is None


def test_a_page_is_of_the_moment_of_the_first(desk: Desk) -> None:
    first = desk.get(f"{X}?{RANGE}&order=asc&limit=2").json
    desk.store.append(_table([row("10:04", 900.0, status="corrected", as_of=at("12:00") + 1)]))
    rest = desk.get(f"{X}?{RANGE}&order=asc&limit=2&page={first['next']}").json
    assert [b["open"] for b in rest["bars"]] == [102.25, 104.25]
    assert rest["as_of"] == "2026-11-20T12:00:00Z"
    assert [b["open"] for b in desk.get(f"{X}?{RANGE}").json["bars"]][3] == 900.0


def test_a_token_of_another_question_is_refused(desk: Desk) -> None:
    token = desk.get(f"{X}?{RANGE}&limit=2").json["next"]
    for other in ("&order=asc", "&interval=5m", "&adjustment=split", "&fill=forward", "&prefer=venue"):
        answer = desk.get(f"{X}?{RANGE}&limit=2&page={token}{other}")
        assert (answer.status, answer.json["error"]["details"]["field"]) == (422, "page")
    assert desk.get(f"{X}?{RANGE}&limit=1&format=csv&page={token}").status == 200


@given(st.binary(max_size=80) | st.builds(msgspec.msgpack.encode, st.lists(st.integers(-(2**63), 2**64 - 1))))
def test_no_token_breaks_the_server(raw: bytes) -> None:
    desk = _SHARED
    token = base64.urlsafe_b64encode(raw).decode().rstrip("=") or "A"
    answer = desk.get(f"{X}?{RANGE}&page={token}")
    assert (answer.status, answer.json["error"]["details"]["field"]) == (422, "page")


_SHARED = Desk(five())


def test_adjustment_tells_what_was_applied() -> None:
    day = 1_440 * MINUTE
    desk = Desk([row(at("2026-11-16") + i * day, 100.0, "1d") for i in range(4)])
    desk.records.add_actions(
        [
            CorporateAction(
                symbol="X", kind="split", ex_ns=at("2026-11-18"), provider="venue", as_of_ns=at("2026-11-17"), ratio=4.0
            )
        ]
    )
    asked = f"{X}?interval=1d&from=2026-11-16&to=2026-11-20"
    raw = desk.get(asked).json
    assert ([b["open"] for b in raw["bars"]], "actions" in raw) == ([100.0] * 4, False)
    split = desk.get(f"{asked}&adjustment=split").json
    assert [b["open"] for b in split["bars"]] == [25.0, 25.0, 100.0, 100.0]
    told = {
        "kind": "split", "ex_date": "2026-11-18", "ratio": 4.0, "amount": None, "currency": None, "new_symbol": None,
        "source": "venue", "as_of": "2026-11-17T00:00:00Z",
    }  # fmt: skip
    assert split["actions"] == [told]
    marks = [("already_adjusted", "2026-11-18"), ("single_source", "2026-11-18")]  # the price went on at 100
    assert [(mark["code"], mark["ex_date"]) for mark in split["marks"]] == marks
    for kind in ("arrow", "csv", "parquet"):
        beside = desk.get(f"{asked}&adjustment=split&format={kind}").headers
        assert json.loads(beside["x-marketd-actions"]) == [told]
        assert json.loads(beside["x-marketd-marks"]) == split["marks"]
        assert (beside["x-marketd-actions-total"], beside["x-marketd-marks-total"]) == ("1", "2")
    assert "x-marketd-actions" not in desk.get(f"{asked}&format=csv").headers
    period = desk.get("/stocks/X/history?period=5d&adjustment=split").json
    assert [b["open"] for b in period["bars"]] == [25.0, 25.0, 100.0, 100.0]
    before = desk.get("/stocks/X/history?period=5d&adjustment=split&as_of=2026-11-16T23:00:00Z").json
    assert [b["open"] for b in before["bars"]] == [100.0]
    actions = desk.get(f"{API}/actions/X").json
    assert (actions["actions"], [m["code"] for m in actions["marks"]]) == ([told], ["single_source"])
    assert desk.get(f"{API}/actions/X?as_of=2026-11-16").json["actions"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=100001", "limit"),
        ("as_of=then", "as_of"),
        ("adjustment=none", "adjustment"),
        ("fill=zero", "fill"),
        ("prefer=", "prefer"),
        ("prefer=a,,b", "prefer"),
        ("order=newest", "order"),
        ("format=xml", "format"),
        ("page=", "page"),
        ("page=" + "A" * 201, "page"),
        ("interval=1s", "interval"),
    ],
)
def test_what_is_not_allowed_is_named(query: str, field: str) -> None:
    desk = Desk(five(), keep_1s=False)
    answer = desk.get(f"{X}?{query}")
    assert (answer.status, answer.json["error"]["details"]["field"]) == (422, field)
    assert desk.get(f"{API}/historical/Y?{RANGE}").status == 404


# --- size ------------------------------------------------------------------------------------------------------------


def _long(n: int) -> pa.Table:
    """n minutes of X that end at 12:00."""
    first = at("12:00") - n * MINUTE
    o = 100 + np.arange(n) / 8
    ts = pa.array(first + np.arange(n) * MINUTE)
    moment = pa.timestamp("ns", tz="UTC")
    return pa.table(
        {
            "symbol": pa.repeat("X", n), "interval": pa.repeat("1m", n), "side": pa.repeat("trade", n),
            "ts": ts.cast(moment), "open": o, "high": o + 1, "low": o - 1, "close": o + 0.5,
            "volume": np.arange(n, dtype=np.float64), "vwap": pa.nulls(n, pa.float64()),
            "trades": pa.repeat(2, n), "provider": pa.repeat("venue", n), "status": pa.repeat("final", n),
            "as_of": ts.cast(moment),
        },
        schema=BAR_SCHEMA,
    )  # fmt: skip


def _asked_for(kind: str, spec_version: str) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1",
        "method": "GET", "scheme": "http", "path": X, "raw_path": X.encode(), "root_path": "", "headers": [],
        "query_string": f"from=2024-01-01&format={kind}".encode(),
    }  # fmt: skip


class Shelf:
    """A store of one long series that is already in Arrow: reading it costs no memory of its own."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._ts = table["ts"].cast(pa.int64()).to_numpy()
        self.reads = 0
        """Of whole slices."""

    def read(self, symbol: str, interval: Any, start_ns: int, end_ns: int, **more: Any) -> pa.Table:
        first, last = np.searchsorted(self._ts, (start_ns, end_ns)).tolist()
        limit, newest_first = more.get("limit"), more.get("newest_first", False)
        self.reads += limit is None and last > first
        if interval.name != "1m" or symbol != "X":
            first = last
        if newest_first:
            first = first if limit is None else max(first, last - limit)
            return self._table.slice(first, last - first).take(np.arange(last - first)[::-1])
        return self._table.slice(first, last - first if limit is None else min(last - first, limit))

    def presence(self, interval: Interval, start_ns: int, end_ns: int, **_: Any) -> Presence:
        first_ns = interval.ceil(start_ns)
        flags = np.isin(interval.starts(start_ns, end_ns), self._ts)
        bits = np.packbits(flags, bitorder="little")[None]
        return Presence(symbols=("X",), interval=interval, start_ns=first_ns, slots=len(flags), bits=bits)

    def symbols(self) -> tuple[str, ...]:
        return ("X",)


@pytest.mark.parametrize("kind", ["csv", "arrow", "parquet"])
def test_a_slow_client_is_waited_for_and_one_that_leaves_ends_the_reading(kind: str) -> None:
    desk = Desk([])
    shelf = Shelf(_long(700_000))
    desk.store = desk.history._store = shelf  # type: ignore[assignment]
    left = asyncio.Event()
    reads: list[int] = []

    async def send(message: Any) -> None:
        """Takes what comes until three slices were read, then nothing more; and leaves."""
        if shelf.reads >= 3:
            for _ in range(50):  # whatever the server does meanwhile
                await asyncio.sleep(0)
            await asyncio.to_thread(lambda: None)
            reads.append(shelf.reads)
            left.set()
            await asyncio.Event().wait()

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        await asyncio.wait_for(desk._app(_asked_for(kind, "2.3"), receive, send), 20)

    asyncio.run(run())
    assert reads == [3]
    assert shelf.reads == 3


@pytest.mark.parametrize("kind", ["csv", "arrow", "parquet"])
def test_an_answer_of_any_size_never_holds_more_than_64_mib(kind: str) -> None:
    desk = Desk([])
    n = 700_000
    shelf = Shelf(_long(n))
    desk.store = desk.history._store = shelf  # type: ignore[assignment]

    async def run() -> tuple[int, int]:
        """Bytes sent, and in how many messages."""
        sizes: list[int] = []

        async def send(message: Any) -> None:
            sizes.append(len(message.get("body", b"")))

        async def receive() -> Any:
            await asyncio.Event().wait()

        await desk._app(_asked_for(kind, "2.4"), receive, send)
        return sum(sizes), len(sizes)

    before = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counting)
    tracemalloc.start()
    try:
        sent, chunks = asyncio.run(run())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert sent > n * 3
    assert chunks > 6
    assert peak + counting.max_memory() < 64 << 20


# --- the other doors -------------------------------------------------------------------------------------------------


def test_versions_of_a_bar(desk: Desk) -> None:
    desk.store.append(_table([row("10:01", 900.0, status="corrected", as_of=at("11:00"))]))
    answer = desk.get(f"{API}/versions/X?ts=2026-11-20T10:01:00Z").json
    assert {k: v for k, v in answer.items() if k != "versions"} == {
        "symbol": "X", "interval": "1m", "side": "trade", "timestamp": "2026-11-20T10:01:00Z",
    }  # fmt: skip
    assert [(v["open"], v["status"], v["as_of"]) for v in answer["versions"]] == [
        (101.25, "final", "2026-11-20T10:02:00Z"),
        (900.0, "corrected", "2026-11-20T11:00:00Z"),
    ]
    between = desk.get(f"{API}/versions/X?ts=2026-11-20T10:01:30Z")
    assert (between.status, between.json["error"]["details"]["field"]) == (422, "ts")
    assert desk.get(f"{API}/versions/X").json["error"]["details"]["field"] == "ts"
    assert desk.get(f"{API}/versions/Q?ts=2026-11-20").status == 404


def test_a_cross_section(desk: Desk) -> None:
    desk.store.append(_table([row("10:01", 5.0, symbol="A"), row("10:01", 6.0, symbol="B", as_of=at("11:00"))]))
    asked = f"{API}/cross-section?ts=2026-11-20T10:01:00Z"
    answer = desk.get(asked).json
    assert [(b["symbol"], b["open"]) for b in answer["bars"]] == [("A", 5.0), ("B", 6.0), ("X", 101.25)]
    assert (answer["count"], answer["timestamp"], answer["interval"]) == (3, "2026-11-20T10:01:00Z", "1m")
    assert [b["symbol"] for b in desk.get(f"{asked}&symbols=X,A").json["bars"]] == ["A", "X"]
    assert [b["symbol"] for b in desk.get(f"{asked}&as_of=2026-11-20T10:30:00Z").json["bars"]] == ["A", "X"]
    assert desk.get(f"{asked}&format=columns").json["columns"]["open"] == [5.0, 6.0, 101.25]
    assert pa.ipc.open_stream(desk.get(asked, Accept=ARROW).body).read_all()["symbol"].to_pylist() == ["A", "B", "X"]
    assert desk.get(f"{API}/cross-section?interval=1h&ts=2026-11-20T10:01:00Z").status == 422


def test_observations_as_they_were_known(desk: Desk) -> None:
    moment = pa.timestamp("ns", tz="UTC")
    rows = [
        {"series": "us/cpi", "ts": at(ts), "value": value, "provider": "bureau", "as_of": at(as_of)}
        for ts, value, as_of in (
            ("2026-08-01", 1.5, "2026-09-10"),
            ("2026-09-01", 1.75, "2026-10-10"),
            ("2026-08-01", 1.625, "2026-10-10"),
        )
    ]
    table = pa.Table.from_pylist(rows, OBSERVATION_SCHEMA)
    assert table["ts"].type == moment
    desk.records.add_observations(table)
    asked = f"{API}/observations/us/cpi"
    now = desk.get(asked).json
    assert [(o["timestamp"], o["value"], o["source"], o["as_of"]) for o in now["observations"]] == [
        ("2026-08-01T00:00:00Z", 1.625, "bureau", "2026-10-10T00:00:00Z"),
        ("2026-09-01T00:00:00Z", 1.75, "bureau", "2026-10-10T00:00:00Z"),
    ]
    assert msgspec.to_builtins(msgspec.convert(now, ObservationsReply)) == now
    then = desk.get(f"{asked}?as_of=2026-09-15").json
    assert [o["value"] for o in then["observations"]] == [1.5]
    assert desk.get(f"{asked}?from=2026-09-01&source=bureau&format=columns").json["columns"]["value"] == [1.75]
    assert desk.get(f"{asked}?as_of=2020-01-01").json["observations"] == []
    unknown = desk.get(f"{API}/observations/none")
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "not_found")


def test_days_that_differ_from_their_minutes(desk: Desk) -> None:
    desk.store.append(_table([row("2026-11-20", 100.25, "1d", close=999.0)]))
    answer = desk.get(f"{API}/consistency/X?from=2026-11-19").json
    assert (answer["compared"], answer["different"]) == (1, 1)
    (one,) = answer["differences"]
    assert (one["timestamp"], one["partial"]) == ("2026-11-20T00:00:00Z", True)
    assert set(one["fields"]) == {"high", "close", "volume"}
    assert (one["stored"]["close"], one["rolled"]["close"]) == (999.0, 105.25)
    assert desk.get(f"{API}/consistency/X?interval=1m").status == 422
