"""Python environments of a node: built once for a set of requirements, shown read-only to the tasks that name it.

They are built outside the sandbox, where a stranger's code must not run, so only wheels are installed: that unpacks
files and executes nothing. Which index they come from is the node's own configuration.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from osmo_ray.runtime import layout, reasons
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.spool import remove_tree
from osmo_ray.spec.reason import Reason

INSIDE = "/osmo/env"
_LIMIT = 1800
"""Seconds for one installation."""


def name(requirements: Sequence[str]) -> str:
    """The environment's name: equal requirements share one, for one Python on one kind of machine."""
    python = f"{platform.python_implementation()}-{platform.python_version()}-{platform.machine()}"
    text = json.dumps([python, sorted(requirements)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def folder(root: Path, requirements: Sequence[str]) -> Path:
    """Where the environment lies below a spool's root."""
    return root / "envs" / name(requirements)


def make(root: Path, requirements: Sequence[str]) -> bool:
    """Build the environment unless it is there; True if it was built. Several tasks may ask at once: one builds.
    Raises RuntimeFailure."""
    place = folder(root, requirements)
    place.parent.mkdir(exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            os.utime(place)  # it is wanted: `clean` leaves it
            return False
        fresh = place.parent / f"{place.name}.new"
        if fresh.exists():
            remove_tree(fresh)
        try:
            for line in _lines(fresh, requirements):
                _run(line, requirements)
        except RuntimeFailure:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        fresh.rename(place)
        return True


def clean(root: Path, in_use: Collection[str], keep: float) -> int:
    """Remove environments that nobody wanted for `keep` seconds, except those `in_use` (names); returns how many."""
    removed = 0
    for place in (root / "envs").glob("*"):
        if place.suffix or place.name in in_use or _age(place) < keep:
            continue
        with (place.parent / f"{place.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if _age(place) < keep:
                continue
            old = place.with_suffix(".old")
            place.rename(old)
        remove_tree(old)
        removed += 1
    return removed


def _age(place: Path) -> float:
    try:
        return time.time() - place.stat().st_mtime
    except OSError:
        return 0.0


def _lines(place: Path, requirements: Sequence[str]) -> list[list[str]]:
    python = str(Path(layout.python_home(), "bin", "python3"))
    uv = _uv()
    if uv:
        return [
            [uv, "venv", "--quiet", "--relocatable", "--no-project", "--python", python, str(place)],
            [uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", f"{place}/bin/python", "--",
             *requirements],
        ]  # fmt: skip
    return [
        [python, "-m", "venv", "--without-pip", str(place)],
        [sys.executable, "-m", "pip", "--python", f"{place}/bin/python", "install", "--quiet", "--only-binary", ":all:",
         "--disable-pip-version-check", "--", *requirements],
    ]  # fmt: skip


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else shutil.which("uv") or ""


def _run(line: Sequence[str], requirements: Sequence[str]) -> None:
    try:
        kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run(line, capture_output=True, text=True, timeout=_LIMIT, check=False, env=kept)
        told = (done.stderr or done.stdout).strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        told = str(error)
    if told:
        sentence = f"the Python packages {', '.join(requirements)} could not be installed on this node"
        last = " ".join(told.splitlines()[-3:])[:500]
        raise RuntimeFailure(reasons.START_ERROR, Reason("RequirementsFailed", f"{sentence}: {last}"))
