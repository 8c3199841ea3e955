"""A crowd at one platform: 200 followers of logs and 50 sessions, of which many do not read and many vanish.

Those who read lose nothing, and those who do not cost the API a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from osmo_ray.api.follow import STALL
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.sessions import Channel, ask, open_socket
from tests.e2e.harness import Platform, commands, until

pytestmark = pytest.mark.ray

READERS, SLOW, SILENT, VANISHING = 100, 20, 40, 40
TYPED, PLAIN, BROKEN, WORKING = 15, 15, 10, 10
PUSHING = 10
BOUND = 320 << 20
"""Bytes by which the API may grow. What the silent ones could have cost it is some GiB."""
FLOOD = 24 << 20
TALKS = f"""workflow:
  name: crowd
  groups:
  - name: all
    tasks:
    - name: main
      lead: true
      image: ubuntu:24.04
      command:
      - python3
      - -uc
      - |
        import os, socket, time
        deaf = socket.create_server(("127.0.0.1", 7000), backlog=100)
        number = 0
        while not os.path.exists("/tmp/enough"):
            print("\\n".join(f"talk {{n:06d}} {{'.' * 40}}" for n in range(number, number + 20)))
            number += 20
            time.sleep(0.2)
        print("talk end", number)
    - name: flood
      image: ubuntu:24.04
      command:
      - sh
      - -c
      - yes "a line of the flood that is about one hundred bytes long, so that many of them make a lot to hold" |
        head -c {FLOOD}; touch /tmp/written; sleep 3600
"""


@pytest.fixture
def crowd(platform: Platform) -> Iterator[str]:
    """The id of a workflow whose `main` talks until it is told to end, and whose `flood` has said a lot."""
    id = platform.submit(TALKS)
    platform.running(id, "main", "flood")
    written = ["workflow", "exec", id, "flood", "--", "test", "-e", "/tmp/written"]
    until(lambda: platform.cli(*written, check=False).returncode == 0, 60)
    yield id
    platform.cli("workflow", "cancel", "--force", id, check=False)


@dataclass
class Memory:
    """What the processes of the API hold, and the most that they held beyond what they held at first."""

    pids: list[int]
    first: int = 0
    most: int = 0

    def look(self) -> None:
        now = sum(map(resident, self.pids))
        self.first = self.first or now
        self.most = max(self.most, now - self.first)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async def watch() -> None:
            while True:
                self.look()
                await asyncio.sleep(0.25)

        self.look()
        watching = asyncio.ensure_future(watch())
        try:
            yield
        finally:
            watching.cancel()


async def test_a_crowd_of_which_many_do_not_read_and_many_vanish(platform: Platform, crowd: str) -> None:
    memory = Memory(platform.pids("ray::ServeReplica"))
    assert memory.pids
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(memory.watched())
        web = await stack.enter_async_context(httpx.AsyncClient(timeout=None, limits=httpx.Limits()))
        started = [asyncio.Event() for _ in range(READERS)]
        readers = [asyncio.ensure_future(everything(web, platform, crowd, event)) for event in started]
        slow = [await unread(platform, crowd, "flood") for _ in range(SLOW)]
        silent = [await unread(platform, crowd, "flood") for _ in range(SILENT)]
        vanishing = [await unread(platform, crowd, name) for name in ("main", "flood") * (VANISHING // 2)]
        floods: list[Any] = [await typed(platform, crowd, FLOODS) for _ in range(TYPED)]
        floods += [await plain(platform, crowd, FLOODS) for _ in range(PLAIN)]
        pushed = await ports(platform, crowd)
        for one in pushed:
            stack.push_async_callback(one.close)
        pushing = [asyncio.ensure_future(push(one)) for one in pushed[1:]]
        broken = [await plain(platform, crowd, FLOODS) for _ in range(BROKEN)]
        working = [await typed(platform, crowd, "cat") for _ in range(WORKING)]
        await asyncio.to_thread(until, lambda: len(sessions(platform)) >= TYPED + PLAIN + BROKEN + WORKING, 60)
        async with asyncio.timeout(120):
            await asyncio.gather(*(event.wait() for event in started))
            for one in vanishing:
                reset(one)
            for one in broken:
                one.transport.abort()
            await asyncio.gather(*map(comes_back, working))
            await asyncio.gather(*(channel.close() for channel in working))
            await asyncio.sleep(STALL)  # by now nobody can take them for quick
            await asyncio.gather(*map(skipped, slow))
            assert not any(one.done() for one in pushing)  # held back, and not sent away
            await command(platform, crowd, "touch /tmp/enough")
            texts = await asyncio.gather(*readers)
            late = await everything(web, platform, crowd, asyncio.Event())
        assert all(text == late for text in texts)
        assert_whole(late)
        for one in (*slow, *silent):
            one.close()
        for task in pushing:
            task.cancel()
        await asyncio.gather(*pushing, return_exceptions=True)
        for flood in floods:
            (flood._socket if isinstance(flood, Channel) else flood).transport.abort()
        await asyncio.to_thread(until, lambda: sessions(platform) == [], 60)
        await asyncio.gather(*(flood._reading for flood in floods if isinstance(flood, Channel)))
    print(f"the API grew by {memory.most >> 20} MiB from {memory.first >> 20} MiB")
    assert memory.most < BOUND


# -- followers


async def everything(web: httpx.AsyncClient, platform: Platform, id: str, started: asyncio.Event) -> list[str]:
    """The lines of `main` to its end; `started` when the first ones are there."""
    heard = []
    async with web.stream("GET", f"{platform.url}/api/workflow/{id}/logs", params={"task_name": "main"}) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            heard.append(line)
            started.set()
    return heard


def assert_whole(lines: list[str]) -> None:
    """Each line that was said, once, in order, to the last one."""
    found = [match for line in lines if (match := re.search(r"\[main\] talk (\w+) (\S+)$", line))]
    (number,) = (int(match[2]) for match in found if match[1] == "end")
    assert [match[1] for match in found] == [f"{n:06d}" for n in range(number)] + ["end"]
    assert number >= 100


async def unread(platform: Platform, id: str, task: str) -> socket.socket:
    """A follower that asks and then reads no more than its first bytes, with little room on the way."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, (platform.host, platform.port))
    head = f"GET /api/workflow/{id}/logs?task_name={task} HTTP/1.1\r\nHost: {platform.host}:{platform.port}\r\n\r\n"
    await loop.sock_sendall(one, head.encode())
    assert (await loop.sock_recv(one, 15)).startswith(b"HTTP/1.1 200")
    return one


async def skipped(one: socket.socket) -> None:
    """Read on, to the word that lines were skipped."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    heard = b""
    while b"because this reader is too slow" not in heard:
        data = await asyncio.get_running_loop().sock_recv(one, 256 << 10)
        assert data
        heard = heard[-100:] + data


def reset(one: socket.socket) -> None:
    """Gone without a goodbye."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


# -- sessions

FLOODS = "sh -c 'while :; do cat /usr/bin/env; done'"


async def typed(platform: Platform, id: str, entry: str) -> Channel:
    """A session in our own wire."""
    with Client(platform.url) as client:
        reply = await ask(client, f"/api/workflow/{id}/exec/task/main", entry_command=entry)
        channel = await Channel.open(client, "exec", id, reply)
    await channel.resize(0, 0)
    return channel


async def plain(platform: Platform, id: str, entry: str) -> ClientConnection:
    """A session in the contract's wire whose client does not read."""
    with Client(platform.url) as client:
        reply = await ask(client, f"/api/workflow/{id}/exec/task/main", entry_command=entry)
    address = f"{reply['router_address']}/api/router/exec/{id}/client/{reply['key']}"
    one = await connect(address, compression=None, proxy=None, max_queue=1, ping_interval=None)
    await one.send(b'{"Rows": 30, "Cols": 100}')
    return one


async def ports(platform: Platform, id: str) -> list[ClientConnection]:
    """A control socket of the contract's wire, and connections to a port that nobody reads from."""
    with Client(platform.url) as client:
        (reply,) = await ask(client, f"/api/workflow/{id}/portforward/main", task_ports=[7000], use_udp=False)
        found = [await open_socket(client, "portforward", id, reply)]
        for _ in range(PUSHING):
            told = {"key": f"PORTFORWARD-{secrets.token_hex(16)}", "cookie": ""}
            await found[0].send(json.dumps(told).encode())
            found.append(await open_socket(client, "portforward", id, told))
            found[-1].ping_timeout = None  # who is held back is not answered: that is no sign of death here
    return found


async def push(one: ClientConnection) -> None:
    """More than anybody takes."""
    while True:
        await one.send(bytes(256 << 10))


async def comes_back(channel: Channel) -> None:
    """What a session whose command is `cat` is told, it says."""
    data = os.urandom(200_000)
    sending = asyncio.ensure_future(channel.send(data))
    heard = b""
    while len(heard) < len(data):
        said = await channel.receive()
        assert said is not None
        heard += said[0]
    await sending
    assert heard == data


async def command(platform: Platform, id: str, entry: str) -> None:
    channel = await typed(platform, id, entry)
    while await channel.receive() is not None:
        pass
    assert channel.code == 0
    await channel.close()


def sessions(platform: Platform) -> list[int]:
    """Workers of sessions of this platform that are still there."""
    return [pid for pid in commands(str(platform.home)) if read(pid, "comm", str.strip) == "osmo-inside"]


def resident(pid: int) -> int:
    return read(pid, "status", lambda text: int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) << 10)


def read(pid: int, name: str, meaning: Callable[[str], Any]) -> Any:
    """What a file of a process means; None when the process has gone."""
    try:
        return meaning(Path(f"/proc/{pid}/{name}").read_text())
    except OSError:
        return None
