"""An HTTP proxy that goes wrong: it cuts connections before or after the server acted, answers 500 or 503, gives half
an answer or wrong bytes. What it does to a request is decided by a function of the test."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Plan = Callable[[str, str], str]
"""(method, path) -> one of `FAULTS`, or empty for a request that goes well."""
FAULTS = ("cut", "deaf", "500", "503", "half", "wrong")
_PER_HOP = {"connection", "transfer-encoding", "keep-alive", "expect"}


class Wire(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.plan = port, plan
        self.done: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Wire

    def log_message(self, *_: object) -> None: ...

    def _any(self) -> None:
        fault = self.server.plan(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault:
            self.server.done.append(fault)
        if fault == "cut":
            self._hang_up()
            return
        if fault in ("500", "503"):
            self._answer(int(fault), [], b"")
            return
        link = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        try:
            link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _PER_HOP:
                    link.putheader(name, value)
            link.endheaders(body)
            found = link.getresponse()
            data = found.read()
        finally:
            link.close()
        if fault == "deaf":
            self._hang_up()
            return
        if fault == "wrong" and data and found.status < 300:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]
        self._answer(found.status, found.getheaders(), data, half=fault == "half")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _any

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(data)))
        for name, value in headers:
            if name.lower() not in _PER_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(port: int, plan: Plan) -> Iterator[Wire]:
    """A proxy to a port of this host."""
    server = Wire(port, plan)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
