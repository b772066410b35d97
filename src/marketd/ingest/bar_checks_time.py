"""Stamps of bars: units, grid, order, sessions, and series whose clock is off as a whole."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from marketd.ingest.bar_series import Bools, Findings, Floats, Ints, Rows, Series
from marketd.model import format_ns
from marketd.model.time import NS_PER_S

__all__ = ["check_duplicates", "check_sessions", "check_shift", "check_stamps"]

_MINUTE = 60 * NS_PER_S
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MONDAY = 4 * _DAY
_EARLIEST = -5_364_662_400 * NS_PER_S  # 1800-01-01
_YEAR_1971 = 31_536_000 * NS_PER_S
_YEAR_1990 = 631_152_000 * NS_PER_S
_UNITS = (
    (1_000, "a unit a thousand times finer (seconds taken for milliseconds)"),
    (1_000_000, "a unit a million times finer (seconds taken for microseconds)"),
    (1_000_000_000, "nanoseconds (seconds taken for nanoseconds)"),
)
_ZONES = tuple(
    quarters * 15 * _MINUTE
    for quarters in sorted((q for q in range(-56, 57) if q), key=lambda q: (q % 4 != 0, q % 2 != 0, abs(q)))
)  # whole hours first: of shifts that fit equally well the first is taken
_SAMPLE = 2_000


class Sessions(Protocol):
    """The part of `BarContext` that tells when bars are expected."""

    @property
    def asset_class(self) -> str: ...
    @property
    def open_spans(self) -> npt.NDArray[np.int64] | None: ...
    @property
    def expected_starts(self) -> npt.NDArray[np.int64] | None: ...
    @property
    def after_close_ns(self) -> int: ...


def check_stamps(rows: Rows, found: Findings, now_ns: int, max_future_ns: int, spans: Ints | None) -> None:
    """Stamps that are absent, impossible, in another unit, ahead of the present, or not on the interval's grid."""
    ts, width = rows.ts, rows.width
    found.refuse(~rows.timed, "no_time")
    found.refuse(rows.beyond, "time_unit")
    found.refuse(ts < _EARLIEST, "bad_time")
    off_grid = (ts - rows.offset) % width != 0
    _check_units(rows, found, off_grid, now_ns)
    found.refuse(ts > now_ns + max_future_ns, "future")
    found.refuse(_ends(ts, width, spans) > now_ns, "unfinished")
    if (off_grid & found.good).any():
        _check_grid(rows, found, off_grid & found.good)
    _check_order(rows, found)


def _ends(ts: Ints, width: Ints, spans: Ints | None) -> Ints:
    """When each bar is complete. A daily bar is when the last session that closes on its day has closed."""
    end = ts + width
    daily = width == _DAY
    if spans is None or not len(spans) or not daily.any():
        return end
    closes = np.sort(spans[:, 1])
    last = np.searchsorted(closes, end[daily], "right") - 1
    close = closes[np.maximum(last, 0)]
    end[daily] = np.where((last >= 0) & (close > ts[daily]), close, end[daily])
    return end


def _check_units(rows: Rows, found: Findings, off_grid: Bools, now_ns: int) -> None:
    """Stamps in the year 1970 that lie on the grid of the interval only after multiplication."""
    early = found.good & (rows.ts >= 0) & (rows.ts < _YEAR_1971)
    if not early.any():
        return
    for number in np.unique(rows.series[early]).tolist():
        mine = np.flatnonzero(early & (rows.series == number))
        if off_grid[mine].mean() <= 0.5:
            continue
        ts, width, offset = rows.ts[mine], int(rows.width[mine[0]]), int(rows.offset[mine[0]])
        for factor, words in _UNITS:
            fits = ts <= now_ns // factor
            moved = np.where(fits, ts, 0) * factor
            fits &= (moved >= _YEAR_1990) & ((moved - offset) % width == 0)
            if fits.mean() > 0.9:
                found.refuse_rows(mine, "time_unit")
                detail = f"stamps are in {words}: × {factor} the first is {format_ns(int(moved[0]))}"
                found.note("time_unit", number, ts, detail)
                break


def _check_grid(rows: Rows, found: Findings, off: Bools) -> None:
    order = np.lexsort((rows.ts, rows.series))
    ts, series = rows.ts[order], rows.series[order]
    near = np.zeros(len(order), bool)
    close = (series[1:] == series[:-1]) & (ts[1:] - ts[:-1] < rows.width[order][1:]) & (ts[1:] != ts[:-1])
    near[1:] |= close
    near[:-1] |= close
    overlapping = np.empty_like(near)
    overlapping[order] = near
    rest = (rows.ts - rows.offset) % rows.width
    for number in np.unique(rows.series[off]).tolist():
        mine = found.good & (rows.series == number)
        rests, counts = np.unique(rest[mine], return_counts=True)
        usual = int(counts.argmax())
        if rests[usual] and counts[usual] >= 3 and counts[usual] >= 0.9 * counts.sum():
            symbol_interval = rows.names[number][1]
            detail = f"bars of {symbol_interval} start {rests[usual] / NS_PER_S:g} s after its multiples"
            found.note("shifted_grid", number, rows.ts[mine], detail)
    found.refuse(off & overlapping, "overlapping")
    found.refuse(off, "misaligned")


def _check_order(rows: Rows, found: Findings) -> None:
    """A series that comes neither oldest nor newest first. It is kept: the store sorts."""
    timed = np.flatnonzero(rows.timed)
    grouped = timed[np.argsort(rows.series[timed], kind="stable")]
    series, step = rows.series[grouped], np.diff(rows.ts[grouped])
    inside = series[1:] == series[:-1]
    count = len(rows.names)
    up = np.bincount(series[1:][inside & (step > 0)], minlength=count)
    down = np.bincount(series[1:][inside & (step < 0)], minlength=count)
    for number in np.flatnonzero((up > 0) & (down > 0)).tolist():
        detail = f"{min(up[number], down[number])} of {up[number] + down[number] + 1} rows go against the others"
        found.note("unordered", number, rows.ts[rows.timed & (rows.series == number)], detail)


def check_duplicates(rows: Rows, found: Findings) -> None:
    """Two good bars of one series with one stamp. Equal ones: the first stays. Unequal ones: nobody can tell which
    is true, so none stays."""
    good = np.flatnonzero(found.good & ~rows.withdrawn)
    order = good[np.lexsort((good, rows.ts[good], rows.series[good]))]
    ts, series = rows.ts[order], rows.series[order]
    again = (ts[1:] == ts[:-1]) & (series[1:] == series[:-1])
    if not again.any():
        return
    equal = np.ones(len(again), bool)
    for column in (rows.open, rows.high, rows.low, rows.close, rows.volume, rows.vwap, rows.trades):
        values = column[order]
        equal &= (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    group = np.r_[0, np.cumsum(~again)]
    torn = np.bincount(group[1:][again & ~equal], minlength=group[-1] + 1)[group] > 0
    found.refuse_rows(order[torn], "conflicting_duplicate")
    found.refuse_rows(order[np.r_[False, again] & ~torn], "duplicate")


def check_sessions(rows: Rows, found: Findings, context: Sessions) -> None:
    """Bars when the venue is closed. When moving a week by quarter hours, or a series by days, brings its bars inside,
    the clock of all of them is wrong, not the odd row."""
    good = np.flatnonzero(found.good & ~rows.withdrawn)
    daily = rows.width[good] >= _DAY
    spans, starts = context.open_spans, context.expected_starts
    if spans is not None and (~daily).any():
        _check_hours(rows, found, good[~daily], spans, context.after_close_ns)
    if daily.any():
        if starts is not None or spans is not None:
            _check_days(rows, found, good[daily], spans, starts)
        elif context.asset_class.lower() in {"equity", "etf", "index", "fund", "adr"}:
            _check_weekends(rows, found, good[daily])


def _outside(ts: Ints, width: Ints, spans: Ints, after_close_ns: int) -> Bools:
    """Bars that overlap no open time, nor start within `after_close_ns` of a close (longer bars must overlap)."""
    if not len(spans):
        return np.ones(len(ts), bool)
    last = np.searchsorted(spans[:, 0], ts + width, "left") - 1
    grace = np.where(width < after_close_ns, after_close_ns, 0)
    outside: Bools = (last < 0) | (spans[np.maximum(last, 0), 1] + grace <= ts)
    return outside


def _check_hours(rows: Rows, found: Findings, which: npt.NDArray[np.intp], spans: Ints, after_close_ns: int) -> None:
    outside = _outside(rows.ts[which], rows.width[which], spans, after_close_ns)
    if not outside.any():
        return
    week = (rows.ts[which] - _MONDAY) // _WEEK
    for number in np.unique(rows.series[which[outside]]).tolist():
        mine = rows.series[which] == number
        moved: dict[int, list[npt.NDArray[np.intp]]] = {}
        for one in np.unique(week[mine & outside]).tolist():
            weekly = which[mine & (week == one)]
            shift = _zone_of(rows.ts[weekly], rows.width[weekly], spans)
            if shift:
                moved.setdefault(shift, []).append(weekly)
        for shift, weeks in moved.items():
            weekly = np.concatenate(weeks)
            found.refuse_rows(weekly, "time_zone")
            detail = f"{len(weekly)} bars fit the sessions when moved by {_signed_hours(shift)}"
            found.note("time_zone", number, rows.ts[weekly], detail)
        left = mine & outside & (found.reasons[which] == 0)
        if left.sum() > 0.5 * mine.sum() and mine.sum() >= 10:
            detail = f"{left.sum()} of {mine.sum()} bars are outside the sessions, whatever the time zone"
            found.note("calendar_doubt", number, rows.ts[which[left]], detail)
        found.refuse_rows(which[left], "outside_session")


def _zone_of(ts: Ints, width: Ints, spans: Ints) -> int:
    """Nanoseconds by which a week's bars are to be moved to fit the sessions; 0 if they fit as they are, or never."""
    if len(ts) < 10 or not len(spans):
        return 0
    sample = slice(None, None, -(-len(ts) // _SAMPLE))
    ts, width = ts[sample], width[sample]
    share = float(_outside(ts, width, spans, 0).mean())
    shares = np.array([_outside(ts + shift, width, spans, 0).mean() for shift in _ZONES])
    best = int(shares.argmin())
    return _ZONES[best] if share >= 0.015 and shares[best] <= share / 10 else 0


def _signed_hours(shift_ns: int) -> str:
    return f"{shift_ns / _HOUR:+g} h"


def _check_days(
    rows: Rows, found: Findings, which: npt.NDArray[np.intp], spans: Ints | None, starts: Ints | None
) -> None:
    def outside(ts: Ints, width: Ints) -> Bools:
        if starts is not None:
            return ~np.isin(ts, starts)
        assert spans is not None
        return _outside(ts, width, spans, 0)

    ts, width = rows.ts[which], rows.width[which]
    wrong = outside(ts, width)
    for number in np.unique(rows.series[which[wrong]]).tolist():
        mine = rows.series[which] == number
        share = float(wrong[mine].mean())
        if mine.sum() >= 5 and share >= 0.1:
            shares = {d: float(outside(ts[mine] + d * _DAY, width[mine]).mean()) for d in (1, -1, 2, -2, 3, -3)}
            best = min(shares, key=lambda d: (shares[d], abs(d)))
            if shares[best] <= share / 5:
                found.refuse_rows(which[mine], "day_shifted")
                detail = f"the dates fit the sessions when moved by {best:+d} day{'s' if abs(best) > 1 else ''}"
                found.note("day_shifted", number, ts[mine], detail)
                continue
        if share > 0.5 and mine.sum() >= 10:
            detail = f"{(wrong & mine).sum()} of {mine.sum()} dates are no sessions, and moving them does not help"
            found.note("calendar_doubt", number, ts[wrong & mine], detail)
        found.refuse_rows(which[wrong & mine], "outside_session")


def _check_weekends(rows: Rows, found: Findings, which: npt.NDArray[np.intp]) -> None:
    """Without a calendar a weekend date proves nothing: some markets trade on Sundays. It is worth a note."""
    which = which[rows.width[which] == _DAY]
    weekday = (rows.ts[which] // _DAY + 3) % 7  # 0 is Monday
    for number in np.unique(rows.series[which[weekday >= 5]]).tolist():
        mine = rows.series[which] == number
        counts = np.bincount(weekday[mine], minlength=7)
        if mine.sum() < 10:
            continue
        weekend = mine & (weekday >= 5)
        names = "Mondays" if counts[5] and not counts[0] else "Fridays" if counts[6] and not counts[4] else None
        detail = f"{counts[5]} Saturdays and {counts[6]} Sundays among {mine.sum()} dates"
        if names:
            detail += f", no {names}: every date may be a day off, unless the market's week is another"
        found.note("weekend_dates", number, rows.ts[which[weekend]], detail)


def check_shift(series: Series, found: Findings) -> None:
    """A whole series whose prices are those of the known bars some intervals earlier or later."""
    own = series.row >= 0
    if not len(series.known_ts) or own.sum() < 20:
        return
    ts, close = series.ts[own], series.close[own]
    overlap = (ts >= series.known_ts[0]) & (ts <= series.known_ts[-1])
    step = -(-max(1, int(overlap.sum())) // 500)
    ts, close = ts[overlap][::step], close[overlap][::step]
    if len(ts) < 10 or (close <= 0).any() or (series.known_close <= 0).any():
        return
    stay = _distance(ts, close, series.known_ts, series.known_close)
    if stay is not None and stay < 1e-5:
        return
    best, shift = np.inf, 0
    for lag in _lags(series.width):
        distance = _distance(ts + lag, close, series.known_ts, series.known_close)
        if distance is not None and distance < best:
            best, shift = distance, lag
    if best < 2e-3 and (stay is None or best < stay / 5):
        mine = series.row[own]
        unit = f"{shift / _DAY:+g} days" if abs(shift) >= _DAY else _signed_hours(shift)
        detail = f"its prices are those of the bars that are known, moved by {unit}"
        found.note("file_shifted", series.number, series.ts[own], detail)
        found.refuse_rows(mine, "file_shifted")
        series.keep(~own)


def _lags(width: int) -> list[int]:
    if width >= _DAY:
        return [lag * width for lag in sorted(range(-7, 8), key=abs) if lag]
    hours = [zone for zone in _ZONES if zone % width == 0]
    return [-width, width, *(h for h in hours if abs(h) != width)]


def _distance(ts: Ints, close: Floats, known_ts: Ints, known_close: Floats) -> float | None:
    """Median relative difference of closes at equal stamps; None when fewer than half, or ten, have a partner."""
    at = np.minimum(np.searchsorted(known_ts, ts), len(known_ts) - 1)
    met = known_ts[at] == ts
    if met.sum() < max(10, len(ts) // 2):
        return None
    return float(np.median(np.abs(np.log(close[met] / known_close[at[met]]))))
