"""Standard input and output as one connection of `osmo workflow rsync`: what the rsync program runs to connect, so
that no port is opened on this host."""

from __future__ import annotations

import asyncio
import sys

from osmo_ray.cli.inside import terminal
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.sessions import Forwarding


async def _pipe(client: Client, workflow: str, task: str) -> None:
    forwarding = Forwarding.rsync(client, workflow, task)
    channel = await forwarding.dial()
    try:
        await terminal.attend(channel, terminal=False)
    finally:
        await channel.close()
        await forwarding.close()
    if (error := channel.refusal()) is not None:
        raise error


def main(workflow: str, task: str) -> int:
    """The exit code."""
    try:
        with Client() as client:
            asyncio.run(_pipe(client, workflow, task))
    except ClientError as error:
        print(f"osmo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
