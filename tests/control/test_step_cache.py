"""Cached tasks through the control loops: what was run once is not run again."""

from __future__ import annotations

from collections import Counter

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.control import retention
from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.spec.model import Sandbox
from tests.control.conftest import ended, spec, submit

CACHED = {"cache": True, "sandbox": Sandbox.PROCESS}


async def test_a_chain_is_found_again_as_a_whole(store, start):
    backend = FakeBackend()
    controller = start(backend)
    wanted = spec(("a", ()), ("b", ("a",)), ("c", ("b",)), **CACHED)
    first = await ended(store, submit(store, wanted).id)
    again = await ended(store, submit(store, wanted).id)
    assert again.status is WorkflowStatus.COMPLETED
    assert len(backend.started) == 3
    outputs = [[t.output for g in w.groups for t in g.tasks] for w in (first, again)]
    assert outputs[0] == outputs[1] and all(outputs[0])
    assert {t.reason.code for g in again.groups for t in g.tasks} == {"Cached"}
    assert "Cached" in {record.kind for _, record in store.records(again.uuid)}
    controller.ledger.clock = lambda: again.ended + 100.0
    assert [row.id for row in store.finished_before(again.ended + 100.0)] == [again.id]
    assert await retention.step(controller.ledger, None, 50.0) == 2, "the user first, then what it used"


async def test_others_and_failures_are_not_recalled(store, start):
    backend = FakeBackend(script=lambda plan: Ending(exit_code=int(plan.task == "f")))
    start(backend)
    wanted = spec(("a", ()), **CACHED)
    await ended(store, submit(store, wanted, user="ann").id)
    await ended(store, submit(store, wanted, user="bob").id)
    assert len(backend.started) == 2
    failing = spec(("f", ()), **CACHED)
    for _ in range(2):
        assert (await ended(store, submit(store, failing).id)).status is WorkflowStatus.FAILED
    assert len(backend.started) == 4


async def test_a_new_first_step_runs_what_follows_again(store, start):
    backend = FakeBackend()
    start(backend)
    await ended(store, submit(store, spec(("a", ()), ("b", ("a",)), **CACHED)).id)
    other = spec(("a", ()), ("b", ("a",)), environment={"X": "1"}, **CACHED)
    done = await ended(store, submit(store, other).id)
    assert len(backend.started) == 4
    assert Counter(t.status for g in done.groups for t in g.tasks) == {TaskStatus.COMPLETED: 2}
