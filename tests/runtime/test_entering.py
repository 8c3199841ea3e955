"""Sessions inside attempts of one host: where they run, from the first moment on, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hosting import Host, is_root, shell, wait_for
from test_ordinary_user import _as_nobody, _python

from osmo_ray.runtime.inside.frames import EXIT, Ask, BadFrame, Frames, Kind, frame
from osmo_ray.runtime.process import marked
from osmo_ray.spec.attempt import AttemptKey, Phase


async def session(host: Host, key: AttemptKey, script: str, *, tty: bool = False) -> tuple[str, int | None]:
    """What a script says inside, and its exit code."""
    near, far = socket.socketpair()
    with near:
        with far:
            await host.inside(Ask(key, ("sh", "-c", script), tty), far.fileno())
        near.setblocking(False)
        frames, said, code = Frames(), b"", None
        async with asyncio.timeout(30):
            while data := await asyncio.get_running_loop().sock_recv(near, 65536):
                for kind, body in frames.feed(data):
                    said += body if kind in (Kind.DATA, Kind.ERRORS, Kind.REFUSED) else b""
                    code = EXIT.unpack(body)[0] if kind is Kind.EXIT else code
    return said.decode(), code


async def test_a_session_at_the_first_moment_is_in_the_sandbox_too(sandboxed: Host) -> None:
    """RUNNING is told before the file system is mounted; a session must not come in between."""
    (sandboxed.root / "secret").write_text("of the host")
    for _ in range(10):
        one = shell("sleep 60")
        await sandboxed.apply(1, [one])
        await sandboxed.phase(one.key, Phase.RUNNING)
        said, code = await session(sandboxed, one.key, f"cat {sandboxed.root}/secret; hostname; tty", tty=True)
        assert "of the host" not in said and f"{one.task}\r\n/dev/pts/0" in said and code == 0, said
        await sandboxed.delete(1, [one.group_uuid], 0.1)


async def test_environment_folder_and_code(any_host: Host) -> None:
    one = shell("sleep 60", environment={"MINE": "a b"})
    await any_host.apply(1, [one])
    await any_host.phase(one.key, Phase.RUNNING)
    said, code = await session(any_host, one.key, "echo $MINE $OSMO_ATTEMPT $HOME; pwd; kill -9 $$")
    mine, folder = said.splitlines()
    assert mine.startswith(f"a b {one.key} /") and folder in ("/", mine.split()[-1].replace("/home", "/cwd"))
    assert code == 137


async def test_nothing_is_left_when_the_caller_goes(any_host: Host) -> None:
    one = shell("sleep 60")
    await any_host.apply(1, [one])
    await any_host.phase(one.key, Phase.RUNNING)
    near, far = socket.socketpair()
    with far:
        script = "(trap '' HUP TERM; MINE=left setsid sleep 600) & exec env MINE=left sleep 600"
        await any_host.inside(Ask(one.key, ("sh", "-c", script)), far.fileno())
    await wait_for(lambda: len(marked("MINE=left")) == 2, "the session never began")
    near.close()
    await wait_for(lambda: not marked("MINE=left"), "something of the session was left")


async def test_an_attempt_that_ended_has_no_inside(any_host: Host) -> None:
    one = shell("true")
    await any_host.run(one)
    with pytest.raises(LookupError):
        await any_host.inside(Ask(one.key, ("true",)), 0)


def test_frames_are_whole_or_refused() -> None:
    frames, both = Frames(), frame(Kind.DATA, b"one") + frame(Kind.END)
    seen = [item for byte in both for item in frames.feed(bytes([byte]))]
    assert seen == [(Kind.DATA, b"one"), (Kind.END, b"")]
    with pytest.raises(BadFrame):
        list(frames.feed(b"\xff" * 5))
    with pytest.raises(BadFrame):
        list(Frames().feed(b"\0\xff\xff\xff\xff"))


_PROGRAM = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from hosting import Host, shell
    from test_entering import session
    from osmo_ray.spec.attempt import Phase

    async def main():
        host = await Host.begin(Path(sys.argv[1]))
        one = shell("echo mine > /tmp/left; sleep 60", task="a")
        await host.apply(1, [one])
        await host.phase(one.key, Phase.RUNNING)
        script = "until cat /tmp/left 2>/dev/null; do :; done; hostname; tty; id -u; exit 4"
        print(await session(host, one.key, script, tty=True))
        await host.shutdown(0.2)

    asyncio.run(main())
""")


@pytest.mark.skipif(not is_root(), reason="the whole suite already runs as an ordinary user")
async def test_an_ordinary_users_tasks_can_be_looked_into(folder: Path) -> None:
    python = _python()
    if python is None or shutil.which("setpriv") is None:
        pytest.skip("no Python 3.11 on this machine that another user may start")
    if subprocess.run(_as_nobody(["unshare", "-Urn", "true"]), capture_output=True, check=False).returncode:
        pytest.skip("this machine forbids user namespaces to ordinary users")
    os.chown(folder, 54321, 54321)
    roots = [entry for entry in sys.path if "site-packages" in entry or (Path(entry) / "osmo_ray").is_dir()]
    path = os.pathsep.join([str(Path(__file__).parent), *roots])
    done = subprocess.run(
        _as_nobody([f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", python, "-c", _PROGRAM, str(folder)]),
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.stderr.decode(), done.stdout.decode()) == ("", "('mine\\r\\na\\r\\n/dev/pts/0\\r\\n0\\r\\n', 4)\n")
