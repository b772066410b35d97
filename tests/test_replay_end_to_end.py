"""Recorded ticks through the whole server: over REST, over WebSocket, on disk, and exactly what the venue says."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from marketd.clock import SystemClock
from marketd.model import Interval, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig

API = "/api/v1/market-data"
OHLC = ("open", "high", "low", "close")
MINUTE_NS = 60_000_000_000

# Two minutes of quotes and trades. A quote's time is in microseconds, a trade's in milliseconds.
QUOTES = """\
ts_us,bid,ask,bid_size,ask_size
1700000040000000,1.25,1.5,10,20
1700000050000001,1.125,1.375,11,21
1700000070500000,1.75,2.0,12,22
1700000099999999,1.5,1.75,13,23
1700000100000000,3.0,3.25,14,24
1700000130000000,0.1,0.3,15,25
"""
TRADES = """\
time_ms,price,size,trade_id
1700000041000,1.375,0.5,1
1700000042000,1.875,0.25,2
1700000043000,1.0,0.125,3
1700000160000,2.5,4,4
"""
# 1700000040 is 2023-11-14T22:14:00Z.
FIRST, SECOND, THIRD = "2023-11-14T22:14:00Z", "2023-11-14T22:15:00Z", "2023-11-14T22:16:00Z"
BID_BARS = {FIRST: (1.25, 1.75, 1.125, 1.5), SECOND: (3.0, 3.0, 0.1, 0.1)}
ASK_BARS = {FIRST: (1.5, 2.0, 1.375, 1.75), SECOND: (3.25, 3.25, 0.3, 0.3)}
TRADE_BARS = {FIRST: (1.375, 1.875, 1.0, 1.0), THIRD: (2.5, 2.5, 2.5, 2.5)}
ANY_JUMP = "validation: {max_jump: null}\n"


def ended(server: Any, timeout_s: float = 90.0) -> dict[str, Any]:
    """Wait until the recording is over and stored; what `/health` says of it."""

    def is_over(health: Any) -> bool:
        return health["sources"][0]["state"] == "ended" and health["store"]["waiting"] == 0

    health = server.wait_for("/health", is_over, timeout_s)
    (source,) = health["sources"]
    return source


def bars(server: Any, symbol: str, side: str, **query: str) -> dict[str, tuple[float, ...]]:
    query = {"interval": "1m", "from": "2000-01-01T00:00:00Z", "limit": "50000"} | query
    arguments = "&".join(f"{key}={value}" for key, value in query.items())
    reply = server.get(f"{API}/historical/{symbol}?side={side}&{arguments}")
    assert (reply["symbol"], reply["side"], reply["count"]) == (symbol, side, len(reply["bars"]))
    found = {bar["timestamp"]: tuple(bar[name] for name in OHLC) for bar in reply["bars"]}
    assert len(found) == reply["count"]
    return found


def stored_bars(data_dir: Path, symbol: str, side: Any) -> dict[str, tuple[float, ...]]:
    """What is on disk, read without a server."""
    store = EmbeddedStore(data_dir, EmbeddedStoreConfig(), SystemClock())
    try:
        table = store.read(symbol, Interval.parse("1m"), 0, 2**62, side=side)
    finally:
        store.close()
    return {
        row["ts"].strftime("%Y-%m-%dT%H:%M:%SZ"): tuple(row[name] for name in OHLC)
        for row in table.select(["ts", *OHLC]).to_pylist()
    }


def test_quotes_and_trades_of_two_files_over_every_door_and_after_a_restart(tmp_path: Path, start_server) -> None:
    (tmp_path / "quotes.csv").write_text(QUOTES)
    with gzip.open(tmp_path / "trades.csv.gz", "wt") as file:
        file.write(TRADES)
    files = [f"{tmp_path}/quotes.csv=GOLD", f"{tmp_path}/trades.csv.gz=GOLD"]
    config = ANY_JUMP + "server: {}\n"
    server = start_server("--replay", *files, "--speed", "max", config=config)
    source = ended(server)
    assert (source["name"], source["ticks"], source["accepted"], source["quarantined"]) == ("replay", 10, 10, {})
    assert source["last_event"] == "2023-11-14T22:16:00Z"

    quote = server.get(f"{API}/quote/GOLD")
    told = {name: quote[name] for name in ("lastPrice", "bidPrice", "askPrice", "bidSize", "askSize", "timestamp")}
    assert told == {
        "lastPrice": 2.5,
        "bidPrice": 0.1,
        "askPrice": 0.3,
        "bidSize": 15.0,
        "askSize": 25.0,
        "timestamp": "2023-11-14T22:16:00Z",
    }
    assert (quote["source"], quote["stale"]) == ("replay", True)
    assert bars(server, "GOLD", "bid") == BID_BARS
    assert bars(server, "GOLD", "ask") == ASK_BARS
    assert bars(server, "GOLD", "trade") == TRADE_BARS
    volumes = server.get(f"{API}/historical/GOLD?interval=1m&side=trade&from=2023-11-14&to=2023-11-15")["bars"]
    assert [bar["volume"] for bar in volumes] == [0.875, 4.0]
    seconds = bars(server, "GOLD", "bid", interval="1s")
    assert seconds["2023-11-14T22:14:10Z"] == (1.125, 1.125, 1.125, 1.125)
    assert len(seconds) == 6
    assert bars(server, "GOLD", "bid", interval="1d") == {"2023-11-14T00:00:00Z": (1.25, 3.0, 0.1, 0.1)}

    async def snapshot() -> Any:
        async with connect(f"ws{server.url[4:]}{API}/stream", proxy=None) as socket, asyncio.timeout(10):
            await socket.recv()
            await socket.send('{"action":"subscribe","symbols":["GOLD"],"fields":["bidPrice","lastPrice"]}')
            await socket.recv()
            return json.loads(await socket.recv())

    message = asyncio.run(snapshot())
    assert (message["symbol"], message["bidPrice"], message["lastPrice"]) == ("GOLD", 0.1, 2.5)
    assert server.stop() == 0

    # The same bars, from another server that replays nothing, and from the disk.
    again = start_server(config="market_data: {symbols: {SPY: {}}}", data_dir=server.data_dir)
    again.wait_for("/health", lambda h: h["status"] == "ok")
    assert bars(again, "GOLD", "bid") == BID_BARS
    assert bars(again, "GOLD", "ask") == ASK_BARS
    assert bars(again, "GOLD", "trade") == TRADE_BARS
    again.process.kill()
    again.process.wait(10)
    assert stored_bars(server.data_dir, "GOLD", "ask") == ASK_BARS


def test_replaying_the_same_again_makes_no_second_bar(tmp_path: Path, start_server) -> None:
    (tmp_path / "quotes.csv").write_text(QUOTES)
    arguments = ["--replay", f"{tmp_path}/quotes.csv=GOLD", "--speed", "max"]
    first = start_server(*arguments, config=ANY_JUMP)
    ended(first)
    assert first.stop() == 0
    second = start_server(*arguments, config=ANY_JUMP, data_dir=first.data_dir)
    ended(second)
    assert bars(second, "GOLD", "bid") == BID_BARS
    assert bars(second, "GOLD", "ask") == ASK_BARS


def test_a_corrupt_line_is_counted_and_kept_apart_with_its_number(tmp_path: Path, start_server) -> None:
    lines = QUOTES.splitlines()
    lines.insert(3, "1700000060000000,one point two,1.5,1,1")
    lines.insert(5, "1700000080000000,1.5")
    (tmp_path / "gold.csv").write_text("\n".join(lines) + "\n")
    server = start_server("--replay", f"{tmp_path}/gold.csv", "--speed", "max", config=ANY_JUMP)
    source = ended(server)
    assert (source["accepted"], source["quarantined"]) == (6, {"corrupt_line": 2})
    refused = server.get(f"{API}/quarantine")
    assert refused["count"] == 2
    rows = {row["where"]: row for row in refused["quarantined"]}
    assert {where.rsplit("/", 1)[-1] for where in rows} == {"gold.csv:4", "gold.csv:6"}
    for where, text in (("gold.csv:4", "one point two"), ("gold.csv:6", "1700000080000000,1.5")):
        (row,) = (row for key, row in rows.items() if key.endswith(where))
        assert (row["source"], row["reason"]) == ("replay", "corrupt_line")
        assert text in row["detail"]
    assert bars(server, "GOLD", "bid") == BID_BARS


def test_a_replay_at_its_own_pace_is_streamed(tmp_path: Path, start_server) -> None:
    rows = [(100.0 + i / 8, 100.5 + i / 8) for i in range(10)]
    text = "".join(f"{1_700_000_000_000 + 100 * i},{bid},{ask}\n" for i, (bid, ask) in enumerate(rows))
    (tmp_path / "gold.csv").write_text("ts_ms,bid,ask\n" + text)
    server = start_server("--replay", f"{tmp_path}/gold.csv", "--shift", "--loop")

    async def watch() -> None:
        async with connect(f"ws{server.url[4:]}{API}/stream", proxy=None) as socket, asyncio.timeout(20):
            await socket.send('{"action":"subscribe","symbols":["GOLD"]}')
            seen: set[tuple[float, float]] = set()
            times: list[int] = []
            while seen != set(rows):
                message = json.loads(await socket.recv())
                if message["type"] == "quote_update" and "snapshot" not in message:
                    assert (message["bidPrice"], message["askPrice"]) in rows
                    assert message["stale"] is False
                    seen.add((message["bidPrice"], message["askPrice"]))
                    times.append(parse_ns(message["timestamp"]))
            assert times == sorted(set(times))

    asyncio.run(watch())


# --- what venues recorded ---------------------------------------------------------------------------------------


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def venue_minutes(path: Path, days: set[str], side: str) -> dict[str, tuple[float, ...]]:
    """The venue's own bars of these days."""
    return {
        row["ts"]: tuple(float(row[f"{side}_{name}"]) for name in OHLC)
        for row in read_rows(path)
        if row["ts"][:10] in days
    }


@pytest.mark.parametrize(
    ("symbol", "days", "minutes", "ticks"),
    [
        ("EURUSD", ["20140502", "20140504", "20140505", "20140506"], "oanda_eurusd_minute_20140501-20140515", None),
        ("XAUUSD", ["20140502", "20140505", "20140506", "20140507"], "oanda_xauusd_minute_20140501-20140509", 832_580),
    ],
)
def test_real_ticks_give_the_minute_bars_of_their_venue(
    data_folder: Path, start_server, symbol: str, days: list[str], minutes: str, ticks: int | None
) -> None:
    folder = data_folder / "quotes_fx"
    files = [folder / f"oanda_{symbol.lower()}_{day}_ticks.csv.gz" for day in days]
    server = start_server("--replay", *map(str, files), "--speed", "max")
    source = ended(server)
    assert source["quarantined"].keys() <= {"duplicate"}
    assert ticks in (None, source["ticks"])
    *_, last = read_rows(files[-1])
    quote = server.get(f"{API}/quote/{symbol}")
    assert (quote["bidPrice"], quote["askPrice"]) == (float(last["bid"]), float(last["ask"]))
    assert parse_ns(quote["timestamp"]) == int(last["ts_us"]) * 1_000
    dates = {f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days}
    expected = {side: venue_minutes(folder / f"{minutes}.csv.gz", dates, side) for side in ("bid", "ask")}
    assert len(expected["bid"]) > 3_000
    for side, venue in expected.items():
        assert bars(server, symbol, side) == venue

    async def snapshot() -> Any:
        async with connect(f"ws{server.url[4:]}/ws/{symbol}", proxy=None) as socket, asyncio.timeout(10):
            return json.loads(await socket.recv())

    message = asyncio.run(snapshot())
    assert (message["bid"], message["ask"]) == (float(last["bid"]), float(last["ask"]))
    assert server.stop() == 0
    for side, venue in expected.items():
        assert stored_bars(server.data_dir, symbol, side) == venue


def test_real_quotes_and_trades_of_one_symbol(data_folder: Path, start_server) -> None:
    folder = data_folder / "quotes_crypto"
    days = ("20240808", "20240809")
    quotes = [folder / f"binance_spot_btcusdt_{day}_quotes.csv.gz" for day in days]
    trades = [folder / f"binance_spot_btcusdt_{day}_trades.csv.gz" for day in days]
    server = start_server("--replay", *map(str, (*quotes, *trades)), "--speed", "max")
    source = ended(server)
    assert source["quarantined"].keys() <= {"duplicate"}

    # The same minutes, made here of the rows one by one. Spot quotes carry no time but the receiver's.
    expected: dict[str, dict[int, list[float]]] = {"bid": {}, "ask": {}, "trade": {}}
    volumes: dict[int, list[float]] = {}
    for path in quotes:
        for row in read_rows(path):
            assert not row["event_ms"]
            for side in ("bid", "ask"):
                expected[side].setdefault(int(row["recv_ns"]) // MINUTE_NS, []).append(float(row[side]))
    last_quote = row
    for path in trades:
        for row in read_rows(path):
            minute = int(row["event_ms"]) * 1_000_000 // MINUTE_NS
            expected["trade"].setdefault(minute, []).append(float(row["price"]))
            volumes.setdefault(minute, []).append(float(row["size"]))
    last_trade = row
    for side, minutes in expected.items():
        found = {parse_ns(start) // MINUTE_NS: values for start, values in bars(server, "BTCUSDT", side).items()}
        assert found == {minute: (p[0], max(p), min(p), p[-1]) for minute, p in minutes.items()}
    reply = server.get(f"{API}/historical/BTCUSDT?interval=1m&side=trade&from=2024-08-08&to=2024-08-10")
    for bar in reply["bars"]:
        sizes = volumes[parse_ns(bar["timestamp"]) // MINUTE_NS]
        assert math.isclose(bar["volume"], math.fsum(sizes), rel_tol=1e-12)
        assert bar["trades"] == len(sizes)

    quote = server.get(f"{API}/quote/BTCUSDT")
    assert (quote["bidPrice"], quote["askPrice"]) == (float(last_quote["bid"]), float(last_quote["ask"]))
    assert (quote["bidSize"], quote["askSize"]) == (float(last_quote["bid_size"]), float(last_quote["ask_size"]))
    assert quote["lastPrice"] == float(last_trade["price"])
    assert server.stop() == 0
    for side in ("bid", "ask", "trade"):
        on_disk = stored_bars(server.data_dir, "BTCUSDT", side)
        assert len(on_disk) == len(expected[side])
        for start, values in on_disk.items():
            prices = expected[side][parse_ns(start) // MINUTE_NS]
            assert values == (prices[0], max(prices), min(prices), prices[-1])
