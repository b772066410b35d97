"""What a test of marketd, or of something built on it, needs: a clock to own, conformance suites, provider simulators.

The suites need pytest, which a server does not; they are imported when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from marketd.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from marketd.testing.records_conformance import RecordsConformance, observation_table
    from marketd.testing.request_conformance import RequestConformance, RequestHarness
    from marketd.testing.scripted_history import ScriptedHistory
    from marketd.testing.scripted_source import ScriptedSource
    from marketd.testing.source_conformance import SourceConformance, SourceHarness
    from marketd.testing.store_conformance import StoreConformance, bar_table
    from marketd.testing.store_machine import StoreMachine

__all__ = [
    "ManualClock",
    "RecordsConformance",
    "RequestConformance",
    "RequestHarness",
    "ScriptedHistory",
    "ScriptedSource",
    "SourceConformance",
    "SourceHarness",
    "StoreConformance",
    "StoreMachine",
    "bar_table",
    "observation_table",
]

_MODULE_OF = {
    "RecordsConformance": "records_conformance",
    "RequestConformance": "request_conformance",
    "RequestHarness": "request_conformance",
    "ScriptedHistory": "scripted_history",
    "ScriptedSource": "scripted_source",
    "SourceConformance": "source_conformance",
    "SourceHarness": "source_conformance",
    "StoreConformance": "store_conformance",
    "StoreMachine": "store_machine",
    "bar_table": "store_conformance",
    "observation_table": "records_conformance",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
