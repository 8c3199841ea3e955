"""What a look inside a running attempt must do on every backend; part of `BackendContract`."""

from __future__ import annotations

import asyncio

import pytest

from osmo_ray.backends.inside import NotInside, Session, Size
from osmo_ray.backends.protocol import Backend
from osmo_ray.spec.attempt import AttemptKey, Phase


async def told(session: Session) -> tuple[bytes, bytes]:
    """All that a session writes until its end: output and errors."""
    out, errors = b"", b""
    async with asyncio.timeout(20):
        while (said := await session.receive()) is not None:
            out, errors = (out, errors + said.data) if said.errors else (out + said.data, errors)
    return out, errors


class InsideContract:
    """Mixed into the contract; `running` gives an attempt that stays."""

    async def running(self, backend: Backend, epoch: int) -> tuple[AttemptKey, str]:
        from tests.backends.contract import BackendContract, attempt, group

        assert isinstance(self, BackendContract)
        plan = attempt(await self.node(backend), *self.stays)
        await backend.apply(epoch, [group(plan)])
        await self.until(backend, plan.key, lambda o: o.phase is Phase.RUNNING)
        return plan.key, plan.node

    async def test_a_command_inside_says_something_and_ends_with_its_code(self, backend: Backend, epoch: int):
        key, node = await self.running(backend, epoch)
        session = await backend.exec(key, node, ["sh", "-c", "echo out; echo bad >&2; exit 7"])
        assert await told(session) == (b"out\n", b"bad\n")
        assert session.code == 7
        await session.close()

    async def test_a_command_inside_reads_until_its_input_ends(self, backend: Backend, epoch: int):
        key, node = await self.running(backend, epoch)
        session = await backend.exec(key, node, ["cat"])
        await session.send(b"one ")
        await session.send(b"two")
        await session.end()
        assert (await told(session))[0] == b"one two"
        assert session.code == 0
        await session.close()

    async def test_a_signal_ends_a_command_inside(self, backend: Backend, epoch: int):
        key, node = await self.running(backend, epoch)
        session = await backend.exec(key, node, ["cat"])
        await session.send(b"up")
        said = await session.receive()
        assert said is not None and said.data == b"up"
        await session.signal(15)
        await told(session)
        assert session.code == 143
        await session.close()

    async def test_with_a_terminal_both_kinds_of_output_are_one(self, backend: Backend, epoch: int):
        key, node = await self.running(backend, epoch)
        session = await backend.exec(key, node, ["sh", "-c", "echo out; echo bad >&2; exit 0"], Size(30, 100))
        await session.resize(Size(31, 101))
        out, errors = await told(session)
        assert (out.split(), errors, session.code) == ([b"out", b"bad"], b"", 0)
        await session.close()

    async def test_nothing_is_inside_an_attempt_that_does_not_run(self, backend: Backend):
        node = await self.node(backend)  # type: ignore[attr-defined]
        with pytest.raises(NotInside):
            await backend.exec(AttemptKey("f" * 32, 0), node, ["cat"])
        with pytest.raises(NotInside):
            await backend.connect(AttemptKey("f" * 32, 0), node, 80)

    async def test_a_port_nobody_listens_on_is_said(self, backend: Backend, epoch: int):
        key, node = await self.running(backend, epoch)
        with pytest.raises(NotInside, match="nothing listens on port 7"):
            await backend.connect(key, node, 7)

    async def test_releasing_what_is_not_held_is_no_error(self, backend: Backend):
        node = await self.node(backend)  # type: ignore[attr-defined]
        await backend.release(AttemptKey("f" * 32, 0), node)
        await backend.release(AttemptKey("f" * 32, 0), node, rerun=True)
