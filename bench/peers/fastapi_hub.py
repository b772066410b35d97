"""A plain FastAPI + websockets hub: how it is usually written, and a peer to measure against.

    BENCH_SYMBOLS=100 uvicorn --app-dir bench/peers fastapi_hub:app --port 9200

One asyncio.Queue and one task a client, one `send_text` a message. It takes the same subscribe message and sends the
same quote JSON as marketd, fed in the process by marketd's simulator; it validates nothing, builds no bars and caches
nothing. A full queue drops the new update: without a bound it would eat the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect

from marketd.clock import SystemClock
from marketd.model import TickBatch, format_ns
from marketd.sources.contract import Subscriptions
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource

SYMBOLS = [f"S{i:04d}" for i in range(int(os.environ.get("BENCH_SYMBOLS", "8000")))]
INTERVAL_MS = int(os.environ.get("BENCH_INTERVAL_MS", "100"))
QUEUE_MAX = 1000

latest: dict[str, dict] = {}
queues: dict[str, set[asyncio.Queue[str]]] = {symbol: set() for symbol in SYMBOLS}


async def feed() -> None:
    scenarios = {
        symbol: SimulatedSymbol(scenario=("flat", "volatile")[i % 2], base_price=100.0, tick_interval_ms=INTERVAL_MS)
        for i, symbol in enumerate(SYMBOLS)
    }
    source = SimulatorSource(SimulatorConfig(symbols=scenarios), SystemClock())
    seq = 0
    async for events in source.stream(Subscriptions(SYMBOLS)):
        for batch in events:
            if not isinstance(batch, TickBatch):
                continue
            columns = (batch.symbol_index, batch.last, batch.bid, batch.ask, batch.time_event_ns)
            for index, last, bid, ask, time_event_ns in zip(*(c.tolist() for c in columns), strict=True):
                seq += 1
                quote = {
                    "type": "quote_update",
                    "symbol": batch.symbols[index],
                    "seq": seq,
                    "lastPrice": last,
                    "bidPrice": bid,
                    "askPrice": ask,
                    "timestamp": format_ns(time_event_ns),
                }
                latest[quote["symbol"]] = quote
                if waiting := queues[quote["symbol"]]:
                    text = json.dumps(quote, separators=(",", ":"))
                    for queue in waiting:
                        with suppress(asyncio.QueueFull):
                            queue.put_nowait(text)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(feed())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/quote/{symbol}")
async def quote(symbol: str) -> dict:
    if symbol not in latest:
        raise HTTPException(404)
    return latest[symbol]


@app.websocket("/stream")
async def stream(websocket: WebSocket) -> None:
    await websocket.accept()
    queue: asyncio.Queue[str] = asyncio.Queue(QUEUE_MAX)
    wanted: set[str] = set()

    async def send() -> None:
        while True:
            await websocket.send_text(await queue.get())

    sender = asyncio.create_task(send())
    try:
        while True:
            message = await websocket.receive_json()
            wanted.update(message["symbols"])
            for symbol in message["symbols"]:
                queues[symbol].add(queue)
    except WebSocketDisconnect:
        pass
    finally:
        sender.cancel()
        for symbol in wanted:
            queues[symbol].discard(queue)
