"""`osmo code` and `osmo jupyter`: an editor, or notebooks, inside a running task."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shlex
import shutil
import subprocess
import sys

from osmo_ray.cli.command import Command, connect
from osmo_ray.cli.inside import ssh_config
from osmo_ray.cli.inside.forward import Pair, connections
from osmo_ray.cli.inside.naming import task_of
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.sessions import Channel, ask

_NOT_THERE = 127
_JUPYTER = (
    "command -v jupyter >/dev/null 2>&1 || exit 127; read -r JUPYTER_TOKEN; export JUPYTER_TOKEN; "
    'allow=; [ "$(id -u)" = 0 ] && allow=--allow-root; '
    "kind=lab; jupyter lab --version >/dev/null 2>&1 || kind=server; "
    'exec jupyter "$kind" --no-browser --ip=127.0.0.1 --port={port} --port-retries=0 $allow'
)


def _code_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", metavar="WORKFLOW/TASK")
    parser.add_argument("folder", nargs="?", default="/", help="to open (default: /)")


def _code(args: argparse.Namespace) -> int:
    with connect(args) as client:
        workflow, task = task_of(client, args.workflow_id)
        ssh_config.include(ssh_config.write(client.login.url))
    line = ["code", "--remote", f"ssh-remote+{ssh_config.host_of(workflow, task)}", args.folder]
    if shutil.which("code") is None:
        print("osmo: the program code is not on this host; with VS Code and its Remote-SSH extension:", file=sys.stderr)
        print(f"  {shlex.join(line)}", file=sys.stderr)
        return 2
    return subprocess.run(line, check=False).returncode


def _jupyter_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", metavar="WORKFLOW/TASK")
    parser.add_argument("--port", type=int, default=0, help="on this host (default: any free one)")
    parser.add_argument("--task-port", type=int, default=8888, help="in the task (default: 8888)")


def _jupyter(args: argparse.Namespace) -> int:
    with connect(args) as client:
        workflow, task = task_of(client, args.workflow_id)
        return asyncio.run(_notebooks(client, workflow, task, Pair(args.port, args.task_port)))


async def _notebooks(client: Client, workflow: str, task: str, ports: Pair) -> int:
    """Until it ends, or is interrupted; it ends with us."""
    token = secrets.token_urlsafe(24)
    entry = shlex.join(["sh", "-c", _JUPYTER.replace("{port}", str(ports.remote))])
    reply = await ask(client, f"/api/workflow/{workflow}/exec/task/{task}", entry_command=entry)
    channel = await Channel.open(client, "exec", workflow, reply)
    said, up = bytearray(), asyncio.Event()
    ending = asyncio.ensure_future(_listen(channel, said, f":{ports.remote}/".encode(), up))
    told = f"Jupyter of {workflow}/{task}: http://{{here}}/?token={token}"
    forwarding = asyncio.ensure_future(_once(up, client, workflow, task, ports, told))
    try:
        await channel.resize(0, 0)
        await channel.send(f"{token}\n".encode())
        done, _ = await asyncio.wait([ending, forwarding], return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        ending.cancel()
        forwarding.cancel()
        await asyncio.gather(ending, forwarding, return_exceptions=True)
        await channel.close()
    return _verdict(channel, f"{workflow}/{task}", said.decode(errors="replace"))


async def _listen(channel: Channel, said: bytearray, mark: bytes, up: asyncio.Event) -> None:
    """Keep the last of what it says, to its end; `up` when it has said the mark."""
    while (piece := await channel.receive()) is not None:
        said[:] = (said + piece[0])[-4096:]
        if mark in said:
            up.set()


async def _once(up: asyncio.Event, client: Client, workflow: str, task: str, ports: Pair, told: str) -> None:
    await up.wait()
    try:
        await connections(client, workflow, task, ports, "127.0.0.1", told)
    except OSError as error:
        raise ClientError(
            f"127.0.0.1:{ports.local} cannot be had ({error}): choose another --port", status=400
        ) from None


def _verdict(channel: Channel, task: str, said: str) -> int:
    if channel.code == _NOT_THERE:
        why = f"Jupyter is not installed in {task}: add it to the image, or requirements: [jupyterlab]"
        raise ClientError(why, status=400)
    if channel.code:
        print(said, file=sys.stderr)
    return channel.code or 0


CODE = Command(_code_arguments, _code, json=False)
JUPYTER = Command(_jupyter_arguments, _jupyter, json=False)
