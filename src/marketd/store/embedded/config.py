"""The settings of the embedded store."""

from __future__ import annotations

import msgspec

from marketd.errors import InvalidInput

__all__ = ["EmbeddedStoreConfig"]


class EmbeddedStoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """seal_rows: rows kept in memory and log before they are sealed; twice as many may be held while sealing runs.
    log_bytes_max: the same limit for the size of the log file, which bounds the time of a restart.
    row_group_rows: rows of a Parquet row group, the least that a read of a sealed file decodes.
    footers_cached: Parquet footers kept in memory. rows_cached: decoded rows of sealed files kept in memory.
    """

    seal_rows: int = 65_536
    log_bytes_max: int = 256 * 2**20
    row_group_rows: int = 16_384
    footers_cached: int = 256
    rows_cached: int = 262_144

    def __post_init__(self) -> None:
        for field, least, most in (
            ("seal_rows", 1, 10_000_000),
            ("log_bytes_max", 4_096, 2**32),
            ("row_group_rows", 1, 1_048_576),
            ("footers_cached", 1, 100_000),
            ("rows_cached", 0, 100_000_000),
        ):
            value = getattr(self, field)
            if not least <= value <= most:
                raise InvalidInput(field, value, f"{least:,} to {most:,}")
