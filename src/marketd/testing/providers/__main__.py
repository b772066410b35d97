"""``python -m marketd.testing.providers coinbase --port N``: run a provider's simulator by hand."""

from __future__ import annotations

import asyncio
import contextlib

import click

from marketd.testing.providers.coinbase import CoinbaseSimulator


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


main(prog_name="python -m marketd.testing.providers")
