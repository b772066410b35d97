"""python-socketio 4.6.1, the client that the vendor's SDK is made of, reads the same simulator: what it sees, we must
have seen, and it must be content with the simulator's manners.

It is older than what the rest of the tests need, so it gets an environment of its own, made by `uv` once a run. Its
script does what the SDK does: a login as a form, requests with a JSON body of no declared type, the Socket.IO path
`/apimarketdata/socket.io` over WebSocket alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from marketd.clock import SystemClock
from marketd.model import Quote, parse_ns
from marketd.sources.contract import ProviderDeps, Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.xts import ENTRY, XtsConfig, XtsPace
from marketd.telemetry import Metrics
from marketd.testing.providers.xts import XtsSimulator

PACKAGES = ("python-socketio[client]==4.6.1", "python-engineio==3.14.2", "websocket-client>=1.5", "requests>=2.31")
AT_ONCE = XtsPace(login=1e12, master=1e12, quotes=1e12, ohlc=1e12, subscription=1e12)
INFY, NIFTY = "NSECM:INFY-EQ", "NSECM:NIFTY 50"

SCRIPT = """
import json, sys, threading, requests, socketio

root, app_key, secret_key, transports, handed = sys.argv[1:6]
session = requests.Session()
turn = threading.Lock()
if handed == "-":
    body = {"appKey": app_key, "secretKey": secret_key, "source": "WEBAPI"}
    login = session.request("POST", root + "/apimarketdata/auth/login", data=body).json()["result"]
else:
    login = {"token": handed, "userID": "SIMUSER_1"}
headers = {"Content-Type": "application/json", "Authorization": login["token"]}

def say(kind, value):
    with turn:
        print(json.dumps([kind, value]), flush=True)

def call(method, path, body):
    return session.request(method, root + "/apimarketdata" + path, data=json.dumps(body), headers=headers).json()

client = socketio.Client(logger=False, engineio_logger=False, reconnection=False)
for name in ("1501-json-full", "1502-json-full", "1105-json-partial", "joined"):
    client.on(name, lambda data, name=name: say(name, data))
client.on("disconnect", lambda: say("disconnect", None))
url = f"{root}/?token={login['token']}&userID={login['userID']}&publishFormat=JSON&broadcastMode=Full"
client.connect(url, {}, transports.split(","), None, "/apimarketdata/socket.io")
say("connected", login["token"])
for line in sys.stdin:
    request = json.loads(line)
    if request is None:
        break
    say("answer", call(*request))
client.disconnect()
"""


@pytest.fixture(scope="session")
def referee_python(tmp_path_factory):
    """The interpreter of an environment with the referee in it."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not here, and the referee needs an environment of its own")
    folder = tmp_path_factory.mktemp("referee") / "venv"
    python = folder / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), *PACKAGES],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=90)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"the referee cannot be installed: {error}")
    return python


class Referee:
    """The client in its process: what it said, line by line."""

    def __init__(self, process):
        self._process = process
        self.said = []

    @classmethod
    async def start(cls, python, simulator, transports="websocket", token="-"):
        script = [SCRIPT, simulator.rest_url, simulator.app_key, simulator.secret_key, transports, token]
        process = await asyncio.create_subprocess_exec(
            str(python), "-W", "ignore", "-c", *script,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return cls(process)

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition(self.said):
                line = await self._process.stdout.readline()
                assert line, f"the referee ended; it said {self.said}"
                self.said.append(json.loads(line))

    async def ask(self, method, path, body):
        self._process.stdin.write(json.dumps([method, path, body]).encode() + b"\n")
        before = len(self.of("answer"))
        await self.until(lambda _: len(self.of("answer")) > before)
        return self.of("answer")[-1]

    def of(self, kind):
        return [value for said, value in self.said if said == kind]

    async def stop(self):
        self._process.stdin.write(b"null\n")
        self._process.stdin.close()
        async with asyncio.timeout(10):
            await self._process.wait()


def instruments(*keys):
    return [{"exchangeSegment": segment, "exchangeInstrumentID": number} for segment, number in keys]


@pytest.mark.parametrize("transports", ["websocket", "polling,websocket"])
def test_the_referee_and_our_stream_see_the_same_quotes(referee_python, transports):
    async def main():
        async with XtsSimulator(seed=5) as simulator:
            config = XtsConfig(
                rest_url=simulator.rest_url, app_key=simulator.app_key, secret_key=simulator.secret_key,
                pace=AT_ONCE, http=HttpConfig(requests_per_s=1e12),
                handshake="websocket" if transports == "websocket" else "polling",
            )  # fmt: skip
            provider = ENTRY.build(config, ProviderDeps(clock=SystemClock(), metrics=Metrics(), rng=random.Random(1)))
            stream = provider.stream.stream(Subscriptions(["INFY", "^NIFTY50"]))
            await anext(stream)  # connected and subscribed
            # a login of its own would end ours: it is handed the token of the session
            referee = await Referee.start(referee_python, simulator, transports, simulator.token)
            await referee.until(lambda said: any(kind == "connected" for kind, _ in said))
            for turn in range(15):
                simulator.tick(INFY, book=turn % 4 != 3)
                simulator.tick(NIFTY)
            await referee.until(lambda _: len(referee.of("1501-json-full")) == 30)
            ours = []
            while len(ours) < 30:
                batch = await asyncio.wait_for(anext(stream), 5)
                ours += [event for event in batch if isinstance(event, Quote)]
            theirs = [read_by_hand(text) for text in referee.of("1501-json-full")]
            seen = [(q.symbol, q.time_event_ns, q.bid, q.ask, q.bid_size, q.ask_size, q.last, q.volume) for q in ours]
            # the referee gives each message to a thread of its own, so that their order is not kept
            assert sorted(seen, key=str_of) == sorted(theirs, key=str_of)
            await referee.until(lambda _: len(referee.of("1105-json-partial")) == 30)
            await stream.aclose()
            await provider.close()
            await referee.stop()

    asyncio.run(main())


def str_of(row):
    """Something to sort by."""
    return str([value if value is None or isinstance(value, str) else float(value) for value in row])


def read_by_hand(text):
    """A 1501 as its documentation says to read it; an index has neither book nor volume."""
    body = json.loads(text)
    line = body.get("Touchline", body)
    bid, ask = line["BidInfo"], line["AskInfo"]
    stamp = body.get("ExchangeTimeStamp", line["LastUpdateTime"])
    # seconds since 1980 of a clock 5 hours and a half ahead
    time_ns = parse_ns("1980-01-01") + (stamp - 19_800) * 10**9
    symbol = {1594: "INFY", 26000: "^NIFTY50"}[body["ExchangeInstrumentID"]]
    if symbol == "^NIFTY50":
        return (symbol, time_ns, None, None, None, None, line["LastTradedPrice"], None)
    return (
        symbol, time_ns, bid["Price"], ask["Price"], bid["Size"], ask["Size"], line["LastTradedPrice"],
        line["TotalTradedQuantity"],
    )  # fmt: skip


def test_the_referee_is_content_with_the_simulators_manners(referee_python):
    async def main():
        # a client that does not ping as version 3 wants it would be cut off after 0.6 s
        async with XtsSimulator(ping_interval_s=0.2, ping_timeout_s=0.4) as simulator:
            referee = await Referee.start(referee_python, simulator)
            await referee.until(lambda said: any(kind == "joined" for kind, _ in said))
            simulator.tick(INFY, price=1500.0)
            body = {"instruments": instruments((1, 1594), (1, 2885)), "xtsMessageCode": 1501}
            answer = await referee.ask("POST", "/instruments/subscription", body)
            assert (answer["code"], answer["result"]["Remaining_Subscription_Count"]) == ("s-session-0001", 48)
            assert [json.loads(text)["LastTradedPrice"] for text in answer["result"]["listQuotes"]] == [1500.0]
            again = await referee.ask("POST", "/instruments/subscription", body)
            assert (again["type"], again["code"]) == ("error", "e-session-0002")
            await asyncio.sleep(1.5)
            simulator.tick(INFY, price=1501.0)
            await referee.until(lambda _: referee.of("1501-json-full"))
            assert json.loads(referee.of("1501-json-full")[0])["LastUpdateTime"]
            assert not referee.of("disconnect")
            answer = await referee.ask("PUT", "/instruments/subscription", body)
            assert answer["type"] == "success"
            # another login with the same key ends its session
            async with asyncio.timeout(5):
                config = XtsConfig(
                    rest_url=simulator.rest_url, app_key=simulator.app_key, secret_key=simulator.secret_key
                )
                provider = ENTRY.build(config, ProviderDeps(clock=SystemClock(), metrics=Metrics()))
                await provider.quotes.quote("NSECM:1594")
                await provider.close()
            answer = await referee.ask("POST", "/instruments/subscription", body)
            assert answer["code"] == "e-session-0007"
            await referee.stop()

    asyncio.run(main())
