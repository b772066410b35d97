"""What one TLCP session knows: its id, its subscriptions, their fields, how many data notifications came. Pure.

Text goes in (`receive`), events come out; what has to be asked comes from `requests`. The one who owns the connection
(`client`) looks at `bound`, `loop_s` and `ended` afterwards. A session outlives its connections: after
`interrupted`, a bind with `bind_parameters(recover=True)` goes on where it stopped, or `forget` makes it new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from marketd.errors import InvalidInput, MalformedMessage
from marketd.sources.lightstreamer.protocol import (
    CLIENT_ID,
    DATA_TAGS,
    NAME,
    Values,
    decode_values,
    read_line,
    whole,
)

__all__ = [
    "Cleared",
    "Event",
    "Malformed",
    "Missed",
    "Mode",
    "Over",
    "Refused",
    "Session",
    "SnapshotEnded",
    "Subscribed",
    "Subscription",
    "Unsubscribed",
    "Update",
]

Mode = Literal["MERGE", "DISTINCT", "COMMAND", "RAW"]

Parameters = dict[str, str | int]

_SILENT = frozenset(
    {"PROBE", "NOOP", "SYNC", "CONS", "SERVNAME", "CLIENTIP", "CONF", "WSOK", "REQOK", "MSGDONE", "MSGFAIL"}
)
"""Tags that say nothing that we need."""
_MUST_WAIT = -1
_TAGS_COUNTED = 100
_LOOP_MAX_S = 60.0


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask for. items, fields: names without spaces. snapshot: begin with what is known now.

    max_frequency: updates a second and item, `unlimited` or `unfiltered`; None leaves it to the server.
    """

    items: tuple[str, ...]
    fields: tuple[str, ...]
    mode: Mode = "MERGE"
    data_adapter: str | None = None
    snapshot: bool = True
    max_frequency: float | Literal["unlimited", "unfiltered"] | None = None

    def __post_init__(self) -> None:
        for field in ("items", "fields"):
            names = getattr(self, field)
            if not names or any(not name or name.split() != [name] for name in names):
                raise InvalidInput(field, names, "names without spaces, at least one")


class Update(msgspec.Struct, frozen=True, gc=False):
    """An item's fields, all of them. handle: of the subscription; item: position in its items, from 0. snapshot: they
    are the state at the time of subscribing, or part of it."""

    handle: int
    item: int
    values: Values
    snapshot: bool


class Subscribed(msgspec.Struct, frozen=True):
    handle: int


class Refused(msgspec.Struct, frozen=True):
    """The server does not give it; it is not asked for again. code ≤ 0: of the application behind the server."""

    handle: int
    code: int
    reason: str


class Unsubscribed(msgspec.Struct, frozen=True):
    """The server ended it without being asked to. It is asked for again in the next session."""

    handle: int


class SnapshotEnded(msgspec.Struct, frozen=True):
    handle: int
    item: int


class Cleared(msgspec.Struct, frozen=True):
    """What was known of the item is void."""

    handle: int
    item: int


class Missed(msgspec.Struct, frozen=True):
    """The server dropped so many updates of the item."""

    handle: int
    item: int
    count: int


class Malformed(msgspec.Struct, frozen=True):
    """A line that breaks the protocol. handle: of the subscription it was about, if that is known."""

    detail: str
    handle: int | None = None


Event = Update | Subscribed | Refused | Unsubscribed | SnapshotEnded | Cleared | Missed | Malformed


class Over(msgspec.Struct, frozen=True):
    """The session, or the attempt to make it, is over. code: see the specification; ≤ 0: the application's."""

    code: int
    reason: str


class _Item:
    __slots__ = ("before", "count", "handle", "position", "snapshot", "subscribed")

    def __init__(self, subscribed: _Subscribed, position: int) -> None:
        self.subscribed = subscribed
        self.handle = subscribed.handle
        self.position = position
        self.count = len(subscribed.wanted.fields)
        self.before: Values | None = None
        self.snapshot = subscribed.wanted.snapshot and subscribed.wanted.mode != "RAW"


class _Subscribed:
    """A subscription in the present session. request: of the `add`, until it is answered."""

    def __init__(self, handle: int, number: int, wanted: Subscription, request: int) -> None:
        self.handle = handle
        self.number = number
        self.wanted = wanted
        self.request: int | None = request
        self.items = [_Item(self, position) for position in range(len(wanted.items))]


class Session:
    """id: None while there is none. bound: a connection carries it. keepalive_s: the server is never silent for longer.

    control_link: the host for further connections, None for the same. loop_s: bind again after so long. ended: it is
    over, or was refused. received: data notifications, what recovery counts by. unknown: tags that were ignored.
    renewals: see `LightstreamerConfig`.
    """

    def __init__(self, *, renewals: int = 3) -> None:
        self._renewals = renewals
        self._wanted: dict[int, Subscription] = {}
        self._handles = 0
        self._requests = 0
        self.unknown: Counter[str] = Counter()
        self.forget()

    def forget(self) -> None:
        """There is no session; what is wanted stays wanted."""
        self.id: str | None = None
        self.bound = False
        self.control_link: str | None = None
        self.keepalive_s: float | None = None
        self.loop_s: float | None = None
        self.ended: Over | None = None
        self.received = 0
        self._skip = 0
        self._numbers = 0
        self._of_handle: dict[int, _Subscribed] = {}
        self._of_number: dict[int, _Subscribed] = {}
        self._items: dict[str, _Item] = {}
        self._leaving: dict[int, int | None] = {}  # number of a subscription → request of its `delete`, if sent
        self._renewed: Counter[int] = Counter()

    # What is wanted

    @property
    def wanted(self) -> Iterable[int]:
        """Handles."""
        return self._wanted.keys()

    def subscribe(self, wanted: Subscription) -> int:
        """A handle for it, good for as long as it is wanted, over sessions."""
        self._handles += 1
        self._wanted[self._handles] = wanted
        return self._handles

    def unsubscribe(self, handle: int) -> None:
        """No event of it comes any more. Of a handle that is gone: nothing happens."""
        self._wanted.pop(handle, None)
        self._drop(handle)

    def _drop(self, handle: int) -> None:
        gone = self._of_handle.pop(handle, None)
        if gone is not None:
            self._unlink(gone)
            self._leaving[gone.number] = None

    def _unlink(self, gone: _Subscribed) -> None:
        self._of_number.pop(gone.number, None)
        for position in range(len(gone.items)):
            self._items.pop(f"{gone.number},{position + 1}", None)

    # What to send

    def create_parameters(
        self, user: str | None, password: str | None, adapter_set: str | None, *, diffs: bool = True
    ) -> Parameters:
        """Of `create_session`. diffs: whether the version lets differences be agreed on."""
        parameters: Parameters = {"LS_cid": CLIENT_ID, "LS_send_sync": "false", "LS_reduce_head": "true"}
        if diffs:
            parameters["LS_supported_diffs"] = "T"
        for name, value in (("LS_user", user), ("LS_password", password), ("LS_adapter_set", adapter_set)):
            if value is not None:
                parameters[name] = value
        return parameters

    def bind_parameters(self, *, recover: bool) -> Parameters:
        """Of `bind_session`: after a LOOP, or to go on after an interruption."""
        assert self.id is not None, "there is no session"
        parameters: Parameters = {"LS_session": self.id, "LS_send_sync": "false"}
        self.loop_s = None
        self.bound = False
        self._skip = 0
        if recover:
            parameters["LS_recovery_from"] = self.received
            self._skip = _MUST_WAIT
        return parameters

    def requests(self) -> list[Parameters]:
        """Of `control`: what was not asked for yet, to be sent now. Empty unless bound."""
        if not self.bound:
            return []
        found: list[Parameters] = []
        for number, request in self._leaving.items():
            if request is None:
                self._leaving[number] = self._next_request()
                found.append({"LS_reqId": self._requests, "LS_op": "delete", "LS_subId": number})
        for handle, wanted in self._wanted.items():
            if handle not in self._of_handle:
                found.append(self._add(handle, wanted))
        return found

    def _next_request(self) -> int:
        self._requests += 1
        return self._requests

    def _add(self, handle: int, wanted: Subscription) -> Parameters:
        self._numbers += 1
        subscribed = _Subscribed(handle, self._numbers, wanted, self._next_request())
        self._of_handle[handle] = self._of_number[subscribed.number] = subscribed
        for item in subscribed.items:
            self._items[f"{subscribed.number},{item.position + 1}"] = item
        parameters: Parameters = {
            "LS_reqId": self._requests,
            "LS_op": "add",
            "LS_subId": subscribed.number,
            "LS_mode": wanted.mode,
            "LS_group": " ".join(wanted.items),
            "LS_schema": " ".join(wanted.fields),
        }
        if wanted.mode != "RAW":
            parameters["LS_snapshot"] = "true" if wanted.snapshot else "false"
        if wanted.data_adapter is not None:
            parameters["LS_data_adapter"] = wanted.data_adapter
        if wanted.max_frequency is not None:
            parameters["LS_requested_max_frequency"] = str(wanted.max_frequency)
        return parameters

    def interrupted(self) -> None:
        """The connection is lost. What was asked and not answered may not have arrived: it is asked again, anew."""
        self.bound = False
        self.loop_s = None
        for subscribed in list(self._of_handle.values()):
            if subscribed.request is not None:
                self._drop(subscribed.handle)
        self._leaving = dict.fromkeys(self._leaving)

    # What comes

    def receive(self, text: str) -> list[Event]:
        """The events in one or more whole lines. Never raises: what breaks the protocol is a `Malformed`."""
        events: list[Event] = []
        items = self._items
        for line in text.split("\r\n"):
            if line[:2] == "U," and not self._skip:
                second = line.find(",", line.find(",", 2) + 1)
                item = items.get(line[2:second])
                self.received += 1
                if item is None:
                    self._stray(line, events)
                    continue
                try:
                    values = decode_values(line[second + 1 :], item.before, item.count)
                except MalformedMessage as error:
                    item.before = None
                    self._renew(item.subscribed, f"{error.reason}: {line[:200]!r}", events)
                    continue
                item.before = values
                events.append(Update(item.handle, item.position, values, item.snapshot))
                if item.snapshot and item.subscribed.wanted.mode == "MERGE":
                    item.snapshot = False
            elif line:
                try:
                    self._line(line, events)
                except MalformedMessage as error:
                    events.append(Malformed(f"{error.reason}: {line[:200]!r}"))
        return events

    def _line(self, line: str, events: list[Event]) -> None:
        tag = line[: line.index(",")] if "," in line else line
        if tag in DATA_TAGS:
            if self._skip == _MUST_WAIT:
                self.ended = Over(68, f"{tag} before PROG")
                return
            if self._skip:
                self._skip -= 1
                return
            self.received += 1
        tag, arguments = read_line(line)
        match tag, arguments:
            case "CONOK", (session, _, keepalive_ms, link):
                self.id = session
                self.keepalive_s = whole(keepalive_ms) / 1_000
                if link != "*":
                    self.control_link = link
                self.bound = True
                self.ended = None
            case "PROG", (count,):
                ahead = self.received - whole(count)
                if self._skip != _MUST_WAIT or ahead < 0:
                    self.ended = Over(4, f"PROG {count} after {self.received} notifications")
                else:
                    self._skip = ahead
            case "LOOP", (delay_ms,):
                self.loop_s = min(max(0.0, whole(delay_ms) / 1_000), _LOOP_MAX_S)
                self.bound = False
            case (("END" | "CONERR"), (code, reason)):
                self.ended = Over(whole(code), reason)
                self.bound = False
            case "SUBOK" | "SUBCMD", (number, item_count, field_count, *_):
                self._subscribed(number, whole(item_count), whole(field_count), events)
            case "UNSUB", (number,):
                self._unsubscribed(whole(number), events)
            case (("EOS" | "CS"), (number, position)):
                item = self._item(number, position)
                if item is not None:
                    item.snapshot = False
                    kind = SnapshotEnded if tag == "EOS" else Cleared
                    events.append(kind(item.handle, item.position))
            case "OV", (number, position, count):
                item = self._item(number, position)
                if item is not None:
                    events.append(Missed(item.handle, item.position, whole(count)))
            case "REQERR", (request, code, reason):
                self._refused(whole(request), whole(code), reason, events)
            case "ERROR", (code, reason):
                events.append(Malformed(f"the server could not read a request: {code} {reason}"))
            case "REQOK", (request,):
                self._leaving = {n: asked for n, asked in self._leaving.items() if str(asked) != request}
            case _ if not arguments:
                if tag not in _SILENT:
                    self.unknown[tag if tag.isalnum() and len(self.unknown) < _TAGS_COUNTED else "other"] += 1
            case _:
                pass

    def _item(self, number: str, position: str) -> _Item | None:
        item = self._items.get(f"{number},{position}")
        if item is None and whole(number) in self._of_number:
            raise MalformedMessage(NAME, "there is no such item")
        return item

    def _subscribed(self, number: str, items: int, fields: int, events: list[Event]) -> None:
        subscribed = self._of_number.get(whole(number))
        if subscribed is None:
            return  # given up meanwhile
        subscribed.request = None
        asked = subscribed.wanted
        if (items, fields) != (len(asked.items), len(asked.fields)):
            self._wanted.pop(subscribed.handle, None)
            self._drop(subscribed.handle)
            reason = f"{items} items of {fields} fields were made of {len(asked.items)} of {len(asked.fields)}"
            events.append(Refused(subscribed.handle, 22, reason))
        else:
            events.append(Subscribed(subscribed.handle))

    def _unsubscribed(self, number: int, events: list[Event]) -> None:
        self._leaving.pop(number, None)
        subscribed = self._of_number.get(number)
        if subscribed is not None:
            # it stays in `_of_handle`, so that it is not asked for again at once
            self._unlink(subscribed)
            events.append(Unsubscribed(subscribed.handle))

    def _refused(self, request: int, code: int, reason: str, events: list[Event]) -> None:
        self._leaving = {number: asked for number, asked in self._leaving.items() if asked != request}
        for subscribed in list(self._of_handle.values()):
            if subscribed.request == request:
                self._unlink(subscribed)
                del self._of_handle[subscribed.handle]
                self._wanted.pop(subscribed.handle, None)
                events.append(Refused(subscribed.handle, code, reason))

    def _stray(self, line: str, events: list[Event]) -> None:
        """An update of what is not subscribed: late, or nonsense."""
        number, _, _ = line[2:].partition(",")
        try:
            known = whole(number) in self._of_number
        except MalformedMessage:
            known = True
        if known or line.count(",") < 3:
            events.append(Malformed(f"an update of no item: {line[:200]!r}"))

    def _renew(self, subscribed: _Subscribed, detail: str, events: list[Event]) -> None:
        """Its fields are not known any more: subscribe anew, a few times at most."""
        handle = subscribed.handle
        events.append(Malformed(detail, handle))
        if self._renewed[handle] < self._renewals:
            self._renewed[handle] += 1
            self._drop(handle)
