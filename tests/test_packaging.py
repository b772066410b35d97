"""What an install brings along, and what must not be in a lock file."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_REPO = Path(__file__).resolve().parent.parent
_LOCKS = ("base.txt", "dev.txt", "web.txt")


def locked(name: str) -> dict[str, str]:
    """Package → its part of a lock file."""
    text = (_REPO / "requirements" / name).read_text(encoding="utf-8")
    parts = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    return {part.split("==")[0]: part for part in parts if "==" in part}


@pytest.mark.parametrize("name", _LOCKS)
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    packages = locked(name)
    assert packages
    assert [p for p, part in packages.items() if "--hash=sha256:" not in part] == []
    assert "://" not in (_REPO / "requirements" / name).read_text(encoding="utf-8")


def test_the_base_install_is_small() -> None:
    project = tomllib.loads((_REPO / "pyproject.toml").read_text(encoding="utf-8"))
    build_only = {"editables", "hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
    base = locked("base.txt").keys() - build_only
    assert len(base) <= 35
    direct = {re.split(r"[>=;\[ ]", d)[0] for d in project["project"]["dependencies"]}
    assert direct <= base


def test_importing_the_package_imports_none_of_its_rooms() -> None:
    code = (
        "import sys, marketd; print(sorted(m for m in sys.modules if m.startswith('marketd')), 'numpy' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == ["['marketd']", "False"]


def test_the_command_starts_without_importing_the_server() -> None:
    code = (
        "import sys; sys.argv = ['marketd', '--version']\n"
        "import marketd.cli\n"
        "print([m for m in ('uvicorn', 'starlette', 'aiohttp', 'websockets') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
