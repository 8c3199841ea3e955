"""HTTP for the client: the standard library, one connection kept open, and patience where it does no harm.

A request that only reads is tried again while the platform restarts, for as long as the caller allows; one that
changes something is sent once, unless nobody took it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from osmo_ray.sdk.errors import ClientError, Unreachable
from osmo_ray.sdk.login import Login

Params = Mapping[str, Any]
_PIECE = 1 << 16


class Http:
    """Requests to one platform. `timeout` is seconds for one answer, `patience` seconds during which reads are
    tried again. Not for use by two threads at once."""

    def __init__(self, login: Login, timeout: float = 60.0, patience: float = 0.0) -> None:
        parts = urlsplit(login.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{login.url!r} is not an address; write for example http://127.0.0.1:8000", status=400)
        self.login, self.timeout, self.patience = login, timeout, patience
        self._parts = parts
        self._open: http.client.HTTPConnection | None = None

    def json(self, method: str, path: str, params: Params | None = None, body: object = None) -> Any:
        """The parsed answer. Raises `ClientError`."""
        data = None if body is None else json.dumps(body).encode()
        answer = self._send(method, path, params, data)
        text = answer.read()
        if answer.status != 200:
            raise _error(answer.status, text)
        try:
            return json.loads(text)
        except ValueError:
            raise ClientError(f"{self.login.url}{path} did not answer with JSON", status=502) from None

    def exists(self, path: str) -> bool:
        """Whether there is something at this path. Raises `ClientError` for any other answer than yes and no."""
        answer = self._send("HEAD", path, None, None)
        answer.read()
        if answer.status not in (200, 404):
            raise _error(answer.status, b"")
        return answer.status == 200

    def put(self, path: str, data: bytes) -> None:
        """Send bytes; they may be sent twice, so the path must be named by what they are. Raises `ClientError`."""
        answer = self._send("PUT", path, None, data)
        text = answer.read()
        if answer.status != 200:
            raise _error(answer.status, text)

    @contextmanager
    def stream(self, path: str, params: Params | None = None) -> Iterator[http.client.HTTPResponse]:
        """An open answer of its own connection, waited for with patience. Raises `ClientError`."""
        deadline, pause = time.monotonic() + self.patience, 0.1
        while True:
            connection = self._connect(None)
            try:
                try:
                    connection.request("GET", _target(self._parts.path, path, params), headers=self._headers())
                    answer = connection.getresponse()
                except (OSError, http.client.HTTPException) as error:
                    if time.monotonic() + pause > deadline:
                        raise self._unreachable(error) from error
                else:
                    if answer.status == 200:
                        yield answer
                        return
                    if not _passing(answer) or time.monotonic() + pause > deadline:
                        raise _error(answer.status, answer.read())
            finally:
                connection.close()
            time.sleep(pause)
            pause = min(pause * 1.6, 2.0)

    def pieces(self, path: str, params: Params | None = None) -> Iterator[bytes]:
        """The answer in pieces, as they come."""
        with self.stream(path, params) as answer:
            while True:
                try:
                    data = answer.read1(_PIECE)
                except (OSError, http.client.HTTPException) as error:
                    told = f"The connection to {self.login.url} was lost ({type(error).__name__}); ask again"
                    raise Unreachable(told) from error
                if not data:
                    return
                yield data

    def close(self) -> None:
        """Close the connection that is kept open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _send(self, method: str, path: str, params: Params | None, data: bytes | None) -> http.client.HTTPResponse:
        deadline = time.monotonic() + self.patience
        pause = 0.1
        while True:
            fresh = self._open is None
            try:
                answer = self._once(method, path, params, data)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                stale = not fresh and isinstance(error, http.client.RemoteDisconnected | ConnectionResetError)
                again = method == "GET" or isinstance(error, ConnectionRefusedError)
                if stale and method == "GET":
                    continue
                if not again or time.monotonic() + pause > deadline:
                    raise self._unreachable(error) from error
            else:
                if method != "GET" or not _passing(answer) or time.monotonic() + pause > deadline:
                    return answer
                answer.read()
            time.sleep(pause)
            pause = min(pause * 1.6, 2.0)

    def _once(self, method: str, path: str, params: Params | None, data: bytes | None) -> http.client.HTTPResponse:
        if method != "GET":
            self.close()  # a kept connection may be dead, and what changes something is sent once
        if self._open is None:
            self._open = self._connect(self.timeout)
        self._open.request(method, _target(self._parts.path, path, params), data, self._headers())
        return self._open.getresponse()

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", "User-Agent": "osmo-ray", **self.login.headers()}

    def _unreachable(self, error: Exception) -> Unreachable:
        hint = "start a platform with: osmo up, or name another with --url"
        why = str(error) or type(error).__name__
        return Unreachable(f"Nothing answers at {self.login.url} ({why}); {hint}")


def _passing(answer: http.client.HTTPResponse) -> bool:
    """Whether the platform is only away for a moment: it says so itself, or what stands in front of it answers in its
    place, while an API starts, in other words than JSON."""
    foreign = "json" not in (answer.getheader("content-type") or "")
    return answer.status in (502, 503, 504) or (answer.status in (404, 500) and foreign)


def _target(base: str, path: str, params: Params | None) -> str:
    pairs = [(name, value) for name, value in (params or {}).items() if value not in (None, [], ())]
    query = urlencode(pairs, doseq=True)
    return f"{base.rstrip('/')}/{quote(path.lstrip('/'), safe='/')}{'?' + query if query else ''}"


def _error(status: int, text: bytes) -> ClientError:
    try:
        value = json.loads(text)
    except ValueError:
        return ClientError(text.decode(errors="replace")[:2000] or f"status {status}", status=status)
    if not isinstance(value, dict) or "message" not in value:
        return ClientError(json.dumps(value), status=status)
    return ClientError(
        str(value["message"]),
        status=status,
        code=str(value.get("error_code") or ""),
        workflow_id=str(value.get("workflow_id") or ""),
        problems=value.get("problems") or (),
    )
