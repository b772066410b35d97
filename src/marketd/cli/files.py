"""`marketd import` and `marketd export`: history from files and into files."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from marketd.cli.given import config_option, interval_of, time_ns

__all__ = ["export_bars", "import_files"]

_EXAMPLES_SHOWN = 5


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--symbol", help="Symbol of every bar; without it a column's, or of a file named like AAPL.csv.")
@click.option("--interval", help="Length of the bars; by default from their spacing.")
@click.option("--provider", help="Under which the bars are kept.  [default: the file's column, else file]")
@click.option("--timezone", help="Of times without an offset, such as America/New_York, and of daily bars' midnights.")
@click.option("--stamp", type=click.Choice(["start", "end"]), help="What the stamps are of the bar.  [default: start]")
@click.option("--date-format", help="DD/MM/YYYY, MM/DD/YYYY, strptime directives, or s, ms, us, ns since 1970.")
@click.option("--column", "columns", multiple=True, metavar="OURS=THEIRS", help="ts=Date, open=2 … Repeatable.")
@click.option("--delimiter", help="Between fields of CSV: a character, tab or space.  [default: found out]")
@click.option("--decimal", type=click.Choice([".", ","]), help="Decimal mark; by default from the numbers.")
@click.option("--side", type=click.Choice(["trade", "bid", "ask"]), help="What the prices are.  [default: trade]")
@click.option("--adjusted", is_flag=True, help="The prices are adjusted already: keep them apart from raw ones.")
@click.option("--as-of", help="When the bars became known, or `file` for its own column.  [default: now]")
@click.option("--calendar", help="Whose sessions the times are checked against, such as XNYS.  [default: the symbol's]")
@click.option("--observations", "series", metavar="SERIES", help="The files hold values of a series, not bars.")
@click.option("--actions", is_flag=True, help="The files hold splits, dividends and renames, not bars.")
@click.option("--dry-run", is_flag=True, help="Show how the files are understood, and keep nothing.")
@config_option
def import_files(
    files: tuple[str, ...],
    columns: tuple[str, ...],
    calendar: str | None,
    series: str | None,
    actions: bool,
    dry_run: bool,
    config_path: Path | None,
    **told: Any,
) -> None:
    """Keep the history that is in files: CSV, JSON lines (both also .gz), Parquet, Arrow, DBN.

    Columns, times and spacing are found out from each file; what it leaves open is asked. Try --dry-run first. A line
    that cannot be read is refused and the rest goes on. Importing a file again changes nothing.

    \b
    marketd import AAPL.csv --timezone America/New_York --dry-run
    marketd import minutes.csv.gz --symbol CL --timezone America/New_York --stamp end
    marketd import eurusd.csv --symbol EURUSD --column ts=Gmt --date-format DD/MM/YYYY
    marketd import vix_revisions.csv --observations VIX

    Exit codes: 0 done, 1 some file had nothing that could be kept, 2 a file was not understood.
    """
    from marketd.sources.files import FileOptions

    if series is not None and actions:
        raise click.UsageError("--observations and --actions exclude each other")
    told["delimiter"] = {"tab": "\t", "\\t": "\t", "space": " "}.get(told["delimiter"], told["delimiter"])
    options = FileOptions(columns=_mapping(columns), **told)
    if series is not None or actions:
        done = asyncio.run(_import_facts(files, series, options, config_path, dry_run=dry_run))
    else:
        done = asyncio.run(_import_bars(files, options, calendar, config_path, dry_run=dry_run))
    if not done:
        raise click.exceptions.Exit(1)


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    mapping = {}
    for text in columns:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise click.BadParameter(f"{text!r} is not OURS=THEIRS", param_hint="--column")
        mapping[ours.strip()] = theirs
    return mapping


async def _import_bars(
    files: Sequence[str], options: Any, calendar: str | None, config_path: Path | None, *, dry_run: bool
) -> bool:
    from marketd.calendars import Calendars
    from marketd.clock import SystemClock
    from marketd.collect.importer import import_file
    from marketd.config import load_config
    from marketd.sources.files import understand

    config = load_config(config_path)
    calendars = Calendars(config.calendars)
    calendar_of = calendars.of if calendar is None else _always(calendars.named(calendar))
    plans = []
    for path in files:  # all of them, before the first bar is kept
        with _bar(f"{path}: looking", Path(path)) as progress:
            plan = understand(path, options, progress)
        plans.append(plan)
        if dry_run:
            click.echo(path)
            _say(plan.describe())
    if dry_run:
        summaries = [await import_file(plan, None, clock=SystemClock(), calendar_of=calendar_of) for plan in plans]
        for summary in summaries:
            _summarise(summary, dry_run=True)
        return all(summary.readable for summary in summaries)

    from marketd.app import open_offline

    done = True
    async with open_offline(config) as engine:
        if calendar is None:
            calendar_of = engine.room.calendar_of  # knows the universe too
        for plan in plans:
            with _bar(f"{plan.path}: importing", Path(plan.path)) as progress:
                summary = await import_file(plan, engine.keep, progress, clock=SystemClock(), calendar_of=calendar_of)
            _summarise(summary, dry_run=False)
            done = done and summary.accepted > 0
    return done


def _always(calendar: Any) -> Callable[[str], Any]:
    return lambda _: calendar


def _say(lines: Sequence[tuple[str, str]]) -> None:
    for word, meaning in lines:
        click.echo(f"  {word:<10}{meaning}")


def _summarise(summary: Any, *, dry_run: bool) -> None:
    from marketd.model import format_ns

    lines = [("rows", f"{summary.rows:,}")]
    if dry_run:
        lines.append(
            ("bars", f"{summary.readable:,} can be read; whether they are believed is seen when they are kept")
        )
    else:
        unchanged = summary.accepted - summary.new_versions
        lines.append(("kept", f"{summary.accepted:,} bars: {summary.new_versions:,} new, {unchanged:,} known before"))
    if summary.first_ns is not None:
        lines.append(("first", format_ns(summary.first_ns)))
        lines.append(("last", format_ns(summary.last_ns)))
    lines += _refused(summary.refused, [(r.reason, r.where, r.detail) for r in summary.quarantined])
    lines += _adjustment(summary.adjustment)
    lines += [("note", note) for note in summary.notes]
    click.echo(f"{summary.path}{': nothing was kept (dry run)' if dry_run else ''}")
    _say(lines)


def _adjustment(findings: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Where the adjusted closes, dividends and splits of a file contradict one another."""
    from collections import Counter

    from marketd.model import format_ns

    for code, count in sorted(Counter(finding.code for _, finding in findings).items()):
        yield "doubtful", f"{count:,} {code}"
    for symbol, finding in findings[:_EXAMPLES_SHOWN]:
        rows = f"{finding.rows:,} row{'s' * (finding.rows != 1)} up to {format_ns(finding.end_ns)[:10]}"
        yield "", f"{symbol} {format_ns(finding.at_ns)[:10]}: {finding.code}: {finding.detail} ({rows})"


def _refused(counts: Mapping[str, int], examples: Sequence[tuple[str, str | None, str]]) -> Iterator[tuple[str, str]]:
    for reason, count in sorted(counts.items()):
        yield "refused", f"{count:,} {reason}"
    for reason, where, detail in examples[:_EXAMPLES_SHOWN]:
        yield "", f"{where}: {reason}: {detail}"


async def _import_facts(
    files: Sequence[str], series: str | None, options: Any, config_path: Path | None, *, dry_run: bool
) -> bool:
    from collections import Counter

    from marketd.app import open_offline
    from marketd.clock import SystemClock
    from marketd.config import load_config
    from marketd.model import parse_ns
    from marketd.sources.files.reference import read_actions, read_observations

    provider = options.provider or "file"
    as_of_ns = SystemClock().time_ns() if options.as_of in (None, "file") else parse_ns(options.as_of)

    def facts(path: str) -> Iterator[tuple[Any, int, Any]]:
        if series is None:
            for batch in read_actions(path, provider=provider, as_of_ns=as_of_ns, options=options):
                yield batch.actions, batch.rows, batch.refused
        else:
            for found in read_observations(path, series, provider=provider, as_of_ns=as_of_ns, options=options):
                yield found.table, found.rows - found.skipped, found.refused

    async def go(add: Callable[[Any], int] | None) -> bool:
        done = True
        for path in files:
            rows = kept = new = 0
            refused: Counter[str] = Counter()
            examples: list[tuple[str, str | None, str]] = []
            for good, count, bad in facts(path):
                rows += count
                kept += len(good)
                new += await asyncio.to_thread(add, good) if add is not None and len(good) else 0
                refused.update(row.reason for row in bad)
                examples += [(row.reason, f"{path}:{row.line}", row.detail) for row in bad[:_EXAMPLES_SHOWN]]
            click.echo(f"{path}{': nothing was kept (dry run)' if dry_run else ''}")
            lines = [("rows", f"{rows:,}"), ("read", f"{kept:,}")]
            lines += [] if dry_run else [("kept", f"{new:,} new, {kept - new:,} known before")]
            _say([*lines, *_refused(refused, examples)])
            done = done and kept > 0
        return done

    if dry_run:
        return await go(None)
    async with open_offline(load_config(config_path)) as engine:
        return await go(engine.records.add_actions if series is None else engine.records.add_observations)


@click.command("export")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option("--symbol", "symbols", multiple=True, help="Only this one (repeatable).  [default: all]")
@click.option("--interval", default="1m", show_default=True, help="Length of the bars.")
@click.option("--from", "start", help="First start of a bar, RFC 3339 or a date (UTC).")
@click.option("--to", "end", help="Starts of bars are before this.")
@click.option("--side", default="trade", show_default=True, type=click.Choice(["trade", "bid", "ask", "all"]))
@click.option("--as-of", help="As it was known at this time.")
@click.option("--versions", is_flag=True, help="Every version of every bar, withdrawn ones too.")
@click.option("--prefer", multiple=True, help="Provider whose bar wins where several have one (repeatable).")
@click.option(
    "--format", "file_format", type=click.Choice(["parquet", "csv", "arrow"]), help="By default what the name ends in."
)
@config_option
def export_bars(
    out: Path,
    symbols: tuple[str, ...],
    interval: str,
    start: str | None,
    end: str | None,
    side: str,
    as_of: str | None,
    versions: bool,
    prefer: tuple[str, ...],
    file_format: Any,
    config_path: Path | None,
) -> None:
    """Write stored bars to one file that `marketd import` and other programs can read.

    The file appears when it is complete; one that was there before stays until then.

    \b
    marketd export --out aapl.parquet --symbol AAPL --from 2026-01-01
    marketd export --out day.csv.gz --interval 5m --from 2026-11-20 --to 2026-11-21
    """
    from marketd.store.export import ExportQuery

    query = ExportQuery(
        interval=interval_of("--interval", interval),
        symbols=tuple(dict.fromkeys(symbols)),
        start_ns=None if start is None else time_ns("--from", start),
        end_ns=None if end is None else time_ns("--to", end),
        side=side,
        as_of_ns=None if as_of is None else time_ns("--as-of", as_of),
        versions=versions,
        prefer=prefer,
    )
    summary = asyncio.run(_export(query, out, file_format, config_path))
    size = f"{summary.bytes / 1_000_000:,.1f} MB"
    click.echo(f"{summary.rows:,} bars of {summary.symbols:,} symbols in {summary.path} ({summary.format}, {size})")
    if not summary.rows:
        raise click.exceptions.Exit(1)


async def _export(query: Any, out: Path, file_format: Any, config_path: Path | None) -> Any:
    from marketd.app import open_offline
    from marketd.config import load_config
    from marketd.store.export import export

    async with open_offline(load_config(config_path)) as engine:
        length = len(query.symbols or engine.store.symbols())
        with click.progressbar(length=length, label="Exporting", file=sys.stderr) as bar:
            return await asyncio.to_thread(
                export, engine.store, query, out, file_format, lambda done, _rows: bar.update(done)
            )


@contextmanager
def _bar(label: str, path: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar over the bytes of a file, on a terminal."""
    try:
        length = path.stat().st_size
    except OSError:
        length = 0  # what is wrong with it is said by who reads it
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update
