"""What lies in serve/, jobs/ and clusters/ for people who run Ray themselves: each file starts what it says."""

from __future__ import annotations

import configparser
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo_ray import __version__
from osmo_ray.platform import head
from osmo_ray.platform.files import Files
from osmo_ray.settings import Settings
from tests.e2e.harness import ROOT, free_port, until

SERVE = (sys.executable, "-m", "ray.serve.scripts")


class Cluster:
    """A Ray head that nobody's `osmo up` started, with Serve's proxy on a port of the test's."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, port=free_port(), cpu=2)
        self.files = Files(home)
        self.files.prepare()
        self.head: head.Head | None = None

    def start(self) -> None:
        self.head = head.start(self.settings, self.files, self.files.logs / "ray.log")
        started = (*SERVE, "start", "--http-port", str(self.settings.port), "--http-host", "127.0.0.1")
        subprocess.run([*started, "--proxy-location", "HeadOnly"], env=self.environ, cwd=ROOT, check=True, timeout=120)

    @property
    def environ(self) -> dict[str, str]:
        assert self.head is not None
        return {
            **head.clean(os.environ),
            **head.environment(self.files, "127.0.0.1"),
            **self.settings.environment(),
            "RAY_ADDRESS": self.head.address,
            "RAY_DASHBOARD_ADDRESS": self.head.dashboard,
            "PYTHONPATH": str(ROOT),
        }

    def version(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.port}/api/version", timeout=10) as answer:
            return json.load(answer)

    def answers(self, yes: bool) -> bool:
        try:
            return bool(self.version()) is yes
        except OSError:
            return not yes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    home = Path(tempfile.mkdtemp(prefix="osmo-serve-"))
    made = Cluster(home)
    try:
        made.start()
        yield made
    finally:
        if made.head is not None:
            head.stop(made.head.process, made.files)
        shutil.rmtree(head.temp_folder(made.files), ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.ray
def test_serve_run_starts_the_application(cluster: Cluster, tmp_path: Path):
    log = tmp_path / "serve.log"
    with log.open("wb") as out:
        run = subprocess.Popen(
            [*SERVE, "run", "serve.control_plane:app"], env=cluster.environ, cwd=ROOT, stdout=out, stderr=out
        )
    try:
        until(lambda: run.poll() is not None or cluster.answers(True), 90)
        assert run.poll() is None, log.read_text()
        told = cluster.version()
        assert ".".join((told["major"], told["minor"], told["revision"])) == __version__.split("+")[0]
    finally:
        run.terminate()
        run.wait(60)
        subprocess.run([*SERVE, "shutdown", "-y"], env=cluster.environ, cwd=ROOT, check=True, timeout=60)


@pytest.mark.ray
def test_serve_deploy_starts_the_same_one(cluster: Cluster, tmp_path: Path):
    config = yaml.safe_load((ROOT / "serve/config.yaml").read_text())
    config["http_options"]["port"] = cluster.settings.port
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [*SERVE, "deploy", str(tmp_path / "config.yaml")],
        env=cluster.environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    until(lambda: cluster.answers(True), 90)
    assert cluster.version()["minor"] == __version__.split(".")[1]


def test_the_files_name_what_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("OSMO_HOME", str(tmp_path))
    config = yaml.safe_load((ROOT / "serve/config.yaml").read_text())
    for app in config["applications"]:
        module, _, name = app["import_path"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    module, _, name = "serve.control_plane:app".partition(":")
    assert getattr(importlib.import_module(module), name) is not None
    for job in sorted((ROOT / "jobs").glob("*.py")):
        assert callable(importlib.import_module(f"jobs.{job.stem}").main)
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "clusters/systemd/osmo.service")
    assert unit["Service"]["ExecStart"].endswith("osmo up --foreground")
    assert unit["Service"]["KillMode"] == "process", "tasks outlive a restart of the platform"
    for room in ("serve", "jobs", "clusters"):
        assert (ROOT / room / "README.md").is_file()


def test_settings_survive_the_way_through_the_environment(tmp_path: Path):
    from osmo_ray import settings

    made = replace(Settings(home=tmp_path), port=4711, storage_gateway=True, cpu=1.5, gpu=2)
    assert settings.load(made.environment()) == made
