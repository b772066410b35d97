"""Sockets read in bursts, over real ones: what is heard, what is noticed, and what is never said."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from marketd.clock import SystemClock
from marketd.errors import SourceRejected, SourceUnavailable
from marketd.sources import socket as module
from marketd.sources.socket import Inbox, Socket
from marketd.testing import ManualClock


@asynccontextmanager
async def server(talk):
    """talk: with the server's side of each connection."""

    async def handler(request):
        peer = web.WebSocketResponse(autoping=False)
        await peer.prepare(request)
        await talk(peer, request)
        return peer

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def opened(url, inbox, clock, **fields):
    return await Socket.open("acme", url, clock, inbox, **{"proxy": None, "open_timeout_s": 5.0, **fields})


async def until_lost(url, clock=None, gather_s=0.0):
    """What was read until the connection was lost, and why it was."""
    clock = clock or SystemClock()
    inbox = Inbox(clock, gather_s)
    socket = await opened(url, inbox, clock)
    try:
        with pytest.raises(SourceUnavailable) as caught:
            await socket.read()
        return inbox.take(), caught.value.reason
    finally:
        await socket.close()


def test_texts_and_bytes_are_read_with_the_time_they_came_and_pings_are_answered():
    async def main():
        pongs = []

        async def talk(peer, _):
            await peer.send_str("a")
            await peer.ping(b"1795")
            pongs.append(await peer.receive())
            await peer.send_bytes("ä".encode())
            await peer.send_bytes(b"\xff")
            await peer.close(code=4000, message=b"enough")

        async with server(talk) as url:
            before_ns = SystemClock().time_ns()
            messages, reason = await until_lost(url)
            assert [text for _, text in messages] == ["a", "ä", "\ufffd"]
            times = [time_ns for time_ns, _ in messages]
            assert [before_ns, *times] == sorted([before_ns, *times])
            assert reason == "connection closed: 4000 enough"
            assert (pongs[0].type, pongs[0].data) == (aiohttp.WSMsgType.PONG, b"1795")

    asyncio.run(main())


def test_a_cut_and_a_message_that_is_too_large_are_told():
    async def main():
        async def cut(_, request):
            request.transport.abort()

        async def boast(peer, _):
            await peer.send_str("x" * (4 * 1024 * 1024 + 1))
            await peer.receive()

        async with server(cut) as url:
            assert (await until_lost(url))[1].startswith("connection closed: ")
        async with server(boast) as url:
            messages, reason = await until_lost(url)
            assert messages == []
            assert reason.startswith("connection closed: ")

    asyncio.run(main())


def test_a_full_inbox_stops_the_reading_until_it_is_taken(monkeypatch):
    monkeypatch.setattr(module, "_INBOX_MAX", 3)

    async def main():
        async def talk(peer, _):
            for i in range(7):
                await peer.send_str(str(i))
            await peer.receive()

        async with server(talk) as url:
            clock = SystemClock()
            inbox = Inbox(clock)
            socket = await opened(url, inbox, clock)
            reading = asyncio.create_task(socket.read())
            taken = []
            while len(taken) < 7:
                await asyncio.wait_for(inbox.wait(), 5.0)
                await asyncio.sleep(0.01)
                batch = inbox.take()
                assert len(batch) <= 3
                taken += batch
            assert [text for _, text in taken] == [str(i) for i in range(7)]
            reading.cancel()
            await asyncio.wait({reading})
            await socket.close()

    asyncio.run(main())


def test_batches_are_so_far_apart_and_the_first_after_a_pause_is_at_once():
    async def main():
        clock = ManualClock()
        inbox = Inbox(clock, gather_s=0.5)

        async def next_batch():
            await inbox.wait()
            return [text for _, text in inbox.take()]

        await inbox.put("a")
        assert await asyncio.wait_for(next_batch(), 1.0) == ["a"]
        await inbox.put("b")
        waiting = asyncio.create_task(next_batch())
        await clock.advance(0.3)
        await inbox.put("c")
        await clock.advance(0.1)
        assert not waiting.done()
        await clock.advance(0.1)
        assert await waiting == ["b", "c"]
        await clock.advance(0.5)
        await inbox.put("d")
        assert await asyncio.wait_for(next_batch(), 1.0) == ["d"]

    asyncio.run(main())


def test_silence_is_noticed_when_something_is_due_and_we_listen(monkeypatch):
    monkeypatch.setattr(module, "_INBOX_MAX", 1)

    async def main():
        async def talk(peer, _):
            await peer.receive()

        async with server(talk) as url:
            clock = ManualClock()
            inbox = Inbox(clock)
            socket = await opened(url, inbox, clock)
            due = False
            watching = asyncio.create_task(socket.watch(5.0, lambda: due))
            await clock.advance(20.0)
            assert not watching.done()
            due = True
            putting = asyncio.create_task(inbox.put("unread"))
            await clock.advance(20.0)
            assert not watching.done()
            inbox.take()
            await putting
            await clock.advance(5.0)
            with pytest.raises(SourceUnavailable, match="no message for 5 s"):
                await watching
            await socket.close()

    asyncio.run(main())


def test_what_cannot_be_opened_is_told_without_the_url():
    async def main():
        clock = SystemClock()

        async def never(reader, writer):
            await reader.read()
            writer.close()

        silent = await asyncio.start_server(never, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(SourceUnavailable, match=r"no connection within 0.1 s"):
            await opened(f"ws://127.0.0.1:{port}/", Inbox(clock), clock, open_timeout_s=0.1)
        silent.close()
        await silent.wait_closed()
        with pytest.raises(SourceUnavailable) as caught:
            await opened(f"ws://127.0.0.1:{port}/?token=sesame", Inbox(clock), clock)
        assert caught.value.reason.startswith("no connection: ClientConnectorError")
        assert "sesame" not in str(caught.value)
        with pytest.raises(SourceRejected, match="is no URL"):
            await opened("ws://", Inbox(clock), clock)

    asyncio.run(main())


def test_what_cannot_be_sent_any_more_is_told():
    async def main():
        async def talk(peer, _):
            await peer.close()

        async with server(talk) as url:
            clock = SystemClock()
            socket = await opened(url, Inbox(clock), clock)
            with pytest.raises(SourceUnavailable):
                await socket.read()
            with pytest.raises(SourceUnavailable, match="connection closed"):
                await socket.send({"a": 1})
            await socket.close()

    asyncio.run(main())
