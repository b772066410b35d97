"""Simulated symbols: a seeded random walk a symbol, at any number of symbols and any pace.

`config.py` says what is simulated, `walk.py` is the pure walk, `feed.py` puts it on a clock. `history.py`, `quotes.py`
and `options.py` answer requests, `past.py` is the time before the stream, `provider.py` puts all together. It invents
prices and nothing else: late, doubled or lost ticks are `marketd.faults`. A new scenario is a row of `SCENARIOS`.
"""

from marketd.sources.simulator.config import SCENARIOS, Scenario, SimulatedSymbol, SimulatorConfig
from marketd.sources.simulator.feed import SimulatorSource
from marketd.sources.simulator.provider import simulator_provider
from marketd.sources.simulator.walk import Walk

__all__ = [
    "SCENARIOS",
    "Scenario",
    "SimulatedSymbol",
    "SimulatorConfig",
    "SimulatorSource",
    "Walk",
    "simulator_provider",
]
