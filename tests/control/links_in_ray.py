"""What `test_links.py` tries, in a process of its own: one process can be part of one Ray only.

python links_in_ray.py SCENARIO
"""

from __future__ import annotations

import asyncio
import os
import sys

import ray

from osmo_ray.backends.kubernetes.tunnel.mux import Mux, Stream
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.backends.ray import names
from osmo_ray.backends.ray.doors import LocalPipe
from osmo_ray.control import links


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def agent(name: str) -> asyncio.Task[str]:
    """One that repeats what it hears."""
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
    async with asyncio.timeout(60):
        while True:
            try:
                if await said(await links.dial(name), b"hello") == b"hello":
                    return
            except (BackendUnavailable, OSError):
                pass
            await asyncio.sleep(0.1)


async def here() -> None:
    """Callers and agents meet, each with what is its own."""
    link = await agent("lab")
    await reached("lab")
    data = bytes(range(256)) * 4000
    assert await asyncio.gather(*[said(await links.dial("lab"), data) for _ in range(3)]) == [data] * 3
    answer = await said(await links.dial("other"), b"GET / HTTP/1.1\r\n\r\n" + bytes(400))
    assert answer.startswith(b"HTTP/1.1 503") and b"no agent of cluster other is connected yet" in answer
    link.cancel()


async def elsewhere() -> None:
    """The same for processes of hosts that no local socket of the actor reaches."""

    async def no_socket(*_: object) -> None:
        return None

    LocalPipe.connect = no_socket  # type: ignore[method-assign, assignment]
    await here()


async def death() -> None:
    """Of the actor: links end with it, and the next ones stand."""
    try:
        await links.dial("nobody")
        raise AssertionError("there is no actor yet")
    except BackendUnavailable as error:
        assert "no agent of cluster nobody is connected yet" in str(error)
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


if __name__ == "__main__":
    ray.init(address=os.environ["RAY_ADDRESS"], namespace=names.NAMESPACE, log_to_driver=False)
    asyncio.run({"here": here, "elsewhere": elsewhere, "death": death}[sys.argv[1]]())
