"""Writes small files and reads them back, for the tests of `sources.files`."""

from __future__ import annotations

import gzip
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from marketd.sources.files import FileOptions, FilePlan, Refused, read, understand

AS_OF_NS = 1_800_000_000_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def write(folder: Path, text: str | bytes, name: str = "AAPL.csv") -> str:
    path = folder / name
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


class Read:
    """Everything that is in a file."""

    def __init__(self, path: str, **options: Any) -> None:
        self.plan: FilePlan = understand(path, FileOptions(**options))
        self.rows = 0
        self.refused: Counter[str] = Counter()
        self.examples: list[Refused] = []
        tables = []
        for batch in read(self.plan, AS_OF_NS):
            self.rows += batch.rows
            self.refused += batch.refused
            self.examples += batch.examples
            tables.append(batch.bars)
        self.table = pa.concat_tables(tables)

    @cached_property
    def bars(self) -> list[dict[str, Any]]:
        plain = self.table
        for name in ("ts", "as_of"):
            plain = plain.set_column(plain.schema.get_field_index(name), name, plain.column(name).cast(pa.int64()))
        return plain.to_pylist()

    @cached_property
    def times(self) -> list[str]:
        """Starts of the bars, as `2020-01-02 14:30`."""
        return [f"{_EPOCH + timedelta(microseconds=bar['ts'] // 1000):%Y-%m-%d %H:%M}" for bar in self.bars]

    @cached_property
    def prices(self) -> list[tuple[float, ...]]:
        return [tuple(bar[name] for name in ("open", "high", "low", "close", "volume")) for bar in self.bars]


def minutes(*stamps: str, header: str = "ts,open,high,low,close,volume") -> str:
    """A CSV file with these stamps; the n-th bar is n+1, n+3, n, n+2 with volume 10 n."""
    rows = [f"{stamp},{n + 1},{n + 3},{n},{n + 2},{10 * n}" for n, stamp in enumerate(stamps, 1)]
    return "\n".join([header, *rows]) + "\n"
