#!/usr/bin/env python3
"""Everything a developer runs, with nothing but Python: makes ``.venv`` here, installs what is needed, and goes.

    python3 dev.py demo            cluster the sample messages with recorded answers, without a network
    python3 dev.py test            ruff, mypy --strict and the main test suite
    python3 dev.py test --slow     the slow tests too
    python3 dev.py bench NAME      run benchmarks/NAME.py; further arguments go to it

A second call installs nothing again unless pyproject.toml or constraints.txt changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts" if os.name == "nt" else "bin") / ("python.exe" if os.name == "nt" else "python")
EXAMPLE_PLUGIN = "examples/clusterllm-parrot"
PACKAGES = (
    "clusterllm_plugins",
    "clusterllm_oracles",
    "clusterllm_embedders",
    "haystack_integrations.components.clusterers.clusterllm",
    "haystack_integrations.components.embedders.clusterllm",
)
CHECKED = (
    "dev.py",
    "clusterllm_plugins",
    "oracles",
    "embedders",
    "haystack_integrations",
    "tests",
    "examples",
    "benchmarks",
)


def install(extras: str, *others: str) -> None:
    """Install this checkout with ``extras``, and ``others``, in place into ``.venv``, unless that is done."""
    if not PYTHON.exists():
        print("making .venv", flush=True)
        venv.create(VENV, with_pip=True)
    wanted = hashlib.sha256(f"{extras}{others}{sys.version}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        wanted.update((ROOT / name).read_bytes())
    stamp = VENV / f"installed-{extras.replace(',', '-')}"
    if stamp.exists() and stamp.read_text() == wanted.hexdigest():
        return
    print(f"installing clusterllm-plugins[{extras}] (this takes a few minutes the first time)", flush=True)
    targets = ["-e", f".[{extras}]"]
    for other in others:
        targets += ["-e", other]
    run(PYTHON, "-m", "pip", "install", "--quiet", "-c", "constraints.txt", *targets)
    stamp.write_text(wanted.hexdigest())


def run(*command: str | Path) -> None:
    """Run a command in the checkout; end with its code if it fails."""
    # Models come from packages: no test or demo may reach for a hub.
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    code = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False).returncode
    if code:
        sys.exit(code)


def demo() -> None:
    """Run examples/demo.py."""
    install("offline")
    run(PYTHON, "examples/demo.py")


def test(slow: bool, arguments: list[str]) -> None:
    """Run the linters, the type checker and the tests."""
    install("dev", EXAMPLE_PLUGIN)
    run(PYTHON, "-m", "ruff", "format", "--check", *CHECKED)
    run(PYTHON, "-m", "ruff", "check", *CHECKED)
    for package in PACKAGES:
        run(PYTHON, "-m", "mypy", "-p", package)
    run(PYTHON, "-m", "mypy", "dev.py", f"{EXAMPLE_PLUGIN}/clusterllm_parrot")
    marker = [] if slow else ["-m", "not slow"]
    run(PYTHON, "-m", "pytest", *marker, *(arguments or ["tests", f"{EXAMPLE_PLUGIN}/tests"]))


def bench(name: str, arguments: list[str]) -> None:
    """Run a benchmark."""
    script = ROOT / "benchmarks" / f"{name}.py"
    if not script.is_file():
        known = sorted(path.stem for path in script.parent.glob("*.py") if path.stem != "common")
        sys.exit(f"no benchmark {name!r}; one of: {', '.join(known)}")
    install("dev", EXAMPLE_PLUGIN)
    run(PYTHON, script, *arguments)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="cluster the sample messages")
    testing = commands.add_parser("test", help="linters, type checker and tests")
    testing.add_argument("--slow", action="store_true", help="the slow tests too")
    benching = commands.add_parser("bench", help="run a benchmark")
    benching.add_argument("name")
    arguments, others = parser.parse_known_args()
    if arguments.command == "demo":
        demo()
    elif arguments.command == "test":
        test(arguments.slow, others)
    else:
        bench(arguments.name, others)


if __name__ == "__main__":
    main()
