"""The direct line: answers, faults, strangers, and an end in the middle of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from osmo_ray.backends.ray.line import Door, Line, LineBroken


class Refused(Exception):
    """One of the verbs' own errors."""


class Stubborn:
    def __reduce__(self) -> str:
        raise TypeError("not this one")


def door(gate: asyncio.Event) -> Door:
    async def echo(value: object) -> object:
        return value

    async def refuse() -> None:
        raise Refused("no")

    async def wait() -> str:
        await gate.wait()
        return "at last"

    async def unsendable() -> object:
        return Stubborn()

    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
        await gate.wait()
        if to == 0:
            raise Refused("nothing to count")

    return Door({"echo": echo, "refuse": refuse, "wait": wait, "unsendable": unsendable}, {"count": count})


async def test_calls_are_answered_side_by_side_and_errors_arrive_as_themselves() -> None:
    gate = asyncio.Event()
    line = await Line.connect(await door(gate).open())
    slow = asyncio.ensure_future(line.ask("wait"))
    assert await line.ask("echo", {"big": b"x" * 1_000_000}) == {"big": b"x" * 1_000_000}
    with pytest.raises(Refused):
        await line.ask("refuse")
    with pytest.raises(KeyError):
        await line.ask("nothing")
    with pytest.raises(RuntimeError, match="unsendable gave what cannot be sent: not this one"):
        await line.ask("unsendable")
    assert not slow.done()
    gate.set()
    assert await slow == "at last"
    line.close()


async def test_a_source_tells_each_thing_when_it_is_there_and_then_ends() -> None:
    gate = asyncio.Event()
    line = await Line.connect(await door(gate).open())
    heard: asyncio.Queue[int] = asyncio.Queue()
    listening = asyncio.ensure_future(line.hear(heard.put_nowait, "count", 3))
    assert [await heard.get() for _ in range(3)] == [0, 1, 2]
    assert await line.ask("echo", 1) == 1
    assert not listening.done()
    gate.set()
    await listening
    with pytest.raises(Refused):
        await line.hear(heard.put_nowait, "count", 0)
    assert heard.empty()
    line.close()


async def test_who_listens_hears_that_the_line_broke() -> None:
    line = await Line.connect(await door(asyncio.Event()).open())
    heard: list[int] = []
    listening = asyncio.ensure_future(line.hear(heard.append, "count", 2))
    while len(heard) < 2:
        await asyncio.sleep(0)
    line.close()
    with pytest.raises(LineBroken):
        await listening


async def test_a_stranger_is_not_heard() -> None:
    address = await door(asyncio.Event()).open()
    line = await Line.connect(replace(address, secret=bytes(32)))
    with pytest.raises((LineBroken, ConnectionError)):
        await line.ask("echo", 1)


async def test_an_open_call_ends_when_the_line_does() -> None:
    line = await Line.connect(await door(asyncio.Event()).open())
    asked = asyncio.ensure_future(line.ask("wait"))
    await asyncio.sleep(0)
    line.close()
    with pytest.raises(LineBroken):
        await asked
    assert line.broken
    with pytest.raises(LineBroken):
        await line.ask("echo", 1)


async def test_an_address_of_nobody_is_an_os_error() -> None:
    address = await door(asyncio.Event()).open()
    with pytest.raises(OSError, match="refused"):
        await Line.connect(replace(address, name="osmo-agent-nobody"))
