"""The simulator has the manners that its users were promised; that others can read it is the referee's to say."""

from __future__ import annotations

import asyncio

import aiohttp

from marketd.model import parse_ns
from marketd.testing import ManualClock
from marketd.testing.providers.yahoo import YahooSimulator, encode_pricing

NOW_NS = parse_ns("2026-11-20T20:10:30Z")
NOW_S = NOW_NS // 10**9


async def got(session, url, **params):
    async with session.get(url, params=params, allow_redirects=False) as answer:
        text = await answer.text()
        return answer.status, await answer.json() if answer.content_type == "application/json" else text


def with_market(body, *names, **market):
    async def main():
        async with (
            YahooSimulator(names or ("AAPL",), clock=ManualClock(NOW_NS), **market) as simulator,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            await body(simulator, session, f"{simulator.rest_url}/v8/finance/chart")

    asyncio.run(main())


def test_the_same_seed_and_clock_are_the_same_market():
    markets = [YahooSimulator(clock=ManualClock(NOW_NS), seed=seed) for seed in (1, 1, 2)]
    one, same, other = ([m.bars(n, i) for n in m.symbols for i in ("1m", "1d")] for m in markets)
    assert one == same
    assert one != other


def test_fields_of_zero_are_not_sent():
    # field 1 a text of 4 bytes, field 3 the number 150 in zigzag: 300, in two bytes
    assert encode_pricing({"id": "AAPL", "time": 150, "market_hours": 0, "bid": 0.0}) == b"\x0a\x04AAPL\x18\xac\x02"
    assert encode_pricing({"bid": 1.0}) == b"\xbd\x01\x00\x00\x80\x3f"


def test_a_cookie_and_a_crumb_are_asked_for():
    async def body(simulator, session, _):
        url = f"{simulator.rest_url}/v7/finance/quote"
        refusal = {"result": None, "error": {"code": "Unauthorized", "description": "Invalid Crumb"}}
        assert await got(session, url, symbols="AAPL") == (401, {"finance": refusal})
        async with session.get(simulator.cookie_url + "/") as answer:
            assert (answer.status, answer.headers["Set-Cookie"].split(";")[0]) == (404, simulator.secrets[0])
        headers = {"Cookie": simulator.secrets[0]}
        async with session.get(f"{simulator.rest_url}/v1/test/getcrumb", headers=headers) as answer:
            crumb = await answer.text()
        async with session.get(url, params={"symbols": "AAPL,NOSUCH", "crumb": crumb}, headers=headers) as answer:
            (row,) = (await answer.json())["quoteResponse"]["result"]
            assert row["symbol"] == "AAPL"
        simulator.consent_required = True
        async with session.get(simulator.cookie_url + "/", allow_redirects=False) as answer:
            assert answer.headers["Location"].startswith("https://guce.yahoo.com/consent")

    with_market(body)


def test_refusals_have_four_shapes():
    async def body(simulator, session, chart):
        assert await got(session, f"{chart}/NOSUCH") == (
            404,
            {
                "chart": {
                    "result": None,
                    "error": {"code": "Not Found", "description": "No data found, symbol may be delisted"},
                }
            },
        )
        status, answer = await got(session, f"{chart}/AAPL", interval="1m", period1=NOW_S - 9 * 86_400, period2=NOW_S)
        assert (status, answer["chart"]["error"]["code"]) == (422, "Unprocessable Entity")
        simulator.throttle(1)
        assert await got(session, f"{chart}/AAPL") == (429, "Too Many Requests\r\n")
        simulator.be_back(1)
        status, page = await got(session, f"{chart}/AAPL")
        assert (status, page[:6]) == (503, "<html>")

    with_market(body)


def test_charts_have_nulls_a_live_row_and_nothing_at_all_for_an_empty_window():
    async def body(simulator, session, chart):
        asked = {"interval": "1m", "period1": NOW_S - 7_200, "period2": NOW_S - 3_600}
        _, answer = await got(session, f"{chart}/AAPL", **asked)
        (result,) = answer["chart"]["result"]
        columns = result["indicators"]["quote"][0]
        assert {len(column) for column in columns.values()} == {len(result["timestamp"])}
        nulls = [at for at, value in enumerate(columns["open"]) if value is None]
        assert nulls
        assert all(columns[name][at] is None for name in columns for at in nulls)
        assert result["timestamp"][-1] > NOW_S - 3_600  # the last trade, after the end
        assert result["timestamp"][-1] % 60

        saturday = parse_ns("2026-11-14T12:00:00Z") // 10**9
        _, answer = await got(session, f"{chart}/AAPL", interval="1m", period1=saturday, period2=saturday + 3_600)
        (result,) = answer["chart"]["result"]
        assert "timestamp" not in result
        assert result["indicators"]["quote"] == [{}]

    with_market(body, history_days=8)


def test_a_day_begins_with_its_session_before_and_after_the_clocks_change():
    async def body(simulator, session, chart):
        span = {"interval": "1d", "period1": NOW_S - 40 * 86_400, "period2": NOW_S}
        _, answer = await got(session, f"{chart}/AAPL", **span)
        hours = [stamp % 86_400 / 3_600 for stamp in answer["chart"]["result"][0]["timestamp"]]
        assert (hours[0], hours[-2]) == (13.5, 14.5)  # 09:30 in New York; the clocks went back on 1 November

    with_market(body)
