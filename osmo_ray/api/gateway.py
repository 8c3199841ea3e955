"""The storage gateway: a folder of this host as an object store for other hosts, by scoped, signed tokens.

Tasks on nodes and pods that cannot reach the storage otherwise read and write through these routes. The token alone
decides (`objects.scope`): there is no user here, and a task's token is good for its own prefix only. Bodies are
streamed in both directions, so memory does not grow with an object.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator

from anyio import from_thread
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from osmo_ray.objects import scope
from osmo_ray.objects.gateway import CONDITIONAL_HEADER, ROUTE
from osmo_ray.objects.keys import check_prefix
from osmo_ray.objects.local import LocalStore
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError, ObjectStore

CREATE_LIMIT = 64 << 20
"""Bytes of a create-only object, which is held in memory: manifests and tags are small."""
_CHUNK = 1 << 20
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


def gateway(store: ObjectStore, key: bytes) -> APIRouter:
    """Routes below `/api/x/storage`; `key` is the secret that tokens are made with by `scope.grant`."""
    router = APIRouter(prefix=ROUTE, include_in_schema=False)
    serve = _Gateway(store, key)
    router.add_api_route("", serve.about, methods=["HEAD"])
    router.add_api_route("", serve.list, methods=["GET"])
    router.add_api_route("/{key:path}", serve.head, methods=["HEAD"])
    router.add_api_route("/{key:path}", serve.get, methods=["GET"])
    router.add_api_route("/{key:path}", serve.put, methods=["PUT"])
    router.add_api_route("/{key:path}", serve.delete, methods=["DELETE"])
    return router


class _Gateway:
    """One handler per verb. Handlers that are not `async` run in a thread, as the store blocks."""

    def __init__(self, store: ObjectStore, key: bytes) -> None:
        scope.grant(key, scope.ALL, "", 0)  # a key that is too short is refused now
        self._store = store
        self._key = key

    def about(self) -> Response:
        """No token: this says nothing about what is stored."""
        return Response(headers={CONDITIONAL_HEADER: "true" if self._store.conditional else "false"})

    def list(self, request: Request, prefix: str = "") -> Response:
        """Lines of `[key, size, modified]`, then `[null, 0, 0]`, without which the list is not whole."""
        try:
            below = check_prefix(prefix)
        except ObjectError as error:
            return _refused(error)
        self._allow(request, scope.LIST, below)
        return StreamingResponse(_lines(self._store, below), media_type="application/x-ndjson")

    def head(self, request: Request, key: str) -> Response:
        self._allow(request, scope.READ, key)
        try:
            found = self._store.stat(key)
        except ObjectError as error:
            return _refused(error)
        return Response(headers={"Content-Length": str(found.size), **_described(found.modified)})

    def get(self, request: Request, key: str) -> Response:
        self._allow(request, scope.READ, key)
        try:
            size, body, modified = _open(self._store, key)
        except ObjectError as error:
            return _refused(error)
        start, end, status = _range(request.headers.get("range", ""), size)
        headers = {"Content-Length": str(end - start), **_described(modified)}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if status == 416:
            body.close()
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        return StreamingResponse(
            body.chunks(start, end), status_code=status, headers=headers, media_type="application/octet-stream"
        )

    async def put(self, request: Request, key: str) -> Response:
        self._allow(request, scope.WRITE, key)
        condition = request.headers.get("if-none-match")
        if condition not in (None, "*"):
            return JSONResponse({"message": "If-None-Match can only be *"}, 400)
        try:
            if condition:
                return await self._create(request, key)
            body = _Incoming(request.stream())
            size = await run_in_threadpool(self._store.write, key, body)  # type: ignore[arg-type]
        except ObjectError as error:
            return _refused(error)
        return JSONResponse({"size": size})

    def delete(self, request: Request, key: str) -> Response:
        self._allow(request, scope.DELETE, key)
        try:
            self._store.delete([key])
        except ObjectError as error:
            return _refused(error)
        return Response(status_code=204)

    async def _create(self, request: Request, key: str) -> Response:
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > CREATE_LIMIT:
                return JSONResponse({"message": f"a create-only object has at most {CREATE_LIMIT} bytes"}, 413)
        await run_in_threadpool(self._store.create, key, bytes(data))
        return JSONResponse({"size": len(data)})

    def _allow(self, request: Request, verb: str, key: str) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            token = request.query_params.get("token", "")
        if not token:
            raise HTTPException(401, "the storage gateway needs a token")
        try:
            scope.check(self._key, token, verb, key, time.time())
        except scope.BadToken as error:
            raise HTTPException(403, str(error)) from error


class _Outgoing:
    """An object on its way out. A local one is opened once, so that a reader sees one version of it throughout."""

    def __init__(self, store: ObjectStore, key: str, opened: int | None) -> None:
        self._store, self._key, self._opened = store, key, opened

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        try:
            while start < end:
                data = self._read(start, min(start + _CHUNK, end))
                if not data:
                    raise ObjectError(f"{self._key} became shorter while it was read", permanent=False)
                start += len(data)
                yield data
        finally:
            self.close()

    def _read(self, start: int, end: int) -> bytes:
        if self._opened is None:
            return self._store.read(self._key, start, end)
        return os.pread(self._opened, end - start, start)

    def close(self) -> None:
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None


def _open(store: ObjectStore, key: str) -> tuple[int, _Outgoing, float]:
    if isinstance(store, LocalStore):
        opened = store.open(key)
        found = os.fstat(opened)
        return found.st_size, _Outgoing(store, key, opened), found.st_mtime
    info = store.stat(key)
    return info.size, _Outgoing(store, key, None), info.modified


class _Incoming:
    """The request's body as the blocking file that a store reads, from its thread. A client that goes away raises,
    and the store then drops what it has."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._rest = b""

    def read(self, size: int) -> bytes:
        while not self._rest:
            chunk = from_thread.run(self._next)
            if chunk is None:
                return b""
            self._rest = chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def _next(self) -> bytes | None:
        return await anext(self._stream, None)


def _lines(store: ObjectStore, below: str) -> Iterator[str]:
    for found in store.list(below):
        yield json.dumps([found.key, found.size, found.modified]) + "\n"
    yield "[null, 0, 0]\n"


def _range(header: str, size: int) -> tuple[int, int, int]:
    """(start, end, status) of one range; anything else that RFC 9110 lets a server ignore gives the whole object."""
    match = _RANGE.match(header.strip())
    if match is None or match[1] == match[2] == "":
        return 0, size, 200
    if match[1] == "":
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
        if match[2] and int(match[2]) < start:
            return 0, size, 200
    return (start, end, 206) if start < end else (0, 0, 416)


def _described(modified: float) -> dict[str, str]:
    """A browser must never run what a task stored."""
    return {
        "Osmo-Modified": f"{modified:.6f}",
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": "attachment",
        "Cache-Control": "private, no-store",
    }


def _refused(error: ObjectError) -> Response:
    status = 400 if error.permanent else 503
    if isinstance(error, NoSuchObject):
        status = 404
    if isinstance(error, AlreadyExists):
        status = 412
    return JSONResponse({"message": str(error)}, status)
