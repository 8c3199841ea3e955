"""Nodes that join: another host in a network namespace of its own, which reaches the head only over the wire."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Platform, until

pytestmark = [pytest.mark.ray, pytest.mark.root]

HEAD, OTHER, NAME = "10.213.7.1", "10.213.7.2", "osmo-test-join"


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


@pytest.fixture
def wire() -> Iterator[None]:
    """Two hosts: this one at HEAD and a namespace at OTHER, with one cable between them."""
    subprocess.run(["ip", "netns", "del", NAME], check=False, capture_output=True)
    ip("netns", "add", NAME)
    try:
        ip("link", "add", "osmojoin0", "type", "veth", "peer", "name", "eth0", "netns", NAME)
        ip("addr", "add", f"{HEAD}/24", "dev", "osmojoin0")
        ip("link", "set", "osmojoin0", "up")
        ip("-n", NAME, "addr", "add", f"{OTHER}/24", "dev", "eth0")
        ip("-n", NAME, "link", "set", "eth0", "up")
        ip("-n", NAME, "link", "set", "lo", "up")
        yield
    finally:
        subprocess.run(["ip", "link", "del", "osmojoin0"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", NAME], check=False, capture_output=True)


@pytest.fixture
def extra() -> dict[str, str]:
    """More of the head's environment."""
    return {}


@pytest.fixture
def head(wire: None, extra: dict[str, str]) -> Iterator[Platform]:
    home = Path(tempfile.mkdtemp(prefix="osmo-join-"))
    made = Platform(home, host=HEAD, extra=extra)
    try:
        made.up("--listen", HEAD, "--insecure-no-tls", "--storage-gateway")
        made.cli("login", made.url, "--method", "token", "--token-file", str(home / "admin.token"))
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def other(head: Platform) -> Iterator[Path]:
    """A Ray node in the namespace, with a home folder of its own."""
    home = Path(tempfile.mkdtemp(prefix="osmo-other-"))
    state = json.loads((head.home / "run/state.json").read_text())
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OSMO_"))}
    environ = {
        **kept,
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(head.home / "ray.token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={state['ray_address']}", "--block"]
    process = subprocess.Popen(
        ["ip", "netns", "exec", NAME, *ray, f"--node-ip-address={OTHER}", "--num-cpus=2"],
        env=environ,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield home
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def joined(head: Platform) -> str:
    """Wait until the other host is there; the name of this one."""

    def nodes() -> list[str]:
        return [r["hostname"] for r in head.get("/api/resources?all_pools=true")["resources"]]

    until(lambda: OTHER in nodes(), 90)
    return next(name for name in nodes() if name != OTHER)


def test_a_node_joins_and_data_reaches_it(head: Platform, other: Path):
    here = joined(head)
    id = head.submit(f"""
workflow:
  name: across
  resources:
    default: {{cpu: 1, nodesExcluded: ["{OTHER}"]}}
    far: {{cpu: 1, nodesExcluded: ["{here}"]}}
  tasks:
  - name: near
    image: ubuntu:24.04
    command: [sh, -c, "echo from the head > {{{{output}}}}/word"]
  - name: far
    image: ubuntu:24.04
    resource: far
    command: [sh, -c, "cat {{{{input:0}}}}/word; echo and back > {{{{output}}}}/word"]
    inputs: [{{task: near}}]
  - name: back
    image: ubuntu:24.04
    command: [cat, "{{{{input:0}}}}/word"]
    inputs: [{{task: far}}]
""")
    assert head.wait(id) == "COMPLETED", head.tails()
    tasks = head.tasks(id)
    assert (tasks["near"]["node_name"], tasks["far"]["node_name"]) == (here, OTHER)
    logs = head.cli("workflow", "logs", id).stdout
    assert "[far] from the head" in logs and "[back] and back" in logs
    assert (other / ".osmo" / "nodes" / OTHER).is_dir(), "the node keeps its own spool"


def test_without_a_token_nobody_gets_in(head: Platform):
    import urllib.error
    import urllib.request

    for path in ("/api/workflow", "/api/resources", "/api/x/status"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(head.url + path, timeout=10)
        assert refused.value.code == 401
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(head.url + "/api/x/storage/workflows", timeout=10)
    assert refused.value.code in (401, 403)
