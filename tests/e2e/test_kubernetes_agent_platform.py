"""A platform and a cluster that only dials out: registered with an agent, installed by the chart, behind a wall. Every
part in between is killed while work runs, and no work is lost or run twice.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Platform, until
from tests.servers.kube import agents
from tests.servers.kube.cluster import HOST_ADDRESS, Cluster

pytestmark = pytest.mark.kubernetes
NAME = "away"
EXTRA = {"OSMO_ATTEMPT_LEASE": "6"}


@pytest.fixture(scope="module")
def platform(kube: Cluster) -> Iterator[Platform]:
    """With the cluster registered as `away`; from here there is no way into it."""
    home = Path(tempfile.mkdtemp(prefix="osmo-agent-e2e-"))
    made = Platform(home, host=HOST_ADDRESS, extra=EXTRA)
    try:
        made.up("--listen", HOST_ADDRESS, "--insecure-no-tls", "--storage-gateway")
        made.cli("login", made.url, "--method", "token", "--token-file", str(home / "admin.token"))
        token = registered(made, kube)
        with agents.wall(kube), agents.installed(kube, NAME, made.url, token):
            online(made)
            yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


def registered(platform: Platform, kube: Cluster) -> str:
    more = ("--namespace", f"osmo-{NAME}", "--runtime-image", kube.runtime_image, "-t", "json")
    token = str(json.loads(platform.cli("backend", "add", NAME, "--agent", *more).stdout)["token"])
    until(lambda: "no agent of cluster away is connected yet" in " ".join(backend(platform)["reasons"]), 60)
    assert backend(platform)["status"] == "NEW"
    return token


def backend(platform: Platform) -> dict[str, Any]:
    found = json.loads(platform.cli("backend", "list", "-t", "json").stdout)["backends"]
    return next(b for b in found if b["name"] == NAME)


def online(platform: Platform) -> None:
    until(lambda: backend(platform)["status"] == "ONLINE", 90)


def one(command: str) -> str:
    """A workflow of one task."""
    return f"""
workflow:
  name: one
  resources:
    default: {{cpu: 1, memory: 64Mi, storage: 64Mi}}
  tasks:
  - name: only
    image: ubuntu:24.04
    command: {command}
"""


def started(platform: Platform, seconds: int) -> str:
    name = platform.submit(one(f"[sh, -c, 'echo begun; sleep {seconds}; echo survived']"), "--pool", NAME)
    platform.running(name, "only")
    return name


def survived(platform: Platform, name: str) -> None:
    assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
    assert platform.tasks(name)["only"]["retry_id"] == 0
    log = platform.cli("workflow", "logs", name).stdout
    assert log.count("begun") == log.count("survived") == 1


def test_the_quickstart_gives_the_same_results_as_at_home(platform: Platform):
    text = (ROOT / "examples/quickstart/workflow.yaml").read_text()
    names = [platform.submit(text, "--pool", pool) for pool in ("default", NAME)]
    reports = []
    for name in names:
        assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
        reports.append(platform.cli("workflow", "logs", name, "--task", "report").stdout)
    at_home, there = (text.partition("sum of the even")[2].partition("\n")[0] for text in reports)
    assert at_home == there and "250500" in there
    assert {t["node_name"] for t in platform.tasks(names[1]).values()} == {f"{NAME}/node-1"}


def test_logs_and_commands_inside_go_through_the_agent(platform: Platform):
    name = platform.submit(one("[sh, -c, 'echo early; sleep 600']"), "--pool", NAME)
    platform.running(name, "only")
    until(lambda: "early" in platform.cli("workflow", "logs", name, "--no-follow").stdout, 20)
    said = platform.cli(
        "workflow", "exec", name, "only", "--no-tty", "--", "sh", "-c", "echo $OSMO_TASK; exit 3", check=False
    )
    assert (said.stdout, said.returncode) == ("only\n", 3), said.stderr
    platform.cli("workflow", "cancel", name)
    assert platform.wait(name) == "FAILED_CANCELED"


@pytest.mark.parametrize("part", ["ray::LinksActor", "ray::ServeReplica", "ControllerActor"])
def test_the_death_of_a_part_of_the_platform_costs_no_attempt(platform: Platform, part: str):
    name = started(platform, 8)
    platform.kill(part)
    survived(platform, name)
    online(platform)


def test_the_death_of_the_agent_costs_no_attempt(platform: Platform, kube: Cluster):
    name = started(platform, 6)
    os.kill(agents.agent_pid(kube, NAME), signal.SIGKILL)
    survived(platform, name)
    online(platform)


def test_a_cut_line_is_told_and_fails_no_work(platform: Platform, kube: Cluster):
    """For longer than tasks of our own nodes may run without a word from a controller."""
    name = started(platform, 12)
    with agents.wall(kube, whole=True):
        until(lambda: backend(platform)["status"] == "OFFLINE", 90)
        lease, since = float(EXTRA["OSMO_ATTEMPT_LEASE"]), time.monotonic()
        until(lambda: time.monotonic() - since > lease + 2, lease + 10)
        assert platform.tasks(name)["only"]["status"] == "RUNNING"
    survived(platform, name)
    online(platform)


def test_a_revoked_token_takes_the_cluster_away_and_a_new_one_brings_it_back(platform: Platform, kube: Cluster):
    name = started(platform, 5)
    platform.cli("backend", "token", NAME, "--revoke")
    until(lambda: backend(platform)["status"] == "OFFLINE", 60)
    until(lambda: "no agent of cluster away is connected since" in " ".join(backend(platform)["reasons"]), 30)
    agents.give(kube, NAME, json.loads(platform.cli("backend", "token", NAME, "-t", "json").stdout)["token"])
    online(platform)
    survived(platform, name)
