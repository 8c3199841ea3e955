"""What every backend must do, whatever runs behind it. A module that tests one subclasses `BackendContract`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from osmo_ray.backends.protocol import Backend, StaleEpoch
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, GroupPlan, Observation, Phase

_ids = itertools.count(1)


def fresh() -> str:
    return f"{next(_ids):032x}"


def attempt(node: str, *argv: str, group: str = "", **more: object) -> AttemptPlan:
    return AttemptPlan(
        key=AttemptKey(fresh(), 0),
        workflow_id="contract-1",
        workflow_uuid="c" * 32,
        group="g",
        group_uuid=group or fresh(),
        task=str(more.pop("task", "t")),
        user="ann",
        node=node,
        image="ubuntu:24.04",
        argv=argv or ("true",),
        memory=64 << 20,
        **more,  # type: ignore[arg-type]
    )


def group(*attempts: AttemptPlan) -> GroupPlan:
    return GroupPlan(attempts[0].group_uuid, "contract-1", "g", attempts)


class BackendContract:
    """Subclasses give a fixture `backend` and say how to write commands that do something."""

    succeeds: tuple[str, ...] = ("true",)
    fails: tuple[str, ...] = ("sh", "-c", "exit 7")
    stays: tuple[str, ...] = ("sleep", "600")

    @pytest.fixture
    def epoch(self) -> int:
        return next(_ids)

    async def node(self, backend: Backend) -> str:
        return (await backend.capacity())[0].name

    async def until(
        self, backend: Backend, key: AttemptKey, done: Callable[[Observation], bool], limit: float = 20
    ) -> list[Observation]:
        """Everything seen of an attempt until `done` says enough."""
        seen: list[Observation] = []
        deadline = asyncio.get_running_loop().time() + limit
        while asyncio.get_running_loop().time() < deadline:
            seen += [o for o in await backend.watch(1.0) if o.key == key]
            if any(done(o) for o in seen):
                return seen
        raise AssertionError(f"not seen within {limit} s; so far: {seen}")

    async def finished(self, backend: Backend, key: AttemptKey) -> Observation:
        seen = await self.until(backend, key, lambda o: o.phase in (Phase.FINISHED, Phase.LOST))
        return seen[-1]

    async def test_capacity_names_nodes_with_amounts(self, backend: Backend):
        nodes = await backend.capacity()
        assert nodes and all(n.name and n.cpu > 0 and n.memory > 0 for n in nodes)

    async def test_an_attempt_runs_to_its_end(self, backend: Backend, epoch: int):
        plan = attempt(await self.node(backend), *self.succeeds)
        assert await backend.apply(epoch, [group(plan)]) == {}
        assert (await self.finished(backend, plan.key)).exit_code == 0

    async def test_an_exit_code_is_reported(self, backend: Backend, epoch: int):
        plan = attempt(await self.node(backend), *self.fails)
        await backend.apply(epoch, [group(plan)])
        assert (await self.finished(backend, plan.key)).exit_code == 7

    async def test_the_same_plan_twice_makes_one_attempt(self, backend: Backend, epoch: int):
        plan = attempt(await self.node(backend), *self.succeeds)
        await backend.apply(epoch, [group(plan)])
        await backend.apply(epoch, [group(plan)])
        await self.finished(backend, plan.key)
        await backend.apply(epoch, [group(plan)])
        again = [o for o in await backend.watch(1.0) if o.key == plan.key and o.phase is Phase.RUNNING]
        assert again == []

    async def test_a_deleted_group_ends_and_stays_ended(self, backend: Backend, epoch: int):
        plan = attempt(await self.node(backend), *self.stays)
        await backend.apply(epoch, [group(plan)])
        await self.until(backend, plan.key, lambda o: o.phase is Phase.RUNNING)
        await backend.delete(epoch, [plan.group_uuid], 1.0)
        await self.gone(backend, plan.key)
        await backend.apply(epoch, [group(plan)])
        await self.gone(backend, plan.key)

    async def gone(self, backend: Backend, key: AttemptKey) -> None:
        for _ in range(100):
            if not any(o.key == key and o.phase is Phase.RUNNING for o in await backend.list()):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{key} still runs")

    async def test_deleting_what_never_was_is_no_error(self, backend: Backend, epoch: int):
        await backend.delete(epoch, [fresh()], 1.0)

    async def test_a_lower_epoch_is_refused(self, backend: Backend, epoch: int):
        plan = attempt(await self.node(backend), *self.succeeds)
        await backend.apply(epoch, [group(plan)])
        with pytest.raises(StaleEpoch):
            await backend.apply(epoch - 1, [group(plan)])
        with pytest.raises(StaleEpoch):
            await backend.delete(epoch - 1, [plan.group_uuid], 1.0)

    async def test_the_barrier_holds_until_it_is_opened(self, backend: Backend, epoch: int):
        node, uuid = await self.node(backend), fresh()
        first = attempt(node, *self.succeeds, group=uuid, task="a", barrier=True, go=False, peers=("a", "b"))
        second = attempt(node, *self.succeeds, group=uuid, task="b", barrier=True, go=False, peers=("a", "b"))
        await backend.apply(epoch, [group(first, second)])
        await self.until(backend, first.key, lambda o: o.phase is Phase.READY)
        known = {o.key: o.phase for o in await backend.list()}
        assert known[first.key] is Phase.READY
        await backend.apply(epoch, [group(replace(first, go=True), replace(second, go=True))])
        assert (await self.finished(backend, first.key)).exit_code == 0

    async def test_what_was_settled_is_forgotten(self, backend: Backend, epoch: int):
        plan = attempt(await self.node(backend), *self.succeeds)
        await backend.apply(epoch, [group(plan)])
        await self.finished(backend, plan.key)
        assert plan.key in {o.key for o in await backend.list()}
        await backend.settle([plan.key])
        for _ in range(100):
            if plan.key not in {o.key for o in await backend.list()}:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{plan.key} is still known")

    async def test_a_late_plan_does_not_revive_what_was_settled(self, backend: Backend, epoch: int):
        plan = attempt(await self.node(backend), *self.succeeds)
        await backend.apply(epoch, [group(plan)])
        await self.finished(backend, plan.key)
        await backend.settle([plan.key])
        for _ in range(100):
            if plan.key not in {o.key for o in await backend.list()}:
                break
            await asyncio.sleep(0.05)
        await backend.apply(epoch, [group(plan)])
        assert [o for o in await backend.watch(1.0) if o.key == plan.key] == []
        assert plan.key not in {o.key for o in await backend.list()}

    async def test_logs_are_read_by_offset(self, backend: Backend, epoch: int):
        node = await self.node(backend)
        plan = attempt(node, "sh", "-c", "echo one; echo two")
        await backend.apply(epoch, [group(plan)])
        await self.finished(backend, plan.key)
        data, offset, end = b"", 0, False
        while not end:
            chunk = await backend.logs(plan.key, node, offset, 10, 1.0)
            data, offset, end = data + chunk.data, chunk.next, chunk.end
        assert offset == len(data) and data.endswith(b"\n")
        assert all(line.split(b" ", 2)[0].isdigit() for line in data.splitlines())
