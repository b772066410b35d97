"""`marketd migrate`: bring the tables of a PostgreSQL database up to date."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["migrate"]


@click.command()
@click.option("--database-url", help="postgresql://user:password@host:port/database, instead of the configured one.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="YAML file that names the database and its settings.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
def migrate(database_url: str | None, config_path: Path | None, *, dry_run: bool) -> None:
    """Make or update the tables of the PostgreSQL database; safe to repeat, and while servers run.

    \b
    marketd migrate --dry-run
    DATABASE_URL=postgresql://marketd@localhost/market marketd migrate
    """
    from marketd.config import load_config
    from marketd.store.postgres import Database
    from marketd.store.postgres import migrate as migrate_database

    config = load_config(config_path)
    url = database_url or config.database_url
    if url is None:
        raise click.UsageError("there is no database: give --database-url, or set DATABASE_URL")
    database = Database(url, config.postgres)
    try:
        report = migrate_database(database, dry_run=dry_run)
    finally:
        database.close()
    would = "would be " if dry_run else ""
    for name in report.applied:
        click.echo(f"{name} {would}applied")
    if dry_run:
        for statement in report.settings:
            click.echo(f"{statement};")
    elif report.settings:
        click.echo(f"{len(report.settings)} TimescaleDB settings applied")
    state = "up to date" if not (report.applied or report.settings) else f"{would}at schema {report.after}"
    click.echo(f"{database.where}: {state} (partitioned by {_PARTITIONED_BY[report.partitioning]})")


_PARTITIONED_BY = {"native": "PostgreSQL", "timescale": "TimescaleDB"}
