"""The wire between agents and the platform: many streams over one pipe, none in the way of another."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.backends.kubernetes.tunnel.mux import (
    PIECE,
    WINDOW,
    BadFrame,
    Frames,
    Kind,
    LinkLost,
    Mux,
    Opened,
    Stream,
    frame,
)
from osmo_ray.backends.kubernetes.tunnel.pipes import StreamPipe, join


@asynccontextmanager
async def linked(opened: Opened | None = None, quiet: float = 30.0) -> AsyncIterator[tuple[Mux, Mux]]:
    """Ours, and the agent's that serves streams."""
    near, far = socket.socketpair()
    ours, theirs = Mux(await StreamPipe.of(near), quiet=quiet), Mux(await StreamPipe.of(far), opened, quiet=quiet)
    tasks = [asyncio.ensure_future(ours.run()), asyncio.ensure_future(theirs.run())]
    try:
        yield ours, theirs
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def whole(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := await stream.read()):
        data += piece
    return data


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


frames = st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=60)), max_size=8)


@given(frames, st.integers(1, 40))
def test_frames_come_out_as_they_went_in_however_they_are_cut(told: list[tuple[Kind, int, bytes]], cut: int):
    data = b"".join(frame(*one) for one in told)
    heard = Frames()
    found = [one for at in range(0, len(data), cut) for one in heard.feed(data[at : at + cut])]
    assert found == told


@pytest.mark.parametrize("data", [b"\x09" + bytes(8), frame(Kind.DATA, 1)[:5] + (PIECE + 1).to_bytes(4, "big")])
def test_what_is_no_frame_is_refused(data: bytes):
    with pytest.raises(BadFrame):
        list(Frames().feed(data))


async def test_streams_carry_more_than_their_window_both_ways_side_by_side():
    async def send(stream: Stream, data: bytes) -> bytes:
        writing = asyncio.ensure_future(stream.write(data))
        back = await whole(stream, len(data))
        await writing
        await stream.close()
        return back

    async with linked(echo) as (ours, _):
        data = [bytes([n]) * (3 * WINDOW + n) for n in range(5)]
        assert await asyncio.gather(*[send(await ours.open(), one) for one in data]) == data


async def test_a_slow_reader_holds_back_its_own_stream_and_no_other():
    held: list[Stream] = []
    sent = 0

    async def serve(stream: Stream) -> None:
        nonlocal sent
        if stream.number == 2:
            await echo(stream)
            return
        held.append(stream)
        for _ in range(100):
            await stream.write(bytes(PIECE))
            sent += PIECE

    async with linked(serve) as (ours, _):
        slow, quick = await ours.open(), await ours.open()
        await eventually(lambda: sent == WINDOW)
        await quick.write(b"still here")
        assert await whole(quick, 10) == b"still here" and sent == WINDOW
        assert len(await whole(slow, 100 * PIECE)) == 100 * PIECE


async def test_what_was_written_before_the_end_is_read_and_a_fault_is_told():
    async def serve(stream: Stream) -> None:
        if stream.number == 1:
            await stream.write(b"last words")
            return
        raise ConnectionRefusedError("nobody there")

    async with linked(serve) as (ours, _):
        good, bad = await ours.open(), await ours.open()
        assert (await good.read(), await good.read()) == (b"last words", b"")
        with pytest.raises(ConnectionResetError, match="nobody there"):
            await bad.read()
        with pytest.raises(ConnectionError):
            await good.write(b"too late")


async def test_the_loss_of_the_link_breaks_every_stream_and_no_new_one_is_given():
    async with linked(echo) as (ours, theirs):
        stream = await ours.open()
        blocked = asyncio.ensure_future(stream.write(bytes(4 * WINDOW)))  # the echo is not read
        await asyncio.sleep(0.05)
        await theirs.bye("its time has come")
        with pytest.raises(LinkLost, match="its time has come"):
            await blocked
        with pytest.raises(LinkLost, match="its time has come"):
            await stream.read()
        with pytest.raises(LinkLost):
            await ours.open()


async def test_a_silent_other_side_counts_as_gone_and_a_quiet_one_does_not():
    near, far = socket.socketpair()
    with far:
        assert "nothing was heard for 0.2 s" in await Mux(await StreamPipe.of(near), quiet=0.2).run()
    async with linked(echo, quiet=0.3) as (ours, _):
        stream = await ours.open()
        await asyncio.sleep(0.9)  # three times as long as silence may last: only signs of life were sent
        await stream.write(b"x")
        assert await stream.read() == b"x"


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff" * 9,
        frame(Kind.OPEN, 7),  # only the platform opens streams
        b"".join(frame(Kind.DATA, 1, bytes(PIECE)) for _ in range(WINDOW // PIECE + 1)),
        frame(Kind.TAKEN, 1, (1).to_bytes(4, "big")),
        frame(Kind.TAKEN, 1, b"x"),
    ],
)
async def test_an_agent_that_does_not_keep_to_the_wire_is_cut_off(bad: bytes):
    near, far = socket.socketpair()
    link, agent = Mux(await StreamPipe.of(near)), await StreamPipe.of(far)
    running = asyncio.ensure_future(link.run())
    await link.open()
    await agent.write(bad)
    async with asyncio.timeout(10):
        assert "does not keep to the wire" in await running
    await agent.close()


async def test_joined_pipes_end_together():
    one, near = socket.socketpair()
    far, two = socket.socketpair()
    client, server = await StreamPipe.of(one), await StreamPipe.of(two)
    joined = asyncio.ensure_future(join(await StreamPipe.of(near), await StreamPipe.of(far)))
    await client.write(b"question")
    assert await server.read() == b"question"
    await server.write(b"answer")
    await server.close()
    assert (await client.read(), await client.read()) == (b"answer", b"")
    await joined
    await client.close()
