"""A strict stand-in for Run:AI's control plane, for tests: what the reference does not name is refused.

    python tests/servers/runai.py [PORT]        two departments, three projects, application `osmo` / `sesame`

It only knows tokens and the two lists; a list pages, a token ends, and faults are queued: each answers one request.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

LISTS = {"/api/v1/org-unit/projects": "projects", "/api/v1/org-unit/departments": "departments"}
FAULTS = ("cut", "half", "slow", "expired", "loop", "skip", "text", "array", *map(str, (403, 429, 500, 503)))


def unit(
    id: str, name: str, gpu, parent: str | None = None, pool: str = "default", cluster: str = "c1", **more
) -> dict:
    """A project or department with a share (deserved, limit, weight) of one node pool's GPUs."""
    resource = dict(zip(("deserved", "limit", "overQuotaWeight"), gpu, strict=True)) if gpu else None
    entry = {"nodePool": {"id": "1", "name": pool}, "gpu": resource, "cpu": None, "memory": None, **more}
    return {"id": id, "name": name, "clusterId": cluster, "parentId": parent, "resources": [entry]}


@dataclass
class State:
    """What the server knows, and what it was asked; a test may change it at any time."""

    projects: list[dict] = field(default_factory=list)
    departments: list[dict] = field(default_factory=list)
    most: int = 500
    """Rows per page at most, however many are asked for."""
    lifetime: float = 3600.0
    faults: deque[str] = field(default_factory=deque)
    """Names of FAULTS, for the next requests of lists."""
    token_faults: deque[str] = field(default_factory=deque)
    tokens: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Requests that no correct client makes."""
    let_go: Event = field(default_factory=Event)
    """Ends slow answers."""


class Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.seen.append(f"POST {self.path}")
        if self.path != "/api/v1/token" or self.headers.get("Content-Type", "").split(";")[0] != "application/json":
            return self._refuse(405 if self.path in LISTS else 404)
        if self.state.token_faults and self._fault(self.state.token_faults.popleft(), {}):
            return None
        asked = json.loads(body)
        if set(asked) != {"grantType", "clientId", "clientSecret"} or asked["grantType"] != "client_credentials":
            return self._refuse(400)
        if (asked["clientId"], asked["clientSecret"]) != ("osmo", "sesame"):
            return self._send(401, {"message": "invalid client credentials"})
        token = _token(time.time() + self.state.lifetime, len(self.state.seen))
        self.state.tokens.add(token)
        return self._send(200, {"accessToken": token})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        self.state.seen.append(f"GET {parts.path}")
        key = LISTS.get(parts.path)
        if key is None or set(query) - {"offset", "limit", "filterBy"} or any(len(v) > 1 for v in query.values()):
            return self._refuse(404 if key is None else 400)
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.state.tokens:
            return self._send(401, {"message": "invalid token"})
        offset, limit = int(query.get("offset", ["0"])[0]), int(query.get("limit", ["50"])[0])
        wanted = query.get("filterBy", [""])[0]
        if offset < 0 or not 0 < limit <= 500 or (wanted and not wanted.startswith("clusterId==")):
            return self._refuse(400)
        answer = self._page(key, offset, min(limit, self.state.most), wanted.removeprefix("clusterId=="))
        if self.state.faults and self._fault(self.state.faults.popleft(), answer):
            return None
        return self._send(200, answer)

    def do_PUT(self) -> None:
        self._refuse(405)

    do_DELETE = do_PATCH = do_PUT

    def _page(self, key: str, offset: int, limit: int, cluster: str) -> dict:
        rows = [r for r in getattr(self.state, key) if not cluster or r["clusterId"] == cluster]
        found: dict = {key: rows[offset : offset + limit]}
        if offset + limit < len(rows):
            found["next"] = offset + limit
        return found

    def _fault(self, name: str, answer: dict) -> bool:
        """Spoil this answer; False where it only changes and is sent as usual."""
        if name == "expired":
            self.state.tokens.clear()
            self._send(401, {"message": "token expired"})
        elif name.isdigit():
            self._send(int(name), {"message": name}, {"Retry-After": "7"} if name == "429" else {})
        elif name in ("loop", "skip"):
            answer["next"] = 0 if name == "loop" else 10_000
            return False
        elif name in ("text", "array"):
            self._raw(200, b"<html>" if name == "text" else b"[]")
        elif name == "slow":
            self.state.let_go.wait(30)
            self.close_connection = True
        else:
            self._cut(name == "half")
        return True

    def _cut(self, half: bool) -> None:
        if half:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"projects": [')
        self.close_connection = True

    def _refuse(self, code: int) -> None:
        self.state.refused.append(f"{self.command} {self.path}")
        self._send(code, {"message": "not in the reference"})

    def _send(self, code: int, answer: dict, headers: dict[str, str] | None = None) -> None:
        self._raw(code, json.dumps(answer).encode(), headers)

    def _raw(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _token(end: float, number: int) -> str:
    def part(value: dict) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'exp': end, 'jti': number})}.x"


def serve(state: State, port: int = 0) -> ThreadingHTTPServer:
    """Start it on loopback, in a thread of its own; `shutdown()` and `server_close()` end it."""
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"state": state}))
    server.daemon_threads = True
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


def example() -> State:
    """Two departments, three projects."""
    return State(
        projects=[
            unit("11", "train", (30, 70, 1), "1"),
            unit("12", "eval", (50, -1, 3), "1"),
            unit("13", "lab", None, "2"),
        ],
        departments=[unit("1", "research", (80, None, 1)), unit("2", "other", (20, 40, 0))],
    )


if __name__ == "__main__":
    running = serve(example(), int(sys.argv[1]) if len(sys.argv) > 1 else 8900)
    print(f"http://127.0.0.1:{running.server_port}", flush=True)
    Event().wait()
