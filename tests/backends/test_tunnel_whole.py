"""A cluster behind an agent as the platform's HTTP clients see it: the same as any other, or away with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidStatus

from osmo_ray.backends.kubernetes.client import ApiError, HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import Access
from osmo_ray.backends.kubernetes.tunnel.dialing import Agent, BadAddress, Platform, WirePipe, address
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe, StreamPipe
from osmo_ray.backends.kubernetes.tunnel.serving import ApiServer
from osmo_ray.backends.kubernetes.tunnel.switch import Switch
from osmo_ray.backends.kubernetes.tunnel.ways import Ways
from osmo_ray.backends.protocol import BackendUnavailable

PODS = "/api/v1/namespaces/osmo/pods"
BIG = 3 << 20


@dataclass
class Cluster:
    """As much of an API server as is asked for here: it keeps connections, watches, and takes websockets for exec."""

    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and credentials of each request."""
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, target, _ = first.split(" ")
        self.seen.append((method, target, headers.get("authorization", "")))
        if "watch=true" in target:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(1000000):
                event = json.dumps({"type": "ADDED", "object": {"number": number}}).encode() + b"\n"
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(0.01)
        if target.endswith("/gone"):
            answer = json.dumps({"reason": "NotFound", "message": "no such pod"}).encode()
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            return True
        told = {"method": method, "body": body.decode(), "much": "x" * (BIG if target.endswith("nodes") else 1)}
        answer = json.dumps(told).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
        return True


class Replica:
    """What an API replica does with the websocket of an agent."""

    def __init__(self, switch: Switch, token: str) -> None:
        self.switch, self.token = switch, token
        self.wires: list[ServerConnection] = []

    async def start(self) -> Server:
        return await serve(self._take, "127.0.0.1", 0, process_request=self._judge, max_size=4 << 20)

    def _judge(self, wire: ServerConnection, request: object) -> object:
        good = wire.request is not None and wire.request.headers.get("Authorization") == f"Bearer {self.token}"
        return None if good else wire.respond(http.HTTPStatus.FORBIDDEN, "")

    async def _take(self, wire: ServerConnection) -> None:
        self.wires.append(wire)
        assert wire.request is not None
        await self.switch.agent(wire.request.path.split("/")[4], WirePipe(wire))  # type: ignore[arg-type]


@dataclass
class World:
    """A platform, a cluster that only its own agent reaches, and a client of the platform."""

    folder: Path
    switch: Switch = field(default_factory=lambda: Switch(quiet=5))
    cluster: Cluster = field(default_factory=Cluster)
    agents: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> World:
        self.replica = Replica(self.switch, "good")
        self.front = await self.replica.start()
        self.api_server = await asyncio.start_server(self.cluster.serve, "127.0.0.1", 0)
        (self.folder / "token").write_text("good\n")
        (self.folder / "account").write_text("account-1\n")
        self.ways = Ways(self._dial)
        self.client = HttpApi(Access("http://lab.agent", "osmo", None, socket=self.ways.path("lab")))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        for task in self.agents:
            task.cancel()
        await asyncio.gather(*self.agents, return_exceptions=True)
        await self.ways.close()
        self.front.close()
        self.api_server.close()
        await self.front.wait_closed()

    async def _dial(self, cluster: str) -> Pipe:
        near, far = socket.socketpair()
        task = asyncio.ensure_future(self.switch.caller(cluster, await StreamPipe.of(far)))
        self.agents.append(task)
        return await StreamPipe.of(near)

    def agent(self, **more: float) -> Agent:
        port = self.front.sockets[0].getsockname()[1]
        there = self.api_server.sockets[0].getsockname()[1]
        made = Agent(
            Platform(address(f"http://127.0.0.1:{port}", "lab"), "lab", self.folder / "token"),
            ApiServer("127.0.0.1", there, None, self.folder / "account", "osmo"),
            quiet=5,
            first=0.05,
            **more,
        )
        self.agents.append(asyncio.ensure_future(made.run()))
        return made

    async def linked(self) -> Agent:
        made = self.agent()
        await eventually(lambda: made.linked and "lab" in self.switch.linked)
        return made


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not what():
            await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path) as made:
        yield made


async def test_requests_go_through_with_the_agents_credentials_and_share_connections(world: World):
    await world.linked()
    assert (await world.client.get(PODS))["method"] == "GET"
    made = await world.client.apply(f"{PODS}/x", {"kind": "Pod", "text": "y" * 500000})
    assert json.loads(made["body"])["text"] == "y" * 500000
    assert len((await world.client.get("/api/v1/nodes"))["much"]) == BIG
    with pytest.raises(ApiError, match="404 NotFound: no such pod"):
        await world.client.get(f"{PODS}/gone")
    assert {token for *_, token in world.cluster.seen} == {"Bearer account-1"}
    assert world.cluster.connections == 1
    (world.folder / "account").write_text("account-2\n")  # Kubernetes changes it every hour
    await world.client.get(PODS)
    assert world.cluster.seen[-1][2] == "Bearer account-2"


async def test_many_requests_at_once(world: World):
    await world.linked()
    found = await asyncio.gather(*[world.client.get(f"{PODS}?n={n}") for n in range(60)])
    assert len(found) == 60 and world.cluster.connections <= 60


async def test_without_an_agent_the_reason_is_told(world: World):
    with pytest.raises(BackendUnavailable, match="no agent of cluster lab is connected yet"):
        await world.client.get(PODS)
    await world.linked()
    await world.client.get(PODS)
    for task in world.agents:
        task.cancel()
    await eventually(lambda: not world.switch.linked)
    with pytest.raises(BackendUnavailable, match=r"no agent of cluster lab is connected since \d\d:\d\d"):
        await world.client.get(PODS)


async def test_the_agent_refuses_what_no_backend_asks_for(world: World):
    await world.linked()
    with pytest.raises(ApiError, match=r"403 Forbidden: the agent: .*kube-system"):
        await world.client.get("/api/v1/namespaces/kube-system/pods")
    with pytest.raises(ApiError, match="GET of secrets"):
        await world.client.get("/api/v1/namespaces/osmo/secrets/x")
    assert world.cluster.seen == []


async def test_a_cut_connection_breaks_what_was_under_way_and_the_agent_comes_back(world: World):
    agent = await world.linked()
    events = world.client.watch(PODS, {"resourceVersion": "1"})
    assert [(await anext(events))["object"] for _ in range(2)] == [{}, {"number": 0}]
    world.replica.wires[-1].transport.abort()
    with pytest.raises(BackendUnavailable):
        async for _ in events:
            pass
    await eventually(lambda: agent.links == 2)
    await world.client.get(PODS)
    again = world.client.watch(PODS, {"resourceVersion": "1"})
    assert [(await anext(again))["object"] for _ in range(2)] == [{}, {"number": 0}]
    await again.aclose()  # type: ignore[attr-defined]


async def test_a_watch_that_is_left_ends_at_the_api_server_too(world: World):
    await world.linked()
    events = world.client.watch(PODS, {})
    await anext(events)
    held = len(asyncio.all_tasks())
    await events.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: len(asyncio.all_tasks()) < held - 3)


async def test_a_newer_agent_wins_and_the_older_one_waits(world: World):
    older = await world.linked()
    newer = world.agent()
    await eventually(lambda: newer.linked and not older.linked)
    await world.client.get(PODS)
    await asyncio.sleep(0.3)  # several times as long as it waits after other losses
    assert newer.links == 1 and older.links == 1


async def test_a_token_that_is_wrong_is_refused_and_a_new_one_is_tried_at_once(world: World):
    (world.folder / "token").write_text("old")
    agent = world.agent()
    await asyncio.sleep(0.2)
    assert not agent.linked and not world.switch.linked
    (world.folder / "token").write_text("good")
    await eventually(lambda: agent.linked)


async def test_an_api_server_that_is_down_is_told_as_such(world: World):
    await world.linked()
    world.api_server.close()
    with pytest.raises(BackendUnavailable, match=r"the agent cannot reach the API server at 127\.0\.0\.1"):
        await world.client.get(PODS)


async def test_sessions_are_websockets_through_the_same_way(world: World):
    async def repeat(wire: ServerConnection) -> None:
        async for message in wire:
            await wire.send(message)

    world.api_server.close()
    async with serve(repeat, "127.0.0.1", 0, subprotocols=["v5.channel.k8s.io"]) as there:  # type: ignore[list-item]
        world.api_server = there  # type: ignore[assignment]
        await world.linked()
        uri = f"ws://lab.agent{PODS}/x/exec?command=cat"
        async with unix_connect(
            world.ways.path("lab"),
            uri,
            subprotocols=["v5.channel.k8s.io"],
            compression=None,  # type: ignore[list-item]
        ) as wire:
            for size in (1, 100000, 5):
                await wire.send(b"z" * size)
                assert await wire.recv() == b"z" * size
        with pytest.raises(InvalidStatus) as refused:
            await unix_connect(world.ways.path("lab"), f"ws://lab.agent{PODS}/x/attach").__aenter__()
        assert refused.value.response.status_code == 403


async def test_after_a_refused_upgrade_nothing_more_is_passed_on(world: World):
    """An API server that answers an upgrade as if it was a request would take what follows for the next one."""
    await world.linked()
    reader, writer = await asyncio.open_unix_connection(world.ways.path("lab"))
    upgrade = f"GET {PODS}/x/exec HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    writer.write(upgrade.encode() + b"GET /api/v1/namespaces/kube-system/secrets HTTP/1.1\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.1)
    assert [target for _, target, _ in world.cluster.seen] == [f"{PODS}/x/exec"]
    writer.close()


@pytest.mark.parametrize("url", ["http://osmo.example.org", "osmo.example.org", "ftp://x", "https://"])
def test_an_address_that_would_show_the_token_is_refused(url: str):
    with pytest.raises(BadAddress):
        address(url, "lab")
    assert address("https://osmo.example.org/base/", "lab") == "wss://osmo.example.org/base/api/x/backend/lab/agent"
    assert address("http://10.0.0.1:8000", "lab", insecure=True).startswith("ws://10.0.0.1:8000/")


async def test_folders_of_killed_processes_go_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def nobody(cluster: str) -> Pipe:
        raise BackendUnavailable(cluster)

    def listening(folder: str) -> socket.socket:
        (tmp_path / folder).mkdir()
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(tmp_path / folder / "lab"))
        made.listen()
        return made

    with listening("osmo-ways-1-living"):
        listening("osmo-ways-1-killed").close()
        ways = Ways(nobody)
        assert len(list(tmp_path.iterdir())) == 2, "where no cluster has an agent nothing is made"
        own = Path(ways.path("lab")).parent
        assert {folder.name for folder in tmp_path.iterdir()} == {"osmo-ways-1-living", own.name}
        assert own.stat().st_mode & 0o777 == 0o700
        await ways.close()
        assert not own.exists()
