"""The reader of configuration: what a file may say, what the environment overrides, and how a mistake is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from marketd.config import MarketDataConfig, SymbolScenario, load_config
from marketd.embedded import MarketData, MarketDataService
from marketd.errors import ConfigError
from marketd.faults import FaultConfig
from marketd.sources.replay import ReplayConfig, ReplayFile

# The example of the documentation: the section that the server and `marketd.embedded` share.
SHARED = """
market_data:
  queue_max_size: 1000
  default_tick_interval_ms: 100
  staleness_threshold_ms: 5000
  symbols:
    AAPL: {scenario: volatile, base_price: "150.00", tick_interval_ms: 50}
  faults: {enabled: false, delay_probability: 0.05, delay_ms_range: [100, 500]}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "desk.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(path: Path, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {})
    return caught.value


def test_the_documented_example(write: Write) -> None:
    config = MarketDataConfig.from_yaml(write(SHARED))
    assert config.queue_max_size == 1000
    assert config.default_tick_interval_ms == 100
    assert config.staleness_threshold_ms == 5000
    assert config.symbols == {"AAPL": SymbolScenario("AAPL", "volatile", Decimal("150.00"), 50)}
    assert str(config.scenarios["AAPL"].base_price) == "150.00"
    assert config.faults == FaultConfig(enabled=False, delay_probability=0.05, delay_ms_range=(100, 500))


def test_what_is_left_out_has_the_documented_default(write: Write) -> None:
    config = MarketDataConfig.from_yaml(write("market_data: {symbols: {SPY: }}"))
    assert (config.queue_max_size, config.default_tick_interval_ms, config.staleness_threshold_ms) == (1000, 100, 5000)
    faults = config.faults
    assert faults.enabled is False
    assert (faults.delay_probability, faults.duplicate_probability) == (0.0, 0.0)
    assert (faults.out_of_order_probability, faults.stale_window_probability) == (0.0, 0.0)
    assert tuple(faults.delay_ms_range) == (100, 500)
    assert faults.out_of_order_offset_ms == 200
    assert tuple(faults.stale_window_duration_ms) == (2000, 5000)
    server = load_config(write(""), {})
    assert (server.server.host, server.server.port) == ("127.0.0.1", 8001)
    assert server.demo is False
    assert server.market_data.scenarios == {}


def test_a_symbol_without_an_interval_has_the_default_one_of_its_file(write: Write) -> None:
    text = "market_data: {default_tick_interval_ms: 40, symbols: {A: {}, B: {tick_interval_ms: 70}, C: }}"
    scenarios = load_config(write(text), {}).market_data.scenarios
    assert {name: s.tick_interval_ms for name, s in scenarios.items()} == {"A": 40, "B": 70, "C": 40}


def test_every_section_of_the_server(write: Write) -> None:
    text = """
server: {host: localhost, port: 9001, data_dir: /var/lib/marketd}
market_data:
  symbols: {AAPL: {}}
  symbol_faults: {AAPL: {enabled: true, drop_probability: 0.5}}
sources:
  coinbase: {symbols: [BTC/USD, ETH-USD]}
  replay: {files: [{path: gold.csv, symbol: XAUUSD, columns: {time_event: when}, time_unit: ms}], speed: null}
validation: {max_jump: 0.25}
bars: {keep_1s_max_symbols: 0}
fanout: {max_rate_hz: null}
store: {seal_rows: 1000}
redis_url: redis://cache:6379/0
"""
    config = load_config(write(text), {})
    assert (config.server.host, config.server.port, config.server.data_dir) == ("localhost", 9001, "/var/lib/marketd")
    assert config.market_data.symbol_faults == {"AAPL": FaultConfig(enabled=True, drop_probability=0.5)}
    assert "coinbase" in config.sources.providers
    assert config.sources.providers["coinbase"].symbols == ("BTC-USD", "ETH-USD")
    gold = ReplayFile(path="gold.csv", symbol="XAUUSD", columns={"time_event": "when"}, time_unit="ms")
    assert config.sources.replay == ReplayConfig(files=(gold,), speed=None)
    assert config.validation.max_jump == 0.25
    assert config.bars.keep_1s_max_symbols == 0
    assert config.fanout.max_rate_hz is None
    assert config.store.seal_rows == 1000
    assert config.redis_url == "redis://cache:6379/0"


# text of the file, whole key, value as it was given, a part of what is allowed
MISTAKES = [
    ("serverr: {}", "serverr", {}, "server"),
    ("1: {}", "1", {}, "market_data"),
    ("demo: true", "demo", True, "market_data"),
    ("server: {prot: 1}", "server.prot", 1, "host, port, data_dir"),
    ("server: 5", "server", 5, "object"),
    ("server: []", "server", [], "object"),
    ("server: {port: 65536}", "server.port", 65_536, "0 to 65535"),
    ("server: {port: -1}", "server.port", -1, "0 to 65535"),
    ("server: {port: http}", "server.port", "http", "int"),
    ("server: {port: 80.5}", "server.port", 80.5, "int"),
    ("server: {port: true}", "server.port", True, "int"),
    ("server: {host: 0.0.0.0}", "server.host", "0.0.0.0", "loopback"),
    ("server: {host: 192.168.0.1}", "server.host", "192.168.0.1", "loopback"),
    ("server: {host: 127.0.0.999}", "server.host", "127.0.0.999", "loopback"),
    ("server: {host: example.com}", "server.host", "example.com", "loopback"),
    ("server: {host: ''}", "server.host", "", "loopback"),
    ("redis_url: 6379", "redis_url", 6379, "text"),
    ("market_data: 5", "market_data", 5, "a mapping"),
    ("market_data: {queue_max: 5}", "market_data.queue_max", 5, "queue_max_size"),
    ("market_data: {queue_max_size: 0}", "market_data.queue_max_size", 0, "1 or more"),
    ("market_data: {queue_max_size: many}", "market_data.queue_max_size", "many", "int"),
    ("market_data: {staleness_threshold_ms: -5}", "market_data.staleness_threshold_ms", -5, "1 or more"),
    (
        "market_data: {default_tick_interval_ms: fast, symbols: {AAPL: {}}}",
        "market_data.default_tick_interval_ms",
        "fast",
        "int",
    ),
    (
        "market_data: {default_tick_interval_ms: 0, symbols: {AAPL: {}}}",
        "market_data.default_tick_interval_ms",
        0,
        "1 or more",
    ),
    ("market_data: {symbols: [AAPL]}", "market_data.symbols", ["AAPL"], "a mapping"),
    ("market_data: {symbols: {AAPL: 5}}", "market_data.symbols.AAPL", 5, "a mapping"),
    ("market_data: {symbols: {AAPL: {price: 5}}}", "market_data.symbols.AAPL.price", 5, "base_price"),
    ("market_data: {symbols: {AAPL: {symbol: TSLA}}}", "market_data.symbols.AAPL.symbol", "TSLA", "scenario"),
    (
        "market_data: {symbols: {AAPL: {scenario: up}}}",
        "market_data.symbols.AAPL.scenario",
        "up",
        "flat, trend_up, trend_down, volatile, jump, stale",
    ),
    ("market_data: {symbols: {AAPL: {base_price: -1}}}", "market_data.symbols.AAPL.base_price", "-1", "above 0"),
    ("market_data: {symbols: {AAPL: {base_price: 0}}}", "market_data.symbols.AAPL.base_price", "0", "above 0"),
    ("market_data: {symbols: {AAPL: {base_price: abc}}}", "market_data.symbols.AAPL.base_price", "abc", "decimal"),
    (
        "market_data: {symbols: {AAPL: {tick_interval_ms: 0}}}",
        "market_data.symbols.AAPL.tick_interval_ms",
        0,
        "1 or more",
    ),
    ("market_data: {faults: {delay_prob: 0.1}}", "market_data.faults.delay_prob", 0.1, "delay_probability"),
    ("market_data: {faults: {delay_probability: 1.5}}", "market_data.faults.delay_probability", 1.5, "from 0 to 1"),
    ("market_data: {faults: {drop_probability: -0.1}}", "market_data.faults.drop_probability", -0.1, "from 0 to 1"),
    (
        "market_data: {faults: {duplicate_probability: often}}",
        "market_data.faults.duplicate_probability",
        "often",
        "float",
    ),
    ("market_data: {faults: {enabled: maybe}}", "market_data.faults.enabled", "maybe", "bool"),
    ("market_data: {faults: {delay_ms_range: [500]}}", "market_data.faults.delay_ms_range", [500], "length 2"),
    ("market_data: {faults: {delay_ms_range: [9, x]}}", "market_data.faults.delay_ms_range[1]", "x", "float"),
    (
        "market_data: {faults: {delay_ms_range: [500, 100]}}",
        "market_data.faults.delay_ms_range",
        (500.0, 100.0),
        "low then high",
    ),
    (
        "market_data: {symbol_faults: {AAPL: {drop_probability: 2}}}",
        "market_data.symbol_faults.AAPL.drop_probability",
        2.0,
        "from 0 to 1",
    ),
    ("sources: {acme: {}}", "sources.acme", {}, "replay, or one of alphavantage"),
    ("sources: [coinbase]", "sources", ["coinbase"], "a mapping"),
    ("sources: {coinbase: {symbol: [BTC-USD]}}", "sources.coinbase.symbol", ["BTC-USD"], "symbols"),
    ("sources: {coinbase: {rest_url: ftp://x}}", "sources.coinbase.rest_url", "ftp://x", "https://"),
    ("sources: {coinbase: {reconnect: {delay: 1}}}", "sources.coinbase.reconnect.delay", 1, "delay_first_s"),
    (
        "sources: {coinbase: {reconnect: {delay_first_s: -1}}}",
        "sources.coinbase.reconnect.delay_first_s",
        -1.0,
        "",
    ),
    ("sources: {replay: {}}", "sources.replay.files", None, "no default"),
    ("sources: {replay: {files: []}}", "sources.replay.files", (), "at least one file"),
    ("sources: {replay: {files: [a.csv]}}", "sources.replay.files[0]", "a.csv", "object"),
    ("sources: {replay: {files: [{path: a.csv, knd: x}]}}", "sources.replay.files[0].knd", "x", "kind"),
    (
        "sources: {replay: {files: [{path: a.csv}, {path: b.csv, kind: x}]}}",
        "sources.replay.files[1].kind",
        "x",
        "quotes, trades, ticks, bars, recording",
    ),
    (
        "sources: {replay: {files: [{path: a.csv}, {path: b.csv, interval: 7m}]}}",
        "sources.replay.files[1].interval",
        "7m",
        "1s, 1m, 5m, 10m, 15m, 30m, 1h, 4h, 1d, 1w",
    ),
    ("sources: {replay: {files: [{path: a.csv}], speed: 0}}", "sources.replay.speed", 0.0, "above 0"),
    ("validation: {max_jump: 0}", "validation.max_jump", 0.0, "above 0"),
    ("bars: {close_delay_ms: -1}", "bars.close_delay_ms", -1, "0 or more"),
    ("fanout: {max_rate_hz: 0}", "fanout.max_rate_hz", 0.0, "above 0"),
    ("fanout: {slow_close_s: soon}", "fanout.slow_close_s", "soon", "float"),
    ("store: {seal_rows: 0}", "store.seal_rows", 0, "1 to 10,000,000"),
    ("calendars: {venues: {DESK: 5}}", "calendars.venues.DESK", 5, "object"),
    (
        "calendars: {venues: {DESK: {time_zone: UTC, open: Mon 8, close: Fri 16:00}}}",
        "calendars.venues.DESK.open",
        "Mon 8",
        "a day and a time",
    ),
]


@pytest.mark.parametrize(("text", "key", "value", "allowed"), MISTAKES, ids=[m[1] + "=" + str(m[2]) for m in MISTAKES])
def test_a_mistake_is_told_with_file_key_value_and_what_is_allowed(
    write: Write, text: str, key: str, value: object, allowed: str
) -> None:
    path = write(text)
    error = refused(path)
    assert (error.where, error.field, error.value) == (str(path), key, value)
    assert allowed in error.allowed
    assert str(error).startswith(f"{path}: {key}: ")
    assert "\n" not in str(error)


def test_the_embedded_reader_tells_it_in_the_same_way(write: Write) -> None:
    path = write("market_data: {faults: {delay_probability: 1.5}}")
    with pytest.raises(ConfigError) as caught:
        MarketDataConfig.from_yaml(path)
    assert str(caught.value) == str(refused(path))
    assert caught.value.field == "market_data.faults.delay_probability"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    error = refused(missing)
    assert (error.where, error.field) == (str(missing), "file")
    assert "No such file or directory" in error.allowed
    assert "Is a directory" in refused(tmp_path).allowed
    not_text = tmp_path / "not-text.yaml"
    not_text.write_bytes(b"\xff\xfe\xfa")
    assert "UTF-8" in refused(not_text).allowed
    with pytest.raises(ConfigError, match="No such file or directory"):
        MarketDataConfig.from_yaml(missing)


@pytest.mark.parametrize(
    ("text", "line"), [("server:\n  port: 1\n  host: ]\n", 3), ("server:\n\tport: 1", 2), ("a: b: c", 1)]
)
def test_bad_yaml_is_told_with_its_line(write: Write, text: str, line: int) -> None:
    path = write(text)
    error = refused(path)
    assert (error.where, error.allowed) == (str(path), "valid YAML")
    assert error.field == f"line {line}"


def test_a_file_that_is_no_mapping(write: Write) -> None:
    error = refused(write("- server\n- market_data"))
    assert (error.field, error.value, error.allowed) == ("file", ["server", "market_data"], "a mapping of sections")


def test_the_environment_overrides_the_file(write: Write) -> None:
    path = write("server: {host: localhost, port: 9001, data_dir: here}\nredis_url: redis://file")
    assert load_config(path, {}).redis_url == "redis://file"
    config = load_config(
        path,
        {"REDIS_URL": "redis://environment", "MARKETD_HOST": "::1", "MARKETD_PORT": "0", "MARKETD_DATA_DIR": "there"},
    )
    assert config.redis_url == "redis://environment"
    assert (config.server.host, config.server.port, config.server.data_dir) == ("::1", 0, "there")
    one = load_config(path, {"MARKETD_PORT": "7000", "REDIS_URL": "", "MARKETD_HOST": ""})
    assert (one.server.host, one.server.port, one.redis_url) == ("localhost", 7000, "redis://file")


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("MARKETD_PORT", "http", "int"),
        ("MARKETD_PORT", "70000", "0 to 65535"),
        ("MARKETD_HOST", "0.0.0.0", "loopback"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {variable: value})
    error = caught.value
    assert (error.where, error.field, error.value) == ("environment", variable, value)
    assert allowed in error.allowed


def test_without_a_file_the_demo_is_served() -> None:
    config = load_config(None, {})
    assert config.demo
    assert {s.symbol: s.scenario for s in config.market_data.scenarios.values()} == {
        "AAPL": "volatile",
        "TSLA": "trend_up",
        "SPY": "flat",
    }
    assert "coinbase" in config.sources.providers
    assert config.sources.providers["coinbase"].symbols == ("BTC-USD", "ETH-USD", "SOL-USD")
    assert config.sources.replay is None


class _Memory:
    def __init__(self) -> None:
        self.values: dict[str, str | bytes] = {}

    async def set(self, key: str, value: str | bytes) -> None:
        self.values[key] = value

    async def get(self, key: str) -> str | bytes | None:
        return self.values.get(key)


def test_one_file_serves_the_server_and_a_program_that_embeds_the_engine(write: Write, start_server) -> None:
    path = write(SHARED)
    server = start_server("--config", str(path))
    listed = server.wait_for("/api/v1/market-data/symbols", lambda s: s["symbols"][0]["lastPrice"])
    assert [row["symbol"] for row in listed["symbols"]] == ["AAPL"]

    async def first_quotes() -> list[MarketData]:
        service = MarketDataService(_Memory(), MarketDataConfig.from_yaml(path))
        service.ensure_subscribed(["AAPL"])
        await service.start()
        try:
            async with asyncio.timeout(10):
                return [await service.get_stream().get() for _ in range(3)]
        finally:
            await service.stop()

    quotes = asyncio.run(first_quotes())
    assert {quote.symbol for quote in quotes} == {"AAPL"}
    # `volatile` moves at most 1 % a tick, from 150.
    assert all(abs(quote.price - 150) <= 150 * Decimal("0.0304") for quote in quotes)
    assert all(quote.bid < quote.price < quote.ask for quote in quotes)


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "desk.yaml"
    path.write_text("market_data:\n  symbols:\n    A: {base_price: 1}\n    B: {}\n    A: {base_price: 2}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert (caught.value.where, caught.value.field) == (str(path), "line 5")
    assert "'A' is given twice" in str(caught.value)


def test_variables_of_the_environment_set_their_settings() -> None:
    config = load_config(
        None,
        {
            "DATABASE_URL": "postgresql://desk@localhost/market",
            "TIER_MAXS__T0": "10",
            "TIER_MAXS__T1": "20",
            "BACKFILL_CHUNK_MINUTES": "60",
            "BACKFILL_MAX_CONCURRENCY_T0": "7",
            "BACKFILL_MAX_CONCURRENCY_T2": "0",
            "BACKFILL_DISPATCH_RATE_PER_SEC": "0.5",
            "LIVE_BATCH_SIZE": "11",
            "BACKFILL_BATCH_SIZE": "12",
            "LOCAL_SWEEP_ENABLED": "true",
            "CADENCE_T0__bars_1m": "30",
            "CADENCE_T2__eod": "0",
            "USE_RLC": "true",
            "RLC_REDIS_URL": "redis://jobs",
            "RLC_REDIS_JOBS_KEY": "desk:jobs",
        },
    )
    assert config.database_url == "postgresql://desk@localhost/market"
    assert (config.universe.tier_maxs.T0, config.universe.tier_maxs.T1) == (10, 20)
    assert config.backfill.chunk_minutes == 60
    limits = config.backfill.max_concurrency
    assert (limits.T0, limits.T1, limits.T2) == (7, 2, 0)
    assert config.backfill.dispatch_rate_per_s == 0.5
    assert (config.backfill.live_batch_size, config.backfill.batch_size) == (11, 12)
    assert config.sweep.enabled is True
    assert config.sweep.cadence == {
        "T0": {"bars_1m": 30, "quotes_l1": 5},
        "T1": {"bars_1m": 300, "quotes_l1": 15},
        "T2": {"eod": 0},
    }
    assert (config.jobs.use_rlc, config.jobs.redis_url, config.jobs.jobs_key) == (True, "redis://jobs", "desk:jobs")


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("TIER_MAXS__T0", "many", "int"),
        ("CADENCE_T0__bars_1m", "-1", "seconds from 1 to 86400"),
        ("USE_RLC", "perhaps", "bool"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_by_its_name(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, {variable: value})
    assert (refused.value.where, refused.value.field, refused.value.value) == ("environment", variable, value)
    assert allowed in refused.value.allowed
