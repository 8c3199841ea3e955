"""`osmo dataset mount`: the real command on a folder of this host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osmo_ray.program import main
from tests.cli.conftest import Site

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def cats(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ann")
    Path("in/sub").mkdir(parents=True)
    Path("in/sub/b.txt").write_text("two")
    assert main(["dataset", "upload", "cats", "in/*"]) == 0


def test_it_says_why_it_cannot(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("there").mkdir()
    monkeypatch.setattr("osmo_ray.objects.datasets.mounting.os.access", lambda path, mode: path != "/dev/fuse")
    capsys.readouterr()
    assert main(["dataset", "mount", "cats", "there"]) != 0
    assert "no /dev/fuse" in capsys.readouterr().err


@pytest.mark.root
@pytest.mark.servers
def test_a_version_is_a_folder_until_the_command_ends() -> None:
    Path("there").mkdir()
    code = "import sys; from osmo_ray.program import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "dataset", "mount", "cats:1", "there"]
    command = subprocess.Popen(argv, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not os.path.ismount("there"):
            assert command.poll() is None, command.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert Path("there/sub/b.txt").read_text() == "two"
    finally:
        command.send_signal(signal.SIGINT)
        told = command.communicate(timeout=30)[1].decode()
    assert "default/cats:1 is at there" in told and not os.path.ismount("there")
    assert command.returncode == 0
