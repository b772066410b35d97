"""PostgreSQL as the whole server's store: live bars, a restart, and the commands beside the running server."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from asking import Client, Listener, check_announced, values

pytest.importorskip("psycopg")

SYMBOLS = ["SIM-A", "SIM-B", "SIM-C"]
MINUTES = """time,open,high,low,close,volume
2026-11-18T15:00:00Z,10.5,11.25,10.25,11.0,100
2026-11-18T15:01:00Z,11.0,11.5,10.75,10.75,250
2026-11-18T15:03:00Z,10.75,10.875,10.5,10.625,75
"""
UNIVERSE = """symbol,exchange,asset_class,currency,tier
ACME,XNYS,equity,USD,T1
SIM-A,SIM,crypto,USD,T0
"""
IMPORTED = [(10.5, 11.25, 10.25, 11.0, 100.0), (11.0, 11.5, 10.75, 10.75, 250.0), (10.75, 10.875, 10.5, 10.625, 75.0)]


def test_a_server_and_its_commands_on_one_database(start_server, own_postgres_server, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from marketd.cli.main import cli

    url = own_postgres_server.url("postgres")
    config = tmp_path / "desk.yaml"
    symbols = {symbol: {"scenario": "volatile", "tick_interval_ms": 40} for symbol in SYMBOLS}
    config.write_text(json.dumps({"market_data": {"symbols": symbols}}))

    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, list(words), env={"DATABASE_URL": url})
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.output

    run("migrate", "--config", str(config))
    running = start_server("--config", str(config), DATABASE_URL=url)
    client = Client(running.url)
    listener = Listener(client.url, SYMBOLS, ready_after=3 * len(SYMBOLS))
    assert listener.ready.wait(20)
    assert client.get("/health")["store"]["kind"] == "postgres"

    # beside the running server, which sees at once what was done
    minutes, universe = tmp_path / "ACME.csv", tmp_path / "universe.csv"
    minutes.write_text(MINUTES)
    universe.write_text(UNIVERSE)
    run("universe", "load", str(universe), "--config", str(config))
    assert "ACME" in run("universe", "list", "--config", str(config))
    run("import", str(minutes), "--config", str(config))
    reply = client.wait_for(
        "/api/v1/market-data/historical/ACME?from=2026-11-18T15:00:00Z&to=2026-11-18T15:04:00Z", bool
    )
    assert [values(bar) for bar in reply["bars"]] == IMPORTED
    span = ("--from", "2026-11-18T15:00:00Z", "--to", "2026-11-18T15:05:00Z", "--config", str(config))
    found = json.loads(run("gaps", "ACME", "--json", *span, code=1))[0]
    assert (found["expected"], found["present"], found["complete"]) == (5, 3, False)
    out = tmp_path / "acme.csv"
    run("export", "--out", str(out), "--symbol", "ACME", "--config", str(config))
    with out.open() as lines:
        rows = [
            tuple(float(row[n]) for n in ("open", "high", "low", "close", "volume")) for row in csv.DictReader(lines)
        ]
    assert rows == IMPORTED

    announced = listener.end()
    assert running.stop() == 0
    assert not any((running.data_dir / name).exists() for name in ("log", "bars", "records.db"))
    running = start_server("--config", str(config), DATABASE_URL=url)
    client = Client(running.url)
    assert check_announced(client, announced) >= 3 * len(SYMBOLS)
    assert [values(bar) for bar in client.bars("ACME", start="2026-11-18")] == IMPORTED
    # A server that knows the universe tells the same.
    account = client.get("/ops/continuity/ACME?from=2026-11-18T15:00:00Z&to=2026-11-18T15:05:00Z")
    assert account | {"due": ""} == found | {"due": ""}
    assert running.stop() == 0
