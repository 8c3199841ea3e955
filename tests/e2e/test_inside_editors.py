"""Editors inside a running task on a real platform: a real Jupyter, and ssh as VS Code would call it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.e2e.harness import OSMO, ROOT, Platform, until

pytestmark = [pytest.mark.ray, pytest.mark.servers]

INSTALL = ROOT / "tests" / "servers" / "install.sh"
WORKS = """workflow:
  name: edit
  tasks:
  - name: main
    image: ubuntu:24.04
    environment: {{PATH: "{path}:/usr/local/bin:/usr/bin:/bin"}}
    command: [sh, -c, "echo of the task > /tmp/file; sleep 3600"]
"""


def jupyter() -> Path:
    """Where the script puts it."""
    tools = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache" / "osmo-ray" / "tools")
    match = re.search(r"^JUPYTER=(\S+)$", INSTALL.read_text(), re.M)
    assert match is not None
    found = tools / f"jupyter-{match[1]}"
    if not (found / "installed").exists():
        pytest.fail(f"{found} is missing; run {INSTALL} jupyter")
    return found


@pytest.fixture(scope="module")
def task(platform: Platform) -> Iterator[str]:
    """The id of a workflow whose task `main` would find Jupyter at the place where this host has it."""
    id = platform.submit(WORKS.format(path=jupyter() / "bin"))
    platform.running(id, "main")
    yield id
    platform.cli("workflow", "cancel", "--force", id)


@pytest.fixture
def installed(platform: Platform, task: str) -> None:
    """Carried into the task, whose homes are its own: an environment works only where it was made."""
    line = [*OSMO, "workflow", "exec", task, "--", "tar", "x", "-C", "/"]
    tar = subprocess.Popen(["tar", "c", "-C", "/", str(jupyter().relative_to("/"))], stdout=subprocess.PIPE)
    subprocess.run(line, env=platform.environ, cwd=ROOT, stdin=tar.stdout, check=True, timeout=120)
    assert tar.wait() == 0


@pytest.mark.usefixtures("installed")
def test_a_port_that_is_taken_is_named_and_jupyter_ends(platform: Platform, task: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = platform.cli("jupyter", f"{task}/main", "--port", str(port), "--task-port", "8898", check=False)
    assert done.returncode == 2 and f"127.0.0.1:{port} cannot be had" in done.stderr
    assert "choose another --port" in done.stderr
    script = "grep -l '[p]ort=8898' /proc/[0-9]*/cmdline"
    until(lambda: not platform.cli("workflow", "exec", task, "--", "sh", "-c", script, check=False).stdout, 30)


@pytest.mark.usefixtures("installed")
def test_notebooks_are_reached_with_their_token_alone(platform: Platform, task: str) -> None:
    line = [*OSMO, "jupyter", f"{task}/main", "--task-port", "8899"]
    with subprocess.Popen(line, env=platform.environ, cwd=ROOT, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        told = one.stdout.readline()
        match = re.fullmatch(rf"Jupyter of {task}/main: (http://127\.0\.0\.1:\d+)/\?token=(\S+)\n", told)
        assert match, told
        with pytest.raises(HTTPError) as refused:
            get(f"{match[1]}/api/contents/tmp/file")
        assert refused.value.code == 403
        kernels = json.loads(get(f"{match[1]}/api/kernelspecs", match[2]))
        assert "kernelspecs" in kernels
        assert json.loads(get(f"{match[1]}/api/contents/tmp/file", match[2]))["content"] == "of the task\n"
        one.send_signal(signal.SIGINT)
        assert one.wait(60) == 3
    script = "grep -l '[j]upyter-server' /proc/[0-9]*/cmdline"
    until(lambda: not platform.cli("workflow", "exec", task, "--", "sh", "-c", script, check=False).stdout, 30)


def get(url: str, token: str = "") -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def test_code_is_given_a_host_that_ssh_reaches(platform: Platform, task: str, tmp_path: Path) -> None:
    """A stand-in for VS Code, which calls ssh with the name that it was given, as that does."""
    code = tmp_path / "bin" / "code"
    code.parent.mkdir()
    code.write_text(
        '#!/bin/sh\n[ "$1" = --remote ] || exit 90\nhost=${2#ssh-remote+}\n'
        'ssh -T -F "$HOME/.ssh/config" "$host" "hostname; cat $3/file; exit 7"\n'
    )
    code.chmod(0o755)
    environ = {**platform.environ, "HOME": str(tmp_path), "PATH": f"{code.parent}:{os.environ['PATH']}"}
    line = [*OSMO, "code", f"{task}/main", "/tmp"]
    done = subprocess.run(line, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (7, "main\nof the task\n"), done.stderr
