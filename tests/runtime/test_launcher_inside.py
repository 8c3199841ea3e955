"""The launcher of pods as a session's other end, and its holds and masks; on this machine, without a cluster."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from osmo_ray.runtime.inside.frames import EXIT, SIZE, Ask, Frames, Kind, frame
from osmo_ray.runtime.masking import forms
from osmo_ray.spec.attempt import AttemptKey
from tests.runtime.test_launcher import LAUNCHER, World

pytestmark = pytest.mark.kubernetes
KEY = AttemptKey("a" * 32, 0)


class Caller:
    """Speaks frames with a launcher."""

    def __init__(self, folder: Path, ask: Ask) -> None:
        (folder / "start.json").write_text(json.dumps({"argv": ["x"], "env": {"WORD": "four"}}))
        self.process = subprocess.Popen(
            [LAUNCHER, "inside", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._frames, self._ready = Frames(), list[tuple[Kind, bytes]]()
        self.say(Kind.DATA, json.dumps(ask.to_json()).encode())

    def say(self, kind: Kind, data: bytes = b"") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(frame(kind, data))

    def hear(self) -> tuple[Kind, bytes]:
        """The next frame; END when the launcher has gone. Fails after 20 seconds of silence."""
        out = self.process.stdout
        assert out is not None
        while not self._ready:
            assert select.select([out], [], [], 20)[0], "nothing was said"
            data = os.read(out.fileno(), 65536)
            if not data:
                return Kind.END, b""
            self._ready += self._frames.feed(data)
        return self._ready.pop(0)

    def rest(self) -> tuple[bytes, bytes, int]:
        """Output, errors and exit code."""
        said = {Kind.DATA: b"", Kind.ERRORS: b""}
        while (heard := self.hear())[0] is not Kind.EXIT:
            said[heard[0]] += heard[1]
        return said[Kind.DATA], said[Kind.ERRORS], EXIT.unpack(heard[1])[0]

    def leave(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def call(tmp_path: Path) -> Iterator[object]:
    made: list[Caller] = []

    def begin(ask: Ask) -> Caller:
        made.append(Caller(tmp_path, ask))
        return made[-1]

    yield begin
    for one in made:
        one.leave()


def command(*argv: str, tty: bool = False) -> Ask:
    return Ask(KEY, argv, tty, 30, 100, "xterm-osmo")


def test_it_stays_until_its_caller_hangs_up(call):
    """Whoever carries its last words drops what is under way when it ends."""
    caller = call(Ask(KEY, ("sh", "-c", "echo last words; exit 3")))
    assert caller.hear()[0] is Kind.STARTED
    assert caller.rest() == (b"last words\n", b"", 3)
    with pytest.raises(subprocess.TimeoutExpired):
        caller.process.wait(1.0)
    caller.process.stdin.close()
    assert caller.process.wait(20) == 0


def test_a_command_has_the_task_s_environment_and_three_streams(call):
    one = call(command("sh", "-c", "read x; echo $WORD $TERM $x; echo bad >&2; exit 7"))
    assert one.hear() == (Kind.STARTED, b"")
    one.say(Kind.DATA, b"hi\n")
    assert one.rest() == (b"four xterm-osmo hi\n", b"bad\n", 7)


def test_input_ends_where_it_is_said_to(call):
    one = call(command("cat"))
    one.say(Kind.DATA, b"x" * 300_000)
    one.say(Kind.END)
    assert one.hear()[0] is Kind.STARTED
    out, errors, code = one.rest()
    assert (len(out), errors, code) == (300_000, b"", 0)


def test_a_launcher_that_is_held_up_loses_no_last_words(call, tmp_path: Path):
    """The command writes as much as a pipe takes, and ends, while nobody reads."""
    script = f"until test -e {tmp_path}/go; do :; done; head -c 60000 /dev/zero; echo >{tmp_path}/done"
    one = call(command("sh", "-c", script))
    assert one.hear()[0] is Kind.STARTED
    os.kill(one.process.pid, signal.SIGSTOP)
    (tmp_path / "go").touch()
    World(tmp_path).until("done")
    for _ in range(12):
        os.kill(one.process.pid, signal.SIGCONT)
        time.sleep(0.0003)
        os.kill(one.process.pid, signal.SIGSTOP)
        time.sleep(0.12)
    os.kill(one.process.pid, signal.SIGCONT)
    out, _, code = one.rest()
    assert (len(out), code) == (60000, 0)


@pytest.mark.parametrize("kept", ["", ">/dev/null", "2>/dev/null"])
def test_what_a_command_leaves_running_is_not_waited_for(call, kept: str):
    """Whichever of its streams that has."""
    one = call(command("sh", "-c", f"sleep 600 {kept} & echo begun; exit 3"))
    assert one.hear()[0] is Kind.STARTED
    assert one.rest() == (b"begun\n", b"", 3)


def test_a_terminal_has_a_size_that_changes(call):
    one = call(command("sh", "-c", "stty size; read x; stty size; tty", tty=True))
    assert one.hear()[0] is Kind.STARTED
    said = b""
    while b"30 100" not in said:
        said += one.hear()[1]
    one.say(Kind.RESIZE, SIZE.pack(31, 101))
    one.say(Kind.DATA, b"\n")
    out, _, code = one.rest()
    assert b"31 101" in out and b"/dev/pts/" in out and code == 0


def test_a_signal_ends_what_is_in_front(call):
    one = call(command("sh", "-c", "echo up; sleep 600; echo never", tty=True))
    assert one.hear()[0] is Kind.STARTED
    assert one.hear() == (Kind.DATA, b"up\r\n")
    one.say(Kind.SIGNAL, bytes([15]))
    assert one.rest()[2] == 143


def test_a_program_that_is_not_there_is_told_as_a_shell_does(call):
    one = call(command("no-such-program"))
    assert one.hear()[0] is Kind.STARTED
    out, errors, code = one.rest()
    assert (out, code) == (b"", 127) and b"no such program" in errors


@pytest.mark.parametrize("fed", [0, 3 << 20], ids=["idle", "with input that nobody reads"])
def test_what_a_session_started_ends_when_its_caller_goes(call, tmp_path: Path, fed: int):
    script = f"trap '' HUP; setsid sh -c 'trap \"\" HUP; echo $$ > {tmp_path}/pid; sleep 600' & echo up; sleep 600"
    one = call(command("sh", "-c", script))
    assert [one.hear()[0], one.hear()[1]] == [Kind.STARTED, b"up\n"]
    until = time.monotonic() + 20
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < until
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    assert one.process.stdin is not None
    os.set_blocking(one.process.stdin.fileno(), False)
    for at in range(0, fed, 65536):
        try:
            os.write(one.process.stdin.fileno(), frame(Kind.DATA, b"x" * 65536))
        except BlockingIOError:
            break
        assert at < fed
    one.leave()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_port_carries_bytes_both_ways(call):
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = call(Ask(KEY, port=server.getsockname()[1]))
        inner, _ = server.accept()
        with inner:
            assert one.hear()[0] is Kind.STARTED
            one.say(Kind.DATA, b"there")
            assert inner.recv(100) == b"there"
            one.say(Kind.END)
            assert inner.recv(100) == b""
            inner.sendall(b"back")
            assert one.hear() == (Kind.DATA, b"back")
        assert one.hear() == (Kind.END, b"")


def test_a_port_nobody_listens_on_is_refused(call):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        kind, body = call(Ask(KEY, port=free.getsockname()[1])).hear()
    assert kind is Kind.REFUSED and "nothing listens on port" in json.loads(body)["sentence"]


def test_datagrams_come_back_to_who_sent_them(call):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        one = call(Ask(KEY, port=server.getsockname()[1], udp=True))
        assert one.hear()[0] is Kind.STARTED
        senders = [struct.pack(">4sH", bytes([10, 0, 0, n]), n) for n in (1, 2)]
        for sender in senders:
            one.say(Kind.DATA, sender + b"ping " + sender[3:4])
        for _ in senders:
            data, address = server.recvfrom(100)
            server.sendto(data.replace(b"ping", b"pong"), address)
        heard = {one.hear()[1] for _ in senders}
        assert heard == {sender + b"pong " + sender[3:4] for sender in senders}


def test_a_held_command_runs_again_in_place(world: World):
    """It fails the first time and finds its own file the second."""
    script = f"test -e {world.folder}/mended && exit 0; echo bad; exit 4"
    process = world.start("sh", "-c", script, hold=600)
    world.until("held")
    assert json.loads((world.folder / "held").read_text())["exit"] == 4
    (world.folder / "mended").touch()
    subprocess.run([LAUNCHER, "rerun", world.folder], check=True)
    process.communicate(timeout=20)
    assert process.returncode == 0 and world.end["exit"] == 0
    assert not (world.folder / "held").exists()
    assert world.lines() == [("O", "bad"), ("P", "-------- exit code 4; runs again in place (run 2) --------")]


def test_a_word_before_any_failure_means_nothing(world: World):
    for verb in ("release", "rerun"):
        subprocess.run([LAUNCHER, verb, world.folder], check=True)
        assert not (world.folder / verb).exists()


def test_values_of_variables_are_put_into_the_command(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKEN", "a b")
    assert world.run("echo", "x\0TOKEN\0y", "$(TOKEN)") == 0
    assert world.lines() == [("O", "xa by $(TOKEN)")]


def test_secrets_do_not_reach_the_log(world: World):
    secret = "correct horse battery"
    found = sorted(forms([secret]), key=len, reverse=True)
    (world.folder / "masked").write_text(json.dumps([base64.b64encode(one).decode() for one in found]))
    plain = base64.b64encode(secret.encode()).decode()
    script = f"printf 'a correct horse'; sleep 0.1; echo ' battery z'; echo {plain}; printf correct"
    assert world.run("sh", "-c", script) == 0
    text = "\n".join(said for _, said in world.lines())
    assert text.startswith("a [MASKED] z\n") and text.endswith("\ncorrect")
    assert secret not in text and plain[:20] not in text


@pytest.mark.parametrize("verb", ["release", "rerun"])
def test_a_word_is_written_through_no_link(world: World, tmp_path: Path, verb: str):
    """It is passed on from beside the task, where there are files that the task must not reach."""
    own = tmp_path / "own"
    own.mkdir()
    (own / verb).write_text("ours")
    (world.folder / "held").touch()
    (world.folder / verb).symlink_to(own / verb)
    assert subprocess.run([LAUNCHER, verb, world.folder], capture_output=True, check=False).returncode == 125
    (own / "held").touch()
    (tmp_path / "run").symlink_to(own)
    assert subprocess.run([LAUNCHER, verb, tmp_path / "run"], capture_output=True, check=False).returncode == 125
    assert (own / verb).read_text() == "ours"
