"""Makes docs/providers.md from the providers themselves, their READMEs and their tests.

    .venv/bin/python tests/provider_page.py > docs/providers.md

What a provider can do is what it says when it is built with default settings; what was proven is read from the tests
that prove it: the contracts they inherit, the independent client they drive, the names of those tests, the entry points
that are fuzzed; what is unproven is the section of its README. `test_provider_page.py` holds the page to this.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from marketd.clock import SystemClock
from marketd.errors import InvalidInput
from marketd.sources.contract import Capabilities, ProviderDeps, ProviderEntry
from marketd.sources.registry import BUILT_IN, provider_entry
from marketd.telemetry import Metrics

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
PAGE = REPO / "docs" / "providers.md"

REFEREES: dict[str, tuple[str, ...]] = {
    "alphavantage": ("alpha_vantage",),
    "binance": ("ccxt",),
    "coinbase": ("ccxt",),
    "finnhub": ("finnhub-python",),
    "fred": ("fredapi",),
    "futu": ("futu-api",),
    "ig": ("lightstreamer-client-lib", "trading-ig (where it is installed)"),
    "kraken": ("ccxt",),
    "xts": ("python-socketio 4.6.1",),
    "yahoo": ("yfinance",),
}
"""The independent client that `test_<provider>_referee.py` drives against the same simulator."""

RECORDED = {
    "binance": "test_binance_parse.py",
    "coinbase": "test_replay_readers.py",
    "fred": "test_fred_requests.py",
    "yahoo": "test_yahoo_recorded.py",
}
"""The test that reads what the provider itself once said, from the folder of recorded data."""

INTRODUCTION = """\
Made by `tests/provider_page.py` from the providers, their READMEs and their tests; a test holds it to them. Each
provider's own page is behind its name. How to add one: [add-a-provider.md](add-a-provider.md)."""
CONVENTIONS = """\
Ours are the same for all: bars are stamped with their start in UTC, an empty minute is absent, and a provider whose
prices are adjusted is marked (see [adjustment.md](adjustment.md))."""
PROVEN = """\
By local simulators that speak each wire format (`python -m marketd.testing.providers`), each of them read by an
independent client, the *referee*, beside ours: what it sees, ours must have seen. The contracts are
`marketd.testing.SourceConformance`, also with every fault of `marketd.faults`, and `RequestConformance`. *Recorded*
says that data which the provider itself once sent is read too. *Fuzzed* counts the entry points of its parsers that the
coverage-guided fuzzer feeds (`tests/fuzz`). No test of this repository needs the real services."""

_UNPROVEN = re.compile(
    r"^## (?:Unproven|Not proven|Not known before)[^\n]*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL
)
_KEY = "0123456789abcdef0123456789abcdef"
_WINDOWS = {1.0: "s", 60.0: "min", 3_600.0: "h", 86_400.0: "day"}


def capabilities(entry: ProviderEntry) -> Capabilities:
    """As built with default settings, and made-up keys where it needs any."""
    deps = ProviderDeps(clock=SystemClock(), metrics=Metrics())
    settings = {"transport": "aiohttp"} if "transport" in entry.config.__struct_fields__ else {}
    try:
        return entry.build(entry.config(**settings), deps).capabilities
    except InvalidInput:
        keys = dict.fromkeys(entry.secrets.values(), _KEY)
        return entry.build(entry.config(**settings, **keys), deps).capabilities


def limits(told: Capabilities) -> str:
    """`60/min (snapshot)`."""
    words = []
    for limit in told.limits:
        window = _WINDOWS.get(limit.seconds, f"{limit.seconds:g} s")
        words.append(f"{limit.count:,}/{window}" + (f" ({limit.endpoint})" if limit.endpoint else ""))
    return ", ".join(words) or "none documented"


def sentences(name: str) -> list[str]:
    """What the referee's tests are called."""
    tree = ast.parse((TESTS / "sources" / f"test_{name}_referee.py").read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [node.name.removeprefix("test_").replace("_", " ") for node in functions if node.name.startswith("test_")]


def unproven(name: str) -> str | None:
    """The section of its README, None if it has none."""
    found = _UNPROVEN.search((REPO / "src/marketd/sources" / name / "README.md").read_text(encoding="utf-8"))
    return None if found is None else found[1].strip()


def tests_of(name: str) -> str:
    """All tests of a provider, as text."""
    return "\n".join(path.read_text("utf-8") for path in sorted((TESTS / "sources").glob(f"test_{name}_*.py")))


def targets_of(name: str) -> list[str]:
    """Entry points that the fuzzer feeds (`tests/fuzz`), those of the protocol that a provider speaks too."""
    folder = str(TESTS / "fuzz")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from targets import TARGETS

    owners = (name, "lightstreamer") if name == "ig" else (name,)
    return [target for target in TARGETS if target.partition(".")[0] in owners]


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def yes(there: bool) -> str:
    return "✓" if there else ""


def link(name: str) -> str:
    return f"[{name}](../src/marketd/sources/{name}/README.md)"


def page() -> str:
    entries = {name: provider_entry(name) for name in BUILT_IN}
    told = {name: capabilities(entry) for name, entry in entries.items()}
    texts = {name: tests_of(name) for name in entries}
    can = [
        [
            link(name),
            " ".join(kind for kind, there in (("quotes", c.stream_quotes), ("trades", c.stream_trades)) if there),
            yes(c.quotes),
            " ".join(c.bars),
            yes(c.options),
            yes(c.macro),
            yes(c.actions),
            ", ".join(f"`{variable}`" for variable in entries[name].secrets) or "none",
        ]
        for name, c in told.items()
    ]
    conventions = [
        [
            name,
            c.stamp if c.bars else "",
            c.time_zone,
            c.adjustment if c.bars else "",
            c.empty_minute if c.bars else "",
            yes(c.numbered_trades),
            f"{c.delayed_s:g} s" if c.delayed_s else "",
        ]
        for name, c in told.items()
    ]
    allowed = [
        [
            name,
            limits(c),
            str(c.quotes_per_request) if c.quotes else "",
            "" if not (c.stream_quotes or c.stream_trades) else str(c.symbols_per_connection or "any number"),
            "" if not (c.stream_quotes or c.stream_trades) else str(c.connections or "any number"),
        ]
        for name, c in told.items()
    ]
    proven = [
        [
            f"[{name}](#{name})",
            yes("SourceConformance" in texts[name]),
            yes("RequestConformance" in texts[name]),
            ", ".join(REFEREES[name]),
            yes(name in RECORDED),
            str(len(targets_of(name))),
        ]
        for name in entries
    ]
    parts = [
        "# Providers",
        INTRODUCTION,
        "## What each can",
        table(["provider", "streams", "quotes", "bars", "options", "macro", "actions", "keys"], can),
        "## Conventions on its wire",
        CONVENTIONS,
        table(
            ["provider", "bars stamped with", "time zone", "prices", "empty minute", "trades numbered", "delayed"],
            conventions,
        ),
        "## Limits, by default",
        table(["provider", "requests", "quotes a request", "symbols a connection", "connections"], allowed),
        "## What was proven, and against whom",
        PROVEN,
        table(["provider", "stream contract", "request contract", "referee", "recorded", "fuzzed"], proven),
    ]
    for name in entries:
        parts += [f"### {name}", f"Against {' and '.join(REFEREES[name])}:"]
        parts.append("\n".join(f"- {sentence}" for sentence in sentences(name)))
        left = unproven(name)
        if left is None:
            parts.append("Its page lists nothing as unproven.")
        else:
            parts += ["Unproven until first contact with the real service:", left]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
