"""`WS /api/v1/market-data/stream` over a real socket: what is sent, what is refused, and who reads slowly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stream_door import RawClient, StreamDoor, run, serving, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from marketd.fanout.hub import FanoutConfig
from marketd.model import Disconnected, parse_ns
from marketd.testing import ManualClock

FIELDS = (
    "lastPrice",
    "bidPrice",
    "askPrice",
    "midPrice",
    "bidSize",
    "askSize",
    "volume",
    "received",
    "source",
    "stale",
)
BAR_CHANNELS = {"bars_1s": "S1", "bars_1m": "M1", "bars_5m": "M5", "bars_15m": "M15", "bars_1h": "H1", "bars_1d": "D1"}


def subscribe(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"action": "subscribe", "symbols": list(symbols), **more}


def unsubscribe(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"action": "unsubscribe", "symbols": list(symbols), **more}


def test_the_welcome_says_where_the_stream_is_and_the_epoch_is_that_of_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        epochs = []
        for _ in range(2):
            async with serving(tmp_path) as door:
                await door.push(door.feed.quote("AAPL", 1.0, 2.0), door.feed.quote("MSFT", 3.0, 4.0))
                before_ns = time.time_ns()
                first = await (await door.client()).next()
                second = await (await door.client()).next()
                assert list(first) == ["type", "epoch", "seq", "time", "max_rate_hz", "stale_after_ms"]
                assert (first["type"], first["seq"], first["max_rate_hz"]) == ("welcome", 2, 10.0)
                assert first["stale_after_ms"] == 5000
                assert before_ns <= parse_ns(first["time"]) <= time.time_ns()
                assert re.fullmatch(r"[0-9a-f]{8,}", first["epoch"])
                assert second["epoch"] == first["epoch"]
                epochs.append(first["epoch"])
        assert epochs[0] != epochs[1]

    run(main())


def test_a_subscription_is_acknowledged_then_the_present_then_what_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            feed = door.feed
            client = await door.stream()
            epoch = client.seen[0]["epoch"]
            sent = feed.quote("AAPL", 149.5, 150.25, bid_size=3.0, ask_size=400.0, last=150.0, volume=12_345.0)
            await door.push(sent)
            answer = await client.ask(subscribe("AAPL", "MSFT", id="a-1"))
            assert answer == {
                "type": "subscribed",
                "epoch": epoch,
                "seq": 1,
                "symbols": ["AAPL", "MSFT"],
                "channels": ["quotes"],
                "fields": None,
                "id": "a-1",
            }
            snapshot = await client.next()
            assert parse_ns(snapshot.pop("timestamp")) == sent.time_event_ns
            assert parse_ns(snapshot.pop("received")) == sent.time_received_ns
            assert snapshot == {
                "type": "quote_update",
                "symbol": "AAPL",
                "seq": 1,
                "lastPrice": 150.0,
                "bidPrice": 149.5,
                "askPrice": 150.25,
                "bidSize": 3.0,
                "askSize": 400.0,
                "volume": 12_345.0,
                "source": "feed",
                "stale": False,
                "snapshot": True,
            }
            await door.push(feed.quote("MSFT", 0.1, 0.3))
            update = await client.until(lambda m: m["type"] == "quote_update" and m["symbol"] == "MSFT")
            assert (update["seq"], update["bidPrice"], update["askPrice"]) == (2, 0.1, 0.3)
            absent = ("lastPrice", "bidSize", "askSize", "volume")
            assert [update[name] for name in absent] == [None] * 4
            assert "snapshot" not in update
            await door.push(feed.trade("MSFT", 0.2, 5.0))
            update = await client.until(lambda m: m.get("seq") == 3)
            assert (update["lastPrice"], update["bidPrice"], update["askPrice"]) == (0.2, 0.1, 0.3)

    run(main())


def test_fields_limit_what_is_sent_and_each_client_has_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            await door.push(door.feed.quote("AAPL", 149.5, 150.5, last=150.25))
            prices, everything = await door.stream(), await door.stream()
            answer = await prices.ask(subscribe("AAPL", fields=["lastPrice", "midPrice"]))
            assert answer["fields"] == ["lastPrice", "midPrice"]
            snapshot = await prices.next()
            always = {"type", "symbol", "seq", "timestamp"}
            assert snapshot.keys() == always | {"lastPrice", "midPrice", "snapshot"}
            assert (snapshot["lastPrice"], snapshot["midPrice"]) == (150.25, 150.0)
            await everything.ask(subscribe("AAPL", fields=list(FIELDS)))
            assert (await everything.next()).keys() == always | set(FIELDS) | {"snapshot"}
            await door.push(door.feed.quote("AAPL", 150.5, 151.5))
            update = await prices.until(lambda m: m.get("seq") == 2)
            assert update.keys() == always | {"lastPrice", "midPrice"}
            assert update["midPrice"] == 151.0
            assert (await everything.until(lambda m: m.get("seq") == 2)).keys() == always | set(FIELDS)
            # Subscribing again with other fields changes them.
            await prices.ask(subscribe("AAPL", fields=["askPrice"]))
            await door.push(door.feed.quote("AAPL", 151.0, 152.0))
            update = await prices.until(lambda m: m.get("seq") == 3)
            assert update.keys() == always | {"askPrice"}

    run(main())


def test_a_star_is_every_symbol_also_one_that_appears_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            feed = door.feed
            await door.push(feed.quote("AAPL", 1.0, 2.0), feed.quote("TSLA", 3.0, 4.0))
            client = await door.stream()
            assert (await client.ask(subscribe("*")))["symbols"] == ["*"]
            snapshots = [await client.next(), await client.next()]
            assert {(m["symbol"], m["bidPrice"], m["snapshot"]) for m in snapshots} == {
                ("AAPL", 1.0, True),
                ("TSLA", 3.0, True),
            }
            await door.push(feed.quote("NEWCO", 9.0, 10.0))
            update = await client.until(lambda m: m.get("symbol") == "NEWCO")
            assert (update["bidPrice"], update["askPrice"]) == (9.0, 10.0)
            # No exceptions from all: one symbol cannot leave, nor have other fields.
            error = await client.ask(unsubscribe("AAPL", id=1))
            assert (error["code"], error["details"]["field"], error["details"]["value"]) == (
                "invalid_input",
                "symbols",
                "AAPL",
            )
            error = await client.ask(subscribe("AAPL", fields=["lastPrice"]))
            assert (error["code"], error["details"]["field"]) == ("invalid_input", "fields")
            await client.ask(unsubscribe("*"))
            seen = len(client.seen)
            await door.push(feed.quote("AAPL", 5.0, 6.0))
            await client.ask({"action": "ping"})
            assert [m["type"] for m in client.seen[seen:]] == ["pong"]

    run(main())


@pytest.mark.parametrize("leaving", [["AAPL"], ["*"]])
def test_after_unsubscribing_nothing_of_it_comes(tmp_path: Path, leaving: list[str]) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            feed = door.feed
            client, other = await door.stream(), await door.stream()
            await client.ask(subscribe("AAPL", channels=["quotes", "bars_1s"]))
            await other.ask(subscribe("AAPL"))
            await door.push(feed.quote("AAPL", 1.0, 2.0))
            await client.until(lambda m: m["type"] == "quote_update")
            answer = await client.ask(unsubscribe(*leaving, channels=["quotes", "bars_1s"], id=9))
            assert answer == {
                "type": "unsubscribed",
                "symbols": leaving,
                "channels": ["quotes", "bars_1s"],
                "id": 9,
            }
            seen = len(client.seen)
            for i in range(3):
                await door.push(feed.quote("AAPL", 10.0 + i, 20.0 + i))
            await other.until(lambda m: m.get("bidPrice") == 12.0)
            await client.ask({"action": "ping"})
            assert [m["type"] for m in client.seen[seen:]] == ["pong"]

    run(main())


def test_ping(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.stream()
            for identity in (3, "x", -(2**63), None):
                before_ns = time.time_ns()
                pong = await client.ask({"action": "ping", "id": identity})
                assert list(pong) == ["type", "time", "id"]
                assert pong["id"] == identity
                assert before_ns <= parse_ns(pong["time"]) <= time.time_ns()

    run(main())


def test_at_most_ten_a_second_and_symbol_and_the_last_value_always(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            feed = door.feed
            client = await door.stream()
            await client.ask(subscribe("AAPL", "MSFT"))
            got: list[tuple[float, dict[str, Any]]] = []

            async def read() -> None:
                while True:
                    message = await client.next()
                    got.append((time.monotonic(), message))

            reading = asyncio.create_task(read())
            last = 0.0
            for i in range(40):  # 20 times a second
                last = 100.0 + i
                await door.push(feed.quote("AAPL", last, last + 1), feed.quote("MSFT", last / 2, last))
                await asyncio.sleep(0.05)
            # The source has fallen silent; the newest value still comes.
            await until(lambda: {m["bidPrice"] for _, m in got[-2:]} == {last, last / 2}, "last value")
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            for symbol in ("AAPL", "MSFT"):
                mine = [(at, m) for at, m in got if m.get("symbol") == symbol]
                times = [at for at, _ in mine]
                # Ten a second, and two at once after a pause; what a busy machine delays may arrive together.
                lasted_s = times[-1] - times[0]
                assert len(mine) <= 10 * lasted_s + 3
                assert len(mine) >= 10
                assert len(mine) < 40
                seqs = [m["seq"] for _, m in mine]
                assert seqs == sorted(set(seqs))
                bids = [m["bidPrice"] for _, m in mine]
                assert bids == sorted(set(bids))

    run(main())


def test_bars_of_every_channel_as_they_run_close_and_are_corrected(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock(parse_ns("2026-11-20T14:30:30Z"))
        async with serving(tmp_path, clock=clock, since_ns=parse_ns("2026-11-20T13:00:00Z")) as door:
            feed = door.feed
            client = await door.stream()
            answer = await client.ask(subscribe("AAPL", channels=list(BAR_CHANNELS)))
            assert answer["channels"] == list(BAR_CHANNELS)

            def at(text: str) -> int:
                return parse_ns(f"2026-11-20T{text}Z")

            def bar(channel: str, status: str, start: str, values: tuple[float, ...]) -> Any:
                """Recognises one bar with exactly these values."""
                expected = {
                    "type": "bar_update",
                    "symbol": "AAPL",
                    "channel": channel,
                    "timeframe": BAR_CHANNELS[channel],
                    "side": "trade",
                    "status": status,
                    "bar": {"ts": start, **dict(zip("ohlcv", values, strict=True))},
                }
                return lambda m: {k: v for k, v in m.items() if k != "seq"} == expected

            await door.push(
                feed.trade("AAPL", 10.0, 1.0, at("14:30:30.1")),
                feed.trade("AAPL", 12.0, 2.0, at("14:30:30.2")),
                feed.trade("AAPL", 9.0, 3.0, at("14:30:30.3")),
                feed.trade("AAPL", 11.0, 4.0, at("14:30:30.4")),
            )
            whole = (10.0, 12.0, 9.0, 11.0, 10.0)
            await clock.advance(2)
            await client.until(bar("bars_1s", "final", "2026-11-20T14:30:30Z", whole))
            await clock.advance(1)
            await client.until(bar("bars_1m", "live", "2026-11-20T14:30:00Z", whole))
            # The symbol was not watched from the start of this minute on.
            await clock.advance(27.5)
            await client.until(bar("bars_1m", "provisional", "2026-11-20T14:30:00Z", whole))
            await clock.advance(5)
            await door.push(feed.trade("AAPL", 20.0, 1.0, at("14:31:05")))
            await clock.advance(55)
            await client.until(bar("bars_1m", "final", "2026-11-20T14:31:00Z", (20.0, 20.0, 20.0, 20.0, 1.0)))
            await door.push(feed.trade("AAPL", 25.0, 2.0, at("14:31:30")))
            await clock.advance(1)
            await client.until(bar("bars_1m", "corrected", "2026-11-20T14:31:00Z", (20.0, 25.0, 20.0, 25.0, 3.0)))
            seen = len(client.seen)
            await clock.advance(2)
            running = [
                bar("bars_5m", "live", "2026-11-20T14:30:00Z", (10.0, 25.0, 9.0, 25.0, 13.0)),
                bar("bars_15m", "live", "2026-11-20T14:30:00Z", (10.0, 25.0, 9.0, 25.0, 13.0)),
                bar("bars_1h", "live", "2026-11-20T14:00:00Z", (10.0, 25.0, 9.0, 25.0, 13.0)),
                bar("bars_1d", "live", "2026-11-20T00:00:00Z", (10.0, 25.0, 9.0, 25.0, 13.0)),
            ]
            while not all(any(map(one, client.seen[seen:])) for one in running):
                await client.next()
            seqs = [m["seq"] for m in client.seen if m["type"] == "bar_update"]
            assert seqs == sorted(set(seqs))
            assert not client.quotes()

    run(main())


def test_bars_of_a_symbol_without_trades_are_those_of_its_bids(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock(parse_ns("2026-11-20T14:30:30Z"))
        async with serving(tmp_path, ["EURUSD"], clock=clock) as door:
            client = await door.stream()
            await client.ask(subscribe("EURUSD", channels=["bars_1s"]))
            at_ns = parse_ns("2026-11-20T14:30:30.5Z")
            await door.push(
                door.feed.quote("EURUSD", 1.25, 1.5, at_ns), door.feed.quote("EURUSD", 1.125, 1.75, at_ns + 1)
            )
            await clock.advance(2)
            message = await client.until(lambda m: m["type"] == "bar_update")
            assert (message["side"], message["status"]) == ("bid", "final")
            assert message["bar"] == {
                "ts": "2026-11-20T14:30:30Z",
                "o": 1.25,
                "h": 1.25,
                "l": 1.125,
                "c": 1.125,
                "v": None,
            }

    run(main())


def test_a_symbol_that_falls_silent_is_said_once(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock(parse_ns("2026-11-20T14:30:30Z"))
        async with serving(tmp_path, clock=clock) as door:
            client = await door.stream()
            await client.ask(subscribe("AAPL"))
            await door.push(door.feed.quote("AAPL", 1.0, 2.0))
            await client.until(lambda m: m["type"] == "quote_update")
            await clock.advance(4.5)
            await client.ask({"action": "ping"})
            assert "stale" not in {m["type"] for m in client.seen}
            await clock.advance(6)
            message = await client.until(lambda m: m["type"] == "stale")
            assert message == {
                "type": "stale",
                "symbol": "AAPL",
                "seq": 1,
                "timestamp": "2026-11-20T14:30:30Z",
                "stale": True,
            }
            await clock.advance(6)
            await door.push(door.feed.quote("AAPL", 3.0, 4.0))
            fresh = await client.until(lambda m: m["type"] == "quote_update")
            assert (fresh["bidPrice"], fresh["stale"]) == (3.0, False)
            assert [m["type"] for m in client.seen].count("stale") == 1
            late = await door.stream()
            await clock.advance(6)
            await late.ask(subscribe("AAPL"))
            assert (await late.next())["stale"] is True

    run(main())


def test_what_becomes_of_a_source_is_told_to_everyone(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.stream()
            door.feed.push(Disconnected(source="feed", time_received_ns=time.time_ns(), reason="the line is cut"))
            message = await client.until(lambda m: m["type"] == "source_status" and not m["connected"])
            assert parse_ns(message.pop("time")) <= time.time_ns()
            assert message == {
                "type": "source_status",
                "source": "feed",
                "connected": False,
                "state": "reconnecting",
                "reason": "the line is cut",
            }

    run(main())


# what is sent, code, field, value as it is told (None: absent), a part of what is allowed
BAD_INPUT: list[tuple[Any, str, str, Any, str]] = [
    ("{", "bad_json", "message", "{", "one JSON object"),
    ("", "bad_json", "message", "", "one JSON object"),
    ("[" * 100_000, "bad_json", "message", "[" * 100, "one JSON object"),
    ('{"a":' * 50_000, "bad_json", "message", ('{"a":' * 20), "one JSON object"),
    ('{"action":"bogus","x":' + "[" * 100_000, "bad_json", "message", None, "one JSON object"),
    ('{"action":"bogus", x', "bad_json", "message", '{"action":"bogus", x', "one JSON object"),
    ('{"action":"ping","id":1e999}', "bad_json", "message", '{"action":"ping","id":1e999}', "one JSON object"),
    ('{"action":"ping","id":NaN}', "bad_json", "message", '{"action":"ping","id":NaN}', "one JSON object"),
    ('{"action":"subscribe","symbols":["\\ud800"]}', "bad_json", "message", None, "one JSON object"),
    ("null", "bad_json", "message", None, "one JSON object"),
    ("[1]", "bad_json", "message", "[1]", "one JSON object"),
    (b"\x00\x01", "not_text", "message", "a binary message", "a text message"),
    ({}, "unknown_action", "action", None, "subscribe, unsubscribe, ping"),
    ({"action": "buy", "id": 4}, "unknown_action", "action", "buy", "subscribe, unsubscribe, ping"),
    ({"action": 5}, "unknown_action", "action", 5, "subscribe, unsubscribe, ping"),
    (subscribe("AAPL", channel="quotes"), "invalid_input", "channel", "quotes", "channels"),
    (subscribe("AAPL", **{"k" * 1000: 1}), "invalid_input", "k" * 100, 1, "channels"),
    (subscribe("AAPL", channels=["quotes", "bars_7m"]), "invalid_input", "channels", "bars_7m", "bars_1m"),
    (subscribe("AAPL", channels=[]), "invalid_input", "channels", "", "quotes"),
    (subscribe("AAPL", channels="quotes"), "invalid_input", "channels", "quotes", "array"),
    (subscribe("AAPL", fields=["lastPrice", "price"]), "invalid_input", "fields", "price", "lastPrice"),
    (subscribe(), "invalid_input", "symbols", "[]", '["*"]'),
    ({"action": "subscribe"}, "invalid_input", "symbols", "[]", '["*"]'),
    ({"action": "subscribe", "symbols": "AAPL"}, "invalid_input", "symbols", "AAPL", "array"),
    ({"action": "subscribe", "symbols": ["AAPL", 5]}, "invalid_input", "symbols[1]", 5, "str"),
    ({"action": "ping", "id": [1]}, "invalid_input", "id", "[1]", "int | str"),
    (subscribe("AAPL", "MSFT", "TSLA", "AAPK"), "invalid_input", "symbols", "4 symbols", "at most 3 a connection"),
    (subscribe("AAPL", "AAPK", id=5), "unknown_symbol", "symbol", "AAPK", "/api/v1/market-data/symbols"),
    (subscribe("AAPL", "x" * 500_000), "unknown_symbol", "symbol", "x" * 100, "/api/v1/market-data/symbols"),
    (unsubscribe("AAPL", "nope"), "unknown_symbol", "symbol", "nope", "/api/v1/market-data/symbols"),
    ("x" * (2**20 + 1), "message_too_long", "message", "1048577 bytes", "at most 1048576 bytes"),
]


def test_bad_input_is_named_nothing_of_it_is_applied_and_the_connection_stays(tmp_path: Path) -> None:
    async def main() -> None:
        fanout = FanoutConfig(max_symbols_per_client=3)
        async with serving(tmp_path, fanout=fanout) as door:
            client, witness = await door.stream(), await door.stream()
            await witness.ask(subscribe("AAPL", "MSFT"))
            for sent, code, field, value, allowed in BAD_INPUT:
                shown = str(sent)[:80]
                error = await client.ask(sent)
                assert error["type"] == "error", shown
                assert (error["code"], error["details"]["field"]) == (code, field), shown
                if value is not None:
                    assert error["details"]["value"] == value, shown
                assert allowed in error["details"]["allowed"], shown
                identity = sent.get("id") if isinstance(sent, dict) else None
                assert error["id"] == (None if isinstance(identity, list) else identity), shown
                assert len(error["message"]) < 500, shown
                assert (await client.ask({"action": "ping", "id": code}))["id"] == code, shown
            near = await client.ask(subscribe("AAPK"))
            assert near["details"]["near"] == ["AAPL"]
            assert near["message"] == "unknown symbol 'AAPK'; did you mean AAPL?"
            seen = len(client.seen)
            await door.push(door.feed.quote("AAPL", 1.0, 2.0), door.feed.quote("MSFT", 1.0, 2.0))
            await witness.until(lambda m: m.get("symbol") == "MSFT")
            await client.ask({"action": "ping"})
            assert [m["type"] for m in client.seen[seen:]] == ["pong"]
            # An existing subscription is left as it is, too.
            await client.ask(subscribe("AAPL", fields=["bidPrice"]))
            await client.ask(unsubscribe("AAPL", "nope"))
            await client.ask(subscribe("AAPL", fields=["nope"]))
            await door.push(door.feed.quote("AAPL", 3.0, 4.0))
            update = await client.until(lambda m: m.get("bidPrice") == 3.0)
            assert "askPrice" not in update

    run(main())


def test_too_many_symbols_counts_what_is_subscribed_already(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, fanout=FanoutConfig(max_symbols_per_client=2)) as door:
            client = await door.stream()
            assert (await client.ask(subscribe("AAPL", "MSFT")))["type"] == "subscribed"
            error = await client.ask(subscribe("TSLA"))
            assert (error["code"], error["details"]["field"]) == ("invalid_input", "symbols")
            # Repeating what one has is no more.
            assert (await client.ask(subscribe("AAPL", "MSFT")))["type"] == "subscribed"
            assert (await client.ask(unsubscribe("AAPL")))["type"] == "unsubscribed"
            assert (await client.ask(subscribe("TSLA")))["type"] == "subscribed"

    run(main())


@pytest.mark.parametrize(
    ("bad", "times"),
    [("{", 20), (b"\x00", 20), ('{"action":"subscribe","symbols":["NOPE"]}', 20), ("x" * 1_048_577, 3)],
)
def test_who_goes_on_with_bad_messages_is_closed(tmp_path: Path, bad: str | bytes, times: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client, other = await door.stream(), await door.stream()
            for _ in range(times - 1):
                assert (await client.ask(bad))["type"] == "error"
            assert (await client.ask({"action": "ping"}))["type"] == "pong"  # counted in a row only
            for _ in range(times):
                await client.send(bad)
            code, reason = await client.closed()
            assert (code, reason) == (4400, "too many messages that could not be understood")
            assert Counter(m["type"] for m in client.seen)["error"] == 2 * times - 1
            assert (await other.ask({"action": "ping"}))["type"] == "pong"
            await until(lambda: door.server.hub.clients == 1, "end of the closed client")

    run(main())


def test_a_message_without_end_is_not_even_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.stream()
            with contextlib.suppress(ConnectionClosed):  # it is refused before all of it is sent
                await client.send("x" * (16 * 2**20 + 1))
            code, _ = await client.closed()
            assert code == 1009

    run(main())


def test_another_path_has_no_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            with pytest.raises(InvalidStatus):
                await door.client("/api/v1/market-data/streams")

    run(main())


def test_a_stopping_server_tells_its_clients_to_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.stream()
            await client.ask(subscribe("*"))
            closing = asyncio.create_task(client.closed())
            await door.stop()
            code, _ = await closing
            assert code == 1012

    run(main())


# --- clients that do not read -----------------------------------------------------------------------------------

MANY = tuple(f"S{i:03d}" for i in range(400))


async def push_round(door: StreamDoor, number: int) -> None:
    """One quote of each of many symbols: about 100 kB for who listens to all."""
    feed = door.feed
    now_ns = time.time_ns()
    await door.push(*(feed.quote(symbol, 1.0 + number, 2.0 + number, now_ns) for symbol in MANY))


def metric(door: StreamDoor, name: str) -> float:
    return door.server.metrics.registry.get_sample_value(name) or 0.0


async def push_until(door: StreamDoor, name: str) -> int:
    """Rounds of quotes until this metric is above zero; how many."""
    number = 0
    while not metric(door, name):
        assert number < 1_000, f"{name} is still 0"
        number += 1
        await push_round(door, number)
        await asyncio.sleep(0.01)
    return number


def slow_config(slow_close_s: float) -> FanoutConfig:
    return FanoutConfig(max_rate_hz=None, client_buffer_bytes=65_536, slow_close_s=slow_close_s)


def test_a_client_that_pauses_is_told_what_it_missed_and_brought_up_to_date(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, MANY, fanout=slow_config(60)) as door:
            healthy = await door.stream()
            await healthy.ask(subscribe(*MANY))
            reading = asyncio.create_task(healthy.until(lambda m: m.get("symbol") == "end"))
            slow = await asyncio.to_thread(RawClient, door.port)
            try:
                slow.send(subscribe(*MANY))
                await asyncio.to_thread(slow.read_until, lambda: len(slow.messages) == 2, "subscription")
                rounds = await push_until(door, "ws_missed_messages_total")
                for extra in range(3):
                    await push_round(door, rounds + 1 + extra)
                last_bid = 1.0 + rounds + 3

                def is_current(seen: list[dict[str, Any]]) -> bool:
                    newest = {m["symbol"]: m["bidPrice"] for m in seen if m["type"] == "quote_update"}
                    return newest == dict.fromkeys(MANY, last_bid)

                # The others get everything meanwhile.
                await until(lambda: is_current(healthy.seen), "newest values at the healthy client")
                assert not [m for m in healthy.seen if m["type"] == "lag"]

                def after_lag() -> list[dict[str, Any]]:
                    types = [m["type"] for m in slow.messages]
                    return slow.messages[types.index("lag") + 1 :] if "lag" in types else []

                await asyncio.to_thread(slow.read_until, lambda: len(after_lag()) == len(MANY), "newest values")
                assert is_current(after_lag())
                before = slow.messages[: -len(MANY)]
                lag = before.pop()
                assert lag.keys() == {"type", "conflated"}
                taken = sum(m["type"] == "quote_update" for m in before)
                sent = len(healthy.quotes())
                assert taken + lag["conflated"] == sent
                assert lag["conflated"] > 0
                # And it goes on as if nothing had happened.
                await push_round(door, rounds + 4)
                await asyncio.to_thread(
                    slow.read_until, lambda: slow.messages[-1].get("bidPrice") == last_bid + 1, "next value"
                )
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                slow.close()

    run(main())


def test_a_client_that_never_reads_is_closed_and_the_others_are_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, MANY, fanout=slow_config(0.3)) as door:
            healthy = await door.stream()
            await healthy.ask(subscribe("S000", "S399"))
            slow = await asyncio.to_thread(RawClient, door.port)
            try:
                slow.send(subscribe(*MANY))
                await asyncio.to_thread(slow.read_until, lambda: len(slow.messages) == 2, "subscription")
                rounds = await push_until(door, "ws_closed_slow_total")
                assert metric(door, "ws_closed_slow_total") == 1
                assert door.server.hub.clients == 1
                # Who reads at last finds the reason at the end of what was sent.
                await asyncio.to_thread(slow.read_to_end)
                assert slow.protocol.close_code == 4508
                assert slow.protocol.close_reason == "slow client: it did not read for too long"
                await push_round(door, rounds + 1)
                await healthy.until(lambda m: m.get("symbol") == "S399" and m["bidPrice"] == 2.0 + rounds)
                bids = [m["bidPrice"] for m in healthy.quotes("S000")]
                assert bids == [2.0 + i for i in range(rounds + 1)]
            finally:
                slow.close()

    run(main())


def test_a_client_that_never_reads_is_gone_even_if_it_never_will(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, MANY, fanout=slow_config(0.1)) as door:
            slow = await asyncio.to_thread(RawClient, door.port)
            try:
                slow.send(subscribe(*MANY))
                await asyncio.to_thread(slow.read_until, lambda: len(slow.messages) == 2, "subscription")
                (client,) = door.server.hub._clients
                await push_until(door, "ws_closed_slow_total")
                transport = client.outlet.transport  # type: ignore[attr-defined]
                await until(transport.is_closing, "end of the connection", timeout_s=10)
                await until(lambda: client.outlet.disconnected, "release of the connection")  # type: ignore[attr-defined]
            finally:
                slow.close()

    run(main())


def test_who_does_not_read_the_answers_is_not_asked_for_more_questions(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, MANY) as door:
            await push_round(door, 0)
            greedy = await asyncio.to_thread(RawClient, door.port)
            try:
                questions = 100  # each with an answer of about 100 kB
                for i in range(questions):
                    greedy.send(subscribe("*", id=i))
                await until(lambda: door.server.hub.clients == 1, "connection")
                (client,) = door.server.hub._clients
                unsent = client.outlet.unsent
                await until(lambda: unsent() > 65_536, "full buffer")
                for _ in range(20):
                    await asyncio.sleep(0.01)
                    assert unsent() < 1_000_000
                assert (await (await door.stream()).ask({"action": "ping"}))["type"] == "pong"

                def answered() -> bool:
                    return sum(m["type"] == "subscribed" for m in greedy.messages) == questions

                await asyncio.to_thread(greedy.read_until, answered, "all answers")
                assert [m["id"] for m in greedy.messages if m["type"] == "subscribed"] == list(range(questions))
            finally:
                greedy.close()

    run(main())


def test_messages_are_one_json_object_a_frame(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, MANY) as door:
            client = await door.stream()
            await client.ask(subscribe("*"))
            await push_round(door, 0)
            for _ in MANY:
                text = await client.connection.recv()
                assert isinstance(json.loads(text), dict)

    run(main())
