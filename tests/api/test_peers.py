"""A task that shares our loopback is known by its socket, however it forks."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from osmo_ray.api import middleware
from osmo_ray.api.peers import is_task
from tests.api.world import NODE, World

CONNECT = """
import socket, sys, time
s = socket.create_connection(("{host}", {port}))
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""
SUPERVISED = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
open("/proc/self/comm", "w").write("osmo-supervise")
middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
subprocess.run([sys.executable, "-c", middle, sys.argv[1]])
sys.stdin.read()
"""


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        made = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"NOT RUN: this host has no {request.param}")
    yield made
    made.close()


@pytest.mark.parametrize("supervised", [True, False])
def test_who_descends_from_a_supervisor_is_a_task(listener: socket.socket, supervised: bool) -> None:
    host, port = listener.getsockname()[:2]
    program = CONNECT.format(host=host, port=port)
    argv = [sys.executable, "-c", SUPERVISED, program] if supervised else [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        local = int(process.stdout.readline())
        try:
            assert is_task(host, local) is supervised
            assert not is_task(host, 1)
        finally:
            process.communicate("")


def test_the_gate_asks_only_where_tasks_share_our_loopback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def task(host: str, port: int) -> bool:
        asked.append(port)
        return True

    monkeypatch.setattr(middleware, "is_task", task)
    with world.client() as client:
        assert client.get("/api/workflow").status_code == 200
    assert not asked
    world.store.save_nodes("local", [replace(NODE, sandbox="none: this host allows no namespaces")], world.now)
    with TestClient(world.app(), base_url="http://127.0.0.1:8000", client=("127.0.0.1", 4711)) as client:
        reply = client.get("/api/workflow")
        assert (reply.status_code, asked) == (401, [4711])
        assert client.get("/api/version").status_code == 200
