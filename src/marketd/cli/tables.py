"""Tables for people: columns as wide as they need, text to the left, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["table_lines"]


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    right = [bool(rows) and all(row[n].replace(",", "").isdigit() for row in rows) for n in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(cells).rstrip()

    return [line(row) for row in [head, *rows]]
