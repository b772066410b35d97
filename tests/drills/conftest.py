"""The drills' fixtures: a PostgreSQL that a drill may stop, and an exchange that it may take down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from exchange import Exchange

from postgres_server import own_postgres_server, postgres_programs

__all__ = ["own_postgres_server", "postgres_programs", "start_exchange"]


@pytest.fixture
def start_exchange() -> Iterator[Callable[..., Exchange]]:
    """Starts an exchange with the arguments of `Exchange`; ends it when the drill is over."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **options) -> Exchange:
            return stack.enter_context(Exchange(*arguments, **options))

        yield start
