"""Connections to PostgreSQL: the one place that knows the driver's errors.

Owns a few connections, made when they are needed and thrown away when they break: a call during an outage fails at once
with StoreError, the first one after it works. Refuses to retry: only the caller knows whether a call may be made twice.
"""

from __future__ import annotations

import logging
import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from marketd.errors import ConfigError, InvalidInput, StoreError
from marketd.store.postgres.config import PostgresConfig

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

__all__ = ["Database", "shown_url"]

_logger = logging.getLogger(__name__)

_SERVER_VERSION_LEAST = 140_000

# `on` is asked for where the server would promise less; a server that promises more (remote_apply) is left alone
_AT_CONNECT = """
    SET TIME ZONE 'UTC'; SET jit = off; SET client_min_messages = warning;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""


def shown_url(url: str) -> str:
    """Scheme, host, port and database: user, password and query stay out of every message."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "postgresql"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}" if parts.scheme else "postgresql"


class Database:
    """A pool of connections to one database.

    url: `postgresql://user:password@host:5432/name`, or anything libpq takes as one. Raises ConfigError without the
    driver, InvalidInput for what is no such URL, StoreError when the server cannot be reached or is too old.
    """

    def __init__(self, url: str, config: PostgresConfig) -> None:
        self.where = shown_url(url)
        self.config = config
        if not url.startswith(("postgresql://", "postgres://")):
            raise InvalidInput("database_url", self.where, "postgresql://user:password@host:port/database")
        try:
            import psycopg
        except ImportError as error:
            allowed = 'the package psycopg, which the PostgreSQL store needs: pip install "marketd[postgres]"'
            raise ConfigError("store", "database_url", self.where, allowed) from error
        self._driver = psycopg
        self._url = url
        self._idle: deque[Connection] = deque()
        self._free = threading.BoundedSemaphore(config.pool_size)
        self._closed = False
        try:
            psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error:
            # without its cause, whose words may hold the password
            raise InvalidInput("database_url", self.where, "postgresql://user:password@host:port/database") from None
        with self.connection() as connection:
            version = connection.info.server_version
            if version < _SERVER_VERSION_LEAST:
                raise StoreError(self.where, f"is PostgreSQL {version // 10_000}; 14 or newer is needed")
            row = connection.execute("SELECT current_setting('fsync')").fetchone()
            if row != ("on",):
                _logger.warning("%s runs with fsync = off: a crash of its machine loses history", self.where)

    # -- one call -----------------------------------------------------------------------------------------------

    @contextmanager
    def connection(self, *, snapshot: bool = False) -> Iterator[Connection]:
        """A connection in a transaction, committed at the end of the block, rolled back if it raises.

        snapshot: every statement sees the same state of the database, and none may write.
        Whatever the driver raises is a StoreError here.
        """
        if not self._free.acquire(timeout=self.config.connect_timeout_s):
            self.check_open()
            raise StoreError(self.where, f"all {self.config.pool_size} connections are in use")
        try:
            with self._our_errors():
                connection = self._take()
                try:
                    if snapshot:
                        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    else:
                        connection.execute("BEGIN")
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    self._undo(connection)
                    raise
                finally:
                    self._give_back(connection)
        finally:
            self._free.release()

    def _undo(self, connection: Connection) -> None:
        try:
            if not connection.closed:
                connection.execute("ROLLBACK")
        except self._driver.Error:
            connection.close()

    def _take(self) -> Connection:
        self.check_open()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            # nothing is expected on an idle connection: what is there is the server's farewell
            if not connection.closed and not select.select([connection.fileno()], [], [], 0)[0]:
                return connection
            connection.close()

    def _connect(self) -> Connection:
        timeout_s = self.config.statement_timeout_s
        connection = self._driver.connect(
            self._url,
            autocommit=True,  # transactions are opened and ended by `connection` alone
            prepare_threshold=None,
            connect_timeout=max(2, round(self.config.connect_timeout_s)),
            application_name="marketd",
            keepalives_idle=30,
            keepalives_interval=5,
            keepalives_count=3,
        )
        try:
            connection.execute(_AT_CONNECT)
            connection.execute(f"SET statement_timeout = {0 if timeout_s is None else round(timeout_s * 1000)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        if connection.closed or self._closed or connection.broken:
            connection.close()
        else:
            self._idle.append(connection)
            if self._closed:
                self._close_idle()

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise StoreError(self.where, _words(error)) from error

    # -- the end ------------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        if self._closed:
            raise StoreError(self.where, "the store is closed")

    def close(self) -> None:
        """Idempotent; calls under way finish, others raise StoreError."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return


def _words(error: psycopg.Error) -> str:
    """The server's words, or the first line of the driver's; neither names the password."""
    lines = str(error).strip().splitlines()
    return error.diag.message_primary or (lines[0] if lines else type(error).__name__)
