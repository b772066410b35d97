"""`marketd universe`: read a universe file, show what is kept, write a state of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marketd.cli.given import config_option, time_ns
from marketd.cli.tables import table_lines

if TYPE_CHECKING:
    from marketd.collect.universe import UniverseChanges
    from marketd.config import Config
    from marketd.model import Instrument

__all__ = ["universe"]

_SHOWN = 20


def _config_of(path: Path | None) -> Config:
    from marketd.config import load_config

    return load_config(path)


@click.group()
def universe() -> None:
    """The instruments, their names over time and their tiers."""


@universe.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@config_option
def load(file: Path, config_path: Path | None, *, dry_run: bool) -> None:
    """Make a CSV file the universe; the state before stays readable.

    \b
    marketd universe load universe.csv --dry-run
    """
    from marketd.app.stores import open_records
    from marketd.clock import SystemClock
    from marketd.collect.universe import read_universe, update_universe

    config = _config_of(config_path)
    said = read_universe(file)
    with open_records(config) as records:
        done = update_universe(records, said, config.universe, as_of_ns=SystemClock().time_ns(), dry_run=dry_run)
    for warning in done.warnings:
        click.echo(f"{file}: {warning}", err=True)
    _show_changes(done.changes)
    tiers = {tier: sum(i.active and i.tier == tier for i in done.instruments) for tier in ("T0", "T1", "T2")}
    active = ", ".join(f"{count:,} {tier}" for tier, count in tiers.items())
    click.echo(f"{len(done.instruments):,} instruments, {sum(tiers.values()):,} active ({active})")
    if done.version is None:
        click.echo("dry run: nothing was kept")
    else:
        click.echo(f"version {done.version.version}")


def _show_changes(found: UniverseChanges) -> None:
    lines: list[tuple[str, Sequence[str]]] = [
        ("added", found.added),
        ("removed", found.removed),
        ("renamed", [f"{old} → {new}" for old, new in found.renamed]),
        ("tier moves", [f"{symbol} {old} → {new}" for symbol, old, new in found.tiers]),
        ("other changes", found.others),
    ]
    for word, names in lines:
        if names:
            rest = f", … {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
            click.echo(f"{word} {len(names):,}: {', '.join(names[:_SHOWN])}{rest}")
    if not any(names for _, names in lines):
        click.echo("no changes")


@universe.command("list")
@click.option("--tier", type=click.Choice(["T0", "T1", "T2"]), help="Only of this tier.")
@click.option("--exchange", help="Only of this exchange (MIC or venue).")
@click.option("--versions", is_flag=True, help="The versions instead of the instruments.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON array.")
@config_option
def list_(tier: str | None, exchange: str | None, config_path: Path | None, *, versions: bool, as_json: bool) -> None:
    """The present universe, by symbol."""
    from marketd.app.stores import open_records

    with open_records(_config_of(config_path)) as records:
        if versions:
            rows = [_version_row(version) for version in records.universe_versions()]
        else:
            wanted = [
                i
                for i in records.universe()
                if (tier is None or i.tier == tier) and (exchange is None or i.exchange == exchange)
            ]
            rows = [_instrument_row(instrument) for instrument in wanted]
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(rows))
    else:
        _show_table(rows)


def _version_row(version: Any) -> dict[str, Any]:
    from marketd.model import format_ns

    return {
        "version": version.version,
        "as_of": format_ns(version.as_of_ns),
        "source": version.source,
        "instruments": version.instruments,
        "active": version.active,
        "changed": version.changed,
    }


def _instrument_row(instrument: Instrument) -> dict[str, Any]:
    from marketd.model import format_ns

    def shown(time_ns: int | None) -> str | None:
        return None if time_ns is None else format_ns(time_ns)

    return {
        "symbol": instrument.symbol,
        "id": instrument.id,
        "exchange": instrument.exchange,
        "asset_class": instrument.asset_class,
        "currency": instrument.currency,
        "tier": instrument.tier,
        "active": instrument.active,
        "rank": instrument.rank,
        "names": [
            {"symbol": name.symbol, "start": shown(name.start_ns), "end": shown(name.end_ns)}
            for name in instrument.names
        ],
    }


def _show_table(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        click.echo("none")
        return
    for line in table_lines(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]):
        click.echo(line)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{name['symbol']} until {name['end'][:10]}" for name in value) or "-"
    return str(value)


@universe.command()
@click.option("--version", type=int, help="This version.  [default: the present one]")
@click.option("--as-of", metavar="TIME", help="The one known at a time (2026-11-20 or 2026-11-20T14:30:00Z).")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, allow_dash=True), help="CSV to write, - for stdout."
)
@config_option
def snapshot(version: int | None, as_of: str | None, out: Path, config_path: Path | None) -> None:
    """Write a state of the universe as a file that `load` reads, and say how it differs from the one before."""
    from marketd.app.stores import open_records
    from marketd.collect.universe import changes, universe_csv
    from marketd.errors import InvalidInput
    from marketd.model import format_ns

    if version is not None and as_of is not None:
        raise click.UsageError("--version and --as-of exclude one another")
    as_of_ns = None if as_of is None else time_ns("--as-of", as_of)
    with open_records(_config_of(config_path)) as records:
        known = [v for v in records.universe_versions() if as_of_ns is None or v.as_of_ns <= as_of_ns]
        number = len(known) if version is None else version
        if not 1 <= number <= len(known):
            field, given = ("--as-of", as_of) if version is None else ("--version", version)
            there = (
                f"1 to {len(known)}" if known else "a time at which there was a universe; see `marketd universe list`"
            )
            raise InvalidInput(field, given, there)
        instruments = records.universe(version=number)
        before = records.universe(version=number - 1) if number > 1 else ()
    text = universe_csv(instruments)
    if str(out) == "-":
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidInput("--out", str(out), f"a file that can be written ({error.strerror})") from error
    its = known[number - 1]
    _show_changes(changes(before, instruments))
    click.echo(
        f"version {number} of {format_ns(its.as_of_ns)} ({its.source}): {its.instruments:,} instruments in {out}"
    )
