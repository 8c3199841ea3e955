"""`osmo workflow exec` and `osmo shell`: a command inside a running task, or in all tasks of a group."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import time
from typing import Any

from osmo_ray.cli.command import Command, connect
from osmo_ray.cli.inside import terminal
from osmo_ray.cli.inside.naming import task_of
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import Unreachable
from osmo_ray.sdk.sessions import Channel, ask

SHELL = "sh -c 'command -v bash >/dev/null 2>&1 && exec bash; exec sh'"
_AGAIN = 10.0
BROKEN = 10
"""Exit code of a session whose end is not known."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", help="the workflow, or WORKFLOW/TASK")
    parser.add_argument("task", nargs="?", default="", help="the task (default: the lead task that runs)")
    parser.epilog = "What follows -- is the command with its arguments: osmo workflow exec ID TASK -- ls -l"
    parser.add_argument("--entry", default="", help="the command as one text (default: a shell)")
    parser.add_argument("--group", default="", help="run it in every task of this group")
    parser.add_argument("--keep-alive", action="store_true", help="come back when the connection breaks")
    parser.add_argument("--no-tty", action="store_true", help="no terminal, although this is one")


def _shell_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", metavar="WORKFLOW/TASK")
    parser.set_defaults(task="", entry="", group="", keep_alive=False, no_tty=False)


def _exec(args: argparse.Namespace) -> int:
    entry = args.entry or shlex.join(args.tail) or SHELL
    tty = os.isatty(0) and os.isatty(1) and not args.no_tty
    with connect(args) as client:
        if args.group:
            if entry == SHELL:
                print("osmo: a group gets a command, not a shell: name one with --entry", file=sys.stderr)
                return 2
            return asyncio.run(_group(client, args.workflow_id, args.group, entry))
        workflow, task = task_of(client, args.workflow_id, args.task)
        while True:
            try:
                code = asyncio.run(run(client, workflow, task, entry, tty=tty))
            except Unreachable as error:
                if not args.keep_alive:
                    raise
                print(f"\r\nosmo: {error}", file=sys.stderr)
                code = BROKEN
            if code != BROKEN or not args.keep_alive:
                return code
            print(f"osmo: the connection broke; again in {_AGAIN:.0f} s", file=sys.stderr)
            time.sleep(_AGAIN)


async def run(client: Client, workflow: str, task: str, entry: str, *, tty: bool) -> int:
    """One command with our own streams; its exit code. Raises `ClientError`."""
    reply = await ask(client, f"/api/workflow/{workflow}/exec/task/{task}", entry_command=entry)
    channel = await Channel.open(client, "exec", workflow, reply)
    try:
        if tty:
            with terminal.raw():
                await channel.resize(*terminal.size())
                await terminal.attend(channel, terminal=True)
        else:
            await channel.resize(0, 0)
            await terminal.attend(channel, terminal=False)
    finally:
        await channel.close()
    if (error := channel.refusal()) is not None:
        raise error
    return BROKEN if channel.code is None else channel.code


async def _group(client: Client, workflow: str, group: str, entry: str) -> int:
    """The worst exit code of all tasks."""
    replies = await ask(client, f"/api/workflow/{workflow}/exec/group/{group}", entry_command=entry)
    ways = (_member(client, workflow, task, reply) for task, reply in replies.items())
    return max(await asyncio.gather(*ways))


async def _member(client: Client, workflow: str, task: str, reply: dict[str, Any]) -> int:
    channel = await Channel.open(client, "exec", workflow, reply)
    try:
        await channel.resize(0, 0)
        await channel.end()
        rest = b""
        while (said := await channel.receive()) is not None:
            *lines, rest = (rest + said[0]).split(b"\n")
            _print(task, lines)
        _print(task, [rest] if rest else [])
    except ConnectionError:
        pass
    finally:
        await channel.close()
    if (error := channel.refusal()) is not None:
        print(f"[{task}] osmo: {error}", file=sys.stderr)
    return BROKEN if channel.code is None else channel.code


def _print(task: str, lines: list[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(f"[{task}] ".encode() + line + b"\n")
    sys.stdout.flush()


def _release_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", help="the workflow, or WORKFLOW/TASK")
    parser.add_argument("task", nargs="?", default="")
    parser.add_argument("--rerun", action="store_true", help="run its command again, in place, with its files as left")


def _release(args: argparse.Namespace) -> int:
    with connect(args) as client:
        workflow, task = task_of(client, args.workflow_id, args.task)
        again = {"rerun": True} if args.rerun else {}
        client.http.json("POST", f"/api/x/workflow/{workflow}/task/{task}/release", again)
    print(f"{workflow}/{task}: {'runs again' if args.rerun else 'released'}")
    return 0


EXEC = Command(_arguments, _exec, json=False, tail=True)
SHELL_VERB = Command(_shell_arguments, _exec, json=False)
RELEASE = Command(_release_arguments, _release, json=False)
