"""The client of a platform's storage gateway: a folder on another host as an object store.

`osmo_ray.api.gateway` is the other end. Only the standard library is used, because the small process beside each task
imports this module. A token says what is allowed (see `scope`).
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from osmo_ray.objects import scope
from osmo_ray.objects.copying import open_regular
from osmo_ray.objects.keys import check_key, check_prefix
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError, ObjectInfo

ROUTE = "/api/x/storage"
CONDITIONAL_HEADER = "Osmo-Conditional"
_CHUNK = 1 << 20
_VERBS = {"GET": scope.READ, "PUT": scope.WRITE}
_AGAIN = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)

Body = bytes | BinaryIO | None


class GatewayStore:
    """Keys below `osmo+http://host:port/prefix` (or `osmo+https`), with the rights of `token`. `ca` is a file of
    certificates to trust instead of the system's; `timeout` is seconds without any byte."""

    def __init__(self, url: str, *, token: str = "", ca: str = "", timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.query or parts.username:
            raise ObjectError(f"{url}: write osmo+http://host:port or osmo+http://host:port/prefix", permanent=True)
        if not token:
            raise ObjectError(f"{url}: a storage gateway needs a token", permanent=True)
        self.url = url.rstrip("/")
        self._tls = parts.scheme == "osmo+https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._prefix = check_prefix(parts.path.strip("/"))
        self._token, self._ca, self._timeout = token, ca, timeout
        self._local = threading.local()

    @cached_property
    def conditional(self) -> bool:
        with self._ask("HEAD", ROUTE) as answer:
            return answer.getheader(CONDITIONAL_HEADER) == "true"

    def stat(self, key: str) -> ObjectInfo:
        with self._ask("HEAD", self._path(key), key) as answer:
            size, modified = answer.getheader("Content-Length"), answer.getheader("Osmo-Modified")
            return ObjectInfo(key, int(size or 0), float(modified or 0.0))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See the protocol; a range beyond the end gives what there is."""
        if end is not None and end <= start:
            self.stat(key)
            return b""
        last = "" if end is None else str(end - 1)
        headers = {"Range": f"bytes={start}-{last}"} if start or end is not None else {}
        with self._ask("GET", self._path(key), key, headers=headers) as answer:
            return b"" if answer.status == 416 else answer.read()

    def write(self, key: str, source: BinaryIO | bytes) -> int:
        with self._ask("PUT", self._path(key), key, source) as answer:
            return int(json.loads(answer.read())["size"])

    def create(self, key: str, data: bytes) -> None:
        with self._ask("PUT", self._path(key), key, data, {"If-None-Match": "*"}, once=True):
            return

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        below = check_prefix(prefix)
        with self._ask("GET", f"{ROUTE}?{urlencode({'prefix': self._prefix + below})}", below) as answer:
            ended = False
            for line in answer:
                key, size, modified = json.loads(line)
                if key is None:
                    ended = True
                else:
                    yield ObjectInfo(key[len(self._prefix) :], size, modified)
            if not ended:
                raise ObjectError(f"the list of {below!r} broke off", permanent=False)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._ask("DELETE", self._path(key), key) as answer:
                answer.read()

    def download(self, key: str, target: Path) -> int:
        path = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with self._ask("GET", path, key) as answer, part.open("wb") as sink:
                while data := answer.read(_CHUNK):
                    sink.write(data)
                size = sink.tell()
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return size

    def upload(self, source: Path, key: str) -> int:
        """Symbolic links, pipes and devices are refused: what a task left behind may point anywhere."""
        check_key(key)
        with open_regular(source) as (opened, size), os.fdopen(os.dup(opened), "rb") as body:
            headers = {"Content-Length": str(size)}
            with self._ask("PUT", self._path(key), key, body, headers) as answer:
                return int(json.loads(answer.read())["size"])

    def sign(self, key: str, verb: str, ttl: float) -> str:
        if verb not in _VERBS:
            raise ObjectError(f"cannot sign {verb!r} of {key}; GET and PUT can be signed", permanent=True)
        path = self._path(key)
        token = scope.narrow(self._token, _VERBS[verb], self._prefix + key, time.time() + ttl)
        scheme = "https" if self._tls else "http"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}{path}?{urlencode({'token': token})}"

    def _path(self, key: str) -> str:
        return f"{ROUTE}/{quote(self._prefix + check_key(key), safe='/')}"

    @contextmanager
    def _ask(
        self,
        verb: str,
        path: str,
        key: str = "",
        body: Body = None,
        headers: Mapping[str, str] = {},
        once: bool = False,
    ) -> Iterator[http.client.HTTPResponse]:
        """One request; errors as the protocol's. A kept connection that the server has closed meanwhile is replaced
        once, unless the body is gone with it or the request must not be sent twice (`once`)."""
        try:
            answer = self._send(verb, path, body, {**headers, "Authorization": f"Bearer {self._token}"}, once)
            if answer.status >= 300 and answer.status != 416:
                raise self._refusal(answer, key)
            yield answer
            answer.read()  # what is left, so that the connection can be used again
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            told = str(error) or type(error).__name__
            raise ObjectError(f"the storage gateway at {self._host}:{self._port}: {told}", permanent=False) from error
        except GeneratorExit:
            self._hang_up()
            raise

    def _send(
        self, verb: str, path: str, body: Body, headers: Mapping[str, str], once: bool
    ) -> http.client.HTTPResponse:
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        replayable = not once and (body is None or isinstance(body, bytes))
        if kept is None or not replayable:
            self._hang_up()
            kept, replayable = self._connect(), False
        try:
            kept.request(verb, path, body, dict(headers))
            return kept.getresponse()
        except _AGAIN:
            if not replayable:
                raise
            self._hang_up()
            return self._send(verb, path, body, headers, once)

    def _connect(self) -> http.client.HTTPConnection:
        made: http.client.HTTPConnection
        if self._tls:
            context = ssl.create_default_context(cafile=self._ca or None)
            made = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout, blocksize=_CHUNK)
        self._local.connection = made
        return made

    def _hang_up(self) -> None:
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if kept is not None:
            self._local.connection = None
            kept.close()

    def _refusal(self, answer: http.client.HTTPResponse, key: str) -> ObjectError:
        told = _message(answer.read())
        if answer.status == 404:
            return NoSuchObject(key)
        if answer.status == 412:
            return AlreadyExists(key)
        permanent = 400 <= answer.status < 500 and answer.status not in (408, 429)
        return ObjectError(f"the storage gateway refused {key!r}: {told or answer.reason}", permanent=permanent)


def _message(data: bytes) -> str:
    try:
        told = json.loads(data)
        return str(told.get("message") or told.get("detail") or "")
    except (ValueError, AttributeError):
        return ""
