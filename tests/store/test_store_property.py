"""Whatever is decided, `load` gives it back: random sequences of decisions against a model in memory."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from store_making import submit

from osmo_ray.engine.model import ApplyGroup, Decision, DeleteGroup, Record, Task, Times, Workflow
from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.spec.reason import Reason
from osmo_ray.store.sql import SqlStore

TEXT = st.text(max_size=8)
SAFE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
TIME = st.floats(0, 4e9)
REASONS = st.none() | st.builds(Reason, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=2), TEXT)
TIMES = st.builds(Times, *[TIME] * 8)
SMALL = st.integers(0, 2**31 - 1)
RECORDS = st.lists(st.builds(Record, TIME, SAFE, SAFE, SAFE, SAFE, SMALL), max_size=3).map(tuple)
COMMANDS = st.lists(st.builds(ApplyGroup, SAFE) | st.builds(DeleteGroup, SAFE, TIME), max_size=3).map(tuple)
TASK_CHANGE = st.fixed_dictionaries(
    {
        "status": st.sampled_from(TaskStatus),
        "user_retries": SMALL,
        "platform_retries": SMALL,
        "restarts": SMALL,
        "ready": st.integers(-1, 100),
        "node": SAFE,
        "address": SAFE,
        "exit_code": st.none() | st.integers(-(2**31), 2**31 - 1),
        "reason": REASONS,
        "output": SAFE,
        "usage": st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=2),
        "times": TIMES,
    }
)
GROUP_CHANGE = st.fixed_dictionaries(
    {
        "status": st.sampled_from(TaskStatus),
        "pending": st.frozensets(SAFE, max_size=3),
        "barrier": SMALL,
        "released": st.integers(-1, 100),
        "reason": REASONS,
        "times": TIMES,
    }
)
WORKFLOW_CHANGE = st.fixed_dictionaries(
    {
        "status": st.sampled_from(WorkflowStatus),
        "started": TIME,
        "ended": TIME,
        "exec_timeout": TIME,
        "queue_timeout": TIME,
        "cancelled_by": SAFE,
        "reason": REASONS,
    }
)
STEP = st.fixed_dictionaries(
    {
        "workflow": WORKFLOW_CHANGE,
        "groups": st.dictionaries(st.integers(0, 1), GROUP_CHANGE, max_size=2),
        "tasks": st.dictionaries(st.tuples(st.integers(0, 1), st.integers(0, 1)), TASK_CHANGE, max_size=3),
        "fresh": st.sets(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=2),
        "records": RECORDS,
        "commands": COMMANDS,
        "stale": st.booleans(),
    }
)


def decide(w: Workflow, step: dict) -> Decision:  # type: ignore[type-arg]
    """One decision that does all of the step."""
    groups = [replace(g, **step["groups"].get(i, {})) for i, g in enumerate(w.groups)]
    retired: list[Task] = []
    changed: set[str] = set()
    for i, group in enumerate(groups):
        tasks = list(group.tasks)
        for j, task in enumerate(tasks):
            if (i, j) in step["fresh"]:
                retired.append(replace(task, status=TaskStatus.RESCHEDULED))
                tasks[j] = task = Task(task.uuid, task.name, task.lead, retry_id=task.retry_id + 1)
            if (i, j) in step["tasks"]:
                tasks[j] = replace(task, **step["tasks"][i, j])
                changed.add(task.uuid)
        groups[i] = replace(group, tasks=tuple(tasks))
    return Decision(
        replace(w, groups=tuple(groups), **step["workflow"]),
        frozenset(w.groups[i].name for i in step["groups"]),
        frozenset(changed),
        tuple(retired),
        step["records"],
        step["commands"],
        changed=True,
    )


def test_load_gives_back_what_was_decided(store: SqlStore) -> None:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(STEP, max_size=6))
    def check(steps: list[dict]) -> None:  # type: ignore[type-arg]
        now = submit(store)
        attempts = {(t.uuid, t.retry_id): t for g in now.groups for t in g.tasks}
        records = [r for _, r in store.records(now.uuid)]
        commands: list[object] = []
        for step in steps:
            decision = decide(now, step)
            if step["stale"]:
                old = replace(decision, workflow=replace(decision.workflow, version=now.version - 1))
                assert list(store.commit([old])) == [now.uuid]
                continue
            assert list(store.commit([decision])) == []
            now = replace(decision.workflow, version=now.version + 1)
            attempts |= {(t.uuid, t.retry_id): t for t in decision.retired}
            attempts |= {(t.uuid, t.retry_id): t for g in now.groups for t in g.tasks}
            records += decision.records
            commands += decision.commands
        assert store.load([now.uuid]) == [now]
        assert {(r.task.uuid, r.task.retry_id): r.task for r in store.attempts(now.uuid)} == attempts
        assert [r for _, r in store.records(now.uuid)] == records
        sent = [o for o in store.outgoing(100_000) if o.workflow_uuid == now.uuid]
        assert [o.command for o in sent] == commands
        store.settle([o.seq for o in sent])
        assert (now.uuid in store.alive()) is (not now.status.finished)

    check()
