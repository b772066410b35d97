"""Documentation that has drifted is a defect: what it must name is compared with the code, and its examples are run.

The README's tour of history is run as it is written, against a server of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import msgspec
import pytest

from marketd.calendars import CalendarsConfig, VenueConfig
from marketd.cli.main import cli
from marketd.config import VARIABLES, Config, SourcesConfig, SymbolScenario, load_config
from marketd.ingest.validate import REASONS
from marketd.model import BUILT_INTERVALS, INTERVALS, MISSING_REASONS, BarStatus
from marketd.sources.registry import BUILT_IN, provider_entry
from marketd.wire import close_codes, messages

_REPO = Path(__file__).resolve().parent.parent


def page(name: str) -> str:
    return (_REPO / "docs" / name).read_text(encoding="utf-8")


def structs_in(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The Structs of an annotation, and those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
        for inner in get_type_hints(annotation).values():
            yield from structs_in(inner)
    for part in get_args(annotation):
        yield from structs_in(part)


@pytest.mark.parametrize("kind", dict.fromkeys(structs_in(Config)), ids=lambda kind: kind.__name__)
def test_every_setting_is_documented(kind: type[msgspec.Struct]) -> None:
    text = page("configuration.md")
    unwritten = {Config: {"demo"}, SymbolScenario: {"symbol"}, SourcesConfig: {"providers"}}.get(kind, set())
    missing = [f for f in kind.__struct_fields__ if f not in unwritten and not re.search(rf"[`{{ .]{f}[`:]", text)]
    assert missing == []


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_provider_has_a_page_with_its_settings(name: str) -> None:
    readme = f"src/marketd/sources/{name}/README.md"
    common = page("configuration.md")
    assert f"(../{readme})" in common
    text = common + (_REPO / readme).read_text(encoding="utf-8")
    entry = provider_entry(name)
    settings = [*entry.config.__struct_fields__, *entry.secrets]
    assert [f for f in settings if not re.search(rf"[`{{ .]{f}[`:=]", text)] == []


def documented_defaults(section: str) -> dict[str, str]:
    """Setting to default, both as they are written in the table under the heading of a section."""
    part = re.search(rf"^##+ `{section}`$(.*?)(?=^##|\Z)", page("configuration.md"), re.MULTILINE | re.DOTALL)
    assert part is not None
    defaults: dict[str, str] = {}
    for names, values in re.findall(r"^\| (`[^|]+`) \| (`[^|]+`) \|", part[1], re.MULTILINE):
        pairs = zip(re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", values), strict=True)
        defaults.update(pairs)
    return defaults


_TABLES = [
    name for name in Config.__struct_fields__ if name not in ("sources", "demo") and not name.endswith("_url")
]  # sources have pages of their own


@pytest.mark.parametrize("section", _TABLES)
def test_documented_defaults_are_those_of_the_code(section: str, tmp_path: Path) -> None:
    defaults = documented_defaults(section)
    expected = getattr(Config(), section)
    assert sorted(defaults) == sorted(expected.__struct_fields__)
    file = tmp_path / "marketd.yaml"
    file.write_text(f"{section}:\n" + "".join(f"  {k}: {v}\n" for k, v in defaults.items()), encoding="utf-8")
    assert getattr(load_config(file, {}), section) == expected


def test_documented_defaults_of_timescale_and_of_venues_are_those_of_the_code(tmp_path: Path) -> None:
    hours = {"time_zone": "UTC", "open": "Mon 08:00", "close": "Fri 16:00"}
    timescale, venue = documented_defaults("postgres.timescale"), documented_defaults("calendars.venues")
    lines = ["postgres:", "  timescale:", *(f"    {k}: {v}" for k, v in timescale.items())]
    lines += ["calendars:", "  venues:", "    DESK:", *(f"      {k}: {v}" for k, v in (hours | venue).items())]
    file = tmp_path / "marketd.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    config = load_config(file, {})
    assert sorted(timescale) == sorted(config.postgres.timescale.__struct_fields__)
    assert sorted(hours | venue) == sorted(VenueConfig.__struct_fields__)
    assert config.postgres == Config().postgres
    assert config.calendars == CalendarsConfig(venues={"DESK": VenueConfig(**hours)})


def test_every_variable_of_the_environment_is_documented() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| `([^`]+)` \|$", page("configuration.md"), re.MULTILINE)
    assert dict(rows) == VARIABLES
    assert len(rows) == len(VARIABLES)


def test_every_status_reason_and_interval_is_documented() -> None:
    text = page("model.md")
    words = [*get_args(BarStatus), *MISSING_REASONS, *(interval.name for interval in INTERVALS)]
    assert [word for word in words if f"`{word}`" not in text] == []


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
        *_REPO.glob("*.md"),
        _REPO / "bench" / "README.md",
        *(_REPO / "docs").rglob("*.md"),
        *(_REPO / "src").rglob("README.md"),
    ]:
        targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", source.read_text(encoding="utf-8"))
        broken += [f"{source.relative_to(_REPO)}: {t}" for t in targets if not (source.parent / t).exists()]
    assert broken == []


def test_the_example_configuration_is_accepted() -> None:
    config = load_config(_REPO / "examples" / "desk.yaml", {})
    assert sorted(config.market_data.scenarios) == ["AAPL", "NOK", "TSLA"]
    assert "coinbase" in config.sources.providers
    assert config.sources.providers["coinbase"].symbols == ("BTC-USD", "ETH-USD")
    assert config.market_data.faults.delay_ms_range == (100, 500)


def test_every_page_is_in_the_table_of_the_readme() -> None:
    text = (_REPO / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in (_REPO / "docs").glob("*.md") if f"](docs/{p.name})" not in text] == []


def test_every_command_is_in_the_readme() -> None:
    text = (_REPO / "README.md").read_text(encoding="utf-8")
    names = []
    for name, command in cli.commands.items():
        names += [f"{name} {inner}" for inner in command.commands] if isinstance(command, click.Group) else [name]
    at_home_in_both = {"store import", "store export"}
    assert [name for name in names if f"`marketd {name}`" not in text and name not in at_home_in_both] == []


def test_the_rooms_and_modules_of_the_architecture_are_those_of_the_code() -> None:
    text, package = page("architecture.md"), _REPO / "src" / "marketd"
    leaves = {"__init__", "__main__", "errors", "clock", "telemetry"}
    rooms = {path.name for path in package.glob("*.py") if path.stem not in leaves}
    rooms |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert [room for room in sorted(rooms) if not re.search(rf"^  {re.escape(room)} ", text, re.MULTILINE)] == []

    wrong = []
    for module in set(re.findall(r"`([a-z]\w*/[\w/.]+)`", text)):
        path, _, name = module.removesuffix(".py").partition(".")
        file = package / f"{path}.py"
        if not (file.exists() or (package / path).is_dir()) or (name and f"def {name}(" not in file.read_text()):
            wrong.append(module)
    assert wrong == []


def test_the_layers_of_the_architecture_are_those_that_are_checked() -> None:
    project = tomllib.loads((_REPO / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    foreseen = re.compile(r"\(\w+\)( \| )?|( \| )\(\w+\)")
    expected = " > ".join(foreseen.sub("", layer) for layer in layers if layer != "__main__")
    assert f"`{expected}`" in " ".join(page("architecture.md").split())


def run(command: str | list[str], data_dir: Path) -> str:
    """What it printed, or the last line of what it complained."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | {"MARKETD_DATA_DIR": str(data_dir)}
    ended = subprocess.run(
        command,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=_REPO,
        env=environment,
    )
    return ended.stdout.strip() or ended.stderr.strip().rpartition("\n")[2]


def shown(expected: str) -> re.Pattern[str]:
    """Text of the README, in which `…` stands for anything."""
    return re.compile(".*".join(map(re.escape, expected.split("…"))), re.DOTALL)


def test_the_tour_of_history_in_the_readme_is_true(start_server, tmp_path: Path) -> None:
    readme = (_REPO / "README.md").read_text(encoding="utf-8")
    tour = readme.split("## Three minutes: history")[1].split("\n## ")[0]
    data_dir = tmp_path / "marketd-data"
    here = {"/tmp/": f"{tmp_path}/", "marketd-data": str(data_dir), ".venv/bin/marketd": f"{sys.executable} -m marketd"}
    for there, instead in here.items():
        tour = tour.replace(there, instead)
    server = None
    commands = programs = 0
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", tour, re.MULTILINE | re.DOTALL):
        if kind == "python":
            assert server is not None
            program = block.replace("http://127.0.0.1:8001", server.url)
            printed = run([sys.executable, "-c", program], data_dir)
            assert re.search(r"^19 \['symbol'|21:56:00\S* *│ *1\.1539 ", printed, re.MULTILINE), printed
            programs += 1
            continue
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            if command.endswith(" serve"):
                server = start_server(config=_SIMULATED, data_dir=data_dir)
                continue
            if command.startswith("curl "):
                assert server is not None
                url = shlex.split(command)[-1].replace("localhost:8001", server.url)
                with urllib.request.urlopen(url, timeout=10) as answer:
                    printed = answer.read().decode()
            else:
                printed = run(command, data_dir)
            assert shown(expected.strip()).fullmatch(printed), f"{command}\n{printed}"
            commands += 1
    assert (commands, programs) == (10, 2)

    assert server is not None
    asked = ["EURUSD", "--from", "2026-11-13T21:50:00Z", "--to", "2026-11-15T22:10:00Z", "--server", server.url]
    example = [sys.executable, "examples/read_history.py", *asked]
    last = "the last became known at 2026-11-1"
    assert f"{last}7T09:00:00" in run(example, data_dir)
    assert f"{last}6T08:00:00" in run([*example, "--as-of", "2026-11-17"], data_dir)


_SIMULATED = """
market_data:
  symbols:
    AAPL: {scenario: volatile, base_price: "150.00"}
"""
