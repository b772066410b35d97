"""The simulator as a provider: its stream, and requests that agree with it."""

from __future__ import annotations

from marketd.clock import Clock
from marketd.sources.contract import Provider
from marketd.sources.simulator.config import SimulatorConfig
from marketd.sources.simulator.feed import NAME, SimulatorSource
from marketd.sources.simulator.history import SimulatorHistory
from marketd.sources.simulator.options import SimulatorOptions
from marketd.sources.simulator.quotes import SimulatorQuotes
from marketd.sources.symbols import SymbolMap

__all__ = ["simulator_provider"]


def simulator_provider(config: SimulatorConfig, clock: Clock) -> Provider:
    """Its symbols are those of the configuration, by the same names. It holds nothing that has to be closed."""
    source = SimulatorSource(config, clock)
    history = SimulatorHistory(config, clock, lambda: source.walk)

    def known(symbol: str) -> str | None:
        return symbol if symbol in config.symbols else None

    return Provider(
        name=NAME,
        capabilities=source.capabilities,
        symbols=SymbolMap({name: name for name in config.symbols}, to_provider=known, from_provider=known),
        stream=source,
        stream_symbols=tuple(config.symbols),
        quotes=SimulatorQuotes(history),
        bars=history,
        options=SimulatorOptions(config, clock, history),
        venue="24/7",
    )
