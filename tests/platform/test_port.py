"""A port that is taken: by what a killed platform of the same home left, or by somebody else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from osmo_ray.platform import up
from osmo_ray.platform.files import Files, Process, State
from osmo_ray.platform.head import listening
from osmo_ray.settings import Settings

PROGRAM = """
import socket, sys, time
one = socket.socket(); one.bind(("127.0.0.1", int(sys.argv[1]))); one.listen(); time.sleep(600)
"""
Listen = Callable[[Path], "subprocess.Popen[bytes]"]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def listen(port: int) -> Iterator[Listen]:
    """Starts a program of a home that listens on the port, in a session of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(home: Path) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "OSMO_HOME": str(home)}
        one = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)], env=environ, start_new_session=True)
        started.append(one)
        while not listening("127.0.0.1", port):
            time.sleep(0.02)
        return one

    yield start
    for one in started:
        one.kill()
        one.wait()


def look(home: Path, port: int, state: State) -> bool:
    files = Files(home)
    files.prepare()
    return up._port_is_free(Settings(home=home, port=port), files, state)


def killed(session: int) -> State:
    """What a platform leaves whose head was killed: the head is gone, its session is not."""
    return State(phase="ready", head=Process(session, 1))


def test_what_our_killed_head_left_is_ended(tmp_path: Path, port: int, listen: Listen):
    left = listen(tmp_path)
    assert look(tmp_path, port, killed(left.pid))
    assert left.wait(5) != 0


def test_a_stranger_is_left_alone(tmp_path: Path, port: int, listen: Listen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(up, "PORT_LIMIT", 0.2)
    stranger = listen(tmp_path / "other")
    assert not look(tmp_path / "ours", port, killed(stranger.pid)), "its session bears the number of our head's"
    assert stranger.poll() is None


def test_after_a_proper_stop_nothing_is_ended(tmp_path: Path, port: int, listen: Listen):
    other = listen(tmp_path)
    assert not look(tmp_path, port, replace(killed(other.pid), phase="stopped"))
    assert other.poll() is None


def test_a_free_port(tmp_path: Path, port: int):
    assert look(tmp_path, port, State())
