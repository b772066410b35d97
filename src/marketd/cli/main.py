"""`marketd`: arguments to `app`. Exit codes: 0 done, 1 failed on the way, 2 could not start (one line says why)."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from marketd import __version__
from marketd.cli.backfill import backfill
from marketd.cli.files import export_bars, import_files
from marketd.cli.gaps import gaps
from marketd.cli.migrate import migrate
from marketd.cli.store import store
from marketd.cli.universe import universe
from marketd.config import Config, ServerConfig, SourcesConfig, load_config
from marketd.errors import ConfigError, InvalidInput, MarketDataError

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="marketd")
def cli() -> None:
    """A self-hosted market-data server: live quotes and trustworthy history from every provider."""


for _command in (universe, import_files, export_bars, gaps, backfill, store, migrate):
    cli.add_command(_command)
for _command in (import_files, export_bars):  # at home in both places
    store.add_command(_command)


@cli.command()
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="YAML file; without one a demo is served."
)
@click.option("--host", help="Loopback address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on, 0 for a free one.  [default: 8001]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where history is kept.  [default: ./marketd-data]")
@click.option(
    "--replay",
    "replay",
    multiple=True,
    metavar="FILE…",
    help="Serve recorded ticks or bars instead; FILE or FILE=SYMBOL (csv, csv.gz, parquet, jsonl). Repeatable; "
    "further files may follow as arguments.",
)
@click.argument("more_files", nargs=-1, metavar="")
@click.option(
    "--speed", default="1", show_default=True, help="Replay so many times faster, or `max` for as fast as it goes."
)
@click.option(
    "--shift/--keep", default=False, help="Replay as if it happened now, or with the recorded times (default)."
)
@click.option("--loop", is_flag=True, help="Start the recording over at its end.")
@click.option(
    "--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]), show_default=True
)
def serve(
    config_path: Path | None,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    replay: tuple[str, ...],
    more_files: tuple[str, ...],
    speed: str,
    shift: bool,
    loop: bool,
    log_level: str,
) -> None:
    """Serve quotes, bars and the live page until SIGTERM or Ctrl-C.

    \b
    marketd serve                                    the demo on http://127.0.0.1:8001
    marketd serve --config desk.yaml
    marketd serve --replay EURUSD.csv.gz --speed 60
    """
    if more_files and not replay:
        raise click.UsageError(f"unexpected argument {more_files[0]!r}; files to replay follow --replay")
    _start_logging(log_level)

    def load() -> Config:
        config = load_config(config_path)
        given = {"host": host, "port": port, "data_dir": None if data_dir is None else str(data_dir)}
        merged = msgspec.to_builtins(config.server) | {k: v for k, v in given.items() if v is not None}
        config = msgspec.structs.replace(config, server=ServerConfig(**merged))
        if not replay:
            return config
        files = (*replay, *more_files)
        return _with_replay(config, files, speed, shift=shift, loop=loop, alone=config_path is None)

    config = load()
    if config.demo:
        click.echo(
            "No --config given: serving the demo (simulated AAPL, TSLA, SPY; live crypto where it can be reached)."
        )
    try:
        _run(config, load)
    except ConfigError:
        raise
    except InvalidInput as error:  # what only using it could show, such as a recording that is not there
        if config_path is None or replay:
            raise
        raise ConfigError(str(config_path), error.field, error.value, error.allowed) from error


def _with_replay(config: Config, files: Sequence[str], speed: str, *, shift: bool, loop: bool, alone: bool) -> Config:
    """The recording as a source; alone, it takes the place of the demo."""
    from marketd.sources.replay import ReplayConfig, ReplayFile

    try:
        pace = None if speed == "max" else float(speed)
    except ValueError as error:
        raise click.BadParameter(f"{speed!r} is neither a number nor `max`", param_hint="--speed") from error
    replay = ReplayConfig(
        files=tuple(ReplayFile.parse(f) for f in files), speed=pace, times="shifted" if shift else "kept", loop=loop
    )
    if alone:
        return Config(server=config.server, redis_url=config.redis_url, sources=SourcesConfig(replay=replay))
    return msgspec.structs.replace(config, sources=msgspec.structs.replace(config.sources, replay=replay))


def _run(config: Config, load: Callable[[], Config]) -> None:
    from marketd.app import Server, listen
    from marketd.app import serve as serve_forever

    host, port = config.server.host, config.server.port
    try:
        listener = listen(host, port)
    except OSError as error:
        raise _CannotStart(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        server = Server(config, load=load)
        shown = f"[{host}]" if ":" in host else host
        click.echo(
            f"marketd {__version__} on http://{shown}:{listener.getsockname()[1]}  (data in {config.server.data_dir})"
        )
        _run_loop(lambda: serve_forever(server, listener))
    finally:
        listener.close()


@cli.command()
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write: .jsonl, .jsonl.gz or .parquet."
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="YAML file that says which sources.")
@click.option("--source", "names", multiple=True, help="Record only this source (repeatable).")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.")
def record(out: Path, config_path: Path | None, names: tuple[str, ...], seconds: float | None) -> None:
    """Write what the sources send, raw and with receive times, so that `serve --replay` can play it again.

    Runs until its sources end, Ctrl-C, or --seconds.
    """
    _start_logging("warning")
    config = load_config(config_path)
    from marketd.app import record as record_sources

    is_terminal = sys.stderr.isatty()

    def progress(ticks: int) -> None:
        if is_terminal:
            click.echo(f"\r{ticks:,} ticks", nl=False, err=True)

    ticks = _run_loop(lambda: record_sources(config, out, names, seconds, progress))
    click.echo(f"{ticks:,} ticks recorded in {out}")


def _run_loop(main: Callable[[], Any]) -> Any:
    try:
        import uvloop
    except ImportError:  # no wheels for this platform
        return asyncio.run(main())
    return uvloop.run(main())


class _CannotStart(MarketDataError):
    pass


def _start_logging(level: str) -> None:
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr
    )


def main() -> None:
    """The program. Errors of the caller and of the machine are one line; a traceback is a defect of ours."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except MarketDataError as error:
        click.echo(f"marketd: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
