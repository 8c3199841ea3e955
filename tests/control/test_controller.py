"""The control loops end to end on the fake backend: order, faults, leadership, recovery."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.engine.decide import decide
from osmo_ray.engine.events import CancelRequested, Policy
from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.objects.local import LocalStore
from osmo_ray.spec.attempt import AttemptKey, NodeReport
from osmo_ray.spec.model import ResourceSpec
from tests.control.conftest import FAST, ended, spec, submit

FOREVER = Ending(float("inf"))


async def test_a_diamond_runs_once_each_and_in_order(store, start):
    backend = FakeBackend()
    start(backend)
    made = submit(store, spec(("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("b", "c"))))
    done = await ended(store, made.id)
    assert done.status is WorkflowStatus.COMPLETED
    names = {t.uuid: t.name for g in made.groups for t in g.tasks}
    order = [names[k.task_uuid] for k in backend.started]
    assert sorted(order) == ["a", "b", "c", "d"] and order[0] == "a" and order[-1] == "d"
    assert await settled(backend)
    for _ in range(100):
        if not store.outgoing():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("sent commands stay in the outbox")


async def settled(backend: FakeBackend) -> bool:
    for _ in range(100):
        if not await backend.list():
            return True
        await asyncio.sleep(0.02)
    return False


async def test_many_workflows_at_once(store, start):
    backend = FakeBackend()
    start(backend)
    made = [submit(store, spec(("a", ()), ("b", ("a",)), name=f"w{n % 3}")) for n in range(20)]
    for workflow in made:
        assert (await ended(store, workflow.id)).status is WorkflowStatus.COMPLETED
    assert max(Counter(backend.started).values()) == 1


async def test_a_cancel_through_the_store_ends_what_runs(store, start):
    backend = FakeBackend(script=lambda plan: FOREVER)
    start(backend)
    made = submit(store, spec(("a", ())))
    await running(store, made.id, "a")
    while True:
        state = store.find(made.id)
        if not store.commit([decide(state, CancelRequested("bob"), 1.0)]):
            break
    done = await ended(store, made.id)
    assert done.status is WorkflowStatus.FAILED_CANCELED
    assert await settled(backend)


async def running(store, id: str, *names: str) -> None:
    for _ in range(400):
        state = store.find(id)
        now = {t.name for g in state.groups for t in g.tasks if t.status is TaskStatus.RUNNING}
        if set(names) <= now:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{names} never ran: {[(t.name, t.status) for g in state.groups for t in g.tasks]}")


async def test_a_controller_that_dies_is_followed_by_one_that_goes_on(store, start):
    hold = asyncio.Event()
    backend = FakeBackend(script=lambda plan: Ending(0.0) if hold.is_set() or plan.task == "a" else Ending(1.0))
    first = start(backend, "one")
    made = submit(store, spec(("a", ()), ("b", ("a",)), ("c", ("b",))))
    await running(store, made.id, "b")
    await first.stop()
    hold.set()
    second = start(backend, "two")
    done = await ended(store, made.id)
    assert done.status is WorkflowStatus.COMPLETED and second.leading
    assert max(Counter(backend.started).values()) == 1


async def test_only_one_of_two_controllers_leads(store, start):
    first, second = start(FakeBackend(), "one"), start(FakeBackend(), "two")
    for _ in range(100):
        if first.leading or second.leading:
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    assert first.leading != second.leading


async def test_an_attempt_without_a_trace_is_run_again(store, start, monkeypatch):
    monkeypatch.setattr("osmo_ray.control.tidy.SETTLE_IN", 0.2)
    backend = FakeBackend(script=lambda plan: FOREVER if plan.key.retry_id == 0 else Ending())
    start(backend)
    made = submit(store, spec(("a", ())))
    await running(store, made.id, "a")
    backend.vanish(AttemptKey(made.groups[0].tasks[0].uuid, 0))
    done = await ended(store, made.id)
    assert done.status is WorkflowStatus.COMPLETED
    task = done.groups[0].tasks[0]
    assert (task.retry_id, task.platform_retries, task.user_retries) == (1, 1, 0)


async def test_a_lost_node_is_waited_for_until_its_lease_is_over(store, start):
    nodes = [NodeReport(n, "", 4, 1 << 40, 0, 1 << 40) for n in ("n1", "n2")]
    backend = FakeBackend(nodes=nodes, script=lambda p: FOREVER if p.key.retry_id == 0 else Ending())
    start(backend)
    made = submit(store, spec(("a", ())))
    await running(store, made.id, "a")
    gone = store.find(made.id).groups[0].tasks[0].node
    backend.vanish(AttemptKey(made.groups[0].tasks[0].uuid, 0))
    backend.nodes = [n for n in nodes if n.name != gone]
    done = await ended(store, made.id)
    task = done.groups[0].tasks[0]
    assert done.status is WorkflowStatus.COMPLETED and task.node != gone
    old = [row.task for row in store.attempts(made.uuid) if row.task.retry_id == 0]
    assert old[0].status is TaskStatus.RESCHEDULED and old[0].reason.code == "NodeLost"


async def test_a_backend_that_is_silent_for_a_while_loses_nothing(store, start):
    backend = FakeBackend(script=lambda plan: Ending(0.2))
    start(backend)
    made = submit(store, spec(("a", ()), ("b", ("a",))))
    await running(store, made.id, "a")
    backend.unplug()
    await asyncio.sleep(0.6)
    backend.plug()
    assert (await ended(store, made.id)).status is WorkflowStatus.COMPLETED
    assert max(Counter(backend.started).values()) == 1


async def test_what_cannot_be_placed_says_why(store, start):
    backend = FakeBackend(nodes=[NodeReport("n1", "", 2, 1 << 40, 0, 1 << 40)])
    start(backend)
    wanted = spec(("a", ()))
    made = submit(store, type(wanted)(wanted.name, wanted.groups, {"default": ResourceSpec(cpu=8, gpu=1)}))
    for _ in range(200):
        reason = store.find(made.id).groups[0].reason
        if reason:
            break
        await asyncio.sleep(0.02)
    assert reason.code == "NeverFits" and "needs 1 GPU, 0 of 0 free (1 node)" in reason.sentence


async def test_the_users_retries_have_their_own_budget(store, start):
    backend = FakeBackend(script=lambda plan: Ending(0, 9 if plan.key.retry_id < 2 else 0))
    start(backend, policy=Policy(task_retries=2))
    made = submit(store, spec(("a", ()), exit_actions={"RESCHEDULE": "9"}))
    done = await ended(store, made.id)
    assert done.status is WorkflowStatus.COMPLETED and done.groups[0].tasks[0].retry_id == 2
    assert [k.retry_id for k in backend.started] == [0, 1, 2]


async def test_what_has_been_finished_for_long_is_removed_by_the_controller_itself(store, start, tmp_path):
    objects = LocalStore(tmp_path / "storage", durable=False)
    backend = FakeBackend()
    submitted = submit(store, spec(("a", ())))
    objects.create(f"workflows/{submitted.uuid}/t/0/file", b"output")
    objects.create(f"logs/{submitted.uuid}/t/0", b"log")
    objects.create("workflows/another/file", b"kept")
    start(backend, objects=objects, settings=replace(FAST, retention=0.5, retention_every=0.2))
    await ended(store, submitted.id)
    until = time.monotonic() + 20
    while await asyncio.to_thread(store.find, submitted.id) is not None:
        assert time.monotonic() < until, "it stayed"
        await asyncio.sleep(0.05)
    assert [info.key for info in objects.list("")] == ["workflows/another/file"]
