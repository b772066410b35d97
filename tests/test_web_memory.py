"""Memory that a large answer needed goes back to the system when it is over; measured in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from marketd.app.web import _Memory


def resident_mib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024


memory = _Memory()
before = resident_mib()
for _ in range(3):
    columns = [pa.array(np.arange(100_000) + n).cast(pa.float64()) for n in range(200)]
    small = [bytes(2_000) for _ in range(1_000)]
    held = resident_mib()
    last = columns[-1]  # what lies above it is free, and below
    del columns, small
    memory.give_back()
    print(before, held, resident_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is asked of the allocator is glibc's")
def test_what_is_free_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    rounds = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(rounds) == 3
    for before, held, after in rounds:
        assert held > before + 140
        assert after < before + 16
