from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from marketd.wire import close_codes
from marketd.wire.messages import (
    CHANNELS,
    DEFAULT_FIELDS,
    FIELDS,
    BarValues,
    ClientMessage,
    ErrorBody,
    ErrorMessage,
    Lag,
    Pong,
    ProviderSwitchMessage,
    SingleBarUpdate,
    SourceStatusMessage,
    StaleMessage,
    StreamBarUpdate,
    Subscribed,
    Unsubscribed,
    Welcome,
    encode,
    quote_struct,
)

BAR = BarValues("2026-03-02T14:30:00Z", 1.0, 3.0, 0.5, 2.0, None)
BAR_JSON = {"ts": "2026-03-02T14:30:00Z", "o": 1.0, "h": 3.0, "l": 0.5, "c": 2.0, "v": None}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            SingleBarUpdate("A", 7, "M1", "bid", "final", BAR),
            {"type": "bar_update", "symbol": "A", "seq": 7, "timeframe": "M1", "side": "bid", "status": "final",
             "bar": BAR_JSON},
        ),
        (
            StreamBarUpdate("A", 7, "bars_1m", "M1", "bid", "final", BAR),
            {"type": "bar_update", "symbol": "A", "seq": 7, "channel": "bars_1m", "timeframe": "M1", "side": "bid",
             "status": "final", "bar": BAR_JSON},
        ),
        (
            StaleMessage("A", 7, "t"),
            {"type": "stale", "symbol": "A", "seq": 7, "timestamp": "t", "stale": True},
        ),
        (
            Welcome("e", 7, "t", None, 5_000),
            {"type": "welcome", "epoch": "e", "seq": 7, "time": "t", "max_rate_hz": None, "stale_after_ms": 5_000},
        ),
        (
            Subscribed("e", 7, ["A"], ["quotes"], None, 3),
            {"type": "subscribed", "epoch": "e", "seq": 7, "symbols": ["A"], "channels": ["quotes"], "fields": None,
             "id": 3},
        ),
        (
            Unsubscribed(["*"], ["bars_1m"]),
            {"type": "unsubscribed", "symbols": ["*"], "channels": ["bars_1m"], "id": None},
        ),
        (Pong("t", "x"), {"type": "pong", "time": "t", "id": "x"}),
        (Lag(3), {"type": "lag", "conflated": 3}),
        (
            SourceStatusMessage("s", connected=True, state="streaming", reason=None, time="t"),
            {"type": "source_status", "source": "s", "connected": True, "state": "streaming", "reason": None,
             "time": "t"},
        ),
        (
            ProviderSwitchMessage("a", None, "mute", "no tick for 30 s", "t", 1, ["X"]),
            {"type": "provider_switch", "old": "a", "new": None, "reason": "mute", "detail": "no tick for 30 s",
             "at": "t", "count": 1, "symbols": ["X"]},
        ),
        (
            ErrorMessage("unknown_symbol", "no", ErrorBody(field="symbol", value="Z", near=["A"])),
            {"type": "error", "code": "unknown_symbol", "message": "no",
             "details": {"field": "symbol", "value": "Z", "near": ["A"]}, "id": None},
        ),
        (
            ErrorMessage("bad_json", "no", ErrorBody(), 1),
            {"type": "error", "code": "bad_json", "message": "no", "details": {}, "id": 1},
        ),
    ],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_each_message_as_it_goes_out(message: msgspec.Struct, expected: dict[str, Any]) -> None:
    sent = json.loads(encode(message))
    assert sent == expected
    assert list(sent) == list(expected)


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_quote_has_its_fields_in_the_order_asked_and_absent_ones_as_null(snapshot: bool) -> None:
    quote = quote_struct(("askPrice", "source", "stale", "bidPrice"), snapshot=snapshot)
    sent = json.loads(encode(quote("A", 7, "t", float("nan"), "s", True, 1.5)))
    expected = {
        "type": "quote_update", "symbol": "A", "seq": 7, "timestamp": "t", "askPrice": None, "source": "s",
        "stale": True, "bidPrice": 1.5,
    }  # fmt: skip
    if snapshot:
        expected["snapshot"] = True
    assert sent == expected
    assert list(sent) == list(expected)


def test_prices_are_written_in_their_shortest_exact_text() -> None:
    quote = quote_struct(("bidPrice",), snapshot=False)
    for price in (0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 100.0, 123456789.123456789):
        assert json.loads(encode(quote("A", 1, "t", price)))["bidPrice"] == price
    assert b'"bidPrice":0.1}' in encode(quote("A", 1, "t", 0.1))


def test_names_of_symbols_are_escaped() -> None:
    quote = quote_struct((), snapshot=False)
    for name in ('"', "\\", "\n", "日経", "\u2028", "😀"):
        assert json.loads(encode(quote(name, 1, "t")))["symbol"] == name


def test_what_can_be_asked_for() -> None:
    assert CHANNELS == ("quotes", "bars_1s", "bars_1m", "bars_5m", "bars_15m", "bars_1h", "bars_1d")
    assert set(FIELDS) == {
        "lastPrice", "bidPrice", "askPrice", "midPrice", "bidSize", "askSize", "volume", "received", "source", "stale",
    }  # fmt: skip
    assert set(FIELDS) - set(DEFAULT_FIELDS) == {"midPrice"}


def test_what_a_client_may_say() -> None:
    decode = msgspec.json.Decoder(ClientMessage).decode
    asked = decode(b'{"action":"subscribe","symbols":["A"],"channels":["quotes"],"fields":["lastPrice"],"id":"x"}')
    assert asked == ClientMessage("subscribe", ["A"], ["quotes"], ["lastPrice"], "x")
    ping = decode(b'{"action":"ping"}')
    assert (ping.symbols, ping.channels, ping.fields, ping.id) == ([], None, None, None)
    assert decode(b'{"action":"ping"}').symbols is not ping.symbols
    for wrong in (
        b"{}",
        b'{"action":"buy"}',
        b'{"action":"ping","symbol":"A"}',
        b'{"action":"ping","symbols":"A"}',
        b'{"action":"ping","symbols":[1]}',
        b'{"action":"ping","id":[]}',
        b'{"action":"ping","id":1.5}',
        b'["ping"]',
    ):
        with pytest.raises(msgspec.ValidationError):
            decode(wrong)


def test_close_codes_are_private_ones_and_their_hundreds_say_whether_to_come_back() -> None:
    codes = {name: getattr(close_codes, name) for name in close_codes.__all__ if name.isupper()}
    assert {name: code.code for name, code in codes.items()} == {
        "SLOW_CLIENT": 4508,
        "TOO_MANY_ERRORS": 4400,
        "UNKNOWN_SYMBOL": 4404,
        "UNSUPPORTED_SERVER": 4501,
    }
    assert all(0 < len(code.reason.encode()) <= 123 for code in codes.values())  # RFC 6455, 5.5
