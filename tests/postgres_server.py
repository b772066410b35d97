"""A PostgreSQL of the tests' own: the server of the package pgserver, or one that is on the machine.

A folder of tests that needs it imports the fixtures into its conftest, as `store` does.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# A crash of the machine is not what these tests are about: without fsync they take a fifth of the time. What
# `kill -9` of the server leaves is the same.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "512MB",
    "listen_addresses": "",
    "max_connections": "60",
    "autovacuum": "off",
}


def _programs() -> Path | None:
    """The folder of `initdb` and `postgres`: the one that MARKETD_TEST_POSTGRES names, pgserver's, or the PATH's."""
    named = os.environ.get("MARKETD_TEST_POSTGRES")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("pgserver")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class PostgresServer:
    """A server on a Unix socket. It can be stopped and started again; what was committed stays."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        # the server refuses to run as root
        self._as: dict[str, object] = (
            {"user": "nobody", "group": "nogroup", "extra_groups": []} if self._is_root else {}
        )
        if self._is_root:
            shutil.chown(folder, "nobody")
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            *("initdb", "-D", str(self._data), "-U", "marketd", "-A", "trust", "-E", "UTF8", "--no-sync"),
            "--locale=C.UTF-8",
        )

    _is_root = os.geteuid() == 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **self._as)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self._as)
        self._wait()

    def _wait(self) -> None:
        command = [str(self._programs / "pg_isready"), "-h", str(self.folder), "-q"]
        for _ in range(1_000):
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2_000:]
            if subprocess.run(command, check=False).returncode == 0:
                return
        raise AssertionError((self.folder / "log").read_text()[-2_000:])

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are ended. SIGQUIT: at once, as after a crash. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)

    def url(self, database: str) -> str:
        return f"postgresql://marketd@/{database}?host={self.folder}"


@pytest.fixture(scope="session")
def postgres_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("psycopg")
    programs = _programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL here: install pgserver, or put initdb on the PATH")
    return programs


@pytest.fixture(scope="session")
def postgres_server(postgres_programs: Path) -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # a socket's path must be short
        server = PostgresServer(Path(folder), postgres_programs)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@pytest.fixture
def own_postgres_server(postgres_programs: Path) -> Iterator[PostgresServer]:
    """One that a test may stop and start."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder), postgres_programs)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> str:
    """The URL of a database without tables."""
    return _make_database(postgres_server)


def _make_database(server: PostgresServer) -> str:
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return server.url(name)


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer) -> str:
    """The URL of a database with our tables."""
    from marketd.store.postgres import Database, PostgresConfig, migrate

    url = _make_database(postgres_server)
    database = Database(url, PostgresConfig())
    migrate(database)
    database.close()
    return url


def empty_tables(url: str) -> None:
    """Delete every row that is ours; for small tables quicker than a database for each test."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition AND relname NOT LIKE 'schema_%' ORDER BY relname = 'universe_versions'"
        ).fetchall()
        connection.execute(";".join(f"DELETE FROM {name}" for (name,) in rows))


@pytest.fixture
def postgres_url(migrated_database: str) -> str:
    """The URL of a database with our tables and no rows."""
    empty_tables(migrated_database)
    return migrated_database
