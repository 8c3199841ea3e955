"""A platform with a registered cluster, end to end on a real node: the same files run there as at home."""

from __future__ import annotations

import time

import pytest

from tests.e2e.harness import ROOT, Platform, until
from tests.e2e.kube import LEASE, backend, objects, one, run
from tests.servers.kube.cluster import Cluster

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def platform(kube_platform: Platform) -> Platform:
    return kube_platform


def test_the_quickstart_gives_the_same_results_as_at_home(platform: Platform):
    text = (ROOT / "examples/quickstart/workflow.yaml").read_text()
    names = [platform.submit(text, "--pool", pool) for pool in ("default", "kube")]
    reports = []
    for name in names:
        assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
        reports.append(platform.cli("workflow", "logs", name, "--task", "report").stdout)
    at_home, there = (text.partition("sum of the even")[2].partition("\n")[0] for text in reports)
    assert at_home == there and "250500" in there
    assert {t["node_name"] for t in platform.tasks(names[1]).values()} == {"kube/node-1"}


def test_an_image_that_cannot_be_had_fails_at_once(platform: Platform):
    name, task = run(platform, one("localhost/nothing:1", '["true"]'))
    assert task["status"] == "FAILED_IMAGE_PULL" and task["exit_code"] in (301, 302)
    assert "localhost/nothing:1" in platform.cli("workflow", "explain", name).stdout


def test_a_task_that_takes_too_much_memory_is_evicted(platform: Platform):
    _, task = run(platform, one("localhost/osmo-runtime:1", """[python3, -c, "b'x' * (200 << 20)"]"""))
    assert (task["status"], task["exit_code"]) == ("FAILED_EVICTED", 3004)


def test_a_cancelled_workflow_leaves_nothing_in_the_cluster(platform: Platform, kube: Cluster):
    name = platform.submit(one("ubuntu:24.04", "[sleep, '600']"), "--pool", "kube")
    platform.running(name, "only")
    platform.cli("workflow", "cancel", name)
    assert platform.wait(name) == "FAILED_CANCELED"
    workflow = platform.query(name)["uuid"]
    until(lambda: not objects(kube, "pods", workflow) and not objects(kube, "secrets", workflow), 60)


def greeted(name: str) -> str:
    """A task that waits for the server of its group and prints what it says."""
    return f"""\
    - name: {name}
      image: localhost/osmo-runtime:1
      command: [python3, -c]
      args:
      - |
        import socket, time
        for _ in range(100):
            try:
                print("got", socket.create_connection(("{{{{host:server}}}}", 7000), 20).recv(9).decode())
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
"""


GANG = """
workflow:
  name: gang
  resources:
    default: {cpu: 0, memory: 64Mi, storage: 64Mi}
  groups:
  - name: all
    barrier: true
    tasks:
    - name: server
      lead: true
      image: localhost/osmo-runtime:1
      command: [python3, -c]
      args:
      - |
        import socket
        door = socket.create_server(("", 7000))
        for _ in range(2):
            door.accept()[0].sendall(b"hello")
"""
GANG += greeted("one") + greeted("two")


def test_a_gang_meets_at_its_barrier_and_talks_by_name(platform: Platform):
    name = platform.submit(GANG, "--pool", "kube")
    assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
    assert platform.cli("workflow", "logs", name).stdout.count("got hello") == 2


def test_the_controllers_death_costs_no_attempt(platform: Platform):
    name = platform.submit(one("ubuntu:24.04", "[sh, -c, 'sleep 8; echo survived']"), "--pool", "kube")
    platform.running(name, "only")
    platform.kill("ControllerActor")
    assert platform.wait(name) == "COMPLETED"
    assert platform.tasks(name)["only"]["retry_id"] == 0
    assert "survived" in platform.cli("workflow", "logs", name).stdout


def test_the_loss_of_the_clusters_api_fails_no_work(platform: Platform, kube: Cluster):
    """For longer than tasks of our own nodes may run without a word from a controller."""
    name = platform.submit(one("ubuntu:24.04", "[sh, -c, 'sleep 12; echo whole']"), "--pool", "kube")
    platform.running(name, "only")
    kube.part("kill", "kube-apiserver")
    try:
        until(lambda: backend(platform)["status"] == "OFFLINE", 60)
        assert "does not answer" in backend(platform)["reasons"][0]
        since = time.monotonic()
        until(lambda: time.monotonic() - since > LEASE + 4, LEASE + 10)
        assert platform.tasks(name)["only"]["status"] == "RUNNING"
        at_home = platform.submit(one("ubuntu:24.04", "['true']"))
        assert platform.wait(at_home) == "COMPLETED"
    finally:
        kube.part("start", "kube-apiserver")
    assert platform.wait(name) == "COMPLETED"
    assert platform.tasks(name)["only"]["retry_id"] == 0
    until(lambda: backend(platform)["status"] == "ONLINE", 60)


def test_a_backend_with_work_is_not_removed(platform: Platform):
    name = platform.submit(one("ubuntu:24.04", "[sleep, '600']"), "--pool", "kube")
    refused = platform.cli("backend", "remove", "kube", check=False)
    assert refused.returncode and name in refused.stderr
    platform.cli("workflow", "cancel", name)
    platform.wait(name)
