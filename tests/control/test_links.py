"""The actor that holds links, in a real Ray: agents and callers of its host and of others, and its own death."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from osmo_ray.backends.kubernetes.tunnel.mux import Mux, Stream
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.backends.ray import names
from osmo_ray.backends.ray.doors import LocalPipe
from tests.backends.test_ray import cluster as cluster

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No actor of a test before."""
    yield
    import ray

    for one in ray.util.list_named_actors(all_namespaces=True):
        if one["name"] == names.LINKS:
            ray.kill(ray.get_actor(names.LINKS, names.NAMESPACE), no_restart=True)


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def agent(name: str) -> asyncio.Task[str]:
    """One that repeats what it hears."""
    from osmo_ray.control import links

    return asyncio.ensure_future(Mux(await links.arrive(name, "INFO"), echo).run())


async def said(pipe: Pipe, data: bytes) -> bytes:
    async def send() -> None:
        await pipe.write(data)

    sending, back = asyncio.ensure_future(send()), b""
    async with asyncio.timeout(30):
        while len(back) < len(data) and (piece := await pipe.read()):
            back += piece
    await sending
    await pipe.close()
    return back


async def reached(name: str) -> None:
    """An agent is taken a moment after it came; until then callers are told that there is none."""
    from osmo_ray.control import links

    async with asyncio.timeout(60):
        while True:
            try:
                if await said(await links.dial(name), b"hello") == b"hello":
                    return
            except (BackendUnavailable, OSError):
                pass
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_callers_and_agents_meet_from_this_host_and_from_others(elsewhere: bool, monkeypatch: pytest.MonkeyPatch):
    from osmo_ray.control import links

    async def no_socket(*_: object) -> None:
        return None

    if elsewhere:
        monkeypatch.setattr(LocalPipe, "connect", no_socket)
    link = await agent("lab")
    await reached("lab")
    data = bytes(range(256)) * 4000
    assert await asyncio.gather(*[said(await links.dial("lab"), data) for _ in range(3)]) == [data] * 3
    answer = await said(await links.dial("other"), b"GET / HTTP/1.1\r\n\r\n" + bytes(400))
    assert answer.startswith(b"HTTP/1.1 503") and b"no agent of cluster other is connected yet" in answer
    link.cancel()


async def test_the_actors_death_ends_links_and_the_next_ones_stand():
    import ray

    from osmo_ray.control import links

    with pytest.raises(BackendUnavailable, match="no agent of cluster lab is connected yet"):
        await links.dial("lab")
    link = await agent("lab")
    await reached("lab")
    ray.kill(ray.get_actor(names.LINKS, names.NAMESPACE), no_restart=False)
    async with asyncio.timeout(30):
        assert await link
        while True:  # as an agent does: again, until it is taken
            try:
                link = await agent("lab")
                break
            except BackendUnavailable:
                await asyncio.sleep(0.2)
    await reached("lab")
    link.cancel()
