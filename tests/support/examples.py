"""Runs the programs in examples/ as their READMEs say, against a service of the test's own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 30.0
INSTALL_SECONDS = 300.0
_SHARED = ("PATH", "HOME", "LANG", "SystemRoot")


def environment(connection_string: str, **more: str) -> dict[str, str]:
    """What an example may know: no variable of the test run but those that a shell has."""
    kept = {name: os.environ[name] for name in _SHARED if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", "HUBWIRE_CONNECTION_STRING": connection_string, **more}


def node() -> str:
    """The program; skips the test where there is no Node."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node on this machine")
    return found


def install(name: str) -> Path:
    """`npm ci` in the example's folder when what its lock file names is not there. The folder."""
    folder = EXAMPLES / name
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    with (folder / ".npmrc").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # two test runs must not install into one folder at once
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip("there is no npm on this machine")
            done = subprocess.run(
                [npm, "ci", "--no-audit", "--no-fund"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
            )
            assert done.returncode == 0, f"npm ci in {folder}: {done.stdout}\n{done.stderr}"
            installed.touch()
    return folder


def run_python(path: str, connection_string: str, *arguments: str) -> list[str]:
    """The lines that a Python example prints. It must end by itself, with exit code 0."""
    return run([sys.executable, str(EXAMPLES / path), *arguments], EXAMPLES, connection_string)


def run(command: list[str], folder: Path, connection_string: str) -> list[str]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(connection_string),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def hubwire(connection_string: str, *words: str) -> str:
    """What the command line prints, told of the service as a person with its connection string would. It
    must end with exit code 0."""
    command = [sys.executable, "-m", "hubwire.cli.main", *words]
    done = subprocess.run(
        command,
        env=environment(connection_string),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def serving(command: list[str], folder: Path, connection_string: str, **more: str) -> Iterator[str]:
    """A server of an example: the first line it prints, once it is there. Ended by pid."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(connection_string, **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    limit = threading.Timer(SECONDS, process.kill)
    limit.start()
    try:
        line = process.stdout.readline()
        limit.cancel()
        rest = threading.Thread(target=process.stdout.read, daemon=True)
        rest.start()
        assert line, f"{command} printed nothing and ended with {process.wait(5)}"
        yield line.strip()
    finally:
        limit.cancel()
        process.terminate()
        process.wait(SECONDS)
        rest.join(SECONDS)
        process.stdout.close()
