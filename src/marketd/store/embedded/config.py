"""The settings of the embedded store."""

from __future__ import annotations

import msgspec

from marketd.errors import InvalidInput

__all__ = ["EmbeddedStoreConfig"]


class EmbeddedStoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """seal_rows: most rows kept in memory and log before they are sealed; twice as many are held when that lags.
    seal_rows_idle: from so many on they are sealed as soon as nothing was appended for a quarter of a second.
    log_bytes_max: the same limit for the size of the log file, which bounds the time of a restart.
    run_rows: so many bars of one series that come at once and are new are not held in memory but read from the log.
    row_group_rows: least rows of a Parquet row group, which also ends with a symbol; a quarter in files of a day.
    file_rows: most rows of a file. footers_cached: Parquet footers kept in memory. rows_cached: decoded rows of sealed
    files kept in memory, as often again of row groups that several symbols share.
    coverage_bytes_cached: memory for the bitmaps of sealed files.
    compact_every_s: how often to look whether files should be merged; None leaves it to `marketd store compact`.
    compact_parts: parts of one day (month, year) that make a merge worthwhile while it is still being written to.
    day_files: days that keep a file of their own before they become part of a month, and months of a year.
    by_time_days: of so many days a second copy is kept in the order of time, for cross-sections; 0 for none.
    retire_after_s: how long a file that was merged into another stays, for programs that still read it.
    """

    seal_rows: int = 4_194_304
    seal_rows_idle: int = 262_144
    log_bytes_max: int = 512 * 2**20
    run_rows: int = 16_384
    row_group_rows: int = 16_384
    file_rows: int = 16_777_216
    footers_cached: int = 256
    rows_cached: int = 524_288
    coverage_bytes_cached: int = 64 * 2**20
    compact_every_s: int | None = 60
    compact_parts: int = 8
    day_files: int = 30
    by_time_days: int = 7
    retire_after_s: int = 600

    def __post_init__(self) -> None:
        for field, least, most in (
            ("seal_rows", 1, 10_000_000),
            ("seal_rows_idle", 1, 10_000_000),
            ("log_bytes_max", 4_096, 2**32),
            ("run_rows", 1, 10_000_000),
            ("row_group_rows", 1, 1_048_576),
            ("file_rows", 1, 2**31),
            ("footers_cached", 1, 100_000),
            ("rows_cached", 0, 100_000_000),
            ("coverage_bytes_cached", 0, 2**40),
            ("compact_every_s", 1, 86_400),
            ("compact_parts", 1, 1_000),
            ("day_files", 1, 3_660),
            ("by_time_days", 0, 3_660),
            ("retire_after_s", 0, 86_400),
        ):
            value = getattr(self, field)
            if field == "compact_every_s" and value is None:
                continue
            if not least <= value <= most:
                raise InvalidInput(field, value, f"{least:,} to {most:,}")
