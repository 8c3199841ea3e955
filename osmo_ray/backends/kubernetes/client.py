"""The door to an API server: the few verbs that the backend uses, over HTTP, as plain JSON objects.

Objects are not turned into classes: the backend reads a handful of fields of each, and a cluster has thousands.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx

from osmo_ray.backends.kubernetes.kubeconfig import Access
from osmo_ray.backends.protocol import BackendUnavailable

Object = Mapping[str, Any]
MANAGER = "osmo-ray"
_TIMEOUT = httpx.Timeout(15.0, connect=5.0)
OPENED = "OPENED"
_WATCH = 300
"""Seconds after which the server ends a watch that it was asked for; a new one goes on where it ended."""


class ApiError(Exception):
    """The API server refused: HTTP status, its reason (`Conflict`, `Forbidden`, `Expired` ...) and its message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class KubeApi(Protocol):
    """What the backend needs of a cluster. Every verb raises `ApiError` when the server refuses and
    `BackendUnavailable` when it does not answer."""

    async def get(self, path: str, query: Mapping[str, str] = {}) -> Object: ...

    async def apply(self, path: str, value: Object) -> Object:
        """Server-side apply, made if it is not there."""
        ...

    async def create(self, path: str, value: Object) -> Object: ...

    async def replace(self, path: str, value: Object) -> Object:
        """Refused with 409 unless `metadata.resourceVersion` is the newest."""
        ...

    async def merge(self, path: str, value: Object) -> Object:
        """A merge patch; 404 for what is not there."""
        ...

    async def delete(self, path: str, grace: float | None = None, query: Mapping[str, str] = {}) -> None:
        """One object, or all that `query` selects of a collection; what is not there is no error."""
        ...

    def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Object]:
        """Events `{"type", "object"}` until the server ends the watch; `OPENED`, when it has begun, is the first."""
        ...

    def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """A stream of text, such as a log that is followed, in pieces."""
        ...

    async def close(self) -> None: ...


class HttpApi:
    """`KubeApi` over one pool of connections."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.calls = 0
        """Requests sent so far, watches and logs included."""
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
        verify = access.context if access.context is not None else True
        self._http = httpx.AsyncClient(
            base_url=access.server,
            headers=access.header,
            verify=verify,
            timeout=_TIMEOUT,
            limits=limits,
            trust_env=False,
            transport=httpx.AsyncHTTPTransport(uds=access.socket, limits=limits) if access.socket else None,
        )

    async def get(self, path: str, query: Mapping[str, str] = {}) -> Object:
        return await self._ask("GET", path, query)

    async def apply(self, path: str, value: Object) -> Object:
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._ask("PATCH", path, query, value, "application/apply-patch+yaml")

    async def create(self, path: str, value: Object) -> Object:
        return await self._ask("POST", path, {"fieldManager": MANAGER}, value)

    async def replace(self, path: str, value: Object) -> Object:
        return await self._ask("PUT", path, {"fieldManager": MANAGER}, value)

    async def merge(self, path: str, value: Object) -> Object:
        return await self._ask("PATCH", path, {"fieldManager": MANAGER}, value, "application/merge-patch+json")

    async def delete(self, path: str, grace: float | None = None, query: Mapping[str, str] = {}) -> None:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = int(grace)
        try:
            await self._ask("DELETE", path, query, options)
        except ApiError as error:
            if error.status != 404:
                raise

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Object]:
        asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH)}
        async with self._stream(path, asked, _WATCH + 30.0) as answer:
            yield {"type": OPENED, "object": {}}
            async for line in answer.aiter_lines():
                if line:
                    yield json.loads(line)

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        async with self._stream(path, query, None) as answer:
            async for piece in answer.aiter_bytes():
                yield piece

    async def close(self) -> None:
        await self._http.aclose()

    # -- inside

    async def _ask(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str],
        value: Object | None = None,
        kind: str = "application/json",
    ) -> Object:
        body = None if value is None else json.dumps(value).encode()
        headers = {"Content-Type": kind, "Accept": "application/json"}
        self.calls += 1
        try:
            answer = await self._http.request(verb, path, params=dict(query), content=body, headers=headers)
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if answer.status_code >= 400:
            raise _refusal(answer.status_code, answer.content)
        return dict(answer.json())

    @asynccontextmanager
    async def _stream(
        self, path: str, query: Mapping[str, str], silence: float | None
    ) -> AsyncIterator[httpx.Response]:
        timeout = httpx.Timeout(silence, connect=5.0)
        self.calls += 1
        try:
            async with self._http.stream("GET", path, params=dict(query), timeout=timeout) as answer:
                if answer.status_code >= 400:
                    raise _refusal(answer.status_code, await answer.aread())
                yield answer
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _silent(self, error: httpx.HTTPError) -> BackendUnavailable:
        told = str(error) or type(error).__name__
        return BackendUnavailable(f"the Kubernetes API at {self.access.server} does not answer: {told}")


def _refusal(status: int, data: bytes) -> Exception:
    try:
        told = json.loads(data)
        reason, message = str(told.get("reason") or ""), str(told.get("message") or "")
    except (ValueError, AttributeError):
        reason, message = "", data[:200].decode(errors="replace")
    if status == 429 or status >= 500:
        return BackendUnavailable(f"the Kubernetes API says {status} {reason}: {message}")
    return ApiError(status, reason, message)
