"""The settings of the PostgreSQL store."""

from __future__ import annotations

import msgspec

from marketd.errors import InvalidInput

__all__ = ["PostgresConfig", "TimescaleConfig"]

AGGREGATES: tuple[str, ...] = ("5m", "15m")
"""The continuous aggregates there are."""


class TimescaleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the TimescaleDB extension is used for, in a database that has it. Days are of `ts`.

    enabled: whether it is used at all; decided once, when the tables are made. chunk_days: length of a hypertable's
    chunk. compress_after_days: age at which chunks are compressed, None for never. minute_retention_days: age at which
    bars of 1 minute and shorter are **deleted**, None to keep them for ever. aggregates: continuous aggregates kept.
    refresh_minutes: how often they are brought up to date.
    """

    enabled: bool = True
    chunk_days: int = 7
    compress_after_days: int | None = 14
    minute_retention_days: int | None = 365
    aggregates: tuple[str, ...] = AGGREGATES
    refresh_minutes: int = 5

    def __post_init__(self) -> None:
        for field, least, most in (
            ("chunk_days", 1, 365),
            ("compress_after_days", 1, 36_500),
            ("minute_retention_days", 2, 36_500),
            ("refresh_minutes", 1, 1_440),
        ):
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise InvalidInput(field, value, f"{least:,} to {most:,}")
        for name in self.aggregates:
            if name not in AGGREGATES:
                raise InvalidInput("aggregates", name, f"of {', '.join(AGGREGATES)}")
        kept = self.minute_retention_days
        # or an aggregate would be made anew from minutes that are gone, and lose what it had
        if kept is not None and kept <= self.chunk_days:
            raise InvalidInput("minute_retention_days", kept, f"more than chunk_days ({self.chunk_days}), or null")


class PostgresConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """pool_size: connections held at most; a call waits for one.

    connect_timeout_s: how long a call waits for the server. statement_timeout_s: after so long the server ends a
    statement, None for never. migrate_at_start: bring the tables up to date when the server starts; else it refuses to
    start until `marketd migrate` has. quote_log_seconds: write the newest quote of each symbol to `quotes_l1` at most
    so often, None for never.
    """

    pool_size: int = 8
    connect_timeout_s: float = 5.0
    statement_timeout_s: float | None = 120.0
    migrate_at_start: bool = True
    quote_log_seconds: float | None = None
    timescale: TimescaleConfig = msgspec.field(default_factory=TimescaleConfig)

    def __post_init__(self) -> None:
        for field, least, most in (
            ("pool_size", 1, 1_000),
            ("connect_timeout_s", 1, 300),
            ("statement_timeout_s", 1, 86_400),
            ("quote_log_seconds", 0.1, 86_400),
        ):
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise InvalidInput(field, value, f"{least} to {most:,}")
