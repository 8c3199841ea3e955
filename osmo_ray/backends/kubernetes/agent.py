"""The program inside a cluster that its platform cannot reach: it dials out, and lets the platform's backend in.

    python -m osmo_ray.backends.kubernetes.agent --url https://osmo.example.org --name lab --token-file /token

It runs under the account of its pod, one per cluster, and keeps no state. `clusters/helm/osmo-backend` installs it.
It needs nothing but `websockets` beside Python's own library.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import ssl
import sys
from pathlib import Path

from osmo_ray.backends.kubernetes.tunnel.dialing import Agent, BadAddress, Platform, address
from osmo_ray.backends.kubernetes.tunnel.serving import ApiServer
from osmo_ray.logs import configure

log = logging.getLogger("osmo_ray.agent")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osmo-agent", description=__doc__.partition("\n")[0])
    parser.add_argument("--url", required=True, help="the platform, as https://HOST")
    parser.add_argument("--name", required=True, help="of the backend, as it was registered")
    parser.add_argument("--token-file", type=Path, required=True, help="holds what osmo backend add --agent gave")
    parser.add_argument("--ca-file", type=Path, help="authorities of the platform's certificate, if not the usual ones")
    parser.add_argument("--insecure-no-tls", action="store_true", help="also to another host over http://")
    parser.add_argument("--namespace", default="", help="the one that is served (default: that of the pod)")
    parser.add_argument("--health", default="", metavar="HOST:PORT", help="answer /live and /ready there")
    parser.add_argument("--account", type=Path, default=ACCOUNT, help="folder with token, ca.crt and namespace")
    parser.add_argument("--api-server", default="", metavar="HOST:PORT", help="(default: as the pod is told)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """0 after TERM or INT, 2 when it cannot start."""
    args = arguments().parse_args(argv)
    configure(os.environ.get("OSMO_LOG_LEVEL", "INFO"))
    try:
        url = address(args.url, args.name, insecure=args.insecure_no_tls)
        trust = ssl.create_default_context(cafile=args.ca_file)
        agent = Agent(Platform(url, args.name, args.token_file, trust), api_server(args))
    except (OSError, BadAddress, KeyError) as error:
        print(f"osmo-agent: {error}", file=sys.stderr)  # noqa: T201 - the word of a program that cannot begin
        return 2
    asyncio.run(_run(agent, args.health))
    return 0


def api_server(args: argparse.Namespace) -> ApiServer:
    """As Kubernetes tells every pod. Raises OSError and KeyError outside of one."""
    host, _, port = args.api_server.rpartition(":")
    account: Path = args.account
    return ApiServer(
        host.strip("[]") or os.environ["KUBERNETES_SERVICE_HOST"],
        int(port or os.environ["KUBERNETES_SERVICE_PORT"]),
        ssl.create_default_context(cafile=account / "ca.crt"),
        account / "token",
        args.namespace or (account / "namespace").read_text().strip(),
    )


async def _run(agent: Agent, health: str) -> None:
    running = asyncio.ensure_future(agent.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    async with _answering(agent, health):
        with contextlib.suppress(asyncio.CancelledError):
            await running


@contextlib.asynccontextmanager
async def _answering(agent: Agent, health: str):  # type: ignore[no-untyped-def]
    """For the kubelet: whether it lives, and whether it is linked."""
    if not health:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(5):
                first = await reader.readuntil(b"\r\n")
            good = agent.linked or first.startswith(b"GET /live ")
            text = b"200 OK" if good else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + text + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    host, _, port = health.rpartition(":")
    server = await asyncio.start_server(answer, host or None, int(port), limit=4096)
    try:
        yield
    finally:
        server.close()


if __name__ == "__main__":
    raise SystemExit(main())
