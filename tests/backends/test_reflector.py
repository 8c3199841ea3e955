"""A copy of a cluster's objects stays right: broken watches, forgotten versions, missing rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from osmo_ray.backends.kubernetes.client import OPENED, ApiError, Object
from osmo_ray.backends.kubernetes.reflector import Reflector
from osmo_ray.backends.protocol import BackendUnavailable


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name, "resourceVersion": str(version)}}


class Server:
    """Lists and watches as a script says; an exception in a script is what that call meets."""

    def __init__(self, lists: list[Any], watches: list[list[Any]]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[str] = []

    async def get(self, path: str, query: Mapping[str, str] = {}) -> Object:
        self.asked.append("list" + query.get("continue", ""))
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Object]:
        self.asked.append(f"watch {query['resourceVersion']}")
        if not self.watches:
            await asyncio.Event().wait()
        for event in self.watches.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


def page(version: int, *things: Object, token: str = "") -> Object:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(things)}


def event(kind: str, value: Object) -> Object:
    return {"type": kind, "object": value}


class Watching:
    def __init__(self, server: Server, *, optional: bool = False) -> None:
        self.seen: list[tuple[str, bool]] = []
        self.reflector = Reflector(server, "/p", {}, self._changed, optional=optional)  # type: ignore[arg-type]

    def _changed(self, value: Object, deleted: bool) -> None:
        self.seen.append((value["metadata"]["name"] + value["metadata"]["resourceVersion"], deleted))

    async def until(self, server: Server, asked: str) -> None:
        self.reflector.start()
        async with asyncio.timeout(20):
            while asked not in server.asked:
                await asyncio.sleep(0.01)
        await self.reflector.close()


async def test_a_watch_that_ends_goes_on_from_its_last_version():
    server = Server(
        [page(5, thing("a", 3))],
        [[event("MODIFIED", thing("a", 7)), event("BOOKMARK", thing("", 9))], [event("DELETED", thing("a", 11))]],
    )
    watching = Watching(server)
    await watching.until(server, "watch 11")
    assert server.asked == ["list", "watch 5", "watch 9", "watch 11"]
    assert watching.seen == [("a3", False), ("a7", False), ("a11", True)]
    assert watching.reflector.objects == {}


@pytest.mark.parametrize(
    "forgotten",
    [event("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}), ApiError(410, "Expired", "too old")],
)
async def test_a_forgotten_version_lists_anew_and_tells_what_is_gone(forgotten: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("osmo_ray.backends.kubernetes.reflector._LONGEST_PAUSE", 0.01)
    server = Server([page(5, thing("a", 3), thing("b", 4)), page(20, thing("b", 4), thing("c", 19))], [[forgotten]])
    watching = Watching(server)
    await watching.until(server, "watch 20")
    assert watching.seen == [("a3", False), ("b4", False), ("a3", True), ("c19", False)]


async def test_long_lists_come_in_pages():
    server = Server([page(5, thing("a", 3), token="-2"), page(5, thing("b", 4))], [])
    watching = Watching(server)
    await watching.until(server, "watch 5")
    assert server.asked == ["list", "list-2", "watch 5"] and len(watching.reflector.objects) == 2


async def test_a_server_that_is_away_is_asked_again_and_the_copy_says_so():
    server = Server([BackendUnavailable("refused"), page(6)], [])
    watching = Watching(server)
    watching.reflector.start()
    with pytest.raises(BackendUnavailable, match="refused"):
        await watching.reflector.ready(0.1)
    await watching.until(server, "watch 6")
    assert watching.reflector.synced and watching.reflector.error == ""


async def test_without_the_right_to_see_it_is_empty_where_that_is_allowed():
    server = Server([ApiError(403, "Forbidden", "no")], [])
    watching = Watching(server, optional=True)
    watching.reflector.start()
    await watching.reflector.ready(5)
    assert watching.reflector.objects == {}
    await watching.reflector.close()


async def test_a_watch_that_stands_again_is_well_before_anything_happens():
    server = Server([page(5)], [[BackendUnavailable("gone")], [event(OPENED, {})]])
    watching = Watching(server)
    watching.reflector.start()
    async with asyncio.timeout(20):
        while server.asked.count("watch 5") < 2:
            await asyncio.sleep(0.01)
            assert watching.reflector.error in ("", "gone")
        while server.asked.count("watch 5") < 3:
            await asyncio.sleep(0.01)
    assert watching.reflector.error == "" and watching.seen == []
    await watching.reflector.close()
