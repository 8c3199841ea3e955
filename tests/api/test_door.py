"""The port that a replica opens itself."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from osmo_ray.api import door


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Says who asked, as the server sees them."""
    body = f"{scope['client'][0]} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(port: int, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}/", headers=headers)


async def test_it_answers_while_open_and_not_after():
    port = free_port()
    async with door.listening(application, "127.0.0.1", port):
        answer = await ask(port)
        assert answer.text == "127.0.0.1 http" and "server" not in answer.headers
    with pytest.raises(httpx.ConnectError):
        await ask(port)


async def test_headers_do_not_change_who_asks():
    port = free_port()
    async with door.listening(application, "127.0.0.1", port):
        told = await ask(port, **{"x-forwarded-for": "8.8.8.8", "x-forwarded-proto": "https"})
        assert told.text == "127.0.0.1 http"


async def test_the_next_replica_listens_before_the_last_one_leaves():
    port = free_port()
    async with door.listening(application, "127.0.0.1", port):
        second = door.listening(application, "127.0.0.1", port)
        await second.__aenter__()
    try:
        assert (await ask(port)).status_code == 200
    finally:
        await second.__aexit__(None, None, None)


async def test_a_port_of_somebody_else_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with door.listening(application, "127.0.0.1", port):
                await asyncio.sleep(0)
