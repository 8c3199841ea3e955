"""The router's websockets against uvicorn, by a plain websocket client written from the contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from osmo_ray.api import application
from osmo_ray.api.inside import clients, serving
from osmo_ray.backends.fake_inside import FakeSession, FakeStream
from osmo_ray.backends.inside import NotInside, Size
from osmo_ray.engine.events import Observed
from osmo_ray.spec import wire
from osmo_ray.spec.attempt import AttemptKey, Observation, Phase
from osmo_ray.spec.reason import HELD, Reason
from osmo_ray.spec.wire import Say
from tests.api.world import World

ANN = {"x-osmo-user": "ann"}
SIZE = json.dumps({"Rows": 30, "Cols": 100}).encode()


class Nodes:
    """Running attempts in memory; what was begun is kept."""

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.streams: list[FakeStream] = []
        self.asked: list[tuple[Any, ...]] = []
        self.refusal = ""

    async def exec(
        self, key: AttemptKey, node: str, argv: Any, size: Size | None = None, term: str = "xterm"
    ) -> FakeSession:
        self._begin("exec", node, tuple(argv), size)
        self.sessions.append(FakeSession(tuple(argv), size))
        return self.sessions[-1]

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> FakeStream:
        self._begin("connect", node, port, udp)
        self.streams.append(FakeStream())
        return self.streams[-1]

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        self._begin("rerun" if rerun else "release", key, node)

    def _begin(self, *what: Any) -> None:
        self.asked.append(what)
        if self.refusal:
            raise NotInside(Reason("NotRunning", self.refusal))


class Platform:
    """The application under uvicorn, with one running task `a` of `name`."""

    def __init__(self, world: World, nodes: Nodes, name: str, port: int) -> None:
        self.world, self.nodes, self.name, self.port = world, nodes, name, port

    async def post(self, path: str, user: str = "ann", **query: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.post(path, params=query, headers={"x-osmo-user": user})

    async def key(self, path: str, **query: Any) -> Any:
        reply = await self.post(f"/api/workflow/{self.name}/{path}", **query)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def open(self, kind: str, key: str, query: str = "", **headers: str) -> connect:
        url = f"ws://127.0.0.1:{self.port}/api/router/{kind}/{self.name}/client/{key}{query}"
        return connect(url, additional_headers={**ANN, "Cookie": "", **headers}, compression=None)


@pytest.fixture
async def platform(world: World) -> AsyncIterator[Platform]:
    name = world.submit()
    world.start(name, "a")
    nodes = Nodes()
    async with served(world, nodes) as port:
        yield Platform(world, nodes, name, port)


@asynccontextmanager
async def served(world: World, nodes: Nodes) -> AsyncIterator[int]:
    app = application.build(replace(world.services, inside=nodes))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def until(good: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not good():
            await asyncio.sleep(0.01)


async def rest(socket: ClientConnection) -> tuple[bytes, int | None, str]:
    """All that still comes, and how it was closed."""
    data = b""
    async with asyncio.timeout(10):
        try:
            while True:
                message = await socket.recv()
                assert isinstance(message, bytes), "only binary frames"
                data += message
        except ConnectionClosed:
            return data, socket.close_code, socket.close_reason or ""


# -- keys


async def test_a_reply_names_address_key_and_cookie(platform: Platform) -> None:
    reply = await platform.key("exec/task/a", entry_command="cat")
    assert set(reply) == {"router_address", "key", "cookie"}
    assert reply["router_address"] == f"ws://127.0.0.1:{platform.port}"
    assert reply["key"].startswith("EXEC-") and len(reply["key"]) == 37
    workflow = platform.world.store.find(platform.name)
    assert workflow is not None
    group = await platform.key(f"exec/group/{workflow.groups[0].name}", entry_command="cat")
    assert list(group) == ["a"]
    ports = await platform.key("portforward/a", task_ports=[80, 81], use_udp="False")
    assert [r["key"].startswith("PORTFORWARD-") for r in ports] == [True, True]
    assert (await platform.key("rsync/task/a"))["key"].startswith("RSYNC-")


async def test_what_does_not_run_is_told_by_its_code(platform: Platform) -> None:
    base = f"/api/workflow/{platform.name}/exec/task"
    codes = {}
    for task in ("b", "nobody"):
        reply = await platform.post(f"{base}/{task}", entry_command="sh")
        codes[task] = (reply.status_code, reply.json()["error_code"], reply.json()["workflow_id"])
    assert codes == {"b": (425, "USER", platform.name), "nobody": (404, "USER", platform.name)}
    assert (await platform.post(f"{base}/a")).status_code == 422
    assert (await platform.post(f"{base}/a", entry_command="'")).status_code == 400
    many = await platform.post(f"/api/workflow/{platform.name}/portforward/a", task_ports=list(range(1, 32)))
    assert many.status_code == 400
    await platform.post(f"/api/workflow/{platform.name}/cancel", force="True")
    assert (await platform.post(f"{base}/a", entry_command="sh")).status_code == 410


async def test_a_key_is_good_once_for_its_user_and_its_kind(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osmo_ray.api.inside.keys.WAIT", 0.2)

    async def refused(kind: str, key: str, **headers: str) -> int | None:
        async with platform.open(kind, key, **headers) as socket:
            return (await rest(socket))[1]

    first = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    assert await refused("exec", first, **{"x-osmo-user": "eve"}) == 4000
    assert await refused("exec", first) == 4000, "another user's try uses it up"
    second = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    assert await refused("portforward", second) == 4000
    assert await refused("exec", "EXEC-" + "0" * 32) == 4000
    third = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    platform.world.now += 61
    assert await refused("exec", third) == 4000


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"x-forwarded-for": "9.9.9.9"}]
)
async def test_pages_of_others_and_proxies_do_not_get_in(platform: Platform, headers: dict[str, str]) -> None:
    key = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    url = f"ws://127.0.0.1:{platform.port}/api/router/exec/x/client/{key}"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, additional_headers=headers):
            pass
    assert refused.value.response.status_code == 403


# -- exec


async def test_exec_carries_bytes_sizes_and_the_exit_code(platform: Platform) -> None:
    key = (await platform.key("exec/task/a", entry_command="cat -u"))["key"]
    async with platform.open("exec", key) as socket:
        await socket.send(SIZE)
        await socket.send(b"hello\0there")
        heard = b""
        while heard != b"hello\0there":
            heard += await socket.recv()
        await socket.send(b'\0RESIZE:{"Rows": 31, ')
        await socket.send(b'"Cols": 101}')
        session = platform.nodes.sessions[0]
        await until(lambda: len(session.sizes) == 2)
        assert session.sizes == [Size(30, 100), Size(31, 101)]
        await socket.send(b"\0")
        assert await socket.recv() == b"\0", "a lone zero byte is typed on"
        await session.end()
        assert await rest(socket) == (b"", 1000, "exit 0")
    assert platform.nodes.asked == [("exec", "n1", ("cat", "-u"), Size(30, 100))]


@pytest.mark.parametrize("frame", [b"", None])
async def test_an_empty_frame_or_a_client_that_goes_ends_the_session(platform: Platform, frame: bytes | None) -> None:
    key = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    async with platform.open("exec", key) as socket:
        await socket.send(SIZE)
        await until(lambda: platform.nodes.sessions)
        await (socket.close() if frame is None else socket.send(frame))
        await until(lambda: platform.nodes.sessions[0].closed)


async def test_a_session_that_cannot_begin_says_why(platform: Platform) -> None:
    platform.nodes.refusal = "the task ended just now"
    for query, said, code in (
        ("", b"osmo: the task ended just now\r\n", serving._NO_SESSION),
        ("?frames=typed", b"", 4404),
    ):
        key = (await platform.key("exec/task/a", entry_command="sh"))["key"]
        async with platform.open("exec", key, query) as socket:
            await socket.send(wire.resize(1, 1) if query else SIZE)
            assert await rest(socket) == (said, code, "the task ended just now")


async def test_a_stream_that_does_not_begin_with_a_size_is_refused(platform: Platform) -> None:
    key = (await platform.key("exec/task/a", entry_command="sh"))["key"]
    async with platform.open("exec", key) as socket:
        await socket.send(b"ls\n")
        assert (await rest(socket))[1] == 1008
    key = (await platform.key("exec/task/a", entry_command="sh"))["key"]
    async with platform.open("exec", key) as socket:
        await socket.send("text")
        assert (await rest(socket))[1] == 1008


async def test_our_own_wire_has_errors_signals_the_end_of_input_and_room(platform: Platform) -> None:
    command = "sh -c 'echo out; echo bad >&2; exit 7'"
    key = (await platform.key("exec/task/a", entry_command=command))["key"]
    async with platform.open("exec", key, "?frames=typed") as socket:
        await socket.send(wire.resize(0, 0))
        assert await rest(socket) == (b"\0out\n\1bad\n", 1000, "exit 7")
    assert platform.nodes.asked[-1][-1] is None, "no size is no terminal"

    key = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    async with platform.open("exec", key, "?frames=typed") as socket:
        await socket.send(wire.resize(0, 0))
        piece = bytes([Say.DATA]) + bytes(wire.PIECE)
        sent, got, room = 0, 0, wire.WINDOW
        while got < 4 * wire.WINDOW:
            if room >= wire.PIECE and sent < 4 * wire.WINDOW:
                await socket.send(piece)
                sent, room = sent + wire.PIECE, room - wire.PIECE
                continue
            message = await asyncio.wait_for(socket.recv(), 10)
            if message[0] == Say.TAKEN:
                room += wire.read_taken(message[1:])
            else:
                got += len(message) - 1
                await socket.send(wire.taken(len(message) - 1))
        await socket.send(bytes([Say.SIGNAL, 15]))
        assert (await rest(socket))[1:] == (1000, "exit 143")


async def test_what_is_not_taken_stops_whoever_sends(platform: Platform) -> None:
    key = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    async with platform.open("exec", key, "?frames=typed") as socket:
        await socket.send(wire.resize(0, 0))
        for _ in range(wire.WINDOW // wire.PIECE):
            await socket.send(bytes([Say.DATA]) + bytes(wire.PIECE))
        assert await data_until_silence(socket) == wire.WINDOW
        for _ in range(4):
            await socket.send(bytes([Say.DATA]) + bytes(wire.PIECE))
        assert await data_until_silence(socket) == 0, "there is no room"
        await socket.send(wire.taken(wire.PIECE))
        assert await data_until_silence(socket) == wire.PIECE


async def test_more_than_the_window_is_refused(platform: Platform) -> None:
    """A task that takes nothing, and a client that does not wait for room."""
    key = (await platform.key("exec/task/a", entry_command="cat"))["key"]
    async with platform.open("exec", key, "?frames=typed") as socket:
        await socket.send(wire.resize(0, 0))
        closing = asyncio.create_task(rest(socket))
        with contextlib.suppress(ConnectionClosed):
            while not closing.done():
                await socket.send(bytes([Say.DATA]) + bytes(wire.PIECE))
        data, code, _ = await closing
        assert len(data) < 3 * wire.WINDOW and code is not None
        assert platform.nodes.sessions[0].closed


async def data_until_silence(socket: ClientConnection) -> int:
    """Bytes of data that come before nothing comes for a while."""
    got = 0
    try:
        while True:
            message = await asyncio.wait_for(socket.recv(), 0.5)
            got += len(message) - 1 if message[0] == Say.DATA else 0
    except TimeoutError:
        return got


# -- ports


async def forwarded(platform: Platform, port: int = 80) -> ClientConnection:
    reply = (await platform.key("portforward/a", task_ports=[port], use_udp="False"))[0]
    return await platform.open("portforward", reply["key"])


async def test_each_connection_is_announced_and_has_a_socket_of_its_own(platform: Platform) -> None:
    async with await forwarded(platform, 8080) as control:
        for number in range(3):
            name = f"PORTFORWARD-{number:032x}"
            await control.send(json.dumps({"key": name, "cookie": ""}).encode())
            async with platform.open("portforward", name) as data:
                await data.send(b"ping")
                assert await data.recv() == b"ping"
                await platform.nodes.streams[number].end()
                assert (await rest(data))[:2] == (b"", 1000)
    assert platform.nodes.asked == [("connect", "n1", 8080, False)] * 3


async def test_a_data_socket_may_be_there_before_its_announcement(platform: Platform) -> None:
    async with await forwarded(platform) as control, platform.open("portforward", "PORTFORWARD-" + "a" * 32) as data:
        await data.send(b"early")
        await control.send(json.dumps({"key": "PORTFORWARD-" + "a" * 32, "cookie": ""}).encode())
        assert await asyncio.wait_for(data.recv(), 10) == b"early"


async def test_a_control_socket_wants_keys(platform: Platform) -> None:
    async with await forwarded(platform) as control:
        await control.send(b"not json")
        assert (await rest(control))[1] == 1000


async def test_datagrams_go_over_the_one_socket(platform: Platform) -> None:
    reply = (await platform.key("portforward/a", task_ports=[53], use_udp="True"))[0]
    async with platform.open("portforward", reply["key"]) as socket:
        frame = struct.pack(">4sH", bytes([127, 0, 0, 1]), 4242) + b"question"
        await socket.send(frame)
        assert await socket.recv() == frame
    assert platform.nodes.asked == [("connect", "n1", 53, True)]


async def test_rsync_is_a_daemon_for_each_connection(platform: Platform) -> None:
    reply = await platform.key("rsync/task/a")
    async with platform.open("rsync", reply["key"], "?timeout=30") as control:
        await control.send(json.dumps({"key": "PORTFORWARD-" + "b" * 32, "cookie": ""}).encode())
        async with platform.open("rsync", "PORTFORWARD-" + "b" * 32, "?timeout=30") as data:
            await rest(data)
    (what, _, argv, size) = platform.nodes.asked[0]
    assert (what, size) == ("exec", None) and "rsync --server --daemon" in argv[-1]


async def test_plugins_and_the_routers_version_are_there(platform: Platform) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{platform.port}") as client:
        plugins = (await client.get("/api/plugins/configs", headers=ANN)).json()
        assert plugins["rsync"]["enabled"] is True
        assert (await client.get("/api/router/version")).status_code == 200


async def test_a_hold_is_released(platform: Platform) -> None:
    task = platform.world.task(platform.name, "a")
    reply = await platform.post(f"/api/x/workflow/{platform.name}/task/a/release")
    assert reply.status_code == 200
    assert platform.nodes.asked == [("release", AttemptKey(task.uuid, 0), "n1")]


async def test_only_a_held_task_runs_again_in_place(platform: Platform) -> None:
    task = platform.world.task(platform.name, "a")
    path = f"/api/x/workflow/{platform.name}/task/a/release"
    refused = await platform.post(path, rerun=True)
    assert refused.status_code == 409 and "is not held" in refused.json()["message"]
    key = AttemptKey(task.uuid, 0)
    held = Observation(key, Phase.RUNNING, platform.world.now, node="n1", reason=Reason(HELD, "failed, and stays"))
    platform.world.happen(platform.name, Observed(held))
    assert (await platform.post(path, rerun=True)).status_code == 200
    assert platform.nodes.asked == [("rerun", key, "n1")]


def test_a_lone_zero_waits_only_a_moment() -> None:
    assert clients._QUIET <= 0.1
