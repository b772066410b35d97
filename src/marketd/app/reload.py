"""What a configuration that was read again changes while the server runs: policies, quotas, keys and symbols.

Everything else is named and waits for the next start. Nothing is applied here: `Server.reload` does, after all of it
was found to be good.
"""

from __future__ import annotations

import msgspec

from marketd.config import Config, SourcesConfig
from marketd.errors import InvalidInput
from marketd.routing import Router

__all__ = ["Reload"]


class Reload:
    """before: what the server goes by. read: what was read now. Raises InvalidInput for what the router refuses.

    config: what the server goes by afterwards. changed, needs_restart: settings, by the path of their section. symbols:
    what is wanted of providers of which that changed. rebuilt_config: has the providers to be built anew.
    """

    def __init__(self, before: Config, read: Config, router: Router) -> None:
        self.changed: list[str] = []
        self.needs_restart: list[str] = []
        self.symbols: dict[str, tuple[str, ...]] = {}
        if read.routing != before.routing:
            router.check(read.routing)
            self.changed.append("routing")
        rebuilt = self._providers(before, read)
        for section in Config.__struct_fields__:
            if section not in ("routing", "sources") and getattr(read, section) != getattr(before, section):
                self.needs_restart.append(section)
        if read.sources.replay != before.sources.replay:
            self.needs_restart.append("sources.replay")
        kept = {name: read.sources.providers.get(name, old) for name, old in before.sources.providers.items()}
        sources = msgspec.structs.replace(before.sources, providers=kept)
        self.config = msgspec.structs.replace(before, routing=read.routing, sources=sources)
        self.rebuilt_config = msgspec.structs.replace(self.config, sources=SourcesConfig(providers=rebuilt))

    def _providers(self, before: Config, read: Config) -> dict[str, msgspec.Struct]:
        old, new = before.sources.providers, read.sources.providers
        self.needs_restart += [f"sources.{name}" for name in sorted(old.keys() ^ new.keys())]
        rebuilt: dict[str, msgspec.Struct] = {}
        for name in old.keys() & new.keys():
            if old[name] == new[name]:
                continue
            self.changed.append(f"sources.{name}")
            was, now = _symbols(old[name]), _symbols(new[name])
            if was != now:
                self.symbols[name] = now
            has_symbols = "symbols" in old[name].__struct_fields__
            if not has_symbols or msgspec.structs.replace(old[name], symbols=now) != new[name]:
                rebuilt[name] = new[name]
        return rebuilt


def _symbols(settings: msgspec.Struct) -> tuple[str, ...]:
    """Of a provider's settings; raises InvalidInput for a provider that keeps them otherwise."""
    found = getattr(settings, "symbols", ())
    if not isinstance(found, tuple):
        raise InvalidInput("symbols", found, "a tuple of names")
    return found
