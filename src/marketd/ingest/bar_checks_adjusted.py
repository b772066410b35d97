"""Files that carry adjusted closes beside dividends and splits: do the three tell the same story?

`close` is expected to be adjusted for splits and not for dividends, `adj_close` for both, as vendors of daily data
publish them. The factor by which the adjustment changes from one row to the next must be that of the dividend
there. Where they differ, the reaction of the price says which of the two is to be believed. Pure; nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.errors import InvalidInput
from marketd.model.time import NS_PER_S

__all__ = ["ADJUSTED_CODES", "AdjustedFinding", "check_adjusted"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ADJUSTED_CODES = (
    "adjusted_not_finite", "adjusted_not_positive", "adjustment_missing", "adjustment_twice", "adjustment_scaled",
    "adjustment_off", "adjustment_without_dividend", "capital_gain_twice", "dividend_scaled",
    "dividend_not_split_adjusted", "dividend_repeated", "dividend_exceeds_price", "dividend_too_large",
    "dividend_too_small", "dividend_day_off", "split_missing", "split_twice",
)  # fmt: skip
"""What `check_adjusted` can find. Each is explained in `docs/quarantine.md`."""

_DAY = 86_400 * NS_PER_S
_ABSURD = 1e100
_VISIBLE = 2e-3  # relative change of the adjustment below which rounding of two-decimal files explains it
_LEAST_USUAL, _MOST_USUAL = 1e-3, 0.125
_AROUND_SPLIT = 10  # rows: vendors date a split and its step up to two weeks apart


class AdjustedFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One contradiction. at_ns: the row it was seen at. start_ns <= ts <= end_ns: the `rows` rows whose values it
    makes wrong: all rows before an adjustment that is wrong, the row itself where a dividend is."""

    code: str
    at_ns: int
    start_ns: int
    end_ns: int
    rows: int
    detail: str


class _Frame:
    """The rows that have a close, ascending; what happened on rows without one is told on the next that has."""

    def __init__(self, table: pa.Table) -> None:
        names = table.schema.names
        missing = [name for name in ("ts", "close", "adj_close", "dividend") if name not in names]
        if missing:
            raise InvalidInput("frame", names, f"columns ts, close, adj_close, dividend; missing: {', '.join(missing)}")
        ts = table["ts"].cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64()).to_numpy()
        order = np.argsort(ts, kind="stable")
        close = _column(table, "close")[order]
        valid = np.flatnonzero(close > 1 / _ABSURD)
        self.ts: Ints = ts[order][valid]
        self.close: Floats = close[valid]
        self.adjusted = _column(table, "adj_close")[order][valid]
        self.dividend = _gathered(_column(table, "dividend")[order], valid)
        self.gain = _gathered(_column(table, "capital_gain")[order] if "capital_gain" in names else None, valid)
        split = _column(table, "split")[order] if "split" in names else np.ones(len(order))
        self.split = np.exp(_gathered(np.log(np.where((split > 1e-6) & (split < 1e6), split, 1.0)), valid))
        opened = _column(table, "open")[order][valid] if "open" in names else self.close
        self.open = np.where(opened > 1 / _ABSURD, opened, self.close)
        self.long = len(self.ts) > 1 and float(np.median(np.diff(self.ts))) > 4 * _DAY

    def __len__(self) -> int:
        return len(self.ts)


def _column(table: pa.Table, name: str) -> Floats:
    """Values that no price can have as NaN."""
    values = np.asarray(table[name].to_numpy(), dtype=np.float64)
    return np.where(np.abs(values) < _ABSURD, values, np.nan)


def _gathered(values: Floats | None, valid: npt.NDArray[np.intp]) -> Floats:
    """Sums over each valid row and the rows without a close before it."""
    if values is None or not len(valid):
        return np.zeros(len(valid))
    values = np.nan_to_num(values)
    total = np.cumsum(values)[valid]
    return np.diff(total, prepend=total[0] - values[valid[0]])


def check_adjusted(frame: pa.Table) -> tuple[AdjustedFinding, ...]:
    """Contradictions in one instrument's table, by time.

    Columns: ts (timestamps, any order), close, adj_close, dividend (cash a share in the units of `close`), and if
    there are any: open, split (new shares for one old; 0 and 1 are none), capital_gain (the part of a fund's dividend
    that is one). Bars of a day or longer. Raises InvalidInput when a column is missing.
    """
    rows = _Frame(frame)
    if len(rows) < 2:
        return ()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # absurd prices compare well enough
        found = [*_values(rows), *_Events(rows).findings(), *_splits(rows)]
    return tuple(sorted(found, key=lambda f: (f.at_ns, f.code)))


def _finding(rows: _Frame, code: str, at: int, which: slice, detail: str) -> AdjustedFinding:
    ts = rows.ts[which]
    return AdjustedFinding(
        code=code, at_ns=int(rows.ts[at]), start_ns=int(ts[0]), end_ns=int(ts[-1]), rows=len(ts), detail=detail
    )


def _values(rows: _Frame) -> Iterator[AdjustedFinding]:
    for code, bad in (
        ("adjusted_not_finite", ~np.isfinite(rows.adjusted)),
        ("adjusted_not_positive", rows.adjusted <= 0),
    ):
        edges = np.flatnonzero(np.diff(np.r_[False, bad, False].astype(np.int8)))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            yield _finding(rows, code, start, slice(start, end), f"{end - start} adjusted closes")


class _Events:
    """The changes of the adjustment, one per row: between the row before and this one."""

    def __init__(self, rows: _Frame) -> None:
        self.rows = rows
        before, self.dividend = rows.close[:-1], rows.dividend[1:]
        share = rows.adjusted / rows.close
        self.applied = share[:-1] / share[1:]
        self.before = before
        self.due = self.dividend / before  # the dividend's part of the price
        self.told = 1 - self.applied  # the part that was taken off
        self.move = rows.open[1:] / before - 1
        quiet = np.abs(self.move[(self.dividend == 0) & (np.abs(self.move) < 0.5)])
        self.usual = max(float(np.median(quiet)) / np.log(2), 0.003) if len(quiet) else 0.02

    def findings(self) -> Iterator[AdjustedFinding]:
        codes = {int(i): self._classify(int(i)) for i in self._suspects()}
        believed = self._believed(codes)
        done = set()
        for i, (code, detail) in codes.items():
            if code == "adjustment_scaled" and not believed:
                yield _finding(self.rows, "dividend_scaled", i + 1, slice(i + 1, i + 2), detail)
            elif code == "dividend_not_split_adjusted":
                yield _finding(self.rows, code, i + 1, slice(i + 1, i + 2), detail)
            else:
                yield _finding(self.rows, code, i + 1, slice(0, i + 1), detail)
            done.add(i)
        yield from self._implausible(done)

    def _suspects(self) -> npt.NDArray[np.intp]:
        """Where applied and due differ visibly. Bars of a week hold the day of the dividend somewhere inside, so the
        step may as well come with the next bar, and the price it refers to is not exactly the last close."""
        off = ~(np.abs(self.told - self.due) <= _VISIBLE + 0.02 * self.due)
        if self.rows.long:
            both = 1 - self.applied * np.r_[self.applied[1:], 1.0]
            late = np.abs(both - self.due) <= _VISIBLE + 0.1 * self.due
            paid = self.dividend > 0
            off &= ~(paid & late)
            off[1:] &= ~(paid & late)[:-1]
        finite = np.isfinite(self.rows.adjusted)
        told = finite[1:] & finite[:-1] | (finite[1:] | finite[:-1]) & (self.dividend > 0)
        return np.flatnonzero(off & told)

    def _classify(self, i: int) -> tuple[str, str]:
        told, due = float(self.told[i]), float(self.due[i])
        amount, implied = float(self.dividend[i]), told * float(self.before[i])
        if amount <= 0:
            return "adjustment_without_dividend", f"the adjustment takes {told:.4%} off and there is no dividend"
        words = f"the dividend is {amount:g}, the adjustment that of {implied:.6g}"
        if due >= 1:
            return "dividend_exceeds_price", f"the dividend is {amount:g}, the close before it {self.before[i]:g}"
        if not np.isfinite(told) or told >= 1:
            return "adjustment_off", words
        gain = float(self.rows.gain[i + 1])
        if gain > 0 and abs(implied / (amount + gain) - 1) < 0.02:
            return "capital_gain_twice", f"{words}: the capital gain of {gain:g} is in the dividend and was added again"
        ratio = implied / amount
        if abs(ratio / 2 - 1) < 0.02 or abs(self.applied[i] - (1 - due) ** 2) < 1e-4:
            return "adjustment_twice", words
        if 90 < ratio < 110 or 1 / 110 < ratio < 1 / 90:
            return "adjustment_scaled", words
        if abs(told) <= min(_VISIBLE, due / 4):
            return "adjustment_missing", f"the dividend of {amount:g} was not taken off"
        near = self.rows.split[max(0, i + 1 - _AROUND_SPLIT) : i + 2 + _AROUND_SPLIT]
        if any(s != 1 and (abs(ratio * s - 1) < 0.03 or abs(ratio / s - 1) < 0.03) for s in near.tolist()):
            return "dividend_not_split_adjusted", words
        return "adjustment_off", words

    def _believed(self, codes: dict[int, tuple[str, str]]) -> bool:
        """Whether dividends that differ by 100 from their adjustment are right, rather than that. A usual dividend is
        a part of the price between a thousandth and an eighth; when both or neither are, the price moves decide."""
        scaled = np.array([i for i, (code, _) in codes.items() if code == "adjustment_scaled"], np.intp)
        if not len(scaled):
            return True
        due, told = self.due[scaled], self.told[scaled]
        usual = [_LEAST_USUAL <= float(np.median(part)) <= _MOST_USUAL for part in (due, told)]
        return usual[0] if usual[0] != usual[1] else self._evidence(scaled, due, told) > 0

    def _evidence(self, events: npt.NDArray[np.intp], due: Floats, other: Floats) -> float:
        """How much better the price moves fit the first than the second, in units of the usual overnight move."""
        move = self.move[events]
        near = np.abs(move) < 0.7
        return float(((np.abs(move + other) - np.abs(move + due)) / self.usual)[near].sum())

    def _implausible(self, done: set[int]) -> Iterator[AdjustedFinding]:
        """Dividends that were taken off as told, and that the price never noticed."""
        paid = np.array([i for i in np.flatnonzero(self.dividend > 0).tolist() if i not in done], np.intp)
        for i in paid.tolist():
            amount, due = float(self.dividend[i]), float(self.due[i])
            if due >= 1:
                detail = f"the dividend is {amount:g}, the close before it {self.before[i]:g}"
                yield _finding(self.rows, "dividend_exceeds_price", i + 1, slice(0, i + 2), detail)
                continue
            again = [j for j in (i - 1, i + 1) if 0 <= j < len(self.dividend) and self.dividend[j] == amount]
            if again and self.move[again[0]] < self.move[i] and not self.rows.long:
                detail = f"the dividend of {amount:g} is there on two days in a row; the price fell on the other one"
                yield _finding(self.rows, "dividend_repeated", i + 1, slice(0, i + 2), detail)
                continue
            alone = np.array([i], np.intp)
            if due >= 0.08 and self._evidence(alone, np.zeros(1), self.due[alone]) >= 4:
                yield self._too_large(i)
        yield from self._too_small(paid)

    def _too_large(self, i: int) -> AdjustedFinding:
        amount, due = float(self.dividend[i]), self.due[i : i + 1]
        words = f"a dividend of {due[0]:.1%} of the price, which moved by {self.move[i]:+.1%}"
        for j in (i + 1, i - 1):
            if 0 <= j < len(self.due) and not self.dividend[j]:
                reacted = self.rows.close[j + 1] / self.before[j] - 1
                if -1.5 * due[0] < reacted < -0.5 * due[0]:
                    rows = slice(0, max(i, j) + 2)
                    detail = f"{words}; it fell by {-reacted:.1%} on the {'next' if j > i else 'previous'} day"
                    return _finding(self.rows, "dividend_day_off", i + 1, rows, detail)
        return _finding(self.rows, "dividend_too_large", i + 1, slice(0, i + 2), f"{words} ({amount:g})")

    def _too_small(self, paid: npt.NDArray[np.intp]) -> Iterator[AdjustedFinding]:
        """Most of a file's dividends are next to nothing, and a hundred times as much fits the price better."""
        tiny = paid[self.due[paid] < 5e-4]
        if len(tiny) < 4 or len(tiny) < 0.6 * len(paid):
            return
        if self._evidence(tiny, 100 * self.due[tiny], self.due[tiny]) <= 0:
            return
        for i in tiny.tolist():
            detail = f"a dividend of {self.due[i]:.3%} of the price ({self.dividend[i]:g}); 100 times that fits better"
            yield _finding(self.rows, "dividend_too_small", i + 1, slice(0, i + 2), detail)


def _splits(rows: _Frame) -> Iterator[AdjustedFinding]:
    """Steps of the size of a split near it: before the step the split was not applied, or once too often."""
    level = np.log(rows.close)
    step = np.diff(level, prepend=level[0])
    usual = 1.4826 * float(np.median(np.abs(step)))
    for at in np.flatnonzero(np.abs(np.log(rows.split)) > max(0.1, 4 * usual)).tolist():
        size = float(np.log(rows.split[at]))
        window = np.arange(max(1, at - _AROUND_SPLIT), min(len(rows), at + _AROUND_SPLIT + 1))
        slack = max(0.03, 2 * usual)
        for code, wanted in (("split_missing", -size), ("split_twice", size)):
            k = int(window[np.argmin(np.abs(step[window] - wanted))])
            settled = float(np.median(level[k : k + 5]) - np.median(level[max(0, k - 5) : k]))
            if abs(step[k] - wanted) > slack or abs(settled - step[k]) > 0.25 * abs(size):
                continue
            wrong = slice(k, k + 1) if rows.long and k == at else slice(0, k)
            how = "not applied to the rows before" if code == "split_missing" else "applied once too often"
            if rows.long and k == at:
                how += ", or the bar mixes prices from before and after it"
            detail = f"a split of {rows.split[at]:g} and a step of the price to {np.exp(step[k]):.4g} times it: {how}"
            yield _finding(rows, code, k, wrong, detail)
            break
