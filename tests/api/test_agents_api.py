"""Agents that dial out: who gets in, with what, for how long; over real HTTP and real websockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from osmo_ray.api import agents
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe, StreamPipe
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.control.clusters import Registration
from tests.api.test_access_api import ask, begin
from tests.api.wire import Wire, serve
from tests.api.world import World


class Held:
    """Where links go on: what was carried there, and an echo."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.away = False

    async def arrive(self, cluster: str) -> Pipe:
        if self.away:
            raise BackendUnavailable("the part that holds links does not answer")
        self.came.append(cluster)
        near, far = socket.socketpair()
        self.far = await StreamPipe.of(far)
        self.task = asyncio.ensure_future(self._echo(self.far))
        return await StreamPipe.of(near)

    async def _echo(self, pipe: StreamPipe) -> None:
        while data := await pipe.read():
            await pipe.write(data)
        await pipe.close()


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def wire(world: World, held: Held, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(agents, "LOOK_EVERY", 0.05)
    world.services = replace(world.services, arrive=held.arrive)
    with serve(world) as made:
        yield made


def add(wire: Wire, name: str = "lab", **more: Any) -> Any:
    return wire.post(f"/api/x/backend/{name}", body={"agent": True, **more})


async def link(wire: Wire, token: str, name: str = "lab") -> ClientConnection:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await connect(f"ws://127.0.0.1:{wire.port}/api/x/backend/{name}/agent", additional_headers=headers)


async def refused(wire: Wire, token: str, name: str = "lab") -> int:
    with pytest.raises(InvalidStatus) as said:
        await link(wire, token, name)
    return said.value.response.status_code


async def closed(wire: ClientConnection) -> tuple[int | None, str]:
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(10):
            await wire.recv()
    return wire.close_code, wire.close_reason or ""


async def test_a_backend_with_an_agent_is_registered_and_its_token_links_it(wire: Wire, held: Held):
    made = add(wire, pools=["far"])
    assert (made["status"], made["agent"], made["pools"], len(made["token"])) == ("NEW", True, ["far"], 43)
    (row,) = wire.world.store.clusters()
    assert row.sealed == "" and Registration.from_json(row.settings).agent
    (kept,) = wire.world.store.tokens("backend:lab")
    assert made["token"] not in (kept.sha256, kept.name, kept.description)
    async with await link(wire, made["token"]) as one:
        for data in (b"x", b"y" * 300000):
            await one.send(data)
            back = b""
            while len(back) < len(data):
                back += await one.recv(decode=False)
            assert back == data
    assert held.came == ["lab"]


def test_a_registration_says_how_the_cluster_is_reached(wire: Wire):
    for body in ({}, {"agent": True, "kubeconfig": "x"}, {"agent": True, "context": "c"}):
        assert wire.refused("POST", "/api/x/backend/lab", body=body)["error_code"] == "USAGE"


def test_registering_again_keeps_the_token_and_a_kubeconfig_ends_it(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    assert add(wire)["token"] and add(wire, pools=["more"])["token"] == ""

    async def fine(body: object) -> None: ...

    monkeypatch.setattr("osmo_ray.api.routes.backends._try", fine)
    wire.post("/api/x/backend/lab", body={"kubeconfig": "x"})
    assert wire.world.store.tokens("backend:lab") == []
    assert "no backend 'lab' with an agent" in wire.refused("POST", "/api/x/backend/lab/token")["message"]


async def test_a_token_is_good_for_the_link_of_its_own_backend_alone(wire: Wire, held: Held):
    token, other = add(wire)["token"], add(wire, "other")["token"]
    assert await refused(wire, other) == 403
    assert await refused(wire, token, "absent") == 403
    assert await refused(wire, "") == 403, "also on loopback, where a person needs no token"
    assert await refused(wire, "wrong") == 403
    assert await refused(wire, begin(wire, "ada", "osmo-admin")) == 403
    assert held.came == []
    everybodys = ("GET /api/profile/settings", "GET /api/pool", "GET /api/auth/access_token", "GET /api/x/status")
    admins = ("GET /api/x/backend", "POST /api/x/backend/lab/token", "DELETE /api/x/backend/lab", "GET /api/workflow")
    for method, _, path in (name.partition(" ") for name in (*everybodys, *admins)):
        assert ask(wire, token, method, path).status == 403, path


async def test_a_person_with_the_agents_role_is_still_no_agent(wire: Wire):
    add(wire)
    assert await refused(wire, begin(wire, "eve", "osmo-backend")) == 403


async def test_a_token_that_is_revoked_ends_its_link(wire: Wire):
    token = add(wire)["token"]
    one = await link(wire, token)
    assert wire.call("DELETE", "/api/x/backend/lab/token").status == 200
    assert await closed(one) == (1008, "the token was revoked")
    assert await refused(wire, token) == 403
    newer = wire.post("/api/x/backend/lab/token")["token"]
    two = await link(wire, newer)
    newest = wire.post("/api/x/backend/lab/token")["token"]
    assert (await closed(two))[0] == 1008 and newest != newer
    assert "has no token" not in wire.call("DELETE", "/api/x/backend/lab/token").text
    assert "has no token" in wire.refused("DELETE", "/api/x/backend/lab/token")["message"]


async def test_the_removal_of_its_backend_ends_a_link(wire: Wire):
    token = add(wire)["token"]
    one = await link(wire, token)
    wire.call("DELETE", "/api/x/backend/lab")
    assert await closed(one) == (1008, "no backend lab is registered with an agent")
    assert await refused(wire, token) == 403


async def test_an_agent_is_told_to_come_again_while_its_link_cannot_go_on(wire: Wire, held: Held):
    token = add(wire)["token"]
    held.away = True
    assert await closed(await link(wire, token)) == (1013, "the part that holds links does not answer")
    held.away = False
    one = await link(wire, token)
    await one.send(b"x")
    assert await one.recv() == b"x"
    held.task.get_loop().call_soon_threadsafe(held.far.abort)  # the far end dies
    assert await closed(one) == (1013, "the link has ended here")


def test_why_a_backend_is_away_is_told_where_it_has_no_nodes_to_tell_it(world: World):
    async def told() -> dict[str, str]:
        return {"lab": "no agent of cluster lab is connected yet"}

    world.services = replace(world.services, clusters=told)
    with serve(world) as wire:
        add(wire)
        shown = {b["name"]: b for b in wire.get("/api/x/backend")["backends"]}
        assert shown["lab"]["reasons"] == ["no agent of cluster lab is connected yet"]
        assert shown["local"]["reasons"] == []
