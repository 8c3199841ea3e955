"""Checkpoints in a pod: the real launcher hands open files to the container beside it, here both on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from osmo_ray.objects.local import LocalStore
from osmo_ray.runtime.checkpoints import READER, _from_launcher
from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.pod.before import before
from osmo_ray.runtime.pod.beside import beside
from osmo_ray.spec.attempt import CheckpointPlan
from tests.runtime.test_launcher import LAUNCHER
from tests.runtime.test_pod import PLAN, World

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.umask(0o22)
    yield World(tmp_path, monkeypatch)
    os.umask(before)


class Run:
    """One attempt with a checkpoint of a folder outside everything shared."""

    def __init__(self, world: World, folder: Path, script: str, frequency: float, regex: str = "") -> None:
        self.world, self.source, self.kept = world, folder / "model", folder / "kept"
        self.source.mkdir()
        self.kept.mkdir()
        one = CheckpointPlan(str(self.source), self.kept.as_uri(), frequency, regex)
        plan = replace(PLAN, argv=("sh", "-c", script, str(self.source)), checkpoints=(one,))
        self.job: Job = world.job(plan)
        assert before(self.job, world.root) == 0

    def to_its_end(self) -> dict[str, object]:
        with subprocess.Popen([LAUNCHER, self.world.root / "run"], stdout=subprocess.DEVNULL):
            beside(self.job, self.world.root, self.world.orders)
        return self.world.told


def test_what_is_left_at_the_end_is_kept(world: World, tmp_path: Path):
    """A link is not followed, and what the expression does not want stays away."""
    script = "mkdir $0/a; echo one >$0/a/x.pt; echo two >$0/y.pt; echo no >$0/z.tmp; ln -s /etc/passwd $0/l.pt; exit 4"
    told = Run(world, tmp_path, script, 3600.0, r".*\.pt$").to_its_end()
    assert told["exit_code"] == 4
    assert {one.key for one in LocalStore(tmp_path / "kept").list("")} == {"a/x.pt", "y.pt"}
    assert (tmp_path / "kept/a/x.pt").read_text() == "one\n"


def test_it_is_kept_while_the_command_runs(world: World, tmp_path: Path):
    """The command ends only when it sees its own file at the URL."""
    script = f"echo one >$0/x; until test -e {tmp_path}/kept/x; do sleep 0.05; done; echo two >$0/x"
    told = Run(world, tmp_path, script, 0.05).to_its_end()
    assert told["exit_code"] == 0 and (tmp_path / "kept/x").read_text() == "two\n"


def test_a_success_that_cannot_be_kept_is_none(world: World, tmp_path: Path):
    told = Run(world, tmp_path, "rmdir $0", 3600.0).to_its_end()
    assert told["exit_code"] == 2012 and "no such file" in json.dumps(told["reason"])


def test_a_failed_command_is_kept_before_it_is_held(world: World, tmp_path: Path):
    """And again after it ran once more in place."""
    script = "echo x >>$0/x; test $(wc -l <$0/x) = 2"
    run = Run(world, tmp_path, script, 3600.0)
    start = world.read("run/start.json") | {"hold": 600}
    (world.root / "run/start.json").write_text(json.dumps(start))
    waits = f"until test -e {world.root}/run/held; do sleep 0.05; done; cp {tmp_path}/kept/x {tmp_path}/first"
    with subprocess.Popen(["sh", "-c", f"{waits}; exec {LAUNCHER} rerun {world.root}/run"]):
        assert run.to_its_end()["exit_code"] == 0
    assert ((tmp_path / "first").read_text(), (tmp_path / "kept/x").read_text()) == ("x\n", "x\nx\n")


def test_a_task_that_answers_itself_cannot_write_elsewhere(tmp_path: Path):
    """It stands in for the launcher with names that lead out, and with what is no file."""
    answers = ['{"path": "../out", "size": 1, "at": 1}', '{"path": "/etc/x"}', "[]", '{"path": "x"}']
    script = (
        "import array, json, os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(sys.argv[1]); s.listen()\n"
        "print('up', flush=True)\n"
        "for text in json.loads(sys.argv[2]):\n"
        "    c, _ = s.accept(); c.recv(100); fd = os.open(sys.argv[3], os.O_RDONLY)\n"
        "    c.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])\n"
        "    try: c.send(b'{\"end\": true}')\n"
        "    except BrokenPipeError: pass\n"
        "    c.close()\n"
    )
    door = tmp_path / READER
    door.parent.mkdir()
    (tmp_path / "file").write_text("x")
    for target, expected in (("file", [[], [], OSError, ["x"]]), ("", [OSError] * 4)):
        door.unlink(missing_ok=True)
        argv = ["python3", "-c", script, door, json.dumps(answers), tmp_path / target]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as liar:
            assert liar.stdout is not None and liar.stdout.readline() == b"up\n"
            for wanted in expected:
                try:
                    got: object = [name for name, *_ in _from_launcher(tmp_path, "/x", "", {})]
                except OSError:
                    got = OSError
                assert got == wanted


def test_a_task_that_points_the_door_elsewhere_is_not_followed(tmp_path: Path):
    """To a socket that only the container beside it can reach."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(tmp_path / "own"))
        server.listen()
        (tmp_path / "run").mkdir()
        (tmp_path / READER).symlink_to(tmp_path / "own")
        with pytest.raises(OSError):
            next(_from_launcher(tmp_path, "/x", "", {}))
