"""The real controller on a real store, under random faults: killed leaders, a silent backend, vanished attempts, a
database that refuses or forgets to answer. Every workflow comes to its right end, and no work is done twice.

`OSMO_SEEDS=100` runs that many histories; the seed stands in the name of a test that failed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.control.controller import Controller, ControlSettings
from osmo_ray.engine.decide import decide
from osmo_ray.engine.events import CancelRequested, Policy
from osmo_ray.engine.model import Workflow
from osmo_ray.engine.status import TaskStatus as S
from osmo_ray.engine.status import WorkflowStatus as W
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, NodeReport, Phase
from osmo_ray.spec.model import GroupSpec, TaskInput, TaskSpec, WorkflowSpec
from osmo_ray.store.protocol import StoreError
from osmo_ray.store.sql import SqlStore
from tests.control.conftest import submit

SETTINGS = ControlSettings(lease_ttl=0.6, attempt_lease=1.0, poll=0.1, tidy=0.1, watch=0.2)
POLICY = Policy(task_retries=3, platform_retries=1000)
SEEDS = range(int(os.environ.get("OSMO_SEEDS", "4")))


class ShakyStore:
    """A store that sometimes refuses before the work and sometimes loses the answer after it."""

    def __init__(self, store: SqlStore, dice: random.Random) -> None:
        self._store, self._dice = store, dice
        self.shaky = True

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        real = getattr(self._store, verb)

        def call(*args: Any) -> Any:
            self._perhaps(f"{verb}: refused")
            answer = real(*args)
            self._perhaps(f"{verb}: done, and the connection broke")
            return answer

        return call

    def _perhaps(self, what: str) -> None:
        if self.shaky and self._dice.random() < 0.06:
            raise StoreError(what)


class Witness(FakeBackend):
    """Remembers every beginning and every proper end."""

    def __init__(self, dice: random.Random) -> None:
        nodes = [NodeReport(n, "10.0.0.1", 4.0, 1 << 40, 0, 1 << 40) for n in ("n1", "n2")]
        super().__init__(nodes=nodes, script=self._ending)
        self.begun: Counter[tuple[AttemptKey, int]] = Counter()
        self.lost: set[AttemptKey] = set()
        """Attempts whose every trace is gone: told again before that is noticed, a cluster can only begin anew."""
        self.finished: Counter[AttemptKey] = Counter()
        self.dice = dice

    def _ending(self, plan: AttemptPlan) -> Ending:
        self.begun[plan.key, plan.restart] += 1
        if plan.task.startswith("bad"):
            code = 3
        elif plan.task.startswith("again") and plan.key.retry_id == 0:
            code = 9
        else:
            code = 0
        return Ending(self.dice.random() * 0.15, code)

    def _report(self, plan: AttemptPlan, phase: Phase, exit_code: int | None = None, output: str = "") -> None:
        if phase is Phase.FINISHED:
            self.finished[plan.key] += 1
        super()._report(plan, phase, exit_code, output)

    async def lose_one(self) -> None:
        """The disk under one running attempt is gone."""
        running = [o.key for o in await self.list() if o.phase in (Phase.RUNNING, Phase.READY)]
        if running:
            key = self.dice.choice(sorted(running))
            self.vanish(key)
            self.lost.add(key)
            for one in [one for one in self.begun if one[0] == key]:
                del self.begun[one]


def workflow(dice: random.Random, number: int) -> WorkflowSpec:
    """Two to five groups of one to three tasks; names say how a task goes (see `Witness`)."""
    groups: list[GroupSpec] = []
    earlier: list[str] = []
    for g in range(dice.randint(2, 5)):
        kind = dice.choices(["good", "again", "bad"], [6, 2, 1])[0]
        names = [f"{kind}{g}", *(f"good{g}x{i}" for i in range(dice.choice([0, 0, 1, 2])))]
        needs = tuple(TaskInput(n) for n in dice.sample(earlier, min(len(earlier), dice.randint(0, 2))))
        tasks = tuple(
            TaskSpec(n, "u", ("true",), lead=i == 0, inputs=needs if i == 0 else (), exit_actions={"RESCHEDULE": "9"})
            for i, n in enumerate(names)
        )
        groups.append(GroupSpec(f"g{g}", tasks, barrier=dice.random() < 0.7))
        earlier.append(names[0])
    return WorkflowSpec(f"w{number}", tuple(groups))


def expected(done: Workflow) -> dict[str, S]:
    """How the lead of each group has to end, from names and edges alone."""
    found: dict[str, S] = {}
    for group in done.groups:
        lead = next(t for t in group.tasks if t.lead)
        if any(found[name] is not S.COMPLETED for name in group.upstream):
            found[group.name] = S.FAILED_UPSTREAM
        else:
            found[group.name] = S.FAILED if lead.name.startswith("bad") else S.COMPLETED
    return found


class Chaos:
    """One controller at a time, and somebody who kills it."""

    def __init__(self, store: SqlStore, dice: random.Random) -> None:
        self.store, self.dice = store, dice
        self.shaky = ShakyStore(store, dice)
        self.backend = Witness(dice)
        self.holders = 0
        self._start()

    def _start(self) -> None:
        self.holders += 1
        self.controller = Controller(
            self.shaky,  # type: ignore[arg-type]
            self.backend,
            f"holder-{self.holders}",
            settings=SETTINGS,
            policy=POLICY,
        )
        self._task = asyncio.ensure_future(self.controller.run())

    async def kill(self) -> None:
        """The process is gone in the middle of whatever it did; the lease is not given back."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.controller.ledger.close()

    async def strike(self) -> None:
        match self.dice.choice(["kill", "kill", "unplug", "lose", "lose", "calm"]):
            case "kill":
                await self.kill()
                self._start()
            case "unplug":
                self.backend.unplug()
                await asyncio.sleep(0.15)
                self.backend.plug()
            case "lose":
                await self.backend.lose_one()
        await asyncio.sleep(self.dice.random() * 0.2)

    async def end(self) -> None:
        self.shaky.shaky = False
        await self.controller.stop()
        await self.kill()
        await self.backend.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_everything_comes_to_its_right_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int):
    monkeypatch.setattr("osmo_ray.control.tidy.SETTLE_IN", 0.0)
    dice = random.Random(seed)
    store = SqlStore(f"sqlite:///{tmp_path / 'osmo.db'}")
    store.migrate()
    chaos = Chaos(store, dice)
    try:
        made = [submit(store, workflow(dice, n)) for n in range(8)]
        canceled = made[0]
        for strike in range(10):
            await chaos.strike()
            if strike == 3:
                cancel(store, canceled.uuid)
        chaos.shaky.shaky = False
        ended = [await the_end(store, w.uuid, seed) for w in made]
        check(ended, canceled, chaos.backend)
        await nothing_left(store, chaos.backend)
    finally:
        await chaos.end()
        store.close()


def cancel(store: SqlStore, uuid: str) -> None:
    """As an API replica does it: beside the controller, against the version it read."""
    while True:
        (state,) = store.load([uuid])
        decision = decide(state, CancelRequested("bob"), time.time(), POLICY)
        if not decision.changed or not store.commit([decision]):
            return


async def the_end(store: SqlStore, uuid: str, seed: int) -> Workflow:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        (found,) = await asyncio.to_thread(store.load, [uuid])
        if found.status.finished:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"seed {seed}: {found.id} is stuck: {[(g.name, g.status, g.tasks) for g in found.groups]}")


def check(ended: list[Workflow], canceled: Workflow, backend: Witness) -> None:
    twice = {key: n for key, n in backend.begun.items() if n > 1}
    assert not twice, "the same generation of an attempt began twice"
    began = {key for key, _ in backend.begun} | backend.lost
    for done in ended:
        if done.uuid == canceled.uuid and done.status is W.FAILED_CANCELED:
            continue
        wanted = expected(done)
        for group in done.groups:
            lead = next(t for t in group.tasks if t.lead)
            assert lead.status is wanted[group.name], (done.id, lead)
            assert group.status is wanted[group.name]
            for task in group.tasks:
                no_rerun(task.uuid, task.retry_id, task.name, began, backend)
        assert done.status is (W.FAILED if S.FAILED in wanted.values() else W.COMPLETED)


def no_rerun(uuid: str, newest: int, name: str, began: set[AttemptKey], backend: Witness) -> None:
    """An attempt that ended properly is the last one, unless it asked to run again."""
    mine = {key.retry_id for key in began if key.task_uuid == uuid}
    assert max(mine, default=0) <= newest, f"{name} ran beyond its newest attempt"
    for retry in mine:
        if backend.finished[AttemptKey(uuid, retry)]:
            asked_again = name.startswith("again") and retry == 0
            assert retry == newest or asked_again, f"{name} had finished and ran again"


async def nothing_left(store: SqlStore, backend: Witness) -> None:
    """No command unsent, no attempt alive or remembered."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if not store.outgoing() and not await backend.list() and not store.alive():
                return
        except BackendUnavailable:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError(f"left: {store.outgoing()} {await backend.list()} {store.alive()}")
