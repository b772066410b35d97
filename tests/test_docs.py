"""Documentation that has drifted is a defect: every setting, reason, message and close code is in its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from marketd.config import Config, MarketDataConfig, ServerConfig, SourcesConfig, SymbolScenario, load_config
from marketd.fanout.hub import FanoutConfig
from marketd.faults import FaultConfig
from marketd.ingest.bars import BarConfig
from marketd.ingest.validate import REASONS, ValidationConfig
from marketd.model import BUILT_INTERVALS
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.replay import ReplayConfig, ReplayFile
from marketd.store.embedded import EmbeddedStoreConfig
from marketd.wire import close_codes, messages

_REPO = Path(__file__).resolve().parent.parent
_SETTINGS = [
    Config, ServerConfig, MarketDataConfig, SymbolScenario, FaultConfig, SourcesConfig, CoinbaseConfig, HttpConfig,
    ReconnectPolicy, ReplayConfig, ReplayFile, ValidationConfig, BarConfig, FanoutConfig, EmbeddedStoreConfig,
]  # fmt: skip


def page(name: str) -> str:
    return (_REPO / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", _SETTINGS, ids=lambda kind: kind.__name__)
def test_every_setting_is_documented(kind: type) -> None:
    text = page("configuration.md")
    unwritten = {"demo", "symbol"} if kind in (Config, SymbolScenario) else set()
    missing = [f for f in kind.__struct_fields__ if f not in unwritten and f"`{f}`" not in text]
    assert missing == []


@pytest.mark.parametrize(
    ("kind", "section"),
    [(ValidationConfig, "validation"), (BarConfig, "bars"), (EmbeddedStoreConfig, "store"), (ServerConfig, "server")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_documented_defaults_are_those_of_the_code(kind: type, section: str) -> None:
    part = page("configuration.md").split(f"## `{section}`")[1].split("\n## ")[0]
    documented = {}
    for names, values in re.findall(r"^\| (`[^|]+`) \| (`[^|]+`) \|", part, re.MULTILINE):
        pairs = zip(re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", values), strict=True)
        documented.update(pairs)
    defaults = kind()
    shown = {f: str(getattr(defaults, f)) for f in kind.__struct_fields__}
    assert documented == {f: "[]" if text == "()" else text for f, text in shown.items()}


def test_every_reason_for_quarantine_is_documented() -> None:
    text = page("model.md")
    others = ("duplicate", "too_late_for_bar", "corrupt_line", "malformed", "unknown_symbol", "trades_missing")
    assert [r for r in (*REASONS[1:], *others) if f"`{r}`" not in text] == []


def test_every_message_channel_field_and_close_code_is_documented() -> None:
    text = page("protocol.md")
    kinds = [getattr(messages, name) for name in messages.__all__]
    tags = {
        kind.__struct_config__.tag for kind in kinds if isinstance(kind, type) and hasattr(kind, "__struct_config__")
    }
    expected = [f'"type":"{tag}"' for tag in tags if tag] + [f"`{c}`" for c in messages.CHANNELS]
    expected += [f"`{f}`" for f in messages.FIELDS]
    expected += [str(c.code) for c in vars(close_codes).values() if isinstance(c, close_codes.CloseCode)]
    assert [e for e in expected if e not in text] == []
    assert [i.name for i in BUILT_INTERVALS if f"bars_{i.name}" not in text] == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for source in [
        _REPO / "README.md",
        _REPO / "CONTRIBUTING.md",
        *(_REPO / "docs").rglob("*.md"),
        *(_REPO / "src").rglob("README.md"),
    ]:
        targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", source.read_text(encoding="utf-8"))
        broken += [f"{source.relative_to(_REPO)}: {t}" for t in targets if not (source.parent / t).exists()]
    assert broken == []


def test_the_example_configuration_is_accepted() -> None:
    config = load_config(_REPO / "examples" / "desk.yaml", {})
    assert sorted(config.market_data.scenarios) == ["AAPL", "NOK", "TSLA"]
    assert config.sources.coinbase is not None
    assert config.sources.coinbase.symbols == ("BTC-USD", "ETH-USD")
    assert config.market_data.faults.delay_ms_range == (100, 500)
