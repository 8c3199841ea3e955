"""The launcher of pods, as the program that `make kube-tools` builds, in folders of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kubernetes
LAUNCHER = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache/osmo-ray/tools") / "launcher/osmo-launcher"


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *argv: str, user: int | None = None, **more: object) -> subprocess.Popen[bytes]:
        (self.folder / "start.json").write_text(json.dumps({"argv": argv, **more}))
        return subprocess.Popen([LAUNCHER, self.folder], stdout=subprocess.PIPE, user=user)

    def run(self, *argv: str, user: int | None = None, **more: object) -> int:
        process = self.start(*argv, user=user, **more)
        process.communicate(timeout=20)
        return process.returncode

    @property
    def end(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "end.json").read_text()))

    def lines(self) -> list[tuple[str, str]]:
        rows = [line.split(" ", 2) for line in (self.folder / "log").read_text().splitlines()]
        assert all(abs(int(at) / 1000 - time.time()) < 60 for at, _, _ in rows)
        return [(kind, text) for _, kind, text in rows]

    def until(self, name: str) -> None:
        for _ in range(400):
            if (self.folder / name).exists():
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} did not come about")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_output_is_stamped_and_the_code_kept(world: World):
    script = "echo one; echo two >&2; printf three; echo $WORD; exit 7"
    assert world.run("sh", "-c", script, env={"WORD": "four"}) == 7
    assert world.lines() == [("O", "one"), ("O", "two"), ("O", "threefour")]
    assert world.end["exit"] == 7 and world.end["ended"] >= world.end["began"]


def test_success_is_an_exit_too(world: World):
    assert world.run("true") == 0 and world.end["exit"] == 0


def test_a_signal_is_told_as_one(world: World):
    assert world.run("sh", "-c", "kill -9 $$") == 137
    assert world.end["signal"] == 9 and "exit" not in world.end


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program"])
def test_a_program_that_is_not_there(world: World, program: str):
    assert world.run(program) == 127 and world.end["error"] == "missing" and world.end["message"] == program


def test_the_path_is_that_of_the_command(world: World):
    (world.folder / "mine").write_text("#!/bin/sh\necho mine\n")
    (world.folder / "mine").chmod(0o755)
    assert world.run("mine", env={"PATH": f"{world.folder}:/bin"}) == 0
    assert world.lines() == [("O", "mine")]


def test_it_waits_for_the_barrier(world: World):
    process = world.start("echo", "went", barrier=True)
    world.until("began")
    assert not (world.folder / "log").exists()
    (world.folder / "go").touch()
    process.communicate(timeout=20)
    assert world.lines() == [("O", "went")]


def test_term_reaches_the_commands_children(world: World):
    process = world.start("sh", "-c", "trap 'exit 3' TERM; echo up; sleep 60 & wait")
    world.until("log")
    while not world.lines():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 3 and world.end["exit"] == 3


def test_a_failure_is_held_until_released_or_told_to_end(world: World):
    """What a person sees inside is the container as the command left it."""
    process = world.start("sh", "-c", "echo x; exit 4", hold=600)
    world.until("log")
    assert not (world.folder / "end.json").exists()
    (world.folder / "release").touch()
    process.communicate(timeout=20)
    assert process.returncode == 4
    (world.folder / "release").unlink()
    (world.folder / "log").unlink()
    process = world.start("sh", "-c", "echo x; exit 4", hold=600)
    world.until("log")
    while not world.lines():
        time.sleep(0.02)
    for _ in range(100):  # the command may still be ending when the first one comes
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 4


def test_the_lock_is_free_once_it_was_killed(world: World):
    """The lock is what tells the container beside it that it lives."""
    import fcntl

    process = world.start("sleep", "5")
    world.until("began")
    with (world.folder / "lock").open("r+b") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.kill()
    process.communicate(timeout=20)
    with (world.folder / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_command_of_the_same_user_cannot_reach_into_it():
    """Neither to open what it has open, nor to let go of its lock."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.folder.chmod(0o777)
        assert world.run("sh", "-c", "ls /proc/$PPID/fd", user=65534) == 2
        assert "ermission denied" in world.lines()[0][1]
