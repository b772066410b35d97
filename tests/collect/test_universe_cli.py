"""`marketd universe`: load, list and snapshot, with records in a data directory."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from marketd.cli.universe import universe
from marketd.errors import InvalidInput

FIRST = "symbol,exchange,tier,rank\nAAPL,XNAS,T0,1\nFB,XNAS,,2\nXAU/USD,OANDA,T2,\n"
SECOND = "symbol,exchange,tier,rank,renamed_from,renamed_on,note\nAAPL,XNAS,T1,1,,,x\nMETA,XNAS,,2,FB,2022-06-09,y\n"


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "first.csv").write_text(FIRST, encoding="utf-8")
    (tmp_path / "second.csv").write_text(SECOND, encoding="utf-8")
    config = tmp_path / "config.yaml"
    config.write_text(f"server: {{data_dir: {tmp_path / 'data'}}}\n", encoding="utf-8")

    def invoke(command: str, *arguments: object) -> Result:
        given = [command, "--config", str(config), *map(str, arguments)]
        return CliRunner().invoke(universe, given, catch_exceptions=False)

    return invoke


def test_loading_says_what_changed(run, tmp_path: Path) -> None:
    first = run("load", tmp_path / "first.csv")
    assert first.exit_code == 0
    assert first.stdout.splitlines() == [
        "added 3: AAPL, FB, XAU/USD",
        "3 instruments, 3 active (2 T0, 0 T1, 1 T2)",
        "version 1",
    ]
    tried = run("load", tmp_path / "second.csv", "--dry-run")
    assert tried.stdout.splitlines() == [
        "removed 1: XAU/USD",
        "renamed 1: FB → META",
        "tier moves 1: AAPL T0 → T1",
        "2 instruments, 2 active (1 T0, 1 T1, 0 T2)",
        "dry run: nothing was kept",
    ]
    assert tried.stderr == f"{tmp_path / 'second.csv'}: column 'note' is not known and was passed over\n"
    done = run("load", tmp_path / "second.csv")
    assert done.stdout.splitlines() == [*tried.stdout.splitlines()[:-1], "version 2"]
    again = run("load", tmp_path / "second.csv")
    assert again.stdout.splitlines()[0] == "no changes"
    assert again.stdout.splitlines()[-1] == "version 2"


def test_a_faulty_file_changes_nothing(run, tmp_path: Path) -> None:
    run("load", tmp_path / "first.csv")
    (tmp_path / "bad.csv").write_text("symbol,tier\nAAPL,T0\nMSFT,T9\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"bad\.csv line 3: tier: 'T9' is not allowed"):
        run("load", tmp_path / "bad.csv")
    assert len(json.loads(run("list", "--json").stdout)) == 3


def test_listing(run, tmp_path: Path) -> None:
    assert run("list").stdout == "none\n"
    run("load", tmp_path / "first.csv")
    run("load", tmp_path / "second.csv")
    assert run("list").stdout.splitlines() == [
        "symbol  id    exchange  asset_class  currency  tier  active  rank  names",
        "AAPL    AAPL  XNAS      equity       -         T1    yes        1  -",
        "META    FB    XNAS      equity       -         T0    yes        2  FB until 2022-06-09",
    ]
    assert json.loads(run("list", "--json", "--tier", "T0").stdout) == [
        {
            "symbol": "META",
            "id": "FB",
            "exchange": "XNAS",
            "asset_class": "equity",
            "currency": None,
            "tier": "T0",
            "active": True,
            "rank": 2,
            "names": [{"symbol": "FB", "start": None, "end": "2022-06-09T00:00:00Z"}],
        }
    ]
    assert run("list", "--exchange", "OANDA", "--json").stdout == "[]\n"
    versions = json.loads(run("list", "--versions", "--json").stdout)
    assert [(v["version"], v["source"], v["instruments"], v["changed"]) for v in versions] == [
        (1, "first.csv", 3, 3),
        (2, "second.csv", 2, 3),
    ]


def test_a_snapshot_is_a_universe_file_of_then(run, tmp_path: Path) -> None:
    run("load", tmp_path / "first.csv")
    run("load", tmp_path / "second.csv")
    out = tmp_path / "out.csv"
    answer = run("snapshot", "--out", out)
    assert answer.stdout.splitlines()[:3] == [
        "removed 1: XAU/USD",
        "renamed 1: FB → META",
        "tier moves 1: AAPL T0 → T1",
    ]
    assert answer.stdout.splitlines()[3].startswith("version 2 of 20")
    assert out.read_text(encoding="utf-8") == (
        "symbol,id,exchange,asset_class,currency,tier,active,rank,former_names\n"
        "AAPL,AAPL,XNAS,equity,,T1,true,1,\n"
        "META,FB,XNAS,equity,,T0,true,2,FB@2022-06-09\n"
    )
    first = run("snapshot", "--version", 1, "--out", "-").stdout
    assert first.splitlines()[1:] == [
        "AAPL,AAPL,XNAS,equity,,T0,true,1,",
        "FB,FB,XNAS,equity,,T0,true,2,",
        "XAU/USD,XAU/USD,OANDA,equity,,T2,true,,",
    ]
    versions = json.loads(run("list", "--versions", "--json").stdout)
    assert run("snapshot", "--as-of", versions[0]["as_of"], "--out", "-").stdout == first
    (tmp_path / "back.csv").write_text(first, encoding="utf-8")
    assert "added 1: XAU/USD" in run("load", tmp_path / "back.csv").stdout


def test_a_snapshot_of_what_never_was(run, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a time at which there was a universe"):
        run("snapshot", "--out", "-")
    run("load", tmp_path / "first.csv")
    with pytest.raises(InvalidInput, match="--version: 2 is not allowed; expected 1 to 1"):
        run("snapshot", "--version", 2, "--out", "-")
    with pytest.raises(InvalidInput, match="--as-of"):
        run("snapshot", "--as-of", "2001-01-01", "--out", "-")
    refused = run("snapshot", "--as-of", "yesterday", "--out", "-")
    assert refused.exit_code == 2
    assert "--as-of: 'yesterday' is not an RFC 3339 time" in refused.stderr
    with pytest.raises(InvalidInput, match="a file that can be written"):
        run("snapshot", "--out", tmp_path / "no" / "such" / "folder.csv")
    assert run("snapshot", "--version", 1, "--as-of", "2001-01-01", "--out", "-").exit_code == 2
