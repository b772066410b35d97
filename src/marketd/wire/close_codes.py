"""Why the server closed a WebSocket. 4000-4499: do not come back unchanged. 4500-4999: come back after a pause."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SLOW_CLIENT", "TOO_MANY_ERRORS", "UNKNOWN_SYMBOL", "UNSUPPORTED_SERVER", "CloseCode"]


class CloseCode(NamedTuple):
    code: int
    reason: str


UNKNOWN_SYMBOL = CloseCode(4404, "unknown symbol")
TOO_MANY_ERRORS = CloseCode(4400, "too many messages that could not be understood")
UNSUPPORTED_SERVER = CloseCode(4501, "the web server in front does not support streaming; run `marketd serve`")
SLOW_CLIENT = CloseCode(4508, "slow client: it did not read for too long")
