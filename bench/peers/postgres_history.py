"""PostgreSQL's part of the history benchmark: COPY in its binary format, a row a version, one index for reading.

The bytes of the COPY are made by numpy beforehand and are not counted. The server syncs each commit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa

import history_data as data
from history_work import batches, timed

_COLUMNS = (
    ("symbol", "text"),
    ("ts", "bigint"),
    *((name, "double precision") for name in data.FLOATS),
    ("trades", "bigint"),
    ("provider", "text"),
    ("status", "text"),
    ("as_of", "bigint"),
)
_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "listen_addresses": ""}
_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END = b"\xff\xff"
_START_S_MAX = 30.0


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`: on the PATH, or in the package pgserver."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    try:
        import pgserver
    except ImportError:
        return None
    return Path(pgserver.__file__).parent / "pginstall" / "bin"


@contextmanager
def server(parent: Path | None) -> Iterator[str]:
    """The URL of a server of its own, started on the cores of the caller; stopped at the end."""
    found = programs()
    if found is None:
        raise FileNotFoundError("PostgreSQL: install pgserver, or put initdb and postgres on the PATH")
    # it refuses to run as root
    who: dict = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg-", dir=parent) as folder:
        if who:
            shutil.chown(folder, "nobody")
        cluster = f"{folder}/data"
        command = [str(found / "initdb"), "-D", cluster, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, **who)
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [str(found / "postgres"), "-D", cluster, "-k", folder, *options]
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who)
        try:
            url = f"postgresql://bench@/postgres?host={folder}"
            _wait_for(url, child)
            yield url
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_for(url: str, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + _START_S_MAX
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if child.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def copy_bytes(bars: pa.Table) -> bytes:
    """Rows as COPY takes them: a count of fields, then length and value of each. Texts of one length a column."""
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    columns: dict[str, np.ndarray] = {}
    for name, kind in _COLUMNS:
        column = bars[name]
        if kind == "text":
            values = np.array(column.to_pylist(), "S")
            form = f"S{values.dtype.itemsize}"
        elif kind == "bigint":
            values, form = column.cast(pa.int64()).to_numpy(), ">i8"
        else:
            values, form = column.to_numpy(), ">f8"
        columns[name] = values
        fields += [(f"{name} length", ">i4"), (name, form)]
    rows = np.empty(bars.num_rows, np.dtype(fields))
    rows["fields"] = len(_COLUMNS)
    for name, values in columns.items():
        rows[f"{name} length"] = rows.dtype[name].itemsize
        rows[name] = values
    return _COPY_HEAD + rows.tobytes() + _COPY_END


def append_day(_folder: Path, *, url: str, symbols: int, minutes: int, session: int) -> dict:
    day = data.Day(symbols, minutes, session, holes=False)
    tables = [day.minute(number) for number in range(minutes)]
    raw = [copy_bytes(table) for table in tables]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bars")
        columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in _COLUMNS)
        connection.execute(f"CREATE TABLE bars ({columns}, PRIMARY KEY (symbol, ts, as_of))")
        times = [timed(lambda batch=batch: _copy(connection, batch))[0] for batch in raw]
        count = connection.execute("SELECT count(*) FROM bars").fetchone()[0]
    rows = sum(table.num_rows for table in tables)
    if count != rows:
        raise RuntimeError(f"{count} rows of {rows} were kept")
    return batches(times, rows)


def _copy(connection: psycopg.Connection, batch: bytes) -> None:
    names = ", ".join(name for name, _ in _COLUMNS)
    with connection.cursor() as cursor, cursor.copy(f"COPY bars ({names}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(batch)


JOBS = {"append_day": append_day}
