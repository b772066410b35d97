"""The position in the stream of accepted events: one number for all symbols, rising by one, within an epoch."""

from __future__ import annotations

import secrets

__all__ = ["Sequencer"]


class Sequencer:
    """epoch: identity of this run of numbers; a new process is a new epoch. seq: the last number given, 0 at first."""

    def __init__(self, epoch: str | None = None) -> None:
        self.epoch = epoch or secrets.token_hex(8)
        self.seq = 0

    def take(self, count: int) -> int:
        """Reserve `count` numbers; returns the first."""
        first = self.seq + 1
        self.seq += count
        return first
