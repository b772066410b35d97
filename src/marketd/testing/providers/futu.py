"""Futu OpenD as a local server: framed Protocol Buffers over TCP.

Owns a seeded market (trades, and what follows from them: quotes, books, bars, options) and OpenD's manners: greeting
and keep-alive, subscriptions with a quota and a least duration, pages of history stamped with the end of a minute,
limits by window, refusals that are text. Shares no code with `marketd.sources.futu`, so that one can be tested by the
other: the messages are written and read by the tables below, whose numbers and names are those of the published
``.proto`` files. It refuses trading, encryption, and JSON bodies.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from marketd.clock import Clock, SystemClock

__all__ = ["FutuSimulator"]

_HEADER = struct.Struct("<2sIBBII20s8s")
_DOUBLE = struct.Struct("<d")

# field: (number, kind); d double, i integer, b bool, s text, y bytes, else a message; * repeated
_RESPONSE = {"retType": (1, "i"), "retMsg": (2, "s"), "errCode": (3, "i"), "s2c": (4, "y")}
_TABLES: dict[str, dict[str, tuple[int, str]]] = {
    "Request": {"c2s": (1, "y")},
    "Response": _RESPONSE,
    "Security": {"market": (1, "i"), "code": (2, "s")},
    "InitConnect.C2S": {"clientVer": (1, "i"), "clientID": (2, "s"), "recvNotify": (3, "b"), "packetEncAlgo": (4, "i"),
                        "pushProtoFmt": (5, "i"), "programmingLanguage": (6, "s")},
    "InitConnect.S2C": {"serverVer": (1, "i"), "loginUserID": (2, "i"), "connID": (3, "i"), "connAESKey": (4, "s"),
                        "keepAliveInterval": (5, "i")},
    "GetGlobalState.C2S": {"userID": (1, "i")},
    "GetGlobalState.S2C": {"marketHK": (1, "i"), "marketUS": (2, "i"), "marketSH": (3, "i"), "marketSZ": (4, "i"),
                           "marketHKFuture": (5, "i"), "qotLogined": (6, "b"), "trdLogined": (7, "b"),
                           "serverVer": (8, "i"), "serverBuildNo": (9, "i"), "time": (10, "i")},
    "KeepAlive": {"time": (1, "i")},
    "GtwEvent": {"eventType": (1, "i"), "desc": (2, "s")},
    "ConnectStatus": {"qotLogined": (1, "b"), "trdLogined": (2, "b")},
    "Notify.S2C": {"type": (1, "i"), "event": (2, "GtwEvent"), "connectStatus": (4, "ConnectStatus")},
    "Sub.C2S": {"securityList": (1, "Security*"), "subTypeList": (2, "i*"), "isSubOrUnSub": (3, "b"),
                "isRegOrUnRegPush": (4, "b"), "isFirstPush": (6, "b"), "isUnsubAll": (7, "b"),
                "extendedTime": (9, "b"), "session": (10, "i")},
    "SubInfo.C2S": {"isReqAllConn": (1, "b")},
    "SubInfo.S2C": {"totalUsedQuota": (2, "i"), "remainQuota": (3, "i")},
    "Securities": {"securityList": (1, "Security*")},
    "BasicQot": {"security": (1, "Security"), "isSuspended": (2, "b"), "listTime": (3, "s"), "priceSpread": (4, "d"),
                 "updateTime": (5, "s"), "highPrice": (6, "d"), "openPrice": (7, "d"), "lowPrice": (8, "d"),
                 "curPrice": (9, "d"), "lastClosePrice": (10, "d"), "volume": (11, "i"), "turnover": (12, "d"),
                 "turnoverRate": (13, "d"), "amplitude": (14, "d"), "updateTimestamp": (18, "d"), "name": (24, "s")},
    "BasicQots": {"basicQotList": (1, "BasicQot*")},
    "Ticker": {"time": (1, "s"), "sequence": (2, "i"), "dir": (3, "i"), "price": (4, "d"), "volume": (5, "i"),
               "turnover": (6, "d"), "type": (8, "i"), "pushDataType": (10, "i"), "timestamp": (11, "d")},
    "UpdateTicker.S2C": {"security": (1, "Security"), "tickerList": (2, "Ticker*"), "name": (3, "s")},
    "Level": {"price": (1, "d"), "volume": (2, "i"), "orederCount": (3, "i")},
    "UpdateBook.S2C": {"security": (1, "Security"), "orderBookAskList": (2, "Level*"),
                       "orderBookBidList": (3, "Level*"), "svrRecvTimeBid": (4, "s"),
                       "svrRecvTimeBidTimestamp": (5, "d"), "svrRecvTimeAsk": (6, "s"),
                       "svrRecvTimeAskTimestamp": (7, "d"), "name": (8, "s")},
    "History.C2S": {"rehabType": (1, "i"), "klType": (2, "i"), "security": (3, "Security"), "beginTime": (4, "s"),
                    "endTime": (5, "s"), "maxAckKLNum": (6, "i"), "needKLFieldsFlag": (7, "i"),
                    "nextReqKey": (8, "y"), "extendedTime": (9, "b"), "session": (10, "i")},
    "KLine": {"time": (1, "s"), "isBlank": (2, "b"), "highPrice": (3, "d"), "openPrice": (4, "d"), "lowPrice": (5, "d"),
              "closePrice": (6, "d"), "lastClosePrice": (7, "d"), "volume": (8, "i"), "turnover": (9, "d"),
              "timestamp": (13, "d")},
    "History.S2C": {"security": (1, "Security"), "klList": (2, "KLine*"), "nextReqKey": (3, "y"), "name": (4, "s")},
    "Rehab.C2S": {"security": (1, "Security")},
    "Rehab": {"time": (1, "s"), "companyActFlag": (2, "i"), "fwdFactorA": (3, "d"), "fwdFactorB": (4, "d"),
              "bwdFactorA": (5, "d"), "bwdFactorB": (6, "d"), "splitBase": (7, "i"), "splitErt": (8, "i"),
              "dividend": (21, "d")},
    "Rehab.S2C": {"rehabList": (1, "Rehab*")},
    "SnapshotBasicData": {"security": (1, "Security"), "type": (2, "i"), "isSuspend": (3, "b"), "listTime": (4, "s"),
                          "lotSize": (5, "i"), "priceSpread": (6, "d"), "updateTime": (7, "s"), "highPrice": (8, "d"),
                          "openPrice": (9, "d"), "lowPrice": (10, "d"), "lastClosePrice": (11, "d"),
                          "curPrice": (12, "d"), "volume": (13, "i"), "turnover": (14, "d"), "turnoverRate": (15, "d"),
                          "updateTimestamp": (17, "d"), "askPrice": (18, "d"), "bidPrice": (19, "d"),
                          "askVol": (20, "i"), "bidVol": (21, "i"), "name": (41, "s")},
    "OptionSnapshotExData": {"type": (1, "i"), "owner": (2, "Security"), "strikeTime": (3, "s"),
                             "strikePrice": (4, "d"), "contractSize": (5, "i"), "openInterest": (6, "i"),
                             "impliedVolatility": (7, "d"), "premium": (8, "d"), "delta": (9, "d"), "gamma": (10, "d"),
                             "vega": (11, "d"), "theta": (12, "d"), "rho": (13, "d"), "contractMultiplier": (21, "d")},
    "Snapshot": {"basic": (1, "SnapshotBasicData"), "optionExData": (4, "OptionSnapshotExData")},
    "Snapshot.S2C": {"snapshotList": (1, "Snapshot*")},
    "Chain.C2S": {"owner": (1, "Security"), "type": (2, "i"), "condition": (3, "i"), "beginTime": (4, "s"),
                  "endTime": (5, "s")},
    "SecurityStaticBasic": {"security": (1, "Security"), "id": (2, "i"), "lotSize": (3, "i"), "secType": (4, "i"),
                            "name": (5, "s"), "listTime": (6, "s")},
    "OptionStaticExData": {"type": (1, "i"), "owner": (2, "Security"), "strikeTime": (3, "s"), "strikePrice": (4, "d"),
                           "suspend": (5, "b"), "market": (6, "s")},
    "SecurityStaticInfo": {"basic": (1, "SecurityStaticBasic"), "optionExData": (3, "OptionStaticExData")},
    "OptionItem": {"call": (1, "SecurityStaticInfo"), "put": (2, "SecurityStaticInfo")},
    "OptionChain": {"strikeTime": (1, "s"), "option": (2, "OptionItem*"), "strikeTimestamp": (3, "d")},
    "Chain.S2C": {"optionChain": (1, "OptionChain*")},
    "Expiries.C2S": {"owner": (1, "Security")},
    "OptionExpirationDate": {"strikeTime": (1, "s"), "strikeTimestamp": (2, "d"), "optionExpiryDateDistance": (3, "i")},
    "Expiries.S2C": {"dateList": (1, "OptionExpirationDate*")},
    "MarketInfo": {"security": (1, "Security"), "name": (2, "s"), "marketState": (3, "i")},
    "MarketState.S2C": {"marketInfoList": (1, "MarketInfo*")},
    "Quota.C2S": {"bGetDetail": (2, "b")},
    "Quota.S2C": {"usedQuota": (1, "i"), "remainQuota": (2, "i")},
}  # fmt: skip

_MARKETS = {
    "HK": (1, ZoneInfo("Asia/Hong_Kong")),
    "US": (11, ZoneInfo("America/New_York")),
    "SH": (21, ZoneInfo("Asia/Shanghai")),
    "SZ": (22, ZoneInfo("Asia/Shanghai")),
}
_KL_MINUTES = {1: 1, 6: 5, 7: 15, 8: 30}
_KL_DAY = 2
_DAY_S = 86_400
_BASIC, _BOOK, _TICKER = 1, 2, 4
_UPDATE = {_BASIC: 3005, _BOOK: 3013, _TICKER: 3011}
_LIMITS = {3203: (60, 30), 3103: (60, 30), 3105: (60, 30), 3224: (60, 30), 3209: (10, 30), 3223: (10, 30)}
_SPLIT_DAYS_AGO = 10
_LEVELS = 10

Bar = tuple[int, float, float, float, float, float]
"""Start in seconds, open, high, low, close, volume."""
Language = Literal["en", "zh"]

_WORDS: dict[str, dict[Language, str]] = {
    "unknown": {"en": "Unknown stock {}", "zh": "未知股票 {}"},
    "frequency": {
        "en": "The frequency of this request is too high: {} times in {} seconds are allowed",
        "zh": "请求频率太高，请求失败，每{1}秒最多{0}次",
    },
    "sub_quota": {"en": "Insufficient subscription quota", "zh": "订阅额度不足"},
    "history_quota": {"en": "Insufficient historical candlestick quota", "zh": "历史K线额度不足"},
    "too_soon": {
        "en": "Unsubscribing is possible one minute after subscribing",
        "zh": "订阅后至少一分钟才能反订阅",
    },
    "rights": {"en": "No quote right for {}", "zh": "{} 没有行情权限"},
}


def _encode(name: str, values: dict[str, Any]) -> bytes:
    out = bytearray()
    for key, value in values.items():
        if value is None:
            continue
        number, kind = _TABLES[name][key]
        for item in value if kind.endswith("*") else [value]:
            one = kind.rstrip("*")
            if one in ("i", "b"):
                out += _varint(number << 3) + _varint(int(item) & (2**64 - 1))
            elif one == "d":
                out += _varint(number << 3 | 1) + _DOUBLE.pack(item)
            else:
                data = item.encode() if one == "s" else item if one == "y" else _encode(one, item)
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return bytes(out)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _decode(name: str, data: bytes) -> dict[str, Any]:
    by_number = {number: (key, kind) for key, (number, kind) in _TABLES[name].items()}
    found: dict[str, Any] = {key: [] for key, (_, kind) in _TABLES[name].items() if kind.endswith("*")}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        key, kind = by_number.get(tag >> 3, ("", ""))
        value: Any
        if tag & 7 == 0:
            number = varint()
            value = bool(number) if kind == "b" else number - 2**64 if number >= 2**63 else number
        elif tag & 7 == 1:
            value, at = _DOUBLE.unpack_from(data, at)[0], at + 8
        elif tag & 7 == 2:
            size = varint()
            part, at = data[at : at + size], at + size
            one = kind.rstrip("*")
            value = part.decode() if one == "s" else part if one in ("y", "") else _decode(one, part)
        else:
            raise ValueError(f"wire type {tag & 7}")
        if kind.endswith("*"):
            found[key].append(value)
        elif key:
            found[key] = value
    return found


class _Instrument:
    """One security's market. Minutes of history are round the clock, a fifth of them without a trade."""

    def __init__(self, name: str, seed: int, now_s: int, minutes: int, days: int) -> None:
        self.name = name
        prefix, _, self.code = name.partition(".")
        self.market, self.zone = _MARKETS[prefix]
        self.rng = random.Random(f"{seed}:{name}")
        self.price = self.rng.randint(1_000, 60_000) / 100
        self.days: list[Bar] = []
        self.minutes: dict[int, Bar] = {}
        today = datetime.fromtimestamp(now_s, self.zone).date()
        for back in range(days, 0, -1):
            day = today - timedelta(days=back)
            if day.weekday() < 5:
                self.days.append(self._drawn(_midnight_s(day)))
        self.split_on = today - timedelta(days=_SPLIT_DAYS_AGO)
        first = now_s // 60 - minutes
        for minute in range(first, first + minutes):
            if minute == first or self.rng.random() >= 0.2:
                self.minutes[minute * 60] = self._drawn(minute * 60)
        self.first_minute_s = first * 60
        self.sequence = self.rng.randint(10**15, 10**16)
        self.volume = self.rng.randint(1, 10_000) * 100
        self.last_s = now_s - 30.0
        self.suspended = False
        self.state = 3
        self.spread()

    @property
    def security(self) -> dict[str, Any]:
        return {"market": self.market, "code": self.code}

    def _drawn(self, start_s: int) -> Bar:
        prices = [self.step() for _ in range(4)]
        return start_s, prices[0], max(prices), min(prices), prices[-1], float(self.rng.randint(1, 500) * 100)

    def step(self) -> float:
        self.price = max(round(self.price * (1 + self.rng.uniform(-0.001, 0.001)), 2), 0.1)
        return self.price

    def spread(self) -> None:
        half = self.rng.randint(1, 3)
        self.bids = [(round(self.price - (half + i) / 100, 2), self.rng.randint(1, 50) * 100) for i in range(_LEVELS)]
        self.asks = [(round(self.price + (half + i) / 100, 2), self.rng.randint(1, 50) * 100) for i in range(_LEVELS)]

    def trade(self, now_s: float, price: float | None, volume: int | None, direction: int | None) -> dict[str, Any]:
        self.price = self.step() if price is None else price
        volume = self.rng.randint(1, 20) * 100 if volume is None else volume
        self.sequence += self.rng.randint(1, 1_000)
        self.volume += volume
        self.last_s = now_s
        self.spread()
        start_s = int(now_s) // 60 * 60
        old = self.minutes.get(start_s, (start_s, self.price, self.price, self.price, self.price, 0.0))
        high, low = max(old[2], self.price), min(old[3], self.price)
        self.minutes[start_s] = (start_s, old[1], high, low, self.price, old[5] + volume)
        return {
            "sequence": self.sequence,
            "dir": self.rng.choice((1, 2, 3)) if direction is None else direction,
            "price": self.price,
            "volume": volume,
            "turnover": self.price * volume,
            "type": 1,
        }

    def bars(self, kl_type: int) -> list[Bar]:
        """Ascending, the running one too."""
        if kl_type == _KL_DAY:
            today = [bar for bar in self.minutes.values() if self.date_of(bar[0]) == self.date_of(self.last_s)]
            return self.days + ([_joined(_midnight_s(self.date_of(self.last_s)), today)] if today else [])
        step = _KL_MINUTES[kl_type] * 60
        parts: dict[int, list[Bar]] = {}
        for start_s in sorted(self.minutes):
            parts.setdefault(start_s // step * step, []).append(self.minutes[start_s])
        return [_joined(start_s, rows) for start_s, rows in parts.items()]

    def date_of(self, time_s: float) -> date:
        return datetime.fromtimestamp(time_s, self.zone).date()

    def text(self, time_s: float) -> str:
        return datetime.fromtimestamp(int(time_s), self.zone).strftime("%Y-%m-%d %H:%M:%S")


def _joined(start_s: int, rows: Sequence[Bar]) -> Bar:
    volume = sum(row[5] for row in rows)
    return start_s, rows[0][1], max(r[2] for r in rows), min(r[3] for r in rows), rows[-1][4], volume


def _midnight_s(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class _Option:
    code: str
    owner: str
    expiry: date
    strike: float
    call: bool


@dataclass(eq=False)
class _Client:
    writer: asyncio.StreamWriter
    subscribed: dict[tuple[str, int], float] = field(default_factory=dict)
    """(name, subtype): since when, on the simulator's clock."""
    greeted: bool = False
    heard_s: float = 0.0
    pushes: int = 0

    def send(self, raw: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(raw)


class _Refused(Exception):
    """An answer that is not well. args: ret_type, text."""


class FutuSimulator:
    """Use as an async context; then `port` is known, on 127.0.0.1.

    symbols: OpenD's names, of the markets HK, US, SH and SZ. optioned: those with options, as far as they are among
    symbols. The history before the start is the same for the same seed and clock. trade_interval_s: a random trade of
    every symbol so often; None, only `trade` makes them. sub_quota, history_quota: of the account. timestamps: whether
    messages have the optional times since 1970 beside the texts. language: of refusals. unsubscribe_after_s: how long a
    subscription lasts at least.
    """

    def __init__(
        self,
        symbols: Sequence[str] = ("US.AAPL", "US.MSFT", "HK.00700"),
        *,
        optioned: Iterable[str] = ("US.AAPL",),
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        trade_interval_s: float | None = None,
        keep_alive_s: int = 10,
        history_minutes: int = 120,
        history_days: int = 30,
        sub_quota: int = 300,
        history_quota: int = 100,
        timestamps: bool = True,
        language: Language = "en",
        unsubscribe_after_s: float = 60.0,
    ) -> None:
        self._clock = clock or SystemClock()
        self.port = port
        self._trade_interval_s = trade_interval_s
        self._keep_alive_s = keep_alive_s
        self._sub_quota = sub_quota
        self._history_quota = history_quota
        self._timestamps = timestamps
        self._language: Language = language
        self._unsubscribe_after_s = unsubscribe_after_s
        now_s = int(self._now_s())
        self._instruments = {n: _Instrument(n, seed, now_s, history_minutes, history_days) for n in symbols}
        self._by_key = {(i.market, i.code): i for i in self._instruments.values()}
        self._options = {
            o.code: o for name in optioned if name in self._instruments for o in self._listed(self._instruments[name])
        }
        self._server: asyncio.Server | None = None
        self._clients: list[_Client] = []
        self._handlers: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._muted = False
        self._logged_in = True
        self._stalled = asyncio.Event()
        self._stalled.set()
        self._refusals: list[tuple[int, str, int | None]] = []
        self._windows: dict[int, deque[float]] = {}
        self._asked_history: set[str] = set()
        self._unentitled: set[str] = set()
        self.requests: deque[tuple[int, dict[str, Any]]] = deque(maxlen=1_000)
        """(protocol id, c2s) of the requests, oldest first; keep-alives are not among them."""
        self.keep_alives = 0

    def _now_s(self) -> float:
        return self._clock.time_ns() // 1_000 / 1e6

    def _listed(self, instrument: _Instrument) -> list[_Option]:
        today = instrument.date_of(self._now_s())
        friday = today + timedelta(days=(4 - today.weekday()) % 7)
        middle = round(instrument.price / 5) * 5
        return [
            _Option(
                f"{instrument.code}{expiry:%y%m%d}{right}{strike * 1000}", instrument.name, expiry, strike, right == "C"
            )
            for expiry in (friday, friday + timedelta(days=7), friday + timedelta(days=28))
            for strike in range(max(5, middle - 10), middle + 11, 5)
            for right in "CP"
        ]

    async def __aenter__(self) -> Self:
        await self.come_back()
        self._tasks = [asyncio.create_task(self._cut_silent())]
        if self._trade_interval_s is not None:
            self._tasks.append(asyncio.create_task(self._trade_by_itself(self._trade_interval_s)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._stalled.set()
        await self.go_down()
        for task in self._tasks:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    # Commands

    @property
    def connections(self) -> int:
        """Clients connected and greeted now."""
        return sum(client.greeted for client in self._clients)

    @property
    def subscriptions(self) -> set[tuple[str, int]]:
        """(name, subtype) of all clients."""
        return {key for client in self._clients for key in client.subscribed}

    def trade(
        self,
        name: str,
        *,
        price: float | None = None,
        volume: int | None = None,
        direction: int | None = None,
        kind: int = 1,
        pushed: int = 1,
    ) -> int:
        """Execute one trade now and tell the subscribers; what is not given is drawn. Returns its sequence. kind: its
        TickerType. pushed: its PushDataType."""
        instrument = self._instruments[name]
        row = instrument.trade(self._now_s(), price, volume, direction)
        row |= {"type": kind, "pushDataType": pushed, **self._times(instrument, "time", "timestamp")}
        ticker = {"security": instrument.security, "tickerList": [row], "name": name}
        self._tell(instrument, _TICKER, _encode("UpdateTicker.S2C", ticker))
        self._tell(instrument, _BOOK, self._book(instrument))
        self._tell(instrument, _BASIC, self._basic(instrument))
        return int(row["sequence"])

    def suspend(self, name: str, *, suspended: bool = True) -> None:
        """Halt it, or not any more, and tell the subscribers."""
        instrument = self._instruments[name]
        instrument.suspended = suspended
        self._tell(instrument, _BASIC, self._basic(instrument))

    def empty_book(self, name: str, *, bids: bool = True, asks: bool = True) -> None:
        """Take all orders of these sides away, and tell the subscribers."""
        instrument = self._instruments[name]
        instrument.bids = [] if bids else instrument.bids
        instrument.asks = [] if asks else instrument.asks
        self._tell(instrument, _BOOK, self._book(instrument))

    def set_market_state(self, name: str, state: int) -> None:
        """state: Qot_Common.QotMarketState."""
        self._instruments[name].state = state

    def log_out(self, *, notify: bool = True) -> None:
        """Lose the quote servers: OpenD goes on answering, and says so."""
        self._logged_in = False
        if notify:
            self._notify({"type": 3, "connectStatus": {"qotLogined": False, "trdLogined": False}})

    def log_in(self) -> None:
        self._logged_in = True
        self._notify({"type": 3, "connectStatus": {"qotLogined": True, "trdLogined": True}})

    def gateway_event(self, event: int, desc: str) -> None:
        """event: Notify.GtwEventType."""
        self._notify({"type": 1, "event": {"eventType": event, "desc": desc}})

    def drop_connections(self) -> None:
        """Cut every connection without a goodbye."""
        for client in self._clients:
            client.writer.transport.abort()

    async def go_down(self) -> None:
        """Cut every connection and refuse new ones until `come_back`. Its market goes on trading. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self.drop_connections()
            await server.wait_closed()
            if self._handlers:
                await asyncio.wait(self._handlers)

    async def come_back(self) -> None:
        """Listen again, on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def mute(self, *, muted: bool = True) -> None:
        """Say nothing more, answers to keep-alives neither, and keep the connections open."""
        self._muted = muted

    def stall(self, *, stalled: bool = True) -> None:
        """Take requests and do not answer them, until called with False. Keep-alives are answered."""
        if stalled:
            self._stalled.clear()
        else:
            self._stalled.set()

    def inject(self, raw: bytes) -> None:
        """Send these bytes to every client as they are."""
        for client in self._clients:
            client.send(raw)

    def refuse(self, count: int, text: str, *, ret_type: int = -1, proto: int | None = None) -> None:
        """Answer the next requests (of this protocol id) so."""
        self._refusals += [(ret_type, text, proto)] * count

    def take_rights(self, *names: str) -> None:
        """Quotes of these need a card that was not bought."""
        self._unentitled.update(names)

    @staticmethod
    def push(proto: int, s2c: bytes, *, ret_type: int = 0, text: str = "") -> bytes:
        """The frame of a push, for `inject`."""
        return _frame(proto, 0, _encode("Response", {"retType": ret_type, "retMsg": text, "s2c": s2c}))

    @staticmethod
    def encoded(message: str, values: dict[str, Any]) -> bytes:
        """A message by the tables of this module, for `push`."""
        return _encode(message, values)

    # Truth

    def bars(self, name: str, interval: Literal["1m", "5m", "15m", "30m", "1d"]) -> list[Bar]:
        """Every bar so far, ascending by start, the running one too: start in s, open, high, low, close, volume."""
        kl_type = {"1m": 1, "5m": 6, "15m": 7, "30m": 8, "1d": _KL_DAY}[interval]
        return self._instruments[name].bars(kl_type)

    def quote(self, name: str) -> tuple[float | None, float | None, float, float, float]:
        """Bid, ask, last, volume of the day, time of the last trade in s."""
        i = self._instruments[name]
        bid, ask = i.bids[0][0] if i.bids else None, i.asks[0][0] if i.asks else None
        return bid, ask, i.price, float(i.volume), i.last_s

    def contracts(self, name: str) -> list[tuple[date, float, str, str]]:
        """Expiry, strike, call or put, code; ascending."""
        listed = [o for o in self._options.values() if o.owner == name]
        return sorted((o.expiry, o.strike, "call" if o.call else "put", o.code) for o in listed)

    # Messages

    def _times(self, instrument: _Instrument, text: str, stamp: str, time_s: float | None = None) -> dict[str, Any]:
        time_s = self._now_s() if time_s is None else time_s
        return {text: instrument.text(time_s)} | ({stamp: time_s} if self._timestamps else {})

    def _basic(self, i: _Instrument) -> bytes:
        row = {
            "security": i.security,
            "isSuspended": i.suspended,
            "listTime": "1980-12-12",
            "priceSpread": 0.01,
            "highPrice": i.price,
            "openPrice": i.price,
            "lowPrice": i.price,
            "curPrice": i.price,
            "lastClosePrice": i.price,
            "volume": i.volume,
            "turnover": i.price * i.volume,
            "turnoverRate": 0.5,
            "amplitude": 1.0,
            "name": i.name,
            **self._times(i, "updateTime", "updateTimestamp", i.last_s),
        }
        return _encode("BasicQots", {"basicQotList": [row]})

    def _book(self, i: _Instrument) -> bytes:
        asks, bids = ([{"price": p, "volume": v, "orederCount": 1} for p, v in side] for side in (i.asks, i.bids))
        message = {"security": i.security, "orderBookAskList": asks, "orderBookBidList": bids, "name": i.name}
        if i.market == 1:  # the times are of Hong Kong alone
            message |= self._times(i, "svrRecvTimeBid", "svrRecvTimeBidTimestamp")
            message |= self._times(i, "svrRecvTimeAsk", "svrRecvTimeAskTimestamp")
        return _encode("UpdateBook.S2C", message)

    def _tell(self, instrument: _Instrument, sub_type: int, s2c: bytes) -> None:
        for client in self._clients:
            if (instrument.name, sub_type) in client.subscribed:
                self._push(client, _UPDATE[sub_type], s2c)

    def _notify(self, s2c: dict[str, Any]) -> None:
        for client in self._clients:
            if client.greeted:
                self._push(client, 1003, _encode("Notify.S2C", s2c))

    def _push(self, client: _Client, proto: int, s2c: bytes) -> None:
        if not self._muted:
            client.pushes += 1
            body = _encode("Response", {"retType": 0, "retMsg": "", "errCode": 0, "s2c": s2c})
            client.send(_frame(proto, client.pushes, body))

    # Connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        client = _Client(writer, heard_s=self._clock.monotonic_ns() / 1e9)
        self._clients.append(client)
        try:
            while True:
                magic, proto, fmt, _, serial, size, sha1, _ = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                body = await reader.readexactly(size)
                digest = hashlib.sha1(body, usedforsecurity=False).digest()
                if magic != b"FT" or fmt != 0 or digest != sha1:
                    return  # OpenD cuts who does not speak its language
                client.heard_s = self._clock.monotonic_ns() / 1e9
                await self._answer(client, proto, serial, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._clients.remove(client)
            self._handlers.discard(task)
            writer.close()

    async def _answer(self, client: _Client, proto: int, serial: int, body: bytes) -> None:
        c2s = _decode("Request", body)["c2s"]
        answers: dict[int, tuple[str, Callable[[_Client, dict[str, Any]], bytes]]] = {
            1001: ("InitConnect.C2S", self._init),
            1002: ("GetGlobalState.C2S", self._global_state),
            1004: ("KeepAlive", self._keep_alive),
            3001: ("Sub.C2S", self._sub),
            3003: ("SubInfo.C2S", self._sub_info),
            3004: ("Securities", self._get_basic),
            3103: ("History.C2S", self._history),
            3104: ("Quota.C2S", self._history_quota_used),
            3105: ("Rehab.C2S", self._rehab),
            3203: ("Securities", self._snapshot),
            3209: ("Chain.C2S", self._chain),
            3223: ("Securities", self._market_state),
            3224: ("Expiries.C2S", self._expiries),
        }
        ret_type, text, s2c = 0, "", b""
        if proto != 1004:
            await self._stalled.wait()
        name, handler = answers.get(proto, ("", self._unknown_protocol))
        request = _decode(name, c2s) if name else {}
        if proto != 1004:
            self.requests.append((proto, request))
        try:
            self._refuse_by_command(proto)
            self._refuse_by_limit(proto, request)
            s2c = handler(client, request)
        except _Refused as refused:
            ret_type, text = refused.args
        response = {"retType": ret_type, "retMsg": text, "errCode": 0, "s2c": None if ret_type else s2c}
        if not self._muted:
            client.send(_frame(proto, serial, _encode("Response", response)))
        if proto == 3001 and not ret_type:
            self._push_first(client, request)

    def _refuse_by_command(self, proto: int) -> None:
        for at, (ret_type, text, only) in enumerate(self._refusals):
            if proto >= 3000 and only in (None, proto):
                del self._refusals[at]
                raise _Refused(ret_type, text)

    def _refuse_by_limit(self, proto: int, request: dict[str, Any]) -> None:
        if proto not in _LIMITS or request.get("nextReqKey"):
            return
        count, seconds = _LIMITS[proto]
        window = self._windows.setdefault(proto, deque())
        now_s = self._clock.monotonic_ns() / 1e9
        while window and now_s - window[0] > seconds:
            window.popleft()
        if len(window) >= count:
            raise _Refused(-1, self._words("frequency", count, seconds))
        window.append(now_s)

    def _words(self, key: str, *args: object) -> str:
        return _WORDS[key][self._language].format(*args)

    def _known(self, security: dict[str, Any]) -> _Instrument:
        found = self._by_key.get((security.get("market", 0), security.get("code", "")))
        if found is None:
            raise _Refused(-1, self._words("unknown", security.get("code", "")))
        if found.name in self._unentitled:
            raise _Refused(-1, self._words("rights", found.code))
        return found

    # Answers

    @staticmethod
    def _unknown_protocol(_client: _Client, _request: dict[str, Any]) -> bytes:
        raise _Refused(-1, "Unknown protocol ID")

    def _init(self, client: _Client, request: dict[str, Any]) -> bytes:
        if request["packetEncAlgo"] != -1 or request.get("pushProtoFmt", 0) != 0:
            raise _Refused(-1, "encryption and JSON are not simulated")
        client.greeted = True
        answer = {"serverVer": 1011, "loginUserID": 0, "connID": 2**63 + len(self._clients), "connAESKey": "0" * 16}
        return _encode("InitConnect.S2C", answer | {"keepAliveInterval": self._keep_alive_s})

    def _global_state(self, _client: _Client, _request: dict[str, Any]) -> bytes:
        markets = dict.fromkeys(("marketHK", "marketUS", "marketSH", "marketSZ", "marketHKFuture"), 3)
        state = {"qotLogined": self._logged_in, "trdLogined": False, "serverVer": 1011, "serverBuildNo": 1}
        return _encode("GetGlobalState.S2C", {**markets, **state, "time": int(self._now_s())})

    def _keep_alive(self, _client: _Client, _request: dict[str, Any]) -> bytes:
        self.keep_alives += 1
        return _encode("KeepAlive", {"time": int(self._now_s())})

    def _sub(self, client: _Client, request: dict[str, Any]) -> bytes:
        now_s = self._clock.monotonic_ns() / 1e9
        if request.get("isUnsubAll"):
            client.subscribed.clear()
            return b""
        keys = [(self._known(s).name, t) for s in request["securityList"] for t in request["subTypeList"]]
        if request["isSubOrUnSub"]:
            if len(self.subscriptions | set(keys)) > self._sub_quota:
                raise _Refused(-1, self._words("sub_quota"))
            for key in keys:
                client.subscribed.setdefault(key, now_s)
        else:
            if any(now_s - client.subscribed.get(key, 0.0) < self._unsubscribe_after_s for key in keys):
                raise _Refused(-1, self._words("too_soon"))
            for key in keys:
                client.subscribed.pop(key, None)
        return b""

    def _push_first(self, client: _Client, request: dict[str, Any]) -> None:
        """What OpenD has of what was subscribed, unless that was not wanted."""
        if not (request["isSubOrUnSub"] and request.get("isRegOrUnRegPush") and request.get("isFirstPush", True)):
            return
        for security in request["securityList"]:
            i = self._known(security)
            if _BASIC in request["subTypeList"]:
                self._push(client, 3005, self._basic(i))
            if _BOOK in request["subTypeList"]:
                self._push(client, 3013, self._book(i))
            if _TICKER in request["subTypeList"]:
                row = {"sequence": i.sequence, "dir": 3, "price": i.price, "volume": 100, "turnover": 100 * i.price}
                row |= {"type": 1, "pushDataType": 3, **self._times(i, "time", "timestamp", i.last_s)}
                self._push(client, 3011, _encode("UpdateTicker.S2C", {"security": i.security, "tickerList": [row]}))

    def _sub_info(self, _client: _Client, _request: dict[str, Any]) -> bytes:
        used = len(self.subscriptions)
        return _encode("SubInfo.S2C", {"totalUsedQuota": used, "remainQuota": self._sub_quota - used})

    def _get_basic(self, client: _Client, request: dict[str, Any]) -> bytes:
        found = [self._known(security) for security in request["securityList"]]
        if any((i.name, _BASIC) not in client.subscribed for i in found):
            raise _Refused(-1, "Subscribe to the quote first")
        return b"".join(self._basic(i) for i in found)

    def _history(self, _client: _Client, request: dict[str, Any]) -> bytes:
        i = self._known(request["security"])
        if i.name not in self._asked_history and len(self._asked_history) >= self._history_quota:
            raise _Refused(-1, self._words("history_quota"))
        self._asked_history.add(i.name)
        kl_type = request["klType"]
        if kl_type != _KL_DAY and kl_type not in _KL_MINUTES:
            raise _Refused(-1, "This type of candlestick is not simulated")
        rows = self._lines(i, kl_type, adjusted=request["rehabType"] == 1)
        begin, end = request["beginTime"], request["endTime"] + ("" if " " in request["endTime"] else " 23:59:59")
        rows = [row for row in rows if begin <= row["time"] <= end]
        at = int(request.get("nextReqKey") or b"0")
        stop = at + (request.get("maxAckKLNum") or len(rows) or 1)
        key = str(stop).encode() if stop < len(rows) else None
        answer = {"security": i.security, "klList": rows[at:stop], "nextReqKey": key, "name": i.name}
        return _encode("History.S2C", answer)

    def _lines(self, i: _Instrument, kl_type: int, *, adjusted: bool) -> list[dict[str, Any]]:
        """KLine of all bars; a minute is stamped with its end, and one without a trade is blank."""
        bars = i.bars(kl_type)
        if kl_type != _KL_DAY:
            step = _KL_MINUTES[kl_type] * 60
            have = {bar[0] for bar in bars}
            blank = [s for s in range(i.first_minute_s // step * step, max(have, default=0), step) if s not in have]
            empty: list[dict[str, Any]] = [
                {**self._times(i, "time", "timestamp", s + step), "isBlank": True} for s in blank
            ]
        lines = [] if kl_type == _KL_DAY else empty
        last_close = 0.0
        for start_s, opened, high, low, close, volume in bars:
            if kl_type == _KL_DAY:
                day = datetime.fromtimestamp(start_s, UTC).date()
                local = datetime(day.year, day.month, day.day, tzinfo=i.zone).timestamp()
                times = self._times(i, "time", "timestamp", local)
                factor = 0.5 if adjusted and day < i.split_on else 1.0
            else:
                times, factor = self._times(i, "time", "timestamp", start_s + step), 1.0
            lines.append(
                {
                    **times,
                    "isBlank": False,
                    "highPrice": high * factor,
                    "openPrice": opened * factor,
                    "lowPrice": low * factor,
                    "closePrice": close * factor,
                    "lastClosePrice": last_close * factor,
                    "volume": int(volume),
                    "turnover": close * volume,
                }
            )
            last_close = close
        return sorted(lines, key=lambda line: str(line["time"]))

    def _history_quota_used(self, _client: _Client, _request: dict[str, Any]) -> bytes:
        used = len(self._asked_history)
        return _encode("Quota.S2C", {"usedQuota": used, "remainQuota": self._history_quota - used})

    def _rehab(self, _client: _Client, request: dict[str, Any]) -> bytes:
        """A split of 2 for 1 and, a week before it, a dividend of 0.24."""
        i = self._known(request["security"])
        factors = {"fwdFactorA": 0.5, "fwdFactorB": 0.0, "bwdFactorA": 2.0, "bwdFactorB": 0.0}
        split = {"time": f"{i.split_on}", "companyActFlag": 1, "splitBase": 1, "splitErt": 2, **factors}
        paid = {"time": f"{i.split_on - timedelta(days=7)}", "companyActFlag": 64, "dividend": 0.24}
        kept = {"fwdFactorA": 1.0, "fwdFactorB": -0.24, "bwdFactorA": 1.0, "bwdFactorB": 0.24}
        return _encode("Rehab.S2C", {"rehabList": [paid | kept, split]})

    def _snapshot(self, _client: _Client, request: dict[str, Any]) -> bytes:
        wanted = request["securityList"]
        if len(wanted) > 400:
            raise _Refused(-1, "At most 400 securities at once")
        rows = [self._of_option(o) if (o := self._option(s)) else self._of_stock(self._known(s)) for s in wanted]
        return _encode("Snapshot.S2C", {"snapshotList": rows})

    def _option(self, security: dict[str, Any]) -> _Option | None:
        return self._options.get(security["code"])

    def _of_stock(self, i: _Instrument) -> dict[str, Any]:
        sides: dict[str, Any] = {}
        if i.asks:
            sides |= {"askPrice": i.asks[0][0], "askVol": i.asks[0][1]}
        if i.bids:
            sides |= {"bidPrice": i.bids[0][0], "bidVol": i.bids[0][1]}
        basic = self._snapshot_basic(i, i.security, i.name, i.price, i.volume, 3) | sides
        return {"basic": basic | {"isSuspend": i.suspended}}

    def _snapshot_basic(
        self, i: _Instrument, security: dict[str, Any], name: str, price: float, volume: int, kind: int
    ) -> dict[str, Any]:
        prices = dict.fromkeys(("highPrice", "openPrice", "lowPrice", "lastClosePrice", "curPrice"), price)
        return {
            "security": security,
            "type": kind,
            "isSuspend": False,
            "listTime": "1980-12-12",
            "lotSize": 100,
            "priceSpread": 0.01,
            **prices,
            "volume": volume,
            "turnover": price * volume,
            "turnoverRate": 0.5,
            "name": name,
            **self._times(i, "updateTime", "updateTimestamp", i.last_s),
        }

    def _of_option(self, option: _Option) -> dict[str, Any]:
        """Prices that follow from the strike alone; every third contract has no bid."""
        i = self._instruments[option.owner]
        rng = random.Random(option.code)
        price = round(rng.uniform(0.5, 20.0), 2)
        security = {"market": i.market, "code": option.code}
        basic = self._snapshot_basic(i, security, option.code, price, rng.randint(0, 500), 8)
        bid = 0.0 if rng.random() < 1 / 3 else round(price - 0.05, 2)
        basic |= {"bidPrice": bid, "bidVol": 10 if bid else 0, "askPrice": round(price + 0.05, 2), "askVol": 12}
        data = {
            "type": 1 if option.call else 2,
            "owner": i.security,
            "strikeTime": str(option.expiry),
            "strikePrice": option.strike,
            "contractSize": 100,
            "openInterest": rng.randint(0, 5_000),
            "impliedVolatility": round(rng.uniform(10, 80), 3),
            "premium": 1.5,
            "delta": 0.5 if option.call else -0.5,
            "gamma": 0.02,
            "vega": 0.11,
            "theta": -0.04,
            "rho": 0.03,
            "contractMultiplier": 100.0,
        }
        return {"basic": basic, "optionExData": data}

    def _expiries(self, _client: _Client, request: dict[str, Any]) -> bytes:
        i = self._known(request["owner"])
        today = i.date_of(self._now_s())
        dates = sorted({o.expiry for o in self._options.values() if o.owner == i.name})
        rows = [{"strikeTime": str(day), "optionExpiryDateDistance": (day - today).days} for day in dates]
        return _encode("Expiries.S2C", {"dateList": rows})

    def _chain(self, _client: _Client, request: dict[str, Any]) -> bytes:
        i = self._known(request["owner"])
        begin, end = date.fromisoformat(request["beginTime"][:10]), date.fromisoformat(request["endTime"][:10])
        if (end - begin).days > 30:
            raise _Refused(-1, "The span of time is at most 30 days")
        chains = []
        listed = [o for o in self._options.values() if o.owner == i.name]
        for day in sorted({o.expiry for o in listed if begin <= o.expiry <= end}):
            pairs: dict[float, dict[str, Any]] = {}
            for o in listed:
                if o.expiry == day:
                    pairs.setdefault(o.strike, {})["call" if o.call else "put"] = self._static(i, o)
            chains.append({"strikeTime": str(day), "option": list(pairs.values())})
        return _encode("Chain.S2C", {"optionChain": chains})

    def _static(self, i: _Instrument, option: _Option) -> dict[str, Any]:
        security = {"market": i.market, "code": option.code}
        kind = 1 if option.call else 2
        basic = {"security": security, "id": 1, "lotSize": 100, "secType": 8, "name": option.code, "listTime": ""}
        data = {"type": kind, "owner": i.security, "strikeTime": str(option.expiry), "strikePrice": option.strike}
        return {"basic": basic, "optionExData": data | {"suspend": False, "market": "US"}}

    def _market_state(self, _client: _Client, request: dict[str, Any]) -> bytes:
        found = [self._known(security) for security in request["securityList"]]
        rows = [{"security": i.security, "name": i.name, "marketState": i.state} for i in found]
        return _encode("MarketState.S2C", {"marketInfoList": rows})

    # By itself

    async def _cut_silent(self) -> None:
        """A client that sends no keep-alive for three intervals is cut."""
        while True:
            await self._clock.sleep(self._keep_alive_s)
            now_s = self._clock.monotonic_ns() / 1e9
            for client in self._clients:
                if now_s - client.heard_s > 3 * self._keep_alive_s:
                    client.writer.transport.abort()

    async def _trade_by_itself(self, interval_s: float) -> None:
        while True:
            await self._clock.sleep(interval_s)
            for name in self._instruments:
                self.trade(name)


def _frame(proto: int, serial: int, body: bytes) -> bytes:
    sha1 = hashlib.sha1(body, usedforsecurity=False).digest()
    return _HEADER.pack(b"FT", proto, 0, 0, serial, len(body), sha1, bytes(8)) + body
