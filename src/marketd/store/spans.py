"""Answered spans as pieces on a line: how a new answer is laid over kept ones, and how pieces are told again.

Pure, and the same for every engine. The pieces of one (symbol, interval, provider, reason) never overlap and each has
the time at which its bars were *first* answered for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from marketd.model import AnsweredSpan

__all__ = ["Piece", "joined", "laid_over"]

Piece = tuple[int, int, int]
"""(start_ns, end_ns, as_of_ns)."""


def laid_over(kept: Sequence[Piece], new: Piece) -> list[Piece]:
    """What takes the place of `kept` when `new` is told, ascending and disjoint like them.

    kept: the pieces that overlap or touch `new`, and no others. Every bar has the earlier of its times.
    """
    start_ns, end_ns, as_of_ns = new
    pieces: list[Piece] = []
    told_ns = start_ns
    tail: Piece | None = None
    for piece in kept:
        known_start_ns, known_end_ns, known_as_of_ns = piece
        if known_as_of_ns <= as_of_ns:
            _add(pieces, (told_ns, known_start_ns, as_of_ns))
            _add(pieces, piece)
            told_ns = max(told_ns, known_end_ns)
        else:
            _add(pieces, (known_start_ns, min(known_end_ns, start_ns), known_as_of_ns))
            tail = max(known_start_ns, end_ns), known_end_ns, known_as_of_ns
    _add(pieces, (told_ns, end_ns, as_of_ns))
    if tail is not None:
        _add(pieces, tail)
    return pieces


def _add(pieces: list[Piece], piece: Piece) -> None:
    start_ns, end_ns, as_of_ns = piece
    if start_ns >= end_ns:
        return
    if pieces and pieces[-1][1] == start_ns and pieces[-1][2] == as_of_ns:
        pieces[-1] = pieces[-1][0], end_ns, as_of_ns
    else:
        pieces.append(piece)


def joined(interval: str, spans: Iterable[AnsweredSpan], start_ns: int, end_ns: int) -> tuple[AnsweredSpan, ...]:
    """The answer of `Records.spans`: cut at the range, touching ones made one, in its order.

    spans: disjoint ones of one interval that overlap the range, in any order.
    """
    runs: list[AnsweredSpan] = []
    key, run_start_ns, run_end_ns, known_ns = ("", "", ""), 0, 0, 0

    def end_run() -> None:
        if run_start_ns < run_end_ns:
            symbol, provider, reason = key
            runs.append(
                AnsweredSpan(
                    symbol=symbol or None,
                    interval=interval,
                    provider=provider,
                    start_ns=run_start_ns,
                    end_ns=run_end_ns,
                    reason=reason,  # type: ignore[arg-type]  # it came out of one
                    as_of_ns=known_ns,
                )
            )

    for span in sorted(spans, key=lambda s: (s.symbol or "", s.provider, s.reason, s.start_ns)):
        its_key = (span.symbol or "", span.provider, span.reason)
        if its_key == key and span.start_ns <= run_end_ns:
            run_end_ns = max(run_end_ns, min(span.end_ns, end_ns))
            known_ns = max(known_ns, span.as_of_ns)
        else:
            end_run()
            key, known_ns = its_key, span.as_of_ns
            run_start_ns, run_end_ns = max(span.start_ns, start_ns), min(span.end_ns, end_ns)
    end_run()
    return tuple(sorted(runs, key=lambda s: (s.symbol or "", s.start_ns, s.provider, s.reason)))
