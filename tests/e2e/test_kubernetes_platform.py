"""A platform with a registered cluster, end to end on a real node: the same files run there as at home."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Platform, until
from tests.servers.kube.cluster import HOST_ADDRESS, Cluster

pytestmark = pytest.mark.kubernetes
EXTRA = {"OSMO_ATTEMPT_LEASE": "6"}


@pytest.fixture(scope="module")
def platform(kube: Cluster) -> Iterator[Platform]:
    """A platform that pods can reach, with the cluster registered as `kube`."""
    home = Path(tempfile.mkdtemp(prefix="osmo-kube-e2e-"))
    made = Platform(home, host=HOST_ADDRESS, extra=EXTRA)
    try:
        made.up("--listen", HOST_ADDRESS, "--insecure-no-tls", "--storage-gateway")
        made.cli("login", made.url, "--method", "token", "--token-file", str(home / "admin.token"))
        register(made, kube)
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


def register(platform: Platform, kube: Cluster) -> None:
    platform.cli(
        "backend", "add", "kube", "--kubeconfig", str(kube.backend_kubeconfig), "--runtime-image", kube.runtime_image
    )
    until(lambda: backend(platform)["status"] == "ONLINE", 60)


def backend(platform: Platform) -> dict[str, Any]:
    found = json.loads(platform.cli("backend", "list", "-t", "json").stdout)["backends"]
    return next(b for b in found if b["name"] == "kube")


def one(image: str, command: str, memory: str = "64Mi") -> str:
    """A workflow of one task."""
    return f"""
workflow:
  name: one
  resources:
    default: {{cpu: 1, memory: {memory}, storage: 64Mi}}
  tasks:
  - name: only
    image: {image}
    command: {command}
"""


def run(platform: Platform, text: str) -> tuple[str, dict[str, Any]]:
    """Submit to the cluster, wait; the workflow's id and its one task."""
    name = platform.submit(text, "--pool", "kube")
    platform.wait(name)
    return name, platform.tasks(name)["only"]


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


def test_a_log_is_followed_while_the_task_runs(platform: Platform):
    name = platform.submit(one("ubuntu:24.04", "[sh, -c, 'echo early; sleep 600']"), "--pool", "kube")
    platform.running(name, "only")
    until(lambda: "early" in platform.cli("workflow", "logs", name, "--no-follow").stdout, 20)
    platform.cli("workflow", "cancel", name)
    platform.wait(name)


def test_the_loss_of_the_clusters_api_fails_no_work(platform: Platform, kube: Cluster):
    """For longer than tasks of our own nodes may run without a word from a controller."""
    name = platform.submit(one("ubuntu:24.04", "[sh, -c, 'sleep 12; echo whole']"), "--pool", "kube")
    platform.running(name, "only")
    kube.part("kill", "kube-apiserver")
    try:
        until(lambda: backend(platform)["status"] == "OFFLINE", 60)
        assert "does not answer" in backend(platform)["reasons"][0]
        lease, since = float(EXTRA["OSMO_ATTEMPT_LEASE"]), time.monotonic()
        until(lambda: time.monotonic() - since > lease + 4, lease + 10)
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


HELD = """
workflow:
  name: held
  resources:
    default: {cpu: 0, memory: 128Mi, storage: 64Mi}
  tasks:
  - name: only
    image: localhost/osmo-runtime:1
    command: [python3, -c]
    args:
    - |
      import os, socket, sys, threading
      if os.environ["TOKEN"] != sys.argv[1]: sys.exit(9)
      udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
      udp.bind(("127.0.0.1", 7002))
      if not os.path.exists("/tmp/mended"): sys.exit(7)
      print("mended", os.environ["TOKEN"])
    - $(TOKEN)
    hold: 30
    credentials:
      keys: {TOKEN: token}
"""


def inside(platform: Platform, name: str, script: str) -> str:
    """What a Python script says in the task."""
    return platform.cli("workflow", "exec", name, "only", "--no-tty", "--", "python3", "-c", script).stdout


def test_a_failed_task_is_looked_into_mended_and_run_again(platform: Platform):
    """With a credential, whose value is in neither log nor API."""
    platform.cli("credential", "set", "keys", "--payload", "token=hunter2-is-not-enough")
    name = platform.submit(HELD, "--pool", "kube")
    until(lambda: "stays until" in platform.cli("explain", name).stdout, 60)
    assert inside(platform, name, "import os; print(os.environ['OSMO_TASK'])") == "only\n"
    inside(platform, name, "open('/tmp/mended', 'w')")
    platform.cli("workflow", "release", name, "only", "--rerun")
    assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
    log = platform.cli("workflow", "logs", name).stdout
    assert "mended [MASKED]" in log and "runs again in place" in log and "hunter2" not in log


def test_a_dataset_is_read_and_written_in_a_pod(platform: Platform, tmp_path: Path):
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen/a").write_text("one")
    platform.cli("dataset", "upload", "seen", f"{tmp_path}/seen/*")
    text = one("ubuntu:24.04", """[sh, -c, 'cat {{input:0}}/seen/a >{{output}}/b']""")
    text += "    inputs: [{dataset: {name: seen}}]\n    outputs: [{dataset: {name: made}}]\n"
    name = platform.submit(text, "--pool", "kube")
    assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
    platform.cli("dataset", "download", "made", str(tmp_path / "got"))
    assert [p.read_text() for p in (tmp_path / "got").rglob("b")] == ["one"]


def objects(kube: Cluster, kind: str, workflow: str) -> list[str]:
    import asyncio

    from osmo_ray.backends.kubernetes.client import HttpApi
    from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig

    async def ask() -> list[str]:
        api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
        try:
            selector = {"labelSelector": f"osmo-ray/workflow={workflow}"}
            found = await api.get(f"/api/v1/namespaces/osmo/{kind}", selector)
            return [str(one["metadata"]["name"]) for one in found["items"]]
        finally:
            await api.close()

    return asyncio.run(ask())
