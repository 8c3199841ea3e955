"""A copy of some objects of a cluster, kept by one list and one watch.

A watch that breaks goes on from the last resource version. When the server has forgotten that version (410), all is
listed anew, and what is missing then counts as deleted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from osmo_ray.backends.kubernetes.client import OPENED, ApiError, KubeApi, Object
from osmo_ray.backends.protocol import BackendUnavailable

log = logging.getLogger(__name__)
_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

Changed = Callable[[Object, bool], None]
"""Called with each new state of an object; True when it was deleted, with its last state."""


class Gone(Exception):
    """The server does not know the version that we asked to go on from."""


class Reflector:
    """Objects below `path` that `query` selects, by `namespace/name`. `optional`: no right to see them is no fault."""

    def __init__(
        self,
        api: KubeApi,
        path: str,
        query: Mapping[str, str],
        changed: Changed | None = None,
        *,
        optional: bool = False,
    ) -> None:
        self._api, self._path, self._query, self._changed = api, path, query, changed
        self._optional = optional
        self.objects: dict[str, Object] = {}
        self.error = ""
        """Why the copy is not fresh now; empty while all is well."""
        self.heard = 0.0
        """When the server last said anything (monotonic)."""
        self._version = ""
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def synced(self) -> bool:
        """Whether the objects were listed at least once."""
        return self._synced.is_set()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def ready(self, limit: float) -> None:
        """Until the first list is here. Raises `BackendUnavailable` after `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._synced.wait()
        except TimeoutError:
            raise BackendUnavailable(self.error or f"no list of {self._path} within {limit:g} s") from None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        pause = _PAUSE
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                pause = _PAUSE
            except Gone:
                self._version = ""
            except BackendUnavailable as error:
                self._failed(str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except ApiError as error:
                if self._optional and error.status in (403, 404):
                    self._synced.set()
                self._version = ""
                self._failed(str(error))
                await asyncio.sleep(_LONGEST_PAUSE)
            except Exception as error:  # a fault of ours must not end the watch for ever
                log.exception("watching %s", self._path)
                self._version = ""
                self._failed(f"{type(error).__name__}: {error}")
                await asyncio.sleep(_LONGEST_PAUSE)

    def _failed(self, error: str) -> None:
        if error != self.error:
            log.warning("watching %s: %s", self._path, error)
        self.error = error

    async def _list(self) -> None:
        found: dict[str, Object] = {}
        token = ""
        while True:
            more = {"continue": token} if token else {}
            page = await self._api.get(self._path, {**self._query, "limit": "500", **more})
            found.update({_key(one): one for one in page.get("items") or ()})
            token = str(page["metadata"].get("continue") or "")
            if not token:
                break
        self._version = str(page["metadata"]["resourceVersion"])
        self._well()
        for name in [n for n in self.objects if n not in found]:
            self._take(self.objects[name], deleted=True)
        for one in found.values():
            self._take(one, deleted=False)
        self._synced.set()

    async def _watch(self) -> None:
        async for event in self._api.watch(self._path, {**self._query, "resourceVersion": self._version}):
            kind, value = event["type"], event["object"]
            self._well()
            if kind == OPENED:
                continue  # where nothing happens, nothing more is told for a minute
            if kind == "ERROR":
                if value.get("code") == 410:
                    raise Gone
                raise ApiError(int(value.get("code") or 0), str(value.get("reason")), str(value.get("message")))
            self._version = str(value["metadata"]["resourceVersion"])
            if kind != "BOOKMARK":
                self._take(value, deleted=kind == "DELETED")

    def _well(self) -> None:
        if self.error:
            log.info("watching %s again", self._path)
        self.error, self.heard = "", time.monotonic()

    def _take(self, value: Object, *, deleted: bool) -> None:
        name = _key(value)
        old = self.objects.get(name)
        if not deleted and old is not None and _version(old) == _version(value):
            return
        if deleted:
            self.objects.pop(name, None)
        else:
            self.objects[name] = value
        if self._changed is not None:
            self._changed(value, deleted)


def _key(value: Object) -> str:
    meta = value["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


def _version(value: Object) -> str:
    return str(value["metadata"].get("resourceVersion", ""))
