"""`marketd store`: what is in the data directory, whether it is whole, and merging its files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marketd.cli.given import config_option

if TYPE_CHECKING:
    from marketd.store.contract import StoreStats
    from marketd.store.embedded import EmbeddedStoreConfig

__all__ = ["store"]

_DATA_DIR = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where history is kept.  [default: as in the configuration]"
)


@click.group()
def store() -> None:
    """Look after the data directory."""


@store.command()
@_DATA_DIR
@config_option
def stats(data_dir: Path | None, config_path: Path | None) -> None:
    """Say what is in the data directory. May be asked while the server runs."""
    from marketd.store.embedded import describe

    folder, _ = _place(data_dir, config_path)
    found = describe(folder)
    size = found.bytes or 0
    lines: list[tuple[str, Any]] = [("symbols sealed", found.symbols), ("versions", found.versions), ("bytes", size)]
    if found.versions:
        lines.append(("bytes a version", round(size / found.versions, 1)))
    lines += found.details.items()
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name.replace('_', ' '):<{width}}  {value:>18,}")


@store.command()
@_DATA_DIR
@config_option
def verify(data_dir: Path | None, config_path: Path | None) -> None:
    """Read every byte and compare it with its checksum. May be asked while the server runs.

    Exit codes: 0 all is whole, 1 something is not (each damage is a line), 2 there is no store.
    """
    from marketd.store.embedded import verify as verify_store

    folder, _ = _place(data_dir, config_path)
    with _progress("verifying") as progress:
        damage = verify_store(folder, progress)
    for one in damage:
        click.echo(str(one))
    if damage:
        raise click.exceptions.Exit(1)
    click.echo(f"{folder}: everything is as it was written")


@store.command()
@_DATA_DIR
@config_option
def compact(data_dir: Path | None, config_path: Path | None) -> None:
    """Seal and merge everything now, instead of when the server finds it worthwhile.

    The server must not run. Files that were merged are removed at once, also from under programs that read them.
    """
    import msgspec

    from marketd.clock import SystemClock
    from marketd.store.embedded import EmbeddedStore, describe

    folder, settings = _place(data_dir, config_path)
    before = describe(folder)
    settings = msgspec.structs.replace(settings, retire_after_s=0, compact_every_s=None)
    opened = EmbeddedStore(folder, settings, SystemClock())
    try:
        opened.seal()
        with _progress("merging") as progress:
            jobs = opened.compact(progress)
    finally:
        opened.close()
    after = describe(folder)
    merges = "1 merge" if jobs == 1 else f"{jobs:,} merges"
    click.echo(f"sealed the log; {merges}: {_files(before):,} files are {_files(after):,} now")


def _files(stats: StoreStats) -> int:
    return sum(int(value) for name, value in stats.details.items() if name.startswith("files_"))


def _place(data_dir: Path | None, config_path: Path | None) -> tuple[Path, EmbeddedStoreConfig]:
    from marketd.config import load_config

    config = load_config(config_path)
    return Path(config.server.data_dir) if data_dir is None else data_dir, config.store


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere. It is told what is done and what there is, and may begin anew."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    bar: Any = None
    shown = (0, 0)

    def went_on(done: int, total: int) -> None:
        nonlocal bar, shown
        if bar is None or total != shown[1] or done < shown[0]:
            if bar is not None:
                bar.render_finish()
            bar, shown = click.progressbar(length=total, label=label, file=sys.stderr), (0, total)
        bar.update(done - shown[0])
        shown = done, total

    try:
        yield went_on
    finally:
        if bar is not None:
            bar.render_finish()
