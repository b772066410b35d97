"""OpenD's messages, as far as they are used, with the field numbers of its published ``.proto`` files.

A name here is the file's name without ``Qot_``, in our spelling. To use another field, add it with its number; to use
another message, add its protocol id and its Structs. Formats:
https://openapi.futunn.com/futu-api-doc/en/ftapi/protocol.html.
"""

from __future__ import annotations

from typing import Annotated as N

import msgspec

__all__ = [
    "BASIC",
    "BOOK",
    "PUSHES",
    "TICKER",
    "BasicQuote",
    "BasicSnapshot",
    "BookLevel",
    "ChainAnswer",
    "ChainRequest",
    "ConnectStatus",
    "Empty",
    "ExpiriesAnswer",
    "ExpiriesRequest",
    "GatewayEvent",
    "GlobalStateAnswer",
    "GlobalStateRequest",
    "HistoryAnswer",
    "HistoryRequest",
    "InitAnswer",
    "InitRequest",
    "KLine",
    "KeepAlive",
    "MarketStateAnswer",
    "Notify",
    "OptionData",
    "Proto",
    "Rehab",
    "RehabAnswer",
    "Request",
    "Response",
    "Securities",
    "Security",
    "SecurityOnly",
    "Snapshot",
    "SnapshotAnswer",
    "SubInfoAnswer",
    "SubInfoRequest",
    "SubRequest",
    "TickerRow",
    "UpdateBasic",
    "UpdateBook",
    "UpdateTicker",
]


class Proto:
    """Protocol ids: what a frame holds."""

    INIT_CONNECT = 1001
    GLOBAL_STATE = 1002
    NOTIFY = 1003
    KEEP_ALIVE = 1004
    SUB = 3001
    SUB_INFO = 3003
    UPDATE_BASIC = 3005
    UPDATE_TICKER = 3011
    UPDATE_BOOK = 3013
    HISTORY_KL = 3103
    REHAB = 3105
    SNAPSHOT = 3203
    OPTION_CHAIN = 3209
    MARKET_STATE = 3223
    OPTION_EXPIRIES = 3224


PUSHES = frozenset((1003, 3005, 3007, 3009, 3011, 3013, 3015, 3019, 3021))
"""Ids that only OpenD sends, unasked."""

BASIC, BOOK, TICKER = 1, 2, 4
"""Qot_Common.SubType: what is subscribed of a security."""


class Request(msgspec.Struct, frozen=True):
    c2s: N[bytes, 1]


class Response(msgspec.Struct, frozen=True):
    """Every answer and push. ret_type: 0 is well; -1 refused, -100 timeout, -200 disconnected, -400 unknown, -500
    invalid. ret_msg: in the language of the account. A message without ret_type is one of -400."""

    ret_type: N[int, 1] = -400
    ret_msg: N[str, 2] = ""
    err_code: N[int, 3] = 0
    s2c: N[bytes | None, 4] = None


class Empty(msgspec.Struct, frozen=True):
    pass


class Security(msgspec.Struct, frozen=True):
    """market: Qot_Common.QotMarket; see `symbols.MARKETS`."""

    market: N[int, 1]
    code: N[str, 2]


class InitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """packet_enc_algo: -1 is not encrypted. push_proto_fmt: 0 is Protocol Buffers."""

    client_ver: N[int, 1]
    client_id: N[str, 2]
    recv_notify: N[bool, 3] = True
    packet_enc_algo: N[int, 4] = -1
    push_proto_fmt: N[int, 5] = 0
    programming_language: N[str, 6] = "Python"


class InitAnswer(msgspec.Struct, frozen=True):
    """keep_alive_interval: seconds."""

    server_ver: N[int, 1]
    keep_alive_interval: N[int, 5]


class GlobalStateRequest(msgspec.Struct, frozen=True):
    user_id: N[int, 1] = 0


class GlobalStateAnswer(msgspec.Struct, frozen=True):
    quotes_logged_in: N[bool, 6]
    server_ver: N[int, 8]


class KeepAlive(msgspec.Struct, frozen=True):
    """Request and answer. time: seconds since 1970."""

    time: N[int, 1]


class GatewayEvent(msgspec.Struct, frozen=True):
    event_type: N[int, 1]
    desc: N[str, 2]


class ConnectStatus(msgspec.Struct, frozen=True):
    quotes_logged_in: N[bool, 1]


class Notify(msgspec.Struct, frozen=True):
    """type: 1 an event of the gateway, 3 its connections to the servers; others are not used."""

    type: N[int, 1]
    event: N[GatewayEvent | None, 2] = None
    connect_status: N[ConnectStatus | None, 4] = None


class SubRequest(msgspec.Struct, frozen=True, kw_only=True):
    """session: Common.Session, 1 regular hours, 2 with those before and after. first_push: what OpenD has, at once."""

    securities: N[list[Security], 1]
    sub_types: N[list[int], 2]
    subscribe: N[bool, 3]
    push: N[bool, 4]
    first_push: N[bool | None, 6] = None
    extended_time: N[bool | None, 9] = None
    session: N[int | None, 10] = None


class SubInfoRequest(msgspec.Struct, frozen=True):
    all_connections: N[bool, 1] = False


class SubInfoAnswer(msgspec.Struct, frozen=True):
    """Subscriptions of the account, of all connections."""

    used_quota: N[int, 2]
    remain_quota: N[int, 3]


class Securities(msgspec.Struct, frozen=True):
    """The request of GetSecuritySnapshot and GetMarketState."""

    securities: N[list[Security], 1]


class SecurityOnly(msgspec.Struct, frozen=True):
    """The request of RequestRehab."""

    security: N[Security, 1]


class BasicQuote(msgspec.Struct, frozen=True, kw_only=True):
    """update_time: of the last price, at the exchange, `2026-11-20 10:00:00`. volume: shares of the day."""

    security: N[Security, 1]
    suspended: N[bool, 2]
    update_time: N[str, 5]
    last: N[float, 9]
    volume: N[int, 11]
    update_timestamp: N[float | None, 18] = None
    volume_exact: N[float | None, 26] = None


class UpdateBasic(msgspec.Struct, frozen=True):
    quotes: N[list[BasicQuote], 1] = []


class BookLevel(msgspec.Struct, frozen=True):
    price: N[float, 1]
    volume: N[int, 2]
    volume_exact: N[float | None, 5] = None


class UpdateBook(msgspec.Struct, frozen=True, kw_only=True):
    """asks, bids: `BookLevel`s, best first; the best alone is read. The timestamps are of Hong Kong alone, and 0 for
    what OpenD had before."""

    security: N[Security, 1]
    asks: N[list[bytes], 2] = []
    bids: N[list[bytes], 3] = []
    bid_timestamp: N[float | None, 5] = None
    ask_timestamp: N[float | None, 7] = None


class TickerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One trade. direction: 1 bought, 2 sold, 3 neither. kind: Qot_Common.TickerType. pushed: 1 as it happened, 2 made
    up for a lost connection of OpenD, 3 what OpenD had before."""

    time: N[str, 1]
    sequence: N[int, 2]
    direction: N[int, 3]
    price: N[float, 4]
    volume: N[int, 5]
    kind: N[int | None, 8] = None
    pushed: N[int | None, 10] = None
    timestamp: N[float | None, 11] = None
    volume_exact: N[float | None, 12] = None


class UpdateTicker(msgspec.Struct, frozen=True):
    security: N[Security, 1]
    rows: N[list[TickerRow], 2] = []


class HistoryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """rehab_type: 0 as traded, 1 adjusted backwards from now. begin_time, end_time: at the exchange, inclusive."""

    rehab_type: N[int, 1]
    kl_type: N[int, 2]
    security: N[Security, 3]
    begin_time: N[str, 4]
    end_time: N[str, 5]
    count_max: N[int, 6]
    next_key: N[bytes | None, 8] = None
    extended_time: N[bool | None, 9] = None
    session: N[int | None, 10] = None


class KLine(msgspec.Struct, frozen=True, kw_only=True):
    """time: the end of minutes, the date of a day. blank: time alone."""

    time: N[str, 1]
    blank: N[bool, 2]
    high: N[float | None, 3] = None
    open: N[float | None, 4] = None
    low: N[float | None, 5] = None
    close: N[float | None, 6] = None
    volume: N[int | None, 8] = None
    timestamp: N[float | None, 13] = None
    volume_exact: N[float | None, 14] = None


class HistoryAnswer(msgspec.Struct, frozen=True):
    security: N[Security, 1]
    rows: N[list[KLine], 2] = []
    next_key: N[bytes | None, 3] = None


class Rehab(msgspec.Struct, frozen=True, kw_only=True):
    """What happened on one ex date. flags: Qot_Common.CompanyAct, which of the fields count. Shares: base old ones
    give (or become) ert; dividend: cash a share."""

    time: N[str, 1]
    flags: N[int, 2]
    split_base: N[int, 7] = 0
    split_ert: N[int, 8] = 0
    join_base: N[int, 9] = 0
    join_ert: N[int, 10] = 0
    bonus_base: N[int, 11] = 0
    bonus_ert: N[int, 12] = 0
    transfer_base: N[int, 13] = 0
    transfer_ert: N[int, 14] = 0
    dividend: N[float, 21] = 0.0
    special_dividend: N[float, 22] = 0.0


class RehabAnswer(msgspec.Struct, frozen=True):
    rows: N[list[Rehab], 1] = []


class BasicSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Absent prices are 0 or not there."""

    security: N[Security, 1]
    suspended: N[bool, 3]
    update_time: N[str, 7]
    last: N[float, 12]
    volume: N[int, 13]
    update_timestamp: N[float | None, 17] = None
    ask: N[float | None, 18] = None
    bid: N[float | None, 19] = None
    ask_volume: N[int | None, 20] = None
    bid_volume: N[int | None, 21] = None
    volume_exact: N[float | None, 43] = None
    ask_volume_exact: N[float | None, 44] = None
    bid_volume_exact: N[float | None, 45] = None


class OptionData(msgspec.Struct, frozen=True, kw_only=True):
    """type: 1 call, 2 put. implied_volatility: in percent."""

    type: N[int, 1]
    owner: N[Security, 2]
    strike_time: N[str, 3]
    strike: N[float, 4]
    contract_size: N[int, 5]
    open_interest: N[int, 6]
    implied_volatility: N[float, 7]
    delta: N[float, 9]
    gamma: N[float, 10]
    vega: N[float, 11]
    theta: N[float, 12]
    rho: N[float, 13]
    multiplier: N[float | None, 21] = None
    contract_size_exact: N[float | None, 22] = None


class Snapshot(msgspec.Struct, frozen=True):
    basic: N[BasicSnapshot, 1]
    option: N[OptionData | None, 4] = None


class SnapshotAnswer(msgspec.Struct, frozen=True):
    rows: N[list[Snapshot], 1] = []


class MarketInfo(msgspec.Struct, frozen=True):
    security: N[Security, 1]
    state: N[int, 3]


class MarketStateAnswer(msgspec.Struct, frozen=True):
    rows: N[list[MarketInfo], 1] = []


class ExpiriesRequest(msgspec.Struct, frozen=True):
    owner: N[Security, 1]


class Expiry(msgspec.Struct, frozen=True):
    """days_left: below 0 is over."""

    days_left: N[int, 3]
    strike_time: N[str, 1] = ""


class ExpiriesAnswer(msgspec.Struct, frozen=True):
    rows: N[list[Expiry], 1] = []


class ChainRequest(msgspec.Struct, frozen=True):
    """Dates at the exchange; at most 30 days apart."""

    owner: N[Security, 1]
    begin_time: N[str, 4]
    end_time: N[str, 5]


class StaticBasic(msgspec.Struct, frozen=True):
    security: N[Security, 1]


class StaticInfo(msgspec.Struct, frozen=True):
    basic: N[StaticBasic, 1]


class OptionPair(msgspec.Struct, frozen=True):
    call: N[StaticInfo | None, 1] = None
    put: N[StaticInfo | None, 2] = None


class ExpiryChain(msgspec.Struct, frozen=True):
    strike_time: N[str, 1]
    pairs: N[list[OptionPair], 2] = []


class ChainAnswer(msgspec.Struct, frozen=True):
    rows: N[list[ExpiryChain], 1] = []
