"""`marketd gaps`: what is missing of history and why, from a running server or from the data directory."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marketd.cli.asking import NoAnswer, error_words, server_url
from marketd.cli.given import config_option, interval_of, time_ns
from marketd.cli.tables import table_lines

if TYPE_CHECKING:
    from marketd.config import Config
    from marketd.model import Interval

__all__ = ["gaps"]

_TIMEOUT_S = 60.0
_ROWS_SHOWN = 50


@click.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]…")
@click.option("--interval", "interval_text", default="1m", show_default=True, help="Length of the bars.")
@click.option("--from", "start_text", metavar="TIME", help="Date or RFC 3339 time.  [default: a day before --to]")
@click.option("--to", "end_text", metavar="TIME", help="The same; itself not in the range.  [default: now]")
@click.option(
    "--side", type=click.Choice(["trade", "bid", "ask"]), help="By default trade, or bid if only these exist."
)
@click.option("--closed", is_flag=True, help="Tell closed time too (of named symbols).")
@click.option("--json", "as_json", is_flag=True, help="The whole account as JSON.")
@click.option("--server", metavar="URL", help="Ask this server, such as http://127.0.0.1:8001, not the data directory.")
@config_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where history is kept.")
def gaps(
    symbols: tuple[str, ...],
    interval_text: str,
    start_text: str | None,
    end_text: str | None,
    side: str | None,
    server: str | None,
    config_path: Path | None,
    data_dir: Path | None,
    *,
    closed: bool,
    as_json: bool,
) -> None:
    """Show which bars are missing and why; of every symbol of the universe when none is named.

    Ends with 0 when everything that traded is there, 1 when something is missing, 2 when nobody could say.

    \b
    marketd gaps AAPL --from 2026-11-16 --to 2026-11-21
    marketd gaps --interval 1d --from 2026-01-01 --server http://127.0.0.1:8001
    """
    from marketd.clock import SystemClock

    interval = interval_of("--interval", interval_text)
    end_ns = SystemClock().time_ns() if end_text is None else time_ns("--to", end_text)
    start_ns = end_ns - 86_400 * 10**9 if start_text is None else time_ns("--from", start_text)
    if start_ns >= end_ns:
        raise click.BadParameter("is not before --to", param_hint="--from")
    asked = _Asked(symbols, interval, start_ns, end_ns, side, closed=closed)
    answers = _of_data_dir(asked, config_path, data_dir) if server is None else asked.of_server(server_url(server))
    if as_json:
        click.echo(json.dumps(answers if symbols else answers[0], indent=2))
    elif symbols:
        click.echo("\n\n".join(_ledger_text(answer) for answer in answers))
    else:
        click.echo(_overview_text(answers[0]))
    if not all(answer["complete"] for answer in answers):
        sys.exit(1)


class _Asked:
    """The question, and the two who can be asked. Answers are `Ledger.as_json` of each symbol, or one
    `HeatMap.as_json`."""

    def __init__(
        self, symbols: tuple[str, ...], interval: Interval, start_ns: int, end_ns: int, side: Any, *, closed: bool
    ) -> None:
        self._symbols = symbols
        self._interval = interval
        self._start_ns = start_ns
        self._end_ns = end_ns
        self._side = side
        self._closed = closed

    def of_server(self, url: str) -> list[dict[str, Any]]:
        from marketd.model import format_ns

        query = {"interval": self._interval.name, "from": format_ns(self._start_ns), "to": format_ns(self._end_ns)}
        if self._side is not None:
            query["side"] = self._side
        if not self._symbols:
            return [_get(f"{url}/ops/continuity?{urllib.parse.urlencode(query)}")]
        if self._closed:
            query["closed"] = "yes"
        tail = urllib.parse.urlencode(query)
        return [_get(f"{url}/ops/continuity/{urllib.parse.quote(s, safe='')}?{tail}") for s in self._symbols]

    def of_stores(self, config: Config) -> list[dict[str, Any]]:
        return asyncio.run(self._of_stores(config))

    async def _of_stores(self, config: Config) -> list[dict[str, Any]]:
        from marketd.app.offline import open_offline

        async with open_offline(config) as engine:
            service, times = engine.ledger, (self._interval, self._start_ns, self._end_ns)
            if not self._symbols:
                return [service.heat_map(*times, side=self._side).as_json()]
            return [service.ledger(s, *times, side=self._side, closed=self._closed).as_json() for s in self._symbols]


def _of_data_dir(asked: _Asked, config_path: Path | None, data_dir: Path | None) -> list[dict[str, Any]]:
    import msgspec

    from marketd.config import ServerConfig, load_config
    from marketd.errors import StoreLocked

    config = load_config(config_path)
    if data_dir is not None:
        server = ServerConfig(**msgspec.to_builtins(config.server) | {"data_dir": str(data_dir)})
        config = msgspec.structs.replace(config, server=server)
    try:
        return asked.of_stores(config)
    except StoreLocked as error:
        url = f"http://{config.server.host}:{config.server.port}"
        raise NoAnswer(f"{error}; ask the running server: --server {url}") from error


def _get(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked by server_url
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        with error:
            raise NoAnswer(f"{url} answered {error.code}: {error_words(error.read())}") from error
    except (OSError, ValueError) as error:
        raise NoAnswer(f"{url} gave no answer: {error}") from error


def _ledger_text(ledger: dict[str, Any]) -> str:
    counted = f" counted in {ledger['base']} bars" if ledger["base"] != ledger["interval"] else ""
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in ledger["missing"].items() if n)
    absent = ledger["expected"] - ledger["present"]
    lines = [
        f"{ledger['symbol']} {ledger['interval']}{counted}, {ledger['side']}, calendar {ledger['calendar']}",
        f"{ledger['start']} to {ledger['end']}",
        f"expected {ledger['expected']:,}, present {ledger['present']:,}, absent {absent:,}"
        + (f" ({reasons})" if reasons else "")
        + (f", outside of the session {ledger['outside']:,}" if ledger["outside"] else ""),
    ]
    rows = [(s["start"], s["end"], f"{s['count']:,}", s["reason"]) for s in ledger["spans"][:_ROWS_SHOWN]]
    if rows:
        lines += _indented(("start", "end", "bars", "reason"), rows)
        lines += _more(len(ledger["spans"]) - len(rows))
    lines += [f"{c['provider']}: continuous until {c['until']}" for c in ledger["cursors"]]
    lines.append("complete" if ledger["complete"] else "not complete")
    return "\n".join(lines)


def _overview_text(heat: dict[str, Any]) -> str:
    missing = [sum(row) for row in heat["missing"]]
    rows = []
    for n in (n for n, count in enumerate(missing) if count):
        days = [day for day, count in zip(heat["days"], heat["missing"][n], strict=True) if count]
        counts = (sum(heat["expected"][n]), sum(heat["present"][n]), sum(heat["explained"][n]), missing[n])
        rows.append((heat["symbols"][n], *(f"{count:,}" for count in counts), f"{len(days):,}", days[0]))
    lines = []
    if rows:
        head = ("symbol", "expected", "present", "no trades", "missing", "days", "first")
        lines += _indented(head, rows[:_ROWS_SHOWN])
        lines += _more(len(rows) - _ROWS_SHOWN)
    lines += [f"{symbol}: {why}" for symbol, why in list(heat["unknown"].items())[:_ROWS_SHOWN]]
    lines += _more(len(heat["unknown"]) - _ROWS_SHOWN)
    lines.append(
        f"{len(heat['symbols']):,} symbols, {heat['interval']}: {len(rows):,} with gaps, {sum(missing):,} bars missing"
    )
    return "\n".join(lines)


def _indented(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["  " + line for line in table_lines(head, rows)]


def _more(count: int) -> list[str]:
    return [f"  … and {count:,} more (--json shows all)"] if count > 0 else []
