"""`osmo ssh-proxy`: an SSH server on standard input and output, whose sessions are sessions inside a task.

ssh runs it as its ProxyCommand, so nothing listens anywhere and no image needs an SSH server: commands and shells
become exec sessions, forwarded ports become connections to the task's own loopback. Who may do that was decided when
the platform knew who asks; on this pipe there is nobody else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from osmo_ray.cli.command import Command, connect
from osmo_ray.cli.inside.exec import SHELL
from osmo_ray.cli.inside.forward import both
from osmo_ray.cli.inside.naming import task_of
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.sessions import Channel, Forwarding, ask
from osmo_ray.spec.wire import PIECE

if TYPE_CHECKING:
    import asyncssh

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "")
_SFTP = (
    "for place in /usr/lib/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/openssh/sftp-server "
    "/usr/libexec/sftp-server /usr/lib/sftp-server; do [ -x $place ] && exec $place; done; "
    "command -v sftp-server >/dev/null && exec sftp-server; "
    "echo 'osmo: the task has no sftp-server (Debian: openssh-sftp-server); use osmo workflow rsync' >&2; exit 127"
)
_SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", help="WORKFLOW/TASK, or the name that osmo ssh-config made: osmo.WORKFLOW.TASK")


def _proxy(args: argparse.Namespace) -> int:
    try:
        import asyncssh  # noqa: F401 - whether it is there
    except ImportError:
        print("osmo: this needs a library: pip install 'osmo-ray[ssh]'", file=sys.stderr)
        return 2
    name = args.host
    if name.startswith("osmo."):
        name = "/".join(name.split(".", 2)[1:])
    with connect(args) as client:
        workflow, task = task_of(client, name)
        asyncio.run(Proxy(client, workflow, task).run())
    return 0


class Proxy:
    """One SSH connection."""

    def __init__(self, client: Client, workflow: str, task: str) -> None:
        self._client, self._workflow, self._task = client, workflow, task

    async def run(self) -> None:
        """Until ssh has gone."""
        import asyncssh

        from osmo_ray.cli.inside.ssh_config import host_key

        near, far = socket.socketpair()
        for act in (_inward, _outward):
            threading.Thread(target=act, args=(far,), daemon=True).start()
        proxy = self

        class Server(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                return False  # see above

            def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
                if dest_host not in _LOOPBACK:
                    why = "only the task's own ports can be reached"
                    raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, why)
                return proxy._port(dest_port)

            def session_requested(self) -> Any:
                return _process(proxy._session)

        near.setblocking(False)
        connection = await asyncssh.run_server(
            near,
            server_factory=Server,
            server_host_keys=[host_key()],
            encoding=None,
            line_editor=False,
            allow_scp=False,
            keepalive_interval=30,
        )
        await connection.wait_closed()

    def _port(self, port: int) -> Any:
        async def carry(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
            forwarding = Forwarding.port(self._client, self._workflow, self._task, port)
            try:
                channel = await forwarding.dial()
                try:
                    await both(channel, reader, writer)
                finally:
                    await channel.close()
            except (ClientError, OSError) as error:
                print(f"osmo: {error}", file=sys.stderr)
            finally:
                writer.close()
                await forwarding.close()

        return carry

    async def _session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            path = f"/api/workflow/{self._workflow}/exec/task/{self._task}"
            reply = await ask(self._client, path, entry_command=_command(process.command, process.subsystem))
            channel = await Channel.open(self._client, "exec", self._workflow, reply)
        except ClientError as error:
            process.stderr.write(f"osmo: {error}\r\n".encode())
            process.exit(255)
            return
        try:
            await self._attend(process, channel)
        finally:
            await channel.close()

    async def _attend(self, process: asyncssh.SSHServerProcess[bytes], channel: Channel) -> None:
        terminal = process.get_terminal_type() is not None
        cols, rows, *_ = process.get_terminal_size() if terminal else (0, 0)
        await channel.resize(rows or 24, cols or 80) if terminal else await channel.resize(0, 0)
        sending = asyncio.ensure_future(_input(process, channel))
        try:
            while (said := await channel.receive()) is not None:
                writer = process.stderr if said[1] else process.stdout
                writer.write(said[0])
                await writer.drain()
        except OSError:  # ssh went away
            return
        finally:
            sending.cancel()
        if (error := channel.refusal()) is not None:
            process.stderr.write(f"osmo: {error}\r\n".encode())
        process.exit(255 if channel.code is None else channel.code & 0xFF)


def _process(act: Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]) -> Any:
    """A session that `act` attends to, also when it is for files: the library would serve those of this host."""
    import asyncssh

    class Process(asyncssh.SSHServerProcess[bytes]):
        def subsystem_requested(self, subsystem: str) -> bool:
            return True

        def session_started(self) -> None:
            streams = (
                asyncssh.SSHReader[bytes](self, self._chan),
                asyncssh.SSHWriter[bytes](self, self._chan),
                asyncssh.SSHWriter[bytes](self, self._chan, asyncssh.EXTENDED_DATA_STDERR),
            )
            serving = self._start_process(*streams)
            assert self._conn is not None and serving is not None
            self._conn.create_task(serving)

    return Process(act, None, 3, False)


def _command(command: str | bytes | None, subsystem: str | bytes | None) -> str:
    """What sshd would run, as one text."""
    if subsystem == "sftp":
        return shlex.join(["sh", "-c", _SFTP])
    if subsystem:
        return shlex.join(["sh", "-c", f"echo 'osmo: no subsystem {shlex.quote(str(subsystem))}' >&2; exit 127"])
    if not command:
        return SHELL
    text = command.decode() if isinstance(command, bytes) else command
    return shlex.join(["sh", "-c", f"cd 2>/dev/null; {text}"])


async def _input(process: asyncssh.SSHServerProcess[bytes], channel: Channel) -> None:
    import asyncssh

    with contextlib.suppress(ConnectionError):
        while True:
            try:
                data = await process.stdin.read(PIECE)
            except asyncssh.TerminalSizeChanged as change:
                await channel.resize(change.height, change.width)
                continue
            except asyncssh.SignalReceived as heard:
                await channel.signal(_SIGNALS.get(heard.signal, 15))
                continue
            except asyncssh.BreakReceived:
                continue
            if not data:
                await channel.end()
                return
            await channel.send(data)


def _inward(far: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, PIECE):
            far.sendall(data)
        far.shutdown(socket.SHUT_WR)


def _outward(far: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := far.recv(PIECE):
            while data:
                data = data[os.write(1, data) :]
    os.close(1)


PROXY = Command(_arguments, _proxy, json=False)
