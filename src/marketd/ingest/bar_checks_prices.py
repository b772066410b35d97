"""Prices and volumes of bars: what one row contradicts in itself, and what its neighbours make impossible.

The level of a series is judged by its steps. A step is a break when it is far beyond the usual ones; breaks cut the
series into stretches; the heaviest chain of stretches that continue one another is the series proper. A stretch
between two parts of that chain came from elsewhere and is refused. One before or after the chain may as well be a
split, a new unit, a crash: it is noted and kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from marketd.ingest.bar_series import Bools, Findings, Floats, Ints, Rows, Series, has_level
from marketd.model import CorporateAction
from marketd.model.time import NS_PER_S

__all__ = ["check_levels", "check_prices", "check_repeats", "check_signs"]

_DAY = 86_400 * NS_PER_S
_NO_PRICE = 1e100
_ROUNDING = 1e-6  # relative: prices that went through single precision
_LEAST_BREAK = float(np.log(1.9))
_SURE_BREAK = float(np.log(4.0))
_FURTHEST = float(np.log(8.0))
_MANY_STRETCHES = 200
_CHANCE = 1e-6
_SPLITTING = frozenset({"equity", "etf", "etn", "fund", "adr"})


def check_prices(rows: Rows, found: Findings, asset_class: str, *, negative: bool, zero: bool) -> None:
    """negative: prices may be zero or less. zero: a bar of nothing but zeros is one, not a placeholder."""
    o, h, l, c, v = rows.open, rows.high, rows.low, rows.close, rows.volume  # noqa: E741
    counts = ~rows.withdrawn
    finite = np.ones(len(rows), bool)
    for price in (o, h, l, c):
        finite &= np.abs(price) < _NO_PRICE  # false for NaN
    finite &= ~(rows.volume_told & ~np.isfinite(v)) & ~np.isinf(rows.vwap)
    found.refuse(counts & ~finite, "not_finite")
    if not negative:
        found.refuse(counts & ((o <= 0) | (h <= 0) | (l <= 0) | (c <= 0)), "non_positive")
    elif not zero and asset_class.lower() not in {"rate", "spread", "macro"}:
        found.refuse(counts & (o == 0) & (h == 0) & (l == 0) & (c == 0), "non_positive")
    found.refuse(counts & (h < l), "high_below_low")
    slack = _ROUNDING * np.maximum(np.abs(h), np.abs(l))
    outside = (np.maximum(o, c) > h + slack) | (np.minimum(o, c) < l - slack)
    found.refuse(counts & outside, "outside_range")
    found.refuse(counts & ((v < 0) | (rows.trades < 0)), "negative_volume")


def check_signs(series: Series, found: Findings) -> None:
    """Of prices that may be negative: one bar with the wrong sign, its neighbours at the same distance above zero."""
    high = series.high
    if len(high) < 3:
        return
    before, here, after = series.close[:-2], series.close[1:-1], series.close[2:]
    flipped = (high[1:-1] < 0) & (before > 0) & (after > 0)
    flipped &= (np.abs(before + here) < 0.1 * before) & (np.abs(after + here) < 0.1 * after)
    _refuse(series, np.r_[False, flipped, False], found, "non_positive")


def check_repeats(series: Series, found: Findings) -> None:
    """A feed that is stuck or was filled in by a spreadsheet: the same bar again and again, or one that climbs by
    equal steps, with a volume that was traded. Where nothing is traded an unchanged price is the truth."""
    if len(series) < 4:
        return
    prices = np.stack([series.open, series.high, series.low, series.close])
    step = np.diff(prices, axis=1)
    volume = np.nan_to_num(series.volume)
    traded = (volume[1:] > 0) & (volume[:-1] > 0)
    volume_step = np.diff(volume)
    same = (step == 0).all(axis=0)
    stuck = same & traded & (volume_step == 0)
    flat = (series.high == series.low) & (series.open == series.close)
    stuck &= _surprising(stuck, same, volume)
    bad = _runs(stuck, 2, first=_flat_elsewhere(flat, stuck))

    slack = 1e-9 * np.abs(prices[3, 1:])
    together = (np.abs(step - step[3]) <= slack).all(axis=0) & ~flat[1:] & ~flat[:-1]
    steady = np.r_[
        False, (np.abs(np.diff(step[3])) <= slack[1:]) & (np.abs(np.diff(volume_step)) <= 1e-9 * volume[1:-1])
    ]
    joined = together & steady
    joined[:-1] |= steady[1:] & together[:-1] & together[1:]
    filled = joined & (traded | (volume[1:] == volume[:-1]))
    bad |= _runs(filled & traded, 4) | _runs(filled & ~traded, 8)
    _refuse(series, bad, found, "repeated_bar")
    series.keep(~bad)
    if len(series) >= 30:
        _note_flats(series, found)


def _surprising(stuck: Bools, same: Bools, volume: Floats) -> Bools:
    """Links in runs that chance does not explain: one lot now and again at the same price is usual in a quiet hour."""
    edges = np.flatnonzero(np.diff(np.r_[False, stuck, False].astype(np.int8)))
    total = len(volume)
    rest = ~stuck
    unchanged = max(float(same[rest].mean()) if rest.any() else 1.0, 1 / total)
    wonder = np.zeros(len(stuck), bool)
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        usual = max(float((volume[1:][rest] == volume[start]).mean()) if rest.any() else 1.0, 1 / total)
        wonder[start:end] = total * (unchanged * usual) ** (end - start) < _CHANCE
    return wonder


def _flat_elsewhere(flat: Bools, stuck: Bools) -> Bools:
    """The first bar of a stuck run is stuck as well when it is flat and bars outside such runs hardly ever are."""
    inside = np.r_[False, stuck]
    inside[:-1] |= stuck
    rest = flat[~inside]
    return flat if not len(rest) or rest.mean() < 0.05 else np.zeros_like(flat)


def _runs(linked: Bools, least: int, first: Bools | None = None) -> Bools:
    """Rows linked to their predecessor in a run of at least `least` links. first: rows that count if they start it."""
    edges = np.flatnonzero(np.diff(np.r_[False, linked, False].astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= least
    mark = np.zeros(len(linked) + 2, np.int64)
    np.add.at(mark, starts[long] + 1, 1)
    np.add.at(mark, ends[long] + 1, -1)
    chosen = np.cumsum(mark)[: len(linked) + 1] > 0
    if first is not None:
        begins = starts[long]
        chosen[begins[first[begins]]] = True
    return chosen


def _note_flats(series: Series, found: Findings) -> None:
    """Thirty or more equal flat bars without volume in a series that hardly ever repeats a bar."""
    quiet = (series.high == series.low) & ~(series.volume > 0)
    same = (np.diff(series.close) == 0) & quiet[1:] & quiet[:-1]
    run = _runs(same, 29)
    own = run & (series.row >= 0)
    if own.any() and (~run).sum() >= 30 and np.r_[False, same][~run].mean() < 0.01:
        detail = f"{run.sum()} bars of one unchanged price, without volume, where bars usually move"
        found.note("flat_stretch", series.number, series.ts[own], detail)


def check_levels(series: Series, found: Findings, asset_class: str, actions: Sequence[CorporateAction]) -> None:
    """Stretches of another instrument's prices or in another unit; see the top of the module."""
    positive = series.low > 0
    if not positive.all():
        series.keep(positive)
    if len(series) < 3:
        return
    _check_width(series, found)
    if len(series) < 3 or not has_level(asset_class):
        return
    level = np.log(np.maximum(series.close, 1 / _NO_PRICE)) + _split_levels(series, actions)
    step = np.diff(level)
    limit = _limit(step)
    breaks = np.flatnonzero(np.abs(step) > _reach(limit, np.diff(series.ts))) + 1
    if not len(breaks):
        return
    starts = np.r_[0, breaks]
    ends = np.r_[breaks, len(level)]
    if len(starts) > _MANY_STRETCHES:
        detail = f"{len(breaks)} steps far beyond the usual one: no level can be told"
        found.note("unsteady", series.number, series.ts[series.row >= 0], detail)
        return
    chain = _chain(series, level, starts, ends, limit)
    may_split = asset_class.lower() in _SPLITTING
    _judge_stretches(series, found, level, starts, ends, chain, may_split=may_split)


def _split_levels(series: Series, actions: Sequence[CorporateAction]) -> Floats:
    """What known splits add to the level, so that a raw series goes on across them."""
    added = np.zeros(len(series))
    for action in actions:
        if action.kind == "split" and action.symbol == series.symbol and action.ratio and not action.withdrawn:
            added[series.ts >= action.ex_ns] += np.log(action.ratio)
    return added


def _limit(step: Floats) -> float:
    """How far a step may go: 25 times the usual one, at least to 1.9 times the price, at most to 4 times."""
    moving = step[step != 0]
    usual = 1.4826 * float(np.median(np.abs(moving - np.median(moving)))) if len(moving) else 0.0
    return min(max(25 * max(usual, 0.005), _LEAST_BREAK), _SURE_BREAK)


def _reach(limit: float, gap_ns: Ints) -> Floats:
    """How far a price may go across days without bars: further than `limit`, but never to more than 8 times."""
    return np.minimum(limit * np.sqrt(1 + np.maximum(0.0, gap_ns / _DAY - 10) / 30), _FURTHEST)


def _chain(
    series: Series, level: Floats, starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], limit: float
) -> list[int]:
    """The stretches that continue one another and together hold most traded bars, then most bars."""
    first, last = level[starts], level[ends - 1]
    traded = np.add.reduceat((np.nan_to_num(series.volume) > 0).astype(np.int64), starts)
    weight = [(int(t), int(n)) for t, n in zip(traded, ends - starts, strict=True)]
    began, ended = series.ts[starts], series.ts[ends - 1]
    best: list[tuple[int, int]] = []
    back: list[int] = []
    for j in range(len(starts)):
        near = np.abs(first[j] - last[:j]) <= _reach(limit, began[j] - ended[:j])
        before = max(np.flatnonzero(near).tolist(), key=lambda i: best[i], default=-1)
        so_far = best[before] if before >= 0 else (0, 0)
        best.append((so_far[0] + weight[j][0], so_far[1] + weight[j][1]))
        back.append(before)
    chain = [max(range(len(best)), key=lambda i: best[i])]
    while back[chain[0]] >= 0:
        chain.insert(0, back[chain[0]])
    return chain


def _judge_stretches(
    series: Series,
    found: Findings,
    level: Floats,
    starts: npt.NDArray[np.intp],
    ends: npt.NDArray[np.intp],
    chain: list[int],
    *,
    may_split: bool,
) -> None:
    home = np.zeros(len(level), bool)
    for stretch in chain:
        home[starts[stretch] : ends[stretch]] = True
    away = [stretch for stretch in range(len(starts)) if stretch not in set(chain)]
    middle = np.array([np.median(level[starts[i] : ends[i]]) for i in range(len(starts))])
    for stretch in away:
        alike = [i for i in away if abs(middle[i] - middle[stretch]) < _LEAST_BREAK]
        sure = home.sum() > sum(int(ends[i] - starts[i]) for i in alike)
        start, end = int(starts[stretch]), int(ends[stretch])
        before, after = np.flatnonzero(home[:start]), np.flatnonzero(home[end:])
        around = [float(level[before[-1]])] if len(before) else []
        around += [float(level[end + after[0]])] if len(after) else []
        factor = float(np.exp(np.median(level[start:end]) - np.mean(around)))
        mine = np.zeros(len(level), bool)
        mine[start:end] = True
        needed = min(end - start, 3)
        if sure and len(before) >= needed and len(after) >= needed:
            _refuse(series, mine, found, "unit_error" if _is_unit(factor) else "off_level")
            continue
        edge = level[start] - level[start - 1] if len(before) else level[end - 1] - level[min(end, len(level) - 1)]
        _note_step(series, found, mine, factor, _as_split(float(np.exp(edge))) if may_split else None)


def _note_step(series: Series, found: Findings, mine: Bools, factor: float, ratio: str | None) -> None:
    mine = mine & (series.row >= 0)
    if not mine.any() or not (ratio or abs(np.log(factor)) >= _SURE_BREAK):
        return
    words = f"{mine.sum()} bars at {factor:.4g} times the level of the others"
    if _is_unit(factor) and not 0.05 < factor < 20:
        found.note("unit_change", series.number, series.ts[mine], words + ", for good: perhaps another unit")
        return
    if ratio:
        words += f"; a split of {ratio} that is not among the known actions would do that"
    found.note("level_change", series.number, series.ts[mine], words)


def _is_unit(factor: float) -> bool:
    """10, 100 or 1000 times, or a part of it."""
    power = float(np.log10(factor))
    return 1 <= abs(round(power)) <= 3 and abs(power - round(power)) < 0.08


def _as_split(factor: float) -> str | None:
    many = max(factor, 1 / factor)
    whole = round(many)
    if whole < 2 or whole > 100 or abs(many / whole - 1) > 0.03:
        return None
    return f"1:{whole}" if factor > 1 else f"{whole}:1"


def _check_width(series: Series, found: Findings) -> None:
    """One price of a bar in another unit than the others."""
    low = np.minimum(series.low, np.minimum(series.open, series.close))
    wide = series.high / low
    torn = (wide > 85) & (wide < 118)
    if torn.any():
        _refuse(series, torn, found, "unit_error")
        series.keep(~torn)
        wide = wide[~torn]
    own = (wide > 10) & (series.row >= 0)
    if own.any():
        detail = f"{own.sum()} bars whose high is more than ten times their low"
        found.note("wide_bar", series.number, series.ts[own], detail)


def _refuse(series: Series, which: Bools, found: Findings, reason: str) -> None:
    found.refuse_rows(series.row[which & (series.row >= 0)], reason)
