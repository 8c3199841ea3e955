"""The actor that holds links, in a real Ray: agents and callers of its host and of others, and its own death."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from osmo_ray.platform import head
from osmo_ray.platform.files import Files
from osmo_ray.settings import Settings

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    """Of processes that are part of a Ray of their own."""
    home = Path(tempfile.mkdtemp(prefix="osmo-links-"))
    settings, files = Settings(home=home, cpu=2), Files(home)
    files.prepare()
    started = head.start(settings, files, files.logs / "ray.log")
    try:
        own = {**head.clean(os.environ), **head.environment(files, "127.0.0.1")}
        yield {**own, "RAY_ADDRESS": started.address, "PYTHONPATH": str(ROOT)}
    finally:
        head.stop(started.process, files)
        shutil.rmtree(head.temp_folder(files), ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("scenario", ["death", "here", "elsewhere"])
def test_callers_and_agents_meet(environ: dict[str, str], scenario: str):
    argv = [sys.executable, str(ROOT / "tests/control/links_in_ray.py"), scenario]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
