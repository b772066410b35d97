"""The one reader of configuration files and the environment. Each room owns its part and its checks.

A YAML file has the sections of `Config`; `market_data` is the one that `marketd.embedded` reads too, so one
file serves both. The variables of the environment in `VARIABLES` override the file, and command-line options
override both. Unknown keys are refused: a misspelled limit is no limit.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
import yaml

from marketd.calendars import CalendarsConfig
from marketd.collect.jobs import JobsConfig
from marketd.collect.streams import StreamsConfig
from marketd.collect.sweeper import SweepConfig
from marketd.collect.universe import UniverseConfig
from marketd.continuity.ledger import LedgerConfig
from marketd.continuity.plan import BackfillConfig
from marketd.errors import ConfigError, InvalidInput
from marketd.fanout.hub import FanoutConfig
from marketd.faults import FaultConfig
from marketd.ingest.bars import BarConfig
from marketd.ingest.validate import ValidationConfig
from marketd.routing.config import RoutingConfig
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.registry import provider_entry
from marketd.sources.replay import ReplayConfig
from marketd.sources.simulator import SCENARIOS
from marketd.store.embedded import EmbeddedStoreConfig
from marketd.store.postgres import PostgresConfig

__all__ = [
    "VARIABLES",
    "Config",
    "HistoryConfig",
    "MarketDataConfig",
    "ServerConfig",
    "SourcesConfig",
    "SymbolScenario",
    "demo_config",
    "load_config",
]

_S = TypeVar("_S")


class SymbolScenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A simulated symbol. scenario: flat, trend_up, trend_down, volatile, jump or stale."""

    symbol: str
    scenario: str = "flat"
    base_price: Decimal = Decimal(100)
    tick_interval_ms: int = 100

    def __post_init__(self) -> None:
        if not self.symbol:
            raise InvalidInput("symbol", self.symbol, "a name")
        if self.scenario not in SCENARIOS:
            raise InvalidInput("scenario", self.scenario, f"one of {', '.join(SCENARIOS)}")
        if not isinstance(self.base_price, Decimal):
            msgspec.structs.force_setattr(self, "base_price", Decimal(str(self.base_price)))
        if not (self.base_price.is_finite() and self.base_price > 0):
            raise InvalidInput("base_price", str(self.base_price), "a number above 0")
        if self.tick_interval_ms < 1:
            raise InvalidInput("tick_interval_ms", self.tick_interval_ms, "milliseconds, 1 or more")


class MarketDataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The section shared by the server and `marketd.embedded`.

    symbols: what is simulated, by name; a sequence of `SymbolScenario` is taken as well. seed: of the
    simulation and of the faults. symbol_faults: faults of single symbols, instead of `faults`.
    """

    queue_max_size: int = 1_000
    default_tick_interval_ms: int = 100
    staleness_threshold_ms: int = 5_000
    symbols: Mapping[str, SymbolScenario] | Sequence[SymbolScenario] = {}
    faults: FaultConfig = FaultConfig()
    symbol_faults: Mapping[str, FaultConfig] = {}
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("queue_max_size", "default_tick_interval_ms", "staleness_threshold_ms"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "a whole number, 1 or more")
        if not isinstance(self.symbols, Mapping):
            msgspec.structs.force_setattr(self, "symbols", {s.symbol: s for s in self.symbols})

    @property
    def scenarios(self) -> Mapping[str, SymbolScenario]:
        """`symbols` by name."""
        assert isinstance(self.symbols, Mapping)
        return self.symbols

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> MarketDataConfig:
        """The `market_data` section of a YAML file. Raises ConfigError naming file, key and reason."""
        where = os.fspath(path)
        return _market_data(where, _sections(where).get("market_data", {}))


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """host: only loopback addresses are accepted. port: 0 picks a free one. data_dir: where history is kept."""

    host: str = "127.0.0.1"
    port: int = 8001
    data_dir: str = "marketd-data"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise InvalidInput("port", self.port, "0 to 65535")
        if self.host != "localhost" and not _is_loopback(self.host):
            allowed = "a loopback address (127.0.0.1, ::1, localhost): this version has no authentication"
            raise InvalidInput("host", self.host, allowed)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class SourcesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The providers that are used, besides the simulator, which `market_data.symbols` turns on.

    providers: the Config of each one's own kind, by name. In a file they stand beside `replay`.
    """

    replay: ReplayConfig | None = None
    providers: Mapping[str, msgspec.Struct] = {}


class HistoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """prefer: providers whose bars come before those of others when several have one, the first first. Of the others
    the one that was heard last is given, `…:adjusted` ones last."""

    prefer: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything `marketd serve` can be told. demo: nobody told it anything."""

    server: ServerConfig = ServerConfig()
    market_data: MarketDataConfig = MarketDataConfig()
    sources: SourcesConfig = SourcesConfig()
    validation: ValidationConfig = ValidationConfig()
    bars: BarConfig = BarConfig()
    fanout: FanoutConfig = FanoutConfig()
    store: EmbeddedStoreConfig = EmbeddedStoreConfig()
    postgres: PostgresConfig = PostgresConfig()
    routing: RoutingConfig = RoutingConfig()
    streams: StreamsConfig = StreamsConfig()
    history: HistoryConfig = HistoryConfig()
    calendars: CalendarsConfig = CalendarsConfig()
    ledger: LedgerConfig = LedgerConfig()
    universe: UniverseConfig = UniverseConfig()
    backfill: BackfillConfig = BackfillConfig()
    sweep: SweepConfig = SweepConfig()
    jobs: JobsConfig = JobsConfig()
    database_url: str | None = None
    redis_url: str | None = None
    demo: bool = False


def demo_config() -> Config:
    """What is served when nobody says what: live crypto where it can be reached, and three simulated symbols."""
    return Config(
        market_data=MarketDataConfig(
            symbols=[
                SymbolScenario("AAPL", "volatile", Decimal("150.00"), 250),
                SymbolScenario("TSLA", "trend_up", Decimal("250.00"), 500),
                SymbolScenario("SPY", "flat", Decimal("600.00"), 200),
            ]
        ),
        sources=SourcesConfig(providers={"coinbase": CoinbaseConfig(symbols=("BTC-USD", "ETH-USD", "SOL-USD"))}),
        demo=True,
    )


def load_config(path: str | os.PathLike[str] | None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of the server: file (or the demo), then environment.

    `MARKETD_ENV_FILE` names a file of further variables, one NAME=value a line; the environment's own come before them.
    Raises ConfigError naming file (or variable), key and what is allowed.
    """
    packed = pickle.dumps(_load(path, _with_env_file(os.environ if environ is None else environ)))
    # Reading YAML takes a hundred times the memory of what is kept, and what is kept lies scattered in it: 8,000
    # symbols held 27 MB that could not be given back. A fresh copy, made after the rest is gone, takes 2 MB.
    gc.collect()
    return cast("Config", pickle.loads(packed))  # noqa: S301 - packed two lines above


def _with_env_file(environ: Mapping[str, str]) -> Mapping[str, str]:
    where = environ.get("MARKETD_ENV_FILE")
    if not where:
        return environ
    try:
        lines = Path(where).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError("environment", "MARKETD_ENV_FILE", where, f"a readable file ({reason})") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(where, f"line {number}", "…", "NAME=value, a comment after #, or nothing")
        value = value.strip()
        found[name.strip()] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    return {**found, **environ}


def _load(path: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Config:
    if path is None:
        config = demo_config()
    else:
        where = os.fspath(path)
        sections = _sections(where)
        known = {f for f in Config.__struct_fields__ if f != "demo"}
        for key in sections:
            if key not in known:
                raise ConfigError(where, str(key), sections[key], f"a section of {', '.join(sorted(known))}")
        parts: dict[str, Any] = {}
        for key, value in sections.items():
            if key == "market_data":
                parts[key] = _market_data(where, value)
            elif key == "sources":
                parts[key] = _sources(where, value)
            else:
                kind = _SECTIONS.get(key)
                parts[key] = _text(where, key, value) if kind is None else _convert(where, key, value, kind)
        config = Config(**parts)
    return _with_environment(config, environ)


_SECTIONS: dict[str, Any] = {
    "server": ServerConfig,
    "validation": ValidationConfig,
    "bars": BarConfig,
    "fanout": FanoutConfig,
    "store": EmbeddedStoreConfig,
    "postgres": PostgresConfig,
    "routing": RoutingConfig,
    "streams": StreamsConfig,
    "history": HistoryConfig,
    "calendars": CalendarsConfig,
    "ledger": LedgerConfig,
    "universe": UniverseConfig,
    "backfill": BackfillConfig,
    "sweep": SweepConfig,
    "jobs": JobsConfig,
}

VARIABLES: dict[str, str] = {
    "MARKETD_HOST": "server.host",
    "MARKETD_PORT": "server.port",
    "MARKETD_DATA_DIR": "server.data_dir",
    "DATABASE_URL": "database_url",
    "REDIS_URL": "redis_url",
    "TIER_MAXS__T0": "universe.tier_maxs.T0",
    "TIER_MAXS__T1": "universe.tier_maxs.T1",
    "BACKFILL_CHUNK_MINUTES": "backfill.chunk_minutes",
    "BACKFILL_MAX_CONCURRENCY_T0": "backfill.max_concurrency.T0",
    "BACKFILL_MAX_CONCURRENCY_T1": "backfill.max_concurrency.T1",
    "BACKFILL_MAX_CONCURRENCY_T2": "backfill.max_concurrency.T2",
    "BACKFILL_DISPATCH_RATE_PER_SEC": "backfill.dispatch_rate_per_s",
    "LIVE_BATCH_SIZE": "backfill.live_batch_size",
    "BACKFILL_BATCH_SIZE": "backfill.batch_size",
    "LOCAL_SWEEP_ENABLED": "sweep.enabled",
    "CADENCE_T0__bars_1m": "sweep.cadence.T0.bars_1m",
    "CADENCE_T0__quotes_l1": "sweep.cadence.T0.quotes_l1",
    "CADENCE_T1__bars_1m": "sweep.cadence.T1.bars_1m",
    "CADENCE_T1__quotes_l1": "sweep.cadence.T1.quotes_l1",
    "CADENCE_T2__eod": "sweep.cadence.T2.eod",
    "POLICY_BARS_1M": "routing.policies.bars_1m",
    "POLICY_EOD": "routing.policies.eod",
    "POLICY_QUOTES_L1": "routing.policies.quotes_l1",
    "POLICY_OPTIONS_CHAIN": "routing.policies.options_chain",
    "ALLOW_SOURCE_OVERRIDE": "routing.allow_source_override",
    "USE_RLC": "jobs.use_rlc",
    "RLC_REDIS_URL": "jobs.redis_url",
    "RLC_REDIS_JOBS_KEY": "jobs.jobs_key",
}
"""Variables of the environment, and what of the configuration each one sets."""


def _with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    for variable, path in VARIABLES.items():
        value = environ.get(variable)
        if not value:
            continue
        section, *inside = path.split(".")
        if not inside:
            config = msgspec.structs.replace(config, **{section: value})
            continue
        parts = msgspec.to_builtins(getattr(config, section))
        inner = parts
        for key in inside[:-1]:
            inner = inner.setdefault(key, {})
        inner[inside[-1]] = value
        try:
            changed = _convert("environment", section, parts, _SECTIONS[section])
        except ConfigError as error:
            raise ConfigError("environment", variable, value, error.allowed) from error
        config = msgspec.structs.replace(config, **{section: changed})
    return _with_secrets(config, environ)


def _with_secrets(config: Config, environ: Mapping[str, str]) -> Config:
    """Keys of the providers that are configured. A key alone turns no provider on."""
    providers = dict(config.sources.providers)
    for name, settings in providers.items():
        given = {f: environ[v] for v, f in provider_entry(name).secrets.items() if environ.get(v)}
        if given:
            try:
                providers[name] = msgspec.structs.replace(settings, **given)
            except InvalidInput as error:
                variables = {field: variable for variable, field in provider_entry(name).secrets.items()}
                raise ConfigError("environment", variables.get(error.field, error.field), "…", error.allowed) from None
    sources = msgspec.structs.replace(config.sources, providers=providers)
    return msgspec.structs.replace(config, sources=sources)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C one is 4 times as fast
    """YAML as people read it: ON, NO and 0700 are symbols, not truth values or octal numbers, and times are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's way to start with none

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that is given twice: which of the two was meant?"""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return cast("dict[Any, Any]", super().construct_mapping(node, deep))


_SCALARS = (
    ("bool", r"true|false", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?", "-+0123456789."),
    ("merge", r"<<", "<"),
)
for _tag, _text_of, _first in _SCALARS:
    _pattern = re.compile(rf"^(?:{_text_of})$", re.IGNORECASE)
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$", re.IGNORECASE), ["~", "n", "N", ""]
)


def _sections(where: str) -> dict[str, Any]:
    try:
        text = Path(where).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(where, "file", where, f"a readable YAML file ({reason})") from error
    try:
        sections = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark is not None else "file"
        raise ConfigError(where, line, getattr(error, "problem", None) or "unreadable", "valid YAML") from error
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise ConfigError(where, "file", sections, "a mapping of sections")
    return sections


_SCENARIO_KEYS = tuple(f for f in SymbolScenario.__struct_fields__ if f != "symbol")


def _market_data(where: str, section: Any) -> MarketDataConfig:
    section = _mapping(where, "market_data", section)
    parts: dict[str, Any] = {k: v for k, v in section.items() if k not in ("symbols", "faults", "symbol_faults")}
    for key, value in parts.items():
        if key not in MarketDataConfig.__struct_fields__:
            allowed = f"one of {', '.join(MarketDataConfig.__struct_fields__)}"
            raise ConfigError(where, f"market_data.{key}", value, allowed)
    config = _convert(where, "market_data", parts, MarketDataConfig)
    scenarios: dict[str, SymbolScenario] = {}
    for name, given in _mapping(where, "market_data.symbols", section.get("symbols")).items():
        key = f"market_data.symbols.{name}"
        settings = _mapping(where, key, given)
        for unknown, value in settings.items():
            if unknown not in _SCENARIO_KEYS:
                raise ConfigError(where, f"{key}.{unknown}", value, f"one of {', '.join(_SCENARIO_KEYS)}")
        values = {"symbol": str(name), "tick_interval_ms": config.default_tick_interval_ms} | settings
        scenarios[str(name)] = _convert(where, key, values, SymbolScenario)
    faults = _mapping(where, "market_data.faults", section.get("faults"))
    by_symbol = _mapping(where, "market_data.symbol_faults", section.get("symbol_faults"))
    return msgspec.structs.replace(
        config,
        symbols=scenarios,
        faults=_convert(where, "market_data.faults", faults, FaultConfig),
        symbol_faults={
            str(s): _convert(where, f"market_data.symbol_faults.{s}", f, FaultConfig) for s, f in by_symbol.items()
        },
    )


def _sources(where: str, section: Any) -> SourcesConfig:
    replay: ReplayConfig | None = None
    providers: dict[str, msgspec.Struct] = {}
    for given, value in _mapping(where, "sources", section).items():
        key = f"sources.{given}"
        if given == "replay":
            replay = _convert(where, key, value, ReplayConfig)
            continue
        try:
            entry = provider_entry(given)
        except InvalidInput as error:
            raise ConfigError(where, key, value, f"replay, or {error.allowed}") from error
        if entry.name in providers:
            raise ConfigError(where, key, value, f"one section of {entry.name}: {given} is another name of it")
        providers[entry.name] = _convert(where, key, value, entry.config)
    return SourcesConfig(replay=replay, providers=providers)


def _mapping(where: str, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(where, key, value, "a mapping")
    return value


def _text(where: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(where, key, value, "text")
    return value


def _convert(where: str, key: str, value: Any, kind: type[_S]) -> _S:
    """A part of the file as its room's Config, with errors that name the whole key.

    Inner parts come first, because the checks of a part know its own names only.
    """
    value = {} if value is None else value
    types = get_type_hints(kind)
    for name, inner, inner_kind in _inner_parts(value, types):
        _convert(where, f"{key}.{name}", inner, inner_kind)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `")
        path = path.removeprefix("$").rstrip("`")
        name = path.removeprefix(".").partition("[")[0]
        named = re.search(r"field `(.+?)`", reason)
        allowed = reason.removeprefix("Expected ").replace("`", "")
        if named and "unknown" in reason:
            path, allowed = f".{named[1]}", f"one of {', '.join(types)}"
        elif named:
            path, allowed = f".{named[1]}", "a value: it has no default"
        elif "enum" in reason and name in types:
            allowed = f"one of {', '.join(_choices(types[name]))}"
        elif "decimal" in reason:
            allowed = "a decimal number"
        raise ConfigError(where, key + path, _found(value, path), allowed) from error
    except InvalidInput as error:
        raise ConfigError(where, f"{key}.{error.field}", error.value, error.allowed) from error


def _inner_parts(value: Any, types: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, kind) of each value that has a Config of its own."""
    for name, given in value.items() if isinstance(value, dict) else ():
        for kind in (types.get(name), *get_args(types.get(name))):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                if isinstance(given, dict) and get_origin(types[name]) is dict:  # of such values, by name
                    yield from ((f"{name}.{key}", item, kind) for key, item in given.items())
                elif isinstance(given, dict):
                    yield name, given, kind
                for i, item in enumerate(given if isinstance(given, list) else ()):
                    if isinstance(item, dict):
                        yield f"{name}[{i}]", item, kind


def _choices(kind: Any) -> Iterator[str]:
    """The words of a `Literal`, also of one that may be absent."""
    for part in get_args(kind):
        if isinstance(part, str):
            yield part
        else:
            yield from _choices(part)


def _found(value: Any, path: str) -> Any:
    """The offending value itself, as far as it can be found by the error's path."""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        try:
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value
