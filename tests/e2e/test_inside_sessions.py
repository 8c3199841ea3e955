"""Inside running tasks on a real platform: terminals, pipes, ports, files, ssh, a hold after a failure, crowds."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest
from websockets.asyncio.client import connect

from osmo_ray.sdk.client import Client
from osmo_ray.sdk.sessions import Channel, ask
from osmo_ray.spec.wire import WINDOW
from tests.e2e.harness import OSMO, ROOT, Platform, commands, free_port, until

pytestmark = pytest.mark.ray

SERVES = """workflow:
  name: look
  tasks:
  - name: main
    image: ubuntu:24.04
    command:
    - python3
    - -c
    - |
      import http.server, os, socket, threading
      os.chdir("/tmp"); open("index.html", "w").write("from inside")
      udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 5353))
      def echo():
          while True:
              data, sender = udp.recvfrom(9000)
              udp.sendto(data.upper(), sender)
      threading.Thread(target=echo, daemon=True).start()
      http.server.test(http.server.SimpleHTTPRequestHandler, port=8080, bind="127.0.0.1")
"""
FAILS = """workflow:
  name: held
  tasks:
  - name: main
    image: ubuntu:24.04
    hold: 10
    command: [sh, -c, "echo evidence > /tmp/left; exit 3"]
"""
CONTAINED = """workflow:
  name: boxed
  tasks:
  - name: main
    image: {image}
    sandbox: container
    command: [sh, -c, "sleep 600"]
"""


@pytest.fixture(scope="module")
def task(platform: Platform) -> Iterator[str]:
    """The id of a workflow whose task `main` answers on two ports."""
    id = platform.submit(SERVES)
    platform.running(id, "main")
    yield id
    platform.cli("workflow", "cancel", "--force", id)


def inside(platform: Platform, id: str, *command: str, check: bool = True, **more: Any) -> Any:
    return platform.cli("workflow", "exec", id, "main", "--", *command, check=check, **more)


def piped(platform: Platform, line: list[str], data: bytes, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*OSMO, *line], env=platform.environ, cwd=ROOT, input=data, capture_output=True, timeout=timeout, check=False
    )


@contextmanager
def kept(platform: Platform, *line: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A verb that stays until the end of the block."""
    process = subprocess.Popen(
        [*OSMO, *line], env=platform.environ, cwd=ROOT, stdout=subprocess.PIPE, text=True, **more
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# -- commands


def test_a_command_has_its_own_streams_and_exit_code(platform: Platform, task: str):
    done = inside(platform, task, "sh", "-c", "echo out; echo bad >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "bad\n")
    assert inside(platform, task, "no-such-program", check=False).returncode == 127
    data = os.urandom(3_000_000)
    assert piped(platform, ["workflow", "exec", task, "--", "cat"], data).stdout == data


def test_it_is_in_the_tasks_sandbox(platform: Platform, task: str):
    script = 'hostname; pwd; echo "$OSMO_WORKFLOW_ID $OSMO_TASK"; cat /tmp/index.html; echo; cat /proc/1/comm; id -u'
    assert inside(platform, task, "sh", "-c", script).stdout.splitlines() == [
        "main", "/", f"{task} main", "from inside", "osmo-init", "0"]  # fmt: skip
    own = inside(platform, task, "sh", "-c", "cut -d: -f3 /proc/self/cgroup").stdout
    assert own == inside(platform, task, "sh", "-c", "cut -d: -f3 /proc/2/cgroup").stdout
    assert "socket:" not in inside(platform, task, "ls", "-l", "/proc/self/fd").stdout
    blocked = re.findall(r"CapEff:\t(\w+)", inside(platform, task, "cat", "/proc/self/status").stdout)
    assert blocked == re.findall(r"CapEff:\t(\w+)", inside(platform, task, "cat", "/proc/2/status").stdout)


def test_a_terminal_has_a_size_that_changes_signals_and_an_end(platform: Platform, task: str):
    shell = pexpect.spawn(
        OSMO[0], [*OSMO[1:], "shell", f"{task}/main"], env=platform.environ, cwd=str(ROOT), dimensions=(30, 100),
        timeout=30, encoding="utf-8",
    )  # fmt: skip
    shell.expect("[#$] ")
    shell.sendline("stty size; tty; echo $TERM")
    shell.expect("30 100")
    shell.expect("/dev/pts/")
    shell.expect("xterm")
    shell.setwinsize(41, 121)
    shell.sendline("until stty size | grep '41 121'; do :; done; echo seen")
    shell.expect("41 121\r\n")
    shell.sendline("echo star''ted; sleep 600")
    shell.expect("started\r\n")
    shell.send("\x03")
    shell.sendline("echo code=$?")
    shell.expect("code=130")
    shell.sendline("exit 9")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 9


def test_what_a_session_started_ends_with_its_client(platform: Platform, task: str):
    script = "setsid sleep 987654 & sleep 987655"
    with kept(platform, "workflow", "exec", task, "--", "sh", "-c", script, stdin=subprocess.PIPE):
        until(lambda: count(platform, task, "98765") == 2, 30)
    until(lambda: count(platform, task, "98765") == 0, 30)


def count(platform: Platform, task: str, mark: str) -> int:
    """Processes called sleep in the task whose argument begins with `mark`."""
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done"
    return sum(
        line.startswith(f"sleep {mark}") for line in inside(platform, task, "sh", "-c", script).stdout.splitlines()
    )


def test_a_session_ends_with_its_task(platform: Platform):
    id = platform.submit(SERVES)
    platform.running(id, "main")
    with kept(platform, "workflow", "exec", id, "--", "sh", "-c", "echo up; sleep 600", stdin=subprocess.PIPE) as one:
        assert one.stdout is not None and one.stdout.readline() == "up\n"
        platform.cli("workflow", "cancel", "--force", id)
        assert one.wait(30) == 137
    gone = platform.cli("workflow", "exec", id, "main", "--", "true", check=False)
    assert gone.returncode == 2 and "has finished" in gone.stderr


def test_a_group_answers_line_by_line(platform: Platform, task: str):
    group = platform.query(task)["groups"][0]["name"]
    done = platform.cli(
        "workflow", "exec", task, "--group", group, "--entry", "sh -c 'echo one; echo two; exit 4'", check=False
    )
    assert (done.returncode, done.stdout) == (4, "[main] one\n[main] two\n")


async def test_fifty_sessions_at_once_whose_clients_vanish(platform: Platform, task: str):
    """One works beside fifty others that write without end and are not read, which costs a bounded amount of memory;
    then nothing is left of them."""
    api = platform.pids("ray::ServeReplica")
    assert api
    before = sum(map(resident, api))
    flood = [await _open(platform, task, "sh -c 'while :; do cat /usr/bin/env; done'") for _ in range(50)]
    await asyncio.to_thread(until, lambda: len(left(platform)) >= 50, 60)
    async with asyncio.timeout(60):
        one = await _open(platform, task, "sh -c 'echo well; exit 5'")
        assert await one.receive() == (b"well\n", False)
        assert await one.receive() is None
        assert one.code == 5
    assert sum(map(resident, api)) - before < 50 * 4 * WINDOW
    for number, channel in enumerate(flood):
        if number % 2:
            channel._socket.transport.abort()
        else:
            await channel.close()
    await asyncio.to_thread(until, lambda: left(platform) == [], 60)


async def _open(platform: Platform, task: str, entry: str) -> Channel:
    with Client(platform.url) as client:
        reply = await ask(client, f"/api/workflow/{task}/exec/task/main", entry_command=entry)
        channel = await Channel.open(client, "exec", task, reply)
    await channel.resize(0, 0)
    return channel


def left(platform: Platform) -> list[int]:
    """Workers of sessions of this platform that are still there."""
    found = []
    for pid in commands(str(platform.home)):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "osmo-inside":
                found.append(pid)
        except OSError:
            continue
    return found


def resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) << 10 if found else 0


async def test_the_contracts_own_wire(platform: Platform, task: str):
    """A client that knows nothing of ours: a size, bytes, a change of size, an end."""
    with Client(platform.url) as client:
        reply = await ask(client, f"/api/workflow/{task}/exec/task/main", entry_command="sh")
    address = f"{reply['router_address']}/api/router/exec/{task}/client/{reply['key']}"
    async with asyncio.timeout(60), connect(address, compression=None) as plain:
        await plain.send(b'{"Rows": 30, "Cols": 100}')
        heard = bytes(await plain.recv())
        assert heard, "a prompt"
        await plain.send(b'\0RESIZE:{"Rows": 31, "Cols": 101}')
        await plain.send(b"stty size; tty; exit 3\n")
        async for frame in plain:
            heard += bytes(frame)
        assert b"31 101" in heard and b"/dev/pts/" in heard
        assert (plain.close_code, plain.close_reason) == (1000, "exit 3")


# -- ports


def test_several_ports_lead_to_the_tasks_own_loopback(platform: Platform, task: str):
    first, second = free_port(), free_port()
    ports = ["--port", f"{first}:8080,{second}:8080"]
    with kept(platform, "workflow", "port-forward", task, "main", *ports) as one:
        assert one.stdout is not None
        assert {one.stdout.readline(), one.stdout.readline()} == {
            f"127.0.0.1:{p} -> main:8080\n" for p in (first, second)
        }
        for port in (first, second, first):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.read() == b"from inside"


def test_datagrams_go_there_and_back(platform: Platform, task: str):
    port = free_port()
    with (
        kept(platform, "workflow", "port-forward", task, "--port", f"{port}:5353", "--udp") as one,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        assert one.stdout is not None and "(udp)" in one.stdout.readline()
        udp.settimeout(30)
        for text in (b"question", b"another"):
            udp.sendto(text, ("127.0.0.1", port))
            assert udp.recv(100) == text.upper()


# -- files and ssh


@pytest.mark.servers
def test_files_go_up_and_down_by_rsync(platform: Platform, task: str, tmp_path: Path):
    (tmp_path / "up/deep").mkdir(parents=True)
    (tmp_path / "up/deep/big").write_bytes(os.urandom(5_000_000))
    (tmp_path / "up/a name").write_text("x")
    platform.cli("workflow", "rsync", "upload", "--once", task, "main", f"{tmp_path}/up/:data/")
    assert inside(platform, task, "cat", "/osmo/run/workspace/data/a name").stdout == "x"
    platform.cli("workflow", "rsync", "download", f"{task}/main", f"/osmo/run/workspace/data/:{tmp_path}/down")
    assert (tmp_path / "down/deep/big").read_bytes() == (tmp_path / "up/deep/big").read_bytes()


@pytest.mark.servers
def test_an_upload_goes_on_in_the_background_until_it_is_stopped(platform: Platform, task: str, tmp_path: Path):
    """What changes here changes there; one folder has one upload; a killed one is not taken for alive."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/one").write_text("1")
    line = ("workflow", "rsync", "upload", task, "main", f"{tmp_path}/src/:live/")
    platform.cli(*line)
    platform.cli(*line)
    there = "/osmo/run/workspace/live"
    assert inside(platform, task, "cat", f"{there}/one").stdout == "1"
    (tmp_path / "src/one").write_text("22")
    (tmp_path / "src/two").write_text("2")
    until(lambda: inside(platform, task, "cat", f"{there}/one", f"{there}/two", check=False).stdout == "222", 60)
    (one,) = syncs(platform, task)
    assert one["alive"] and one["state"] in ("watching", "copying") and one["copies"] >= 1
    assert f"{tmp_path}/src/" in platform.cli("workflow", "rsync", "status").stdout
    assert "stopped" in platform.cli("workflow", "rsync", "stop", task).stdout
    (one,) = syncs(platform, task)
    assert not one["alive"] and one["state"] == "ended"


@pytest.mark.servers
def test_a_folder_is_sent_from_the_submission_to_the_end(platform: Platform, tmp_path: Path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/go").write_text("now")
    script = "while [ ! -e /osmo/run/workspace/go ]; do sleep 0.1; done; cat /osmo/run/workspace/go"
    (tmp_path / "w.yaml").write_text(FAILS.replace("held", "fed").replace("    hold: 10\n", "").replace(
        'echo evidence > /tmp/left; exit 3', script))  # fmt: skip
    said = platform.cli("workflow", "submit", str(tmp_path / "w.yaml"), "--rsync", f"{tmp_path}/src/:")
    assert "until it ends" in said.stderr
    id = str(re.search(r"Workflow ID +- (\S+)", said.stdout)[1])  # type: ignore[index]
    assert platform.wait(id) == "COMPLETED"
    assert "now" in platform.cli("workflow", "logs", id).stdout
    until(lambda: not syncs(platform, id)[0]["alive"], 60)


def syncs(platform: Platform, id: str) -> list[dict[str, Any]]:
    return list(json.loads(platform.cli("workflow", "rsync", "status", id, "--format-type", "json").stdout)["syncs"])


@pytest.mark.servers
def test_ssh_and_scp_reach_a_task_by_name(platform: Platform, task: str, tmp_path: Path):
    platform.cli("ssh-config", "--url", platform.url)
    config, host = ["-F", str(platform.home / "client/ssh_config")], f"osmo.{task}.main"

    def ssh(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        line = [*words[:1], *config, *words[1:]]
        return subprocess.run(
            line, env=platform.environ, capture_output=True, text=True, timeout=60, check=False, **more
        )

    done = ssh("ssh", host, "hostname; cat; exit 6", input="typed")
    assert (done.returncode, done.stdout) == (6, "main\ntyped"), done.stderr
    done = ssh("ssh", "-tt", host, "tty; exit 5", stdin=subprocess.DEVNULL)
    assert done.returncode == 5 and "/dev/pts/" in done.stdout
    (tmp_path / "file").write_bytes(os.urandom(2_000_000))
    assert ssh("scp", str(tmp_path / "file"), f"{host}:/tmp/copied").returncode == 0
    assert ssh("scp", f"{host}:/tmp/copied", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    asked = "GET / HTTP/1.0\r\n\r\n"
    assert "from inside" in ssh("ssh", "-W", "127.0.0.1:8080", host, input=asked).stdout


def test_jupyter_that_is_not_there_is_said(platform: Platform, task: str):
    done = platform.cli("jupyter", f"{task}/main", check=False)
    assert done.returncode == 2 and "Jupyter is not installed" in done.stderr


def test_the_live_tree_fits_its_terminal_and_ends_with_the_outcome(platform: Platform, tmp_path: Path):
    """Drawn anew in place: tasks as they go on, never wider than the window, and the last picture stays."""
    script = "while [ ! -e /osmo/run/workspace/go ]; do sleep 0.1; done; exit 4"
    text = (
        FAILS.replace("held", "drawn")
        .replace("    hold: 10\n", "")
        .replace("echo evidence > /tmp/left; exit 3", script)
    )
    (tmp_path / "w.yaml").write_text(text)
    line = [*OSMO[1:], "run", str(tmp_path / "w.yaml"), "--id-file", str(tmp_path / "id")]
    seen = pexpect.spawn(OSMO[0], line, env={**platform.environ, "TERM": "xterm-256color"}, cwd=str(ROOT),
                         dimensions=(20, 60), timeout=90, encoding="utf-8")  # fmt: skip
    seen.expect("RUNNING")
    drawn = seen.before + seen.after
    id = (tmp_path / "id").read_text().strip()
    inside(platform, id, "sh", "-c", "mkdir -p /osmo/run/workspace; touch /osmo/run/workspace/go")
    seen.expect("FAILED")
    drawn += seen.before + seen.after
    seen.expect(pexpect.EOF)
    drawn += seen.before
    seen.close()
    assert seen.exitstatus == 1
    assert "\x1b[1A" in drawn or "\x1b[2K" in drawn, "drawn over what was there"
    picture = drawn[drawn.index("\x1b") : drawn.rindex("\x1b[2K")]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", picture)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= 60


# -- hold


def test_a_failed_task_stays_for_a_look_until_it_is_released(platform: Platform):
    id = platform.submit(FAILS)
    until(lambda: "stays until" in platform.cli("explain", id).stdout, 60)
    assert platform.tasks(id)["main"]["status"] == "RUNNING"
    assert inside(platform, id, "cat", "/tmp/left").stdout == "evidence\n"
    platform.cli("workflow", "release", id)
    assert platform.wait(id) == "FAILED"
    assert platform.tasks(id)["main"]["exit_code"] == 3


# -- containers


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    import shutil
    import tarfile
    import tempfile

    name, folder = "localhost/osmo-ray-inside:1", Path(tempfile.mkdtemp())
    with tarfile.open(folder / "image.tar", "w") as tar:
        tar.add(Path(str(shutil.which("busybox"))).resolve(), "bin/busybox")
        for program in ("sh", "cat", "echo", "sleep", "nc", "stty", "kill", "hostname", "httpd"):
            link = tarfile.TarInfo(f"bin/{program}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        tar.addfile(tarfile.TarInfo("etc/only-in-the-image"))
    subprocess.run(["podman", "import", "--quiet", str(folder / "image.tar"), name], check=True, capture_output=True)
    yield name
    subprocess.run(["podman", "rmi", "--force", name], check=False, capture_output=True)
    shutil.rmtree(folder)


def held(platform: Platform, id: str) -> str:
    """What is said of a task that stays, with the time until when; empty when it does not stay now."""
    said = platform.cli("explain", id).stdout
    return said if "stays until" in said else ""


@pytest.mark.container
def test_a_failed_container_is_mended_inside_and_runs_again_in_place(platform: Platform, image: str):
    command = "[sh, -c, 'echo said; [ -e /mended ] || exit 3']"
    text = CONTAINED.format(image=image)
    id = platform.submit(re.sub(r"command: .*", f"command: {command}\n    hold: 30", text))
    first = until(lambda: held(platform, id), 60)
    assert "--rerun" in first
    assert inside(platform, id, "cat", "/osmo/hold/stay").stdout == ""
    assert platform.cli("workflow", "release", id, "main", "--rerun", check=False).returncode == 0
    until(lambda: held(platform, id) not in ("", first), 60)
    assert inside(platform, id, "sh", "-c", "echo > /mended").returncode == 0
    assert "runs again" in platform.cli("workflow", "release", id, "--rerun").stdout
    assert platform.wait(id) == "COMPLETED"
    log = platform.cli("workflow", "logs", id).stdout
    assert log.count("] said") == 3 and "exit code 3; runs again in place (run 3)" in log
    assert platform.tasks(id)["main"]["retry_id"] == 0


@pytest.mark.container
def test_inside_a_container(platform: Platform, image: str):
    id = platform.submit(CONTAINED.format(image=image))
    platform.running(id, "main")
    script = "cat /etc/only-in-the-image && echo $OSMO_TASK; echo bad >&2; exit 7"
    done = inside(platform, id, "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "main\n", "bad\n")
    shell = pexpect.spawn(
        OSMO[0], [*OSMO[1:], "shell", f"{id}/main"], env=platform.environ, cwd=str(ROOT), dimensions=(30, 100),
        timeout=30, encoding="utf-8",
    )  # fmt: skip
    shell.expect("[#$] ")
    shell.sendline("stty size")
    shell.expect("30 100")
    shell.sendline("exit 9")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 9
    port = free_port()
    server = "while :; do echo answer | nc -l -p 9000; done"
    with (
        kept(platform, "workflow", "exec", id, "--", "sh", "-c", server, stdin=subprocess.PIPE),
        kept(platform, "workflow", "port-forward", id, "--port", f"{port}:9000") as one,
    ):
        assert one.stdout is not None and one.stdout.readline()
        assert until(lambda: heard(port), 30) == b"answer\n"
    platform.cli("workflow", "cancel", "--force", id)


def heard(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        one.settimeout(5)
        return one.recv(100)
