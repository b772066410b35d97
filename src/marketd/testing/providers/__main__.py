"""``python -m marketd.testing.providers coinbase --port N``: run a provider's simulator by hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Literal

import click

from marketd.testing.providers.alphavantage import AlphaVantageSimulator
from marketd.testing.providers.binance import BinanceSimulator
from marketd.testing.providers.coinbase import CoinbaseSimulator
from marketd.testing.providers.finnhub import FinnhubSimulator
from marketd.testing.providers.fred import FredSimulator
from marketd.testing.providers.futu import FutuSimulator
from marketd.testing.providers.ig import IgSimulator
from marketd.testing.providers.kraken import KrakenSimulator
from marketd.testing.providers.lightstreamer import LightstreamerSimulator
from marketd.testing.providers.xts import XtsSimulator
from marketd.testing.providers.yahoo import YahooSimulator


@click.group()
def main() -> None:
    """Local servers that speak providers' wire formats; stop them with Ctrl-C."""


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option("--product", "products", multiple=True, default=["BTC-USD", "ETH-USD", "SOL-USD"], show_default=True)
@click.option("--trade-interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
def coinbase(port: int, seed: int, products: tuple[str, ...], trade_interval_s: float) -> None:
    """Coinbase Exchange: REST and WebSocket on one port."""

    async def serve() -> None:
        async with CoinbaseSimulator(
            products, port=port, seed=seed, trade_interval_s=trade_interval_s, history_minutes=1_440
        ) as simulator:
            click.echo(f"rest_url {simulator.rest_url}")
            click.echo(f"ws_url   {simulator.ws_url}")
            click.echo(f"products {' '.join(products)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option("--tick-interval-s", default=0.5, show_default=True, type=click.FloatRange(min=0.001))
@click.option("--times", default="since_1980", show_default=True, type=click.Choice(["since_1980", "unix_ist"]))
def xts(port: int, seed: int, tick_interval_s: float, times: Literal["since_1980", "unix_ist"]) -> None:
    """XTS market data: requests, and Engine.IO 3 on the same port."""

    async def serve() -> None:
        async with XtsSimulator(port=port, seed=seed, tick_interval_s=tick_interval_s, times=times) as simulator:
            click.echo(f"rest_url   {simulator.rest_url}")
            click.echo(f"app_key    {simulator.app_key}")
            click.echo(f"secret_key {simulator.secret_key}")
            click.echo("symbols    RELIANCE INFY TCS ^NSEI ^NSEBANK")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option("--symbol", "symbols", multiple=True, default=["AAPL", "BRK-B", "VOD.L", "^GSPC", "EURUSD=X", "BTC-USD"])
@click.option("--tick-interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
def yahoo(port: int, seed: int, symbols: tuple[str, ...], tick_interval_s: float) -> None:
    """Yahoo Finance: charts, quotes, options and the stream on one port. Symbols as Yahoo writes them."""

    async def serve() -> None:
        async with YahooSimulator(symbols, port=port, seed=seed, tick_interval_s=tick_interval_s) as simulator:
            click.echo(f"rest_url   {simulator.rest_url}")
            click.echo(f"cookie_url {simulator.cookie_url}")
            click.echo(f"ws_url     {simulator.ws_url}")
            click.echo(f"symbols    {' '.join(symbols)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=11_111, show_default=True, type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option("--symbol", "symbols", multiple=True, default=["US.AAPL", "US.MSFT", "HK.00700"], show_default=True)
@click.option("--trade-interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
def futu(port: int, seed: int, symbols: tuple[str, ...], trade_interval_s: float) -> None:
    """Futu OpenD: framed Protocol Buffers over TCP."""

    async def serve() -> None:
        async with FutuSimulator(
            symbols, port=port, seed=seed, trade_interval_s=trade_interval_s, history_minutes=1_440, history_days=365
        ) as simulator:
            click.echo(f"port    {simulator.port}")
            click.echo(f"symbols {' '.join(symbols)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--epic",
    "epics",
    multiple=True,
    default=["CS.D.EURUSD.MINI.IP", "CS.D.GBPUSD.MINI.IP", "CS.D.USDJPY.MINI.IP", "IX.D.SPTRD.IFM.IP"],
    show_default=True,
)
@click.option("--tick-interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
@click.option("--refuse-version", "unsupported", multiple=True, help="Of TLCP, such as 2.5.0.")
def ig(port: int, seed: int, epics: tuple[str, ...], tick_interval_s: float, unsupported: tuple[str, ...]) -> None:
    """IG Markets: REST, and Lightstreamer on the same port."""

    async def serve() -> None:
        async with IgSimulator(
            epics,
            port=port,
            seed=seed,
            tick_interval_s=tick_interval_s,
            history_minutes=1_440,
            unsupported=unsupported,
        ) as simulator:
            click.echo(f"rest_url {simulator.rest_url}")
            click.echo(f"api_key  {simulator.api_key}")
            click.echo(f"username {simulator.username}")
            click.echo(f"password {simulator.password}")
            click.echo(f"epics    {' '.join(epics)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--item", "items", multiple=True, default=["one", "two", "three"], show_default=True)
@click.option("--interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
def lightstreamer(port: int, items: tuple[str, ...], interval_s: float) -> None:
    """A Lightstreamer server: each item counts up in the field `value`."""

    async def serve() -> None:
        async with LightstreamerSimulator(port=port) as simulator:
            click.echo(f"url   {simulator.url}")
            click.echo(f"items {' '.join(items)}")
            for number in itertools.count():
                for item in items:
                    simulator.publish(item, {"value": str(number)})
                await asyncio.sleep(interval_s)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option("--symbol", "symbols", multiple=True, default=["BTCUSDT", "ETHUSDT", "SOLUSDT"], show_default=True)
@click.option("--tick-interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
def binance(port: int, seed: int, symbols: tuple[str, ...], tick_interval_s: float) -> None:
    """Binance Spot: requests and streams on one port. Symbols as Binance writes them."""

    async def serve() -> None:
        async with BinanceSimulator(
            symbols, port=port, seed=seed, tick_interval_s=tick_interval_s, history_minutes=1_440
        ) as simulator:
            click.echo(f"rest_url {simulator.rest_url}")
            click.echo(f"ws_url   {simulator.ws_url}")
            click.echo(f"symbols  {' '.join(symbols)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option("--symbol", "symbols", multiple=True, default=["BTC/USD", "ETH/USD", "SOL/USD"], show_default=True)
@click.option("--tick-interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
def kraken(port: int, seed: int, symbols: tuple[str, ...], tick_interval_s: float) -> None:
    """Kraken Spot: requests and the stream (v2) on one port. Symbols as the stream writes them."""

    async def serve() -> None:
        async with KrakenSimulator(
            symbols, port=port, seed=seed, tick_interval_s=tick_interval_s, history_minutes=1_440
        ) as simulator:
            click.echo(f"rest_url {simulator.rest_url}")
            click.echo(f"ws_url   {simulator.ws_url}")
            click.echo(f"symbols  {' '.join(symbols)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
def fred(port: int, seed: int) -> None:
    """FRED and ALFRED: made-up series with all their vintages."""

    async def serve() -> None:
        async with FredSimulator(port=port) as simulator:
            simulator.make_up(seed)
            click.echo(f"rest_url {simulator.rest_url}")
            click.echo(f"api_key  {simulator.api_key}")
            click.echo(f"series   {' '.join(simulator.names)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--symbol",
    "symbols",
    multiple=True,
    default=["AAPL", "MSFT", "OANDA:EUR_USD", "BINANCE:BTCUSDT", "COINBASE:BTC-USD"],
    show_default=True,
)
@click.option("--trade-interval-s", default=0.2, show_default=True, type=click.FloatRange(min=0.001))
@click.option("--free", is_flag=True, help="A free key: 60 requests a minute, no bars, no chains.")
def finnhub(port: int, seed: int, symbols: tuple[str, ...], trade_interval_s: float, free: bool) -> None:
    """Finnhub: REST and WebSocket on one port. Symbols as Finnhub writes them."""

    async def serve() -> None:
        async with FinnhubSimulator(
            symbols,
            port=port,
            seed=seed,
            trade_interval_s=trade_interval_s,
            history_minutes=1_440,
            paid=not free,
            requests_per_minute=60 if free else None,
        ) as simulator:
            click.echo(f"rest_url {simulator.rest_url}")
            click.echo(f"ws_url   {simulator.ws_url}")
            click.echo(f"api_key  {simulator.api_key}")
            click.echo(f"symbols  {' '.join(symbols)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


@main.command()
@click.option("--port", default=0, show_default="any free", type=click.IntRange(0, 65_535))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--symbol", "symbols", multiple=True, default=["IBM", "AAPL", "BRK-B", "EUR/USD", "BTC/USD"], show_default=True
)
@click.option("--free", is_flag=True, help="A free key: 25 requests a day, one a second, nothing premium.")
def alphavantage(port: int, seed: int, symbols: tuple[str, ...], free: bool) -> None:
    """Alpha Vantage. Symbols as Alpha Vantage writes them; pairs with a slash."""

    async def serve() -> None:
        async with AlphaVantageSimulator(
            symbols,
            port=port,
            seed=seed,
            paid=not free,
            requests_per_day=25 if free else None,
            requests_per_s=1 if free else None,
            days=400,
        ) as simulator:
            click.echo(f"rest_url {simulator.rest_url}")
            click.echo(f"api_key  {simulator.api_key}")
            click.echo(f"symbols  {' '.join(symbols)}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


main(prog_name="python -m marketd.testing.providers")
