"""A platform whose state lies in a real PostgreSQL, and the database away for 20 seconds in the middle of the work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import OSMO, ROOT, Platform, until
from tests.e2e.test_crash import CHAIN, attempts, begin, mark, right_end
from tests.fixtures_postgres import PostgresServer, fragile_postgres

__all__ = ["fragile_postgres"]
pytestmark = [pytest.mark.ray, pytest.mark.postgres]

AWAY = 20.0
"""Seconds without a database: longer than the controller's lease, shorter than that of an attempt."""


@pytest.fixture(scope="class")
def on_postgres(fragile_postgres: PostgresServer) -> Iterator[Platform]:
    """Started from a backup of an embedded database, as a platform that moves to PostgreSQL."""
    home = Path(tempfile.mkdtemp(prefix="osmo-pg-e2e-"))
    made = Platform(home, extra={"OSMO_DATABASE_URL": fragile_postgres.database()})
    try:
        small = Platform(home / "small")
        old_state(small)
        small.cli("backup", str(home / "moved.gz"))
        assert "osmo:***@" in made.cli("restore", str(home / "moved.gz")).stdout or "@" in made.environ[URL]
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


URL = "OSMO_DATABASE_URL"


def old_state(platform: Platform) -> None:
    """An embedded database with a workflow that waits."""
    from osmo_ray.store.sql import SqlStore
    from tests.control.conftest import spec, submit

    platform.home.mkdir()
    store = SqlStore(f"sqlite:///{platform.home}/osmo.db")
    store.migrate()
    submit(store, spec(("only", ()), name="moved"))
    store.close()


def refusal(url: str) -> tuple[int, dict[str, str]]:
    """Status and JSON of a request that must fail."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, {}
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class TestPostgres:
    def test_what_was_restored_goes_on(self, on_postgres: Platform):
        assert until(lambda: on_postgres.query("moved-1")["status"] == "COMPLETED", 60)
        assert not (on_postgres.home / "osmo.db").exists()
        told = on_postgres.cli("status").stdout
        assert "postgresql" in told

    def test_the_database_goes_away_and_comes_back(
        self, on_postgres: Platform, fragile_postgres: PostgresServer, tmp_path: Path
    ):
        id = begin(on_postgres)
        follower = self.follow(on_postgres, tmp_path)
        logs = self.follow(on_postgres, tmp_path, "--logs")
        until(lambda: sum(w["status"] == "RUNNING" for w in self.listed(on_postgres)) == 3, 60)
        replicas = on_postgres.pids("ray::ServeReplica")
        fragile_postgres.stop()
        gone = time.monotonic()
        try:
            status, told = refusal(f"{on_postgres.url}/api/workflow/{id}")
            assert (status, told["error_code"]) == (503, "DATABASE"), told
            refused = on_postgres.cli("workflow", "submit", str(tmp_path / "chain.yaml"), check=False)
            assert refused.returncode == 10 and "database" in refused.stderr
            time.sleep(max(AWAY - (time.monotonic() - gone), 0.0))
        finally:
            fragile_postgres.start()
        for process in (follower, logs):
            told_all = self.ended(process, on_postgres)
            assert process.returncode == 0, told_all + on_postgres.tails()
            assert "COMPLETED" in told_all
        assert told_all.count("[last] last") == 1 and told_all.count("[last] first") == 1, told_all
        seen = right_end(on_postgres, id, tmp_path)
        assert seen == {"first": ["COMPLETED"], "middle": ["COMPLETED"], "last": ["COMPLETED"]}
        assert all(len(s) == 1 for w in self.listed(on_postgres) for s in attempts(on_postgres, w["name"]).values())
        assert len(self.listed(on_postgres)) == 4, "a refused submission left something behind"
        assert on_postgres.pids("ray::ServeReplica") == replicas, "an outage of the database is no reason to redeploy"
        until(lambda: on_postgres.get("/ready")["ready"], 30)

    @staticmethod
    def follow(platform: Platform, tmp_path: Path, *args: str) -> subprocess.Popen[str]:
        file = tmp_path / "chain.yaml"
        file.write_text(CHAIN.replace("MARK", mark(platform)))
        return subprocess.Popen(
            [*OSMO, "run", str(file), *args],
            env=platform.environ | {"PYTHONUNBUFFERED": "1", "HOME": os.environ.get("HOME", "/")},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str], platform: Platform) -> str:
        """What a follower printed until it ended by itself."""
        try:
            return process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            told = process.communicate()[0]
            states = {w["name"]: attempts(platform, w["name"]) for w in self.listed(platform)}
            events = [platform.cli("workflow", "events", name, "--no-follow").stdout[-1500:] for name in states]
            raise AssertionError("\n".join([told, str(states), *events, str(platform.get("/ready"))])) from None

    @staticmethod
    def listed(platform: Platform) -> list[dict[str, str]]:
        found = platform.get("/api/workflow?all_users=true&all_pools=true&limit=100")["workflows"]
        assert isinstance(found, list)
        return found
