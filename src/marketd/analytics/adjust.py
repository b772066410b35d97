"""Prices as if splits and dividends had not been: from raw bars and the actions that were known. Pure.

The store keeps raw bars; nothing adjusted is ever written. `believed` chooses among providers, `adjust` applies.
`docs/adjustment.md` has the rules and their arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import InvalidInput
from marketd.model import ActionKind, CorporateAction, format_ns, starts_of
from marketd.model.time import NS_PER_S

__all__ = ["MARKS", "ActionMark", "Adjusted", "AdjustmentMode", "adjust", "adjusted", "believed", "split_doubts"]

AdjustmentMode = Literal["raw", "split", "all"]
"""raw: as traded. split: prices and volumes in today's shares. all: prices also without the fall of each dividend."""

MARKS = (
    "single_source", "providers_disagree", "dates_disagree", "no_previous_close", "dividend_exceeds_price",
    "not_in_force", "already_adjusted",
)  # fmt: skip
"""What an `ActionMark` can say; `docs/adjustment.md` explains each."""

SessionOf = Callable[[pa.Table], npt.NDArray[np.int64]]
"""Bars to the midnight, UTC, of the dates of their sessions."""

MODES: tuple[str, ...] = get_args(AdjustmentMode)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_DAY = 86_400 * NS_PER_S
_SAME_ACTION_NS = 5 * _DAY
_LONGEST_HOLIDAY_NS = 14 * _DAY
_RATIO_TOLERANCE = 1e-3
_AMOUNT_TOLERANCE = 0.01
_PRICES = ("open", "high", "low", "close", "vwap")


class ActionMark(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader should know about an action. code: one of `MARKS`. ex_ns: of the action it is about."""

    code: str
    symbol: str
    kind: ActionKind
    ex_ns: int
    detail: str


class Adjusted(msgspec.Struct, frozen=True, kw_only=True):
    """Bars after adjustment, and what is to be said about the actions."""

    bars: pa.Table
    marks: tuple[ActionMark, ...]


def believed(
    actions: Iterable[CorporateAction], *, prefer: Sequence[str] = ()
) -> tuple[tuple[CorporateAction, ...], tuple[ActionMark, ...]]:
    """One action for each event that providers tell, by ex date, and marks for those that are not sure.

    Tellings of one event: the same symbol and kind, from different providers, with ex dates at most five days apart.
    Values agree when ratios differ by a thousandth, amounts by a hundredth of them or less. The value that most
    providers tell is chosen; among equals that of the first in `prefer`, else of the one that is known longest.
    Withdrawn actions are left out.
    """
    chosen: list[CorporateAction] = []
    marks: list[ActionMark] = []
    told: dict[tuple[str, str], list[CorporateAction]] = {}
    for action in actions:
        if not action.withdrawn:
            told.setdefault((action.symbol, action.kind), []).append(action)
    for group in told.values():
        for event in _events(sorted(group, key=lambda a: (a.ex_ns, a.provider))):
            action, said = _choose(event, prefer)
            chosen.append(action)
            marks += said
    order = {"split": 0, "dividend": 1, "rename": 2}
    chosen.sort(key=lambda a: (a.symbol, a.ex_ns, order[a.kind]))
    marks.sort(key=lambda m: (m.symbol, m.ex_ns, m.code))
    return tuple(chosen), tuple(marks)


def _events(tellings: list[CorporateAction]) -> list[list[CorporateAction]]:
    """Tellings grouped by event. Those of one date belong together; dates that are near are one event when no
    provider tells both and the values agree."""
    dates: dict[int, list[CorporateAction]] = {}
    for action in tellings:
        dates.setdefault(action.ex_ns, []).append(action)
    events: list[list[CorporateAction]] = []
    for told in dates.values():
        last = events[-1] if events else []
        near = bool(last) and told[0].ex_ns - last[0].ex_ns <= _SAME_ACTION_NS
        if near and not {a.provider for a in last} & {a.provider for a in told} and _agree(last[0], told[0]):
            last += told
        else:
            events.append(told)
    return events


def _agree(one: CorporateAction, other: CorporateAction) -> bool:
    if one.kind == "split":
        return _near(one.ratio, other.ratio, _RATIO_TOLERANCE)
    if one.kind == "dividend":
        return one.currency in (None, other.currency) and _near(one.amount, other.amount, _AMOUNT_TOLERANCE)
    return one.new_symbol == other.new_symbol


def _near(one: float | None, other: float | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance * max(abs(one), abs(other))


def _choose(event: list[CorporateAction], prefer: Sequence[str]) -> tuple[CorporateAction, list[ActionMark]]:
    camps: list[list[CorporateAction]] = []
    for action in event:
        home = next((camp for camp in camps if _agree(camp[0], action)), None)
        if home is None:
            camps.append([action])
        else:
            home.append(action)

    def standing(action: CorporateAction) -> tuple[int, int]:
        rank = prefer.index(action.provider) if action.provider in prefer else len(prefer)
        return rank, action.as_of_ns

    camp = min(camps, key=lambda c: (-len({a.provider for a in c}), min(standing(a) for a in c)))
    days = {a.ex_ns: sum(b.ex_ns == a.ex_ns for b in camp) for a in camp}
    action = min(camp, key=lambda a: (-days[a.ex_ns], standing(a)))
    told = "; ".join(f"{a.provider}: {_value(a)} on {format_ns(a.ex_ns)[:10]}" for a in event)
    marks = []
    if len({a.provider for a in event}) == 1:
        marks.append(_mark("single_source", action, told))
    if len(camps) > 1:
        marks.append(_mark("providers_disagree", action, told))
    if len({a.ex_ns for a in event}) > 1:
        marks.append(_mark("dates_disagree", action, told))
    return action, marks


def _value(action: CorporateAction) -> str:
    if action.kind == "split":
        return f"{action.ratio:g} for 1"
    return (
        f"{action.amount:g} {action.currency or ''}".rstrip() if action.kind == "dividend" else str(action.new_symbol)
    )


def _mark(code: str, action: CorporateAction, detail: str) -> ActionMark:
    return ActionMark(code=code, symbol=action.symbol, kind=action.kind, ex_ns=action.ex_ns, detail=detail)


def adjust(
    bars: pa.Table,
    actions: Sequence[CorporateAction],
    mode: AdjustmentMode,
    *,
    closes: pa.Table | None = None,
    session_of: SessionOf | None = None,
    until_ns: int | None = None,
) -> pa.Table:
    """The bars of `adjusted`, without the marks."""
    return adjusted(bars, actions, mode, closes=closes, session_of=session_of, until_ns=until_ns).bars


def adjusted(
    bars: pa.Table,
    actions: Sequence[CorporateAction],
    mode: AdjustmentMode,
    *,
    closes: pa.Table | None = None,
    session_of: SessionOf | None = None,
    until_ns: int | None = None,
) -> Adjusted:
    """Raw `BAR_SCHEMA` bars of one instrument, ascending by ts, with open, high, low, close, vwap and volume adjusted.

    actions: of that instrument, as `believed` chose them. A bar is adjusted by every action whose ex date is after
    the bar's session: a split divides prices and multiplies volume by its ratio, a dividend multiplies prices by
    1 - amount / raw close before the ex date. closes: raw bars of the same instrument (any interval to 1d) that reach
    to the present, for those closes; by default the bars themselves; ascending by session. session_of: by default the
    UTC day of each bar's start. until_ns: actions with a later ex date are not in force yet.
    Longer bars than 1d hold days before and after an ex date: adjust the shorter ones and roll up.
    Raises InvalidInput for another mode, and for a split or dividend without its number.
    """
    if mode not in MODES:
        raise InvalidInput("adjustment", mode, f"one of {', '.join(MODES)}")
    marks: list[ActionMark] = []
    in_force: list[CorporateAction] = []
    for action in actions:
        if action.withdrawn or action.kind == "rename" or mode == "raw" or (action.kind, mode) == ("dividend", "split"):
            continue
        _check(action)
        if until_ns is not None and action.ex_ns > until_ns:
            marks.append(_mark("not_in_force", action, f"it will be on {format_ns(action.ex_ns)[:10]}"))
        else:
            in_force.append(action)
    if not in_force or not bars.num_rows:
        return Adjusted(bars=bars, marks=tuple(marks))
    days = _days(bars, session_of)
    price: list[tuple[int, float]] = []
    volume: list[tuple[int, float]] = []
    reference = _closes(bars if closes is None else closes, session_of)
    for action in in_force:
        if action.ex_ns <= days[0]:
            continue
        if action.kind == "split":
            assert action.ratio is not None
            price.append((action.ex_ns, 1 / action.ratio))
            volume.append((action.ex_ns, action.ratio))
        else:
            factor, mark = _dividend_factor(action, *reference)
            price.append((action.ex_ns, factor))
            marks += [mark] if mark else []
    marks += split_doubts(bars, in_force, session_of=session_of)
    changed = {name: _factors(price, days) for name in _PRICES} | {"volume": _factors(volume, days)}
    return Adjusted(bars=_multiplied(bars, changed), marks=tuple(marks))


def _check(action: CorporateAction) -> None:
    if action.kind == "split" and not (action.ratio is not None and 0 < action.ratio < np.inf):
        raise InvalidInput("ratio", action.ratio, "new shares for one old, above 0")
    if action.kind == "dividend" and not (action.amount is not None and 0 <= action.amount < np.inf):
        raise InvalidInput("amount", action.amount, "cash a share, 0 or more")


def _days(bars: pa.Table, session_of: SessionOf | None) -> Ints:
    if session_of is not None:
        return session_of(bars)
    ts = starts_of(bars)
    return ts - ts % _DAY


def _closes(bars: pa.Table, session_of: SessionOf | None) -> tuple[Ints, Floats]:
    """Session dates and raw closes, withdrawn bars left out."""
    standing = np.array(pc.not_equal(bars["status"], pa.scalar("withdrawn")).to_numpy(), bool)
    return _days(bars, session_of)[standing], bars["close"].to_numpy()[standing]


def _dividend_factor(action: CorporateAction, days: Ints, closes: Floats) -> tuple[float, ActionMark | None]:
    """What to multiply earlier prices with; 1 and a mark when that cannot be told."""
    assert action.amount is not None
    before = int(np.searchsorted(days, action.ex_ns, "left")) - 1
    if before < 0 or action.ex_ns - days[before] > _LONGEST_HOLIDAY_NS or not closes[before] > 0:
        return 1.0, _mark(
            "no_previous_close", action, "no close in the two weeks before; the dividend was not taken off"
        )
    close = float(closes[before])
    if action.amount >= close:
        return 1.0, _mark("dividend_exceeds_price", action, f"{action.amount:g} of a close of {close:g}; not taken off")
    return 1 - action.amount / close, None


def _factors(steps: list[tuple[int, float]], days: Ints) -> Floats | None:
    """Per bar the product of the factors of later ex dates; None when nothing changes."""
    if not steps:
        return None
    steps = sorted(steps)
    later: Floats = np.r_[np.cumprod([factor for _, factor in reversed(steps)])[::-1], 1.0]
    factors: Floats = later[np.searchsorted(np.array([ex for ex, _ in steps], np.int64), days, "right")]
    return factors


def _multiplied(bars: pa.Table, factors: dict[str, Floats | None]) -> pa.Table:
    for name, factor in factors.items():
        if factor is not None:
            at = bars.schema.get_field_index(name)
            column: Any = pc.multiply(bars[name], pa.array(factor))
            bars = bars.set_column(at, bars.schema.field(at), column)
    return bars


def split_doubts(
    bars: pa.Table, actions: Sequence[CorporateAction], *, session_of: SessionOf | None = None
) -> tuple[ActionMark, ...]:
    """Splits that the prices do not show, so that they were perhaps adjusted before: applying them would do it twice.

    bars: ascending by ts. Only splits with bars within two weeks on both sides, and by a tenth or more, can be told.
    """
    marks: list[ActionMark] = []
    if not bars.num_rows:
        return ()
    days, opens, closes = _days(bars, session_of), bars["open"].to_numpy(), bars["close"].to_numpy()
    for action in actions:
        if action.kind != "split" or not action.ratio or abs(np.log(action.ratio)) < 0.1:
            continue
        after = int(np.searchsorted(days, action.ex_ns, "left"))
        if not 0 < after < len(days) or not (closes[after - 1] > 0 and opens[after] > 0):
            continue
        if days[after] - days[after - 1] > _LONGEST_HOLIDAY_NS:
            continue
        step = float(np.log(opens[after] / closes[after - 1]))
        if abs(step) < abs(step + np.log(action.ratio)):
            words = f"a split of {action.ratio:g} for 1, and the price went on"
            detail = f"{words} from {closes[after - 1]:g} to {opens[after]:g}"
            marks.append(_mark("already_adjusted", action, detail))
    return tuple(marks)
