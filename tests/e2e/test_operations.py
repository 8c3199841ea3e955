"""What an operator does: up twice, two platforms at once, backup and restore, collection, the end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.store.protocol import WorkflowQuery
from osmo_ray.store.sql import SqlStore
from tests.e2e.harness import OSMO, ROOT, Platform, until

pytestmark = pytest.mark.ray

WORD = """
workflow:
  name: word
  tasks:
  - name: main
    image: ubuntu:24.04
    command: [sh, -c, "echo spoken; echo kept > {{output}}/word"]
"""


@pytest.fixture
def beside() -> Iterator[Platform]:
    """A second home, with a space in its path; nothing runs there yet."""
    home = Path(tempfile.mkdtemp(prefix="osmo e2e "))
    made = Platform(home)
    try:
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


def finished(platform: Platform) -> str:
    id = platform.submit(WORD)
    assert platform.wait(id) == "COMPLETED", platform.tails()
    return id


def stored(url: str) -> list[str]:
    store = SqlStore(url)
    try:
        return [row.id for row in store.list_workflows(WorkflowQuery(limit=1000))[0]]
    finally:
        store.close()


def state(platform: Platform) -> Any:
    return json.loads((platform.home / "run/state.json").read_text())


def test_up_twice_is_harmless(platform: Platform):
    before = state(platform)
    told = platform.cli("up", "--port", str(platform.port)).stdout
    assert "already up" in told and platform.url in told
    assert state(platform) == before


def test_a_taken_port_is_named_with_another(platform: Platform, beside: Platform):
    done = beside.cli("up", "--port", str(platform.port), check=False)
    assert done.returncode == 1
    assert f"port {platform.port} on 127.0.0.1 is taken" in done.stderr
    assert f"osmo up --port {platform.port + 1}" in done.stderr
    assert beside.cli("status", check=False).returncode == 3, "nothing was started"


def test_a_backup_while_it_runs_fills_an_empty_home(platform: Platform, beside: Platform, tmp_path: Path):
    id = finished(platform)
    running = platform.submit(WORD.replace("echo spoken", "sleep 60").replace("name: word", "name: unfinished"))
    file = tmp_path / "a backup.gz"
    told = platform.cli("backup", str(file)).stdout
    assert "not in it" in told and "ray.token" in told and f"{platform.home}/storage" in told
    assert file.stat().st_mode & 0o777 == 0o600
    refused = platform.cli("restore", str(file), check=False)
    assert refused.returncode == 1 and "osmo down" in refused.stderr

    told = beside.cli("restore", str(file)).stdout
    assert "1 workflow" in told and "run again" in told
    assert {id, running} <= set(stored(f"sqlite:///{beside.home}/osmo.db"))
    before = (beside.home / "osmo.db").read_bytes()
    refused = beside.cli("restore", str(file), check=False)
    assert refused.returncode == 1 and "nothing was changed" in refused.stderr
    assert (beside.home / "osmo.db").read_bytes() == before
    platform.cli("workflow", "cancel", running)
    assert platform.wait(running) == "FAILED_CANCELED"


def test_what_cannot_be_saved_or_restored_is_said(beside: Platform, tmp_path: Path):
    refused = beside.cli("backup", str(tmp_path / "none"), check=False)
    assert refused.returncode == 1 and "there is no state" in refused.stderr and not (tmp_path / "none").exists()
    (tmp_path / "text").write_text("not an archive")
    refused = beside.cli("restore", str(tmp_path / "text"), check=False)
    assert refused.returncode == 1 and "not a whole archive" in refused.stderr
    assert beside.cli("restore", str(tmp_path / "absent"), check=False).returncode == 1


def test_two_platforms_live_side_by_side(platform: Platform, beside: Platform):
    """The second one in the foreground, from a path with a space, ended by TERM as a service manager does it."""
    log = beside.home / "foreground.log"
    with log.open("wb") as out:
        second = subprocess.Popen(
            [*OSMO, "up", "--foreground", "--port", str(beside.port), "--cpus", "2"],
            env=beside.environ,
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: beside.get("/ready")["ready"], 120)
        finished(beside)
        finished(platform)
        assert beside.cli("status").returncode == 0
        assert state(beside)["keeper"]["pid"] == second.pid
        head = state(beside)["head"]["pid"]
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0, log.read_text()
    finally:
        if second.poll() is None:
            second.kill()
    assert state(beside)["phase"] == "stopped" and not Path(f"/proc/{head}").exists()
    marks = ("raylet", "gcs_server", "ray::", "ray.scripts")
    until(lambda: not any(beside.pids(mark) for mark in marks), 30)
    assert platform.get("/ready")["ready"] and platform.cli("status").returncode == 0
    finished(platform)
    assert "nothing was running" in beside.cli("down").stdout


def test_collected_work_leaves_nothing(platform: Platform):
    id = finished(platform)
    uuid = platform.query(id)["uuid"]
    storage = platform.home / "storage"
    until(lambda: list(storage.glob(f"workflows/{uuid}/**/word")), 30)
    attempts = platform.home / "nodes"
    until(lambda: not list(attempts.glob("*/attempts/*")), 60)  # settled attempts leave no folder

    job = [sys.executable, str(ROOT / "jobs/collect.py"), "--older-than", "1d"]
    subprocess.run(job, env=platform.environ, check=True, capture_output=True)
    assert platform.query(id)["status"] == "COMPLETED", "it is younger than a day"
    job[-1] = "0s"
    done = subprocess.run(job, env=platform.environ, check=True, capture_output=True, text=True)
    assert "removed" in done.stdout
    assert id not in stored(f"sqlite:///{platform.home}/osmo.db")
    left = [p for p in storage.glob(f"*/{uuid}/**/*") if p.is_file()]
    assert not left
    assert platform.cli("workflow", "query", id, check=False).returncode == 2
