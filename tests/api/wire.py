"""Requests as the original's client puts them on the wire, to the application behind a real server."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import uvicorn

from tests.api.world import World

HEADERS = {"User-Agent": "osmo-cli/6.0.0", "x-osmo-client-version": "6.0.0", "Content-Type": "application/json"}
Query = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        return self.data.decode()


class Wire:
    """One user of one address."""

    def __init__(self, world: World, port: int) -> None:
        self.world, self.port = world, port

    def call(
        self,
        method: str,
        path: str,
        query: Query = (),
        body: Any = None,
        *,
        user: str = "ann",
        headers: dict[str, str] | None = None,
        form: str | None = None,
    ) -> Reply:
        """`body` goes as JSON; without one, nothing but the header that announces it."""
        sent = {**HEADERS, **({"x-osmo-user": user} if user else {}), **(headers or {})}
        data = json.dumps(body) if body is not None else form
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            target = quote(path) + (f"?{urlencode(query)}" if query else "")
            connection.request(method, target, data, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, *query: tuple[str, str], user: str = "ann") -> Any:
        """The JSON of an answer that must be 200."""
        reply = self.call("GET", path, query, user=user)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply.text
        return reply.json

    def post(self, path: str, *query: tuple[str, str], body: Any = None, user: str = "ann") -> Any:
        reply = self.call("POST", path, query, body, user=user)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply.text
        return reply.json

    def refused(self, method: str, path: str, *query: tuple[str, str], body: Any = None, user: str = "ann") -> Any:
        """The error of an answer that must be 400."""
        reply = self.call(method, path, query, body, user=user)
        assert reply.status == 400, reply.text
        error = reply.json
        assert set(error) >= {"message", "error_code", "workflow_id"}
        return error


@contextmanager
def serve(world: World, port: int = 0, **settings: Any) -> Iterator[Wire]:
    """The application on a port of loopback; 0: a free one."""
    told = {"port": port, **settings} if port else settings
    config = uvicorn.Config(world.app(**told), "127.0.0.1", port, log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Wire(world, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
