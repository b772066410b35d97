"""Names, quotes and bars by request, against the simulator."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.errors import InvalidInput, MalformedMessage, MarketClosed, NotEntitled, SymbolNotFound, Throttled
from marketd.model import Interval, parse_ns, starts_of
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.xts import ENTRY, XtsConfig, XtsPace
from marketd.sources.xts.parse import parse_index_list, parse_master
from marketd.sources.xts.symbols import XtsSymbols
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.xts import XtsSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
AT_ONCE = XtsPace(login=1e12, master=1e12, quotes=1e12, ohlc=1e12, subscription=1e12)
NOON = parse_ns("2026-06-11T07:30:00Z")  # 13:00 in India, a Thursday


@asynccontextmanager
async def provider_of(simulator, clock=None, **fields):
    config = XtsConfig(
        **{
            "rest_url": simulator.rest_url,
            "app_key": simulator.app_key,
            "secret_key": simulator.secret_key,
            "pace": AT_ONCE,
            "http": HttpConfig(retry=QUICK, requests_per_s=1e12, attempts=1),
            **fields,
        }
    )
    deps = ProviderDeps(clock=clock or SystemClock(), metrics=Metrics(), rng=random.Random(1))
    provider = ENTRY.build(config, deps)
    try:
        yield provider
    finally:
        await provider.close()


def paths(simulator):
    return [f"{method} {path}" for method, path, _ in simulator.requests]


# Names

MASTER = """\
BSECM|500325|8|RELIANCE|RELIANCE|A|RELIANCE-A|1|1|1|1|0.05|1|1|RELIANCE|INE002A01018|1|1|RELIANCE INDUSTRIES LTD|0|-1|-1
NSECM|2999|8|RELIANCE|RELIANCE-BL|BL|RELIANCE-BL|1|1|1|1|0.1|1|1|RELIANCE|INE002A01018|1|1|RELIANCE|0|-1|-1
NSECM|2885|8|RELIANCE|RELIANCE-EQ|EQ|RELIANCE-EQ|1|1|1|1|0.1|1|1|RELIANCE|INE002A01018|1|1|RELIANCE|0|-1|-1
NSECM|555|8|ODD|RELIANCE|EQ|ODD|1|1|1|1|0.1|1|1|ODD|INE0ODD01018|1|1|ODD|0|-1|-1
NSEFO|62329|1|RELIANCE|RELIANCE26JUNFUT|FUTSTK|x|2|1|1|1|0.1|500|1|-1|RELIANCE|2026-06-30T14:30:00|R|1|1|x
NSEFO|62330|2|RELIANCE|RELIANCE26JUN1500CE|OPTSTK|x|2|1|1|1|0.1|500|1|-1|R|2026-06-30T14:30:00|1500|3|R|1|1|x
"""


def symbols_of(segments=("NSECM", "BSECM", "NSEFO"), table=None):
    import pyarrow as pa

    symbols = XtsSymbols(table or {}, segments)
    symbols.load(pa.concat_tables([parse_master(MASTER), parse_index_list(["NIFTY 50_26000"], "NSECM")]))
    return symbols


@pytest.mark.parametrize(
    ("ours", "theirs", "canonical"),
    [
        ("RELIANCE", "NSECM:2885", "RELIANCE"),
        (" reliance ", "NSECM:2885", "RELIANCE"),
        ("RELIANCE-EQ", "NSECM:2885", "RELIANCE"),
        ("NSECM:RELIANCE", "NSECM:2885", "RELIANCE"),
        ("RELIANCE-BL", "NSECM:2999", "RELIANCE-BL"),
        ("BSECM:RELIANCE", "BSECM:500325", "BSECM:500325"),
        ("RELIANCE26JUNFUT", "NSEFO:62329", "RELIANCE26JUNFUT"),
        ("NSEFO:RELIANCE26JUN1500CE", "NSEFO:62330", "RELIANCE26JUN1500CE"),
        ("^NIFTY50", "NSECM:26000", "^NSEI"),
        ("^NSEI", "NSECM:26000", "^NSEI"),
        ("NSECM:NIFTY 50", "NSECM:26000", "^NSEI"),
        ("Nifty 50", "NSECM:26000", "^NSEI"),
        ("ODD", "NSECM:555", "ODD"),
        ("NSECM:2885", "NSECM:2885", "RELIANCE"),
        ("MCXFO:7", "MCXFO:7", "MCXFO:7"),
    ],
)
def test_a_name_is_one_instrument_and_comes_back(ours, theirs, canonical):
    symbols = symbols_of()
    assert symbols.to_provider(ours) == theirs
    assert symbols.from_provider(theirs) == canonical


@pytest.mark.parametrize("name", ["NOSUCH9", "", "NIFTY", "NSEFO:RELIANCE", "XXXXX:5", "NSECM:"])
def test_what_is_in_no_master_has_no_instrument(name):
    assert symbols_of().to_provider(name) is None


def test_the_first_segment_of_the_configuration_has_the_name():
    assert symbols_of(("BSECM", "NSECM")).to_provider("RELIANCE") == "BSECM:500325"


def test_the_table_comes_first_and_an_unknown_name_is_taken_as_it_is_before_there_is_a_master():
    symbols = symbols_of(table={"ril": "BSECM:500325"})
    assert symbols.to_provider("RIL") == "BSECM:500325"
    assert symbols.from_provider("BSECM:500325") == "RIL"
    assert XtsSymbols({}, ["NSECM"]).to_provider("infy") == "INFY"


@pytest.mark.parametrize("table", [{"A": "NSECM"}, {"A": "NSECM:x"}, {"A": "NYSE:5"}, {" ": "NSECM:5"},
                                   {"A": "NSECM:5", "B": "NSECM:5"}])  # fmt: skip
def test_a_table_that_names_no_instrument_is_refused(table):
    with pytest.raises(InvalidInput):
        XtsConfig(symbol_table=table)


def test_every_instrument_has_one_name_and_is_found_by_it():
    symbols = symbols_of()
    ours = symbols.instruments["symbol"].to_pylist()
    assert len(set(ours)) == len(ours) == 7
    for name, theirs in symbols:
        assert symbols.to_provider(name) == theirs


def test_instruments_are_searched_by_any_of_their_names():
    symbols = symbols_of()
    assert symbols.search("reliance", 3)["symbol"].to_pylist() == ["RELIANCE", "RELIANCE-BL", "RELIANCE26JUNFUT"]
    assert symbols.search("1500ce")["id"].to_pylist() == [62330]
    assert symbols.search("INE002A01018").num_rows == 3
    assert symbols.search("nifty")["symbol"].to_pylist() == ["^NIFTY50"]
    assert symbols.search("(").num_rows == 0


def test_a_master_with_nothing_in_it_is_searched_like_any_other():
    symbols = XtsSymbols({}, ["NSECM"])
    for _ in range(2):
        assert symbols.search("INFY").num_rows == 0
        assert dict(symbols) == {"^NSEI": "NSECM:26000", "^NSEBANK": "NSECM:26001"}
        symbols.load(parse_master(""))
    twice = "NSECM|5|8|A|A-EQ|EQ|A-EQ|1|1|1|1|0.1|1|1|A|INE002A01018|1|1|A|0|-1|-1\n" * 2
    symbols.load(parse_master(twice))
    assert symbols.to_provider("A") == "NSECM:5"
    assert len(list(symbols)) == 3


def test_the_master_is_fetched_once_a_day_and_only_for_names_that_need_it():
    async def main():
        clock = ManualClock(NOON)
        async with XtsSimulator(clock=clock) as simulator, provider_of(simulator, clock) as provider:
            for name in ("NSECM:INFY-EQ", "NSECM:NIFTY 50"):
                simulator.tick(name)
            await provider.quotes.quotes(["NSECM:1594", "^NSEI"])
            assert paths(simulator) == ["POST /auth/login", "POST /instruments/quotes"]
            await asyncio.gather(*(provider.quotes.quotes(["INFY", "NOSUCH9"]) for _ in range(3)))
            assert paths(simulator).count("POST /instruments/master") == 1
            assert provider.symbols.search("INFY")["symbol"].to_pylist() == ["INFY", "INFY-BL"]
            await provider.quotes.quotes(["NOSUCH9"])
            assert paths(simulator).count("POST /instruments/master") == 1
            await clock.advance(11 * 3_600 + 1)  # past midnight in India
            await provider.quotes.quotes(["NOSUCH9"])
            assert paths(simulator).count("POST /instruments/master") == 2

    asyncio.run(main())


def test_a_name_of_a_segment_that_is_not_configured_is_not_found():
    async def main():
        async with XtsSimulator() as simulator, provider_of(simulator) as provider:
            with pytest.raises(SymbolNotFound, match="NIFTY26JUNFUT is not in the master of NSECM"):
                await provider.bars.bars("NIFTY26JUNFUT", Interval.parse("1m"), 0, 10**18)

    asyncio.run(main())


# Quotes


def test_many_quotes_are_asked_for_fifty_at_a_time():
    async def main():
        async with XtsSimulator() as simulator, provider_of(simulator) as provider:
            for name in simulator.names:
                simulator.tick(name)
            simulator.requests.clear()
            numbers = [f"NSECM:{number}" for number in range(100_000, 100_060)]
            found = await provider.quotes.quotes(["NSECM:1594", *numbers, "NSECM:2885"])
            asked = [len(body["instruments"]) for _, path, body in simulator.requests if path.endswith("/quotes")]
            assert asked == [50, 12]
            for symbol, name in (("NSECM:1594", "NSECM:INFY-EQ"), ("NSECM:2885", "NSECM:RELIANCE-EQ")):
                bid, ask, last, bid_size, ask_size, volume = simulator.touchline(name)
                quote = found[symbol]
                assert (quote.bid, quote.ask, quote.last) == (bid, ask, last)
                assert (quote.bid_size, quote.ask_size, quote.volume) == (bid_size, ask_size, volume)
            # known by number only: there is no price
            assert all(isinstance(found[symbol], MarketClosed) for symbol in numbers)

    asyncio.run(main())


def test_an_instrument_without_a_quote_yet_says_so():
    async def main():
        async with XtsSimulator() as simulator, provider_of(simulator) as provider:
            with pytest.raises(MarketClosed, match="TCS: no price yet"):
                await provider.quotes.quote("TCS")

    asyncio.run(main())


def test_a_quote_from_the_future_is_malformed():
    async def main():
        clock = ManualClock(NOON + 10**9 * 3_600)
        late = ManualClock(NOON)
        async with XtsSimulator(clock=clock) as simulator, provider_of(simulator, late) as provider:
            simulator.tick("NSECM:TCS-EQ")
            with pytest.raises(MalformedMessage, match="dated 3600 s ahead"):
                await provider.quotes.quote("TCS")

    asyncio.run(main())


def test_a_session_that_ended_is_renewed_and_the_request_made_again():
    async def main():
        async with XtsSimulator() as simulator, provider_of(simulator) as provider:
            simulator.tick("NSECM:TCS-EQ", price=3000.0)
            await provider.quotes.quote("TCS")
            simulator.expire()
            # both meet the end of the session; one login is enough, and the second must not end the first
            both = await asyncio.gather(provider.quotes.quote("TCS"), provider.quotes.quote("NSECM:11536"))
            assert [quote.last for quote in both] == [3000.0, 3000.0]
            assert simulator.logins == 2

    asyncio.run(main())


def test_an_answer_that_is_an_error_with_status_200_is_an_error():
    from marketd.sources.http import Answer
    from marketd.sources.xts.session import Refused, TokenRefused, _classify

    def of(status, body):
        return _classify(Answer(status, {}, body))

    ended = b'{"type":"error","code":"e-session-0007","description":"Invalid Token","result":{}}'
    assert isinstance(of(200, ended), TokenRefused)
    assert isinstance(of(400, ended), TokenRefused)
    assert isinstance(of(401, b""), TokenRefused)
    already = b'{"type":"error","code":"e-session-0002","description":"Instrument Already Subscribed !"}'
    refused = of(400, already)
    assert isinstance(refused, Refused)
    assert (refused.provider_code, str(refused)) == (
        "e-session-0002", "xts: HTTP 400: e-session-0002 Instrument Already Subscribed !",
    )  # fmt: skip
    much = b'{"type":"error","code":"e-apirl-0004","description":"API rate limit exceeded"}'
    assert isinstance(of(400, much), Throttled)
    for status, body in ((200, b'{"type":"success"}'), (429, ended), (503, b""), (403, b""), (302, b""), (400, b"?")):
        assert of(status, body) is None


def test_without_a_shared_quota_the_provider_keeps_its_own_pace():
    async def main():
        async with XtsSimulator() as simulator, provider_of(simulator, pace=XtsPace(quotes=5.0)) as provider:
            simulator.tick("NSECM:TCS-EQ")
            began = asyncio.get_running_loop().time()
            for _ in range(3):
                await provider.quotes.quote("NSECM:11536")
            assert asyncio.get_running_loop().time() - began >= 0.4

    asyncio.run(main())


# Bars


@pytest.mark.parametrize(("name", "seconds"), [("1m", 60), ("5m", 300), ("15m", 900)])
@pytest.mark.parametrize(
    ("symbol", "instrument"), [("INFY", "NSECM:INFY-EQ"), ("^NSEI", "NSECM:NIFTY 50"), ("NSECM:NIFTY 50", None)]
)
def test_bars_of_every_length_are_those_of_the_provider(name, seconds, symbol, instrument):
    async def main():
        clock = ManualClock(NOON)
        async with XtsSimulator(clock=clock) as simulator, provider_of(simulator, clock) as provider:
            start_ns = parse_ns("2026-06-09T03:45:00Z")
            got = await provider.bars.bars(symbol, Interval.parse(name), start_ns, NOON)
            truth = simulator.bars(instrument or symbol, start_ns // 10**9, NOON // 10**9 - seconds + 1, seconds)
            assert len(truth) > 50
            assert starts_of(got).tolist() == [row[0] * 10**9 for row in truth]
            for place, column in enumerate(("open", "high", "low", "close"), 1):
                assert got[column].to_pylist() == [row[place] for row in truth]
            index = "NIFTY" in (instrument or symbol)
            assert got["volume"].to_pylist() == [None if index else float(row[5]) for row in truth]

    asyncio.run(main())


def test_days_are_dated_by_their_session_and_todays_is_left_out():
    async def main():
        clock = ManualClock(NOON)
        async with XtsSimulator(clock=clock, history_days=4) as simulator, provider_of(simulator, clock) as provider:
            got = await provider.bars.bars("INFY", Interval.parse("1d"), parse_ns("2026-06-01"), parse_ns("2026-07-01"))
            days = [parse_ns(f"2026-06-{day:02d}") for day in (8, 9, 10)]
            assert starts_of(got).tolist() == days
            for row, day_ns in enumerate(days):
                # 09:15 to 15:30 in India
                begin = day_ns // 10**9 + 3 * 3_600 + 45 * 60
                minutes = simulator.bars("NSECM:INFY-EQ", begin, begin + 375 * 60)
                assert [got[c][row].as_py() for c in ("open", "high", "low", "close", "volume")] == [
                    minutes[0][1], max(m[2] for m in minutes), min(m[3] for m in minutes), minutes[-1][4],
                    float(sum(m[5] for m in minutes)),
                ]  # fmt: skip

    asyncio.run(main())


def test_a_long_span_is_asked_for_in_weeks_on_indias_clock():
    async def main():
        clock = ManualClock(NOON)
        async with XtsSimulator(clock=clock) as simulator, provider_of(simulator, clock) as provider:
            await provider.bars.bars("NSECM:1594", Interval.parse("1m"), parse_ns("2026-06-01T03:45:20Z"), NOON)
            asked = [query for _, path, query in simulator.requests if path.endswith("/ohlc")]
            assert [(q["startTime"], q["endTime"]) for q in asked] == [
                ("Jun 01 2026 091600", "Jun 08 2026 091559"), ("Jun 08 2026 091600", "Jun 11 2026 125959"),
            ]  # fmt: skip
            assert {(q["exchangeSegment"], q["exchangeInstrumentID"], q["compressionValue"]) for q in asked} == {
                ("NSECM", "1594", "60"),
            }  # fmt: skip

    asyncio.run(main())


# Settings


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"symbols": ("INFY", " ")}, "symbols"),
        ({"rest_url": "ftp://x"}, "rest_url"),
        ({"ws_url": "https://x"}, "ws_url"),
        ({"path": "apimarketdata"}, "path"),
        ({"path": "/x/"}, "path"),
        ({"app_key": "a b"}, "app_key"),
        ({"secret_key": ""}, "secret_key"),
        ({"segments": ()}, "segments"),
        ({"segments": ("NYSE",)}, "segments"),
        ({"message_codes": (1505,)}, "message_codes"),
        ({"symbols_per_code": 0}, "symbols_per_code"),
        ({"broadcast": "full"}, "broadcast"),
        ({"times": "utc"}, "times"),
        ({"handshake": "http"}, "handshake"),
        ({"future_max_s": 0.0}, "future_max_s"),
        ({"mute_timeout_s": float("nan")}, "mute_timeout_s"),
        ({"open_timeout_s": -1.0}, "open_timeout_s"),
        ({"relogin_after_s": -1.0}, "relogin_after_s"),
        ({"days_per_call": 31}, "days_per_call"),
    ],
)
def test_an_impossible_setting_is_refused_by_field(fields, named):
    with pytest.raises(InvalidInput) as caught:
        XtsConfig(**fields)
    assert caught.value.field == named
    if "key" in named:
        assert str(caught.value).startswith(f"{named}: '…' is not allowed")


def test_an_impossible_pace_is_refused():
    with pytest.raises(InvalidInput, match="quotes: 0 is not allowed"):
        XtsPace(quotes=0)


def test_a_configuration_does_not_show_its_keys():
    config = XtsConfig(app_key="KEYKEYKEY", secret_key="SECRETSECRET")
    shown = f"{config} {config!r} {[config]}"
    assert "KEYKEYKEY" not in shown
    assert "SECRETSECRET" not in shown
    assert "app_key='…'" in shown
    assert "app_key=None" in repr(XtsConfig())


def test_the_keys_are_set_from_the_environment_by_name():
    assert ENTRY.secrets == {"XTS_APP_KEY": "app_key", "XTS_SECRET_KEY": "secret_key"}
    assert set(ENTRY.secrets.values()) <= set(XtsConfig.__struct_fields__)


def test_the_stream_is_where_the_requests_are_unless_it_is_said():
    assert XtsConfig(rest_url="https://xts.example:3000/").socket_url == "wss://xts.example:3000"
    assert XtsConfig(rest_url="http://127.0.0.1:3000").socket_url == "ws://127.0.0.1:3000"
    assert XtsConfig(ws_url="wss://stream.example").socket_url == "wss://stream.example"


def test_a_key_that_is_wrong_is_said_to_be_and_not_shown():
    async def main():
        async with XtsSimulator() as simulator, provider_of(simulator, app_key="WrongKey") as provider:
            with pytest.raises(NotEntitled) as caught:
                await provider.quotes.quote("INFY")
            assert "WrongKey" not in repr(caught.value)

    asyncio.run(main())
