"""Real faulty downloads are caught, and real data that only look odd are not.

The counts of faulty rows were taken by comparing each download with its repaired version, file by file.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_BENCH = Path(__file__).resolve().parents[2] / "bench" / "quality.py"

FAULTY_ROWS = {
    "bad-div": 9945,
    "bad-stock-split": 26,
    "missing-div-adjust": 2,
    "100x-error": 14,
    "bad-unit": 1,
    "cg-double-count": 973,
    "altered file": 407,
    "wall time as UTC": 38_341,
    "dates a day off": 1_748,
}
WRONG_EVENTS = {"bad-div": 121, "missing-div-adjust": 1, "cg-double-count": 3}


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality", _BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["quality"] = module
    spec.loader.exec_module(module)
    return module


def test_every_faulty_family_is_seen_and_every_healthy_file_passes(data_folder: Path, quality: ModuleType) -> None:
    faulty: dict[str, int] = {}
    events: dict[str, int] = {}
    failed = []
    for case in quality.cases(data_folder):
        outcome = quality.judge(case)
        faulty[case.family] = faulty.get(case.family, 0) + outcome.hits
        events[case.family] = events.get(case.family, 0) + outcome.seen
        if outcome.misses or outcome.false_alarms or outcome.false_events or outcome.seen < len(case.events):
            failed.append((case.name, outcome.misses, outcome.false_alarms, outcome.false_events, outcome.words))
    assert failed == []
    assert {family: count for family, count in faulty.items() if count} == FAULTY_ROWS
    assert {family: count for family, count in events.items() if count} == WRONG_EVENTS


def test_the_report_prints_a_line_a_family(
    data_folder: Path, quality: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [case for case in quality.downloads(data_folder) if case.family in ("100x-error", "no-bad-divs")]
    monkeypatch.setattr(quality, "cases", lambda _: iter(some))
    monkeypatch.setattr(sys, "argv", ["quality.py", "--data", str(data_folder), "--details"])
    assert quality.main() == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line and not line.startswith(" ")}
    assert lines["100x-error"] == ["1", "23", "14", "14", "0", "0", "0", "0", "0", "0"]
    assert lines["no-bad-divs"] == ["4", "2584", "0", "0", "0", "0", "0", "0", "0", "0"]
    assert "unit_change 2" in printed


def test_without_the_recorded_data_the_report_says_so(
    tmp_path: Path, quality: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "--data", str(tmp_path)])
    assert quality.main() == 0
    assert "recorded data is not in" in capsys.readouterr().out
