"""Faulty twins of our contracts: the same interface, and what goes wrong in it is chosen, seeded and counted.

`FaultInjector` decides and knows no I/O; `FaultySource` carries its decisions out around any `Source`. Nothing here
invents prices: a fault moves, repeats, loses or interrupts what the source said. A new fault is a field of
`FaultConfig`, a column of draws in the injector and what the source does with it.
"""

from marketd.faults.config import FaultConfig
from marketd.faults.injector import FaultInjector, Verdict, Verdicts
from marketd.faults.source import FaultySource

__all__ = ["FaultConfig", "FaultInjector", "FaultySource", "Verdict", "Verdicts"]
