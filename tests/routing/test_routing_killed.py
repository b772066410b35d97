"""A quota survives `kill -9`: real processes, one after the other, spend no more together than one may."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quota_child import ENOUGH

PER_DAY = 200


def spend_and_be_killed(folder, lines):
    """Lines of a process that was killed after so many, or after it had spent all."""
    command = [sys.executable, str(Path(__file__).with_name("quota_child.py")), str(folder), str(PER_DAY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = []
        while len(said) < lines and ENOUGH not in said:
            said.append(child.stdout.readline().strip())
        child.kill()
        return said + child.stdout.read().split()  # and what it did until it was dead


def test_processes_that_are_killed_never_spend_more_than_the_quota(tmp_path):
    spent = 0
    for lines in (7, 40, 3, 61, PER_DAY + 1):
        said = spend_and_be_killed(tmp_path / "quota", lines)
        spent += said.count("went")
    assert said[-1] == ENOUGH
    # A kill costs what may have been spent since the quota was saved: a twentieth of it, or two while it is saved.
    assert PER_DAY - 4 * 2 * (PER_DAY // 20) <= spent <= PER_DAY
