"""Any workflow, any sequence of events: what must hold whatever happens.

Hypothesis makes small workflows and long, hostile histories: observations in any order, doubled, late, of older
attempts and of attempts that were never placed, cancels, limits of time, preemptions. After each event the laws below
are checked, and at the end a backend that behaves brings the workflow to its end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osmo_ray.engine.admit import admit
from osmo_ray.engine.decide import decide
from osmo_ray.engine.events import CancelRequested, Event, Held, Observed, Placed, Policy, Preempted, Tick
from osmo_ray.engine.exits import PREEMPTED
from osmo_ray.engine.explain import explain
from osmo_ray.engine.folds import fold_group, fold_workflow, placed_any
from osmo_ray.engine.model import ApplyGroup, Command, Decision, DeleteGroup, Group, Task, Workflow
from osmo_ray.engine.plans import PoolRules, group_plan
from osmo_ray.engine.status import BEFORE, CANCELED, TaskStatus, WorkflowStatus, may_move
from osmo_ray.spec.attempt import AttemptKey, Observation, Phase
from osmo_ray.spec.model import GroupSpec, Priority, TaskInput, TaskSpec, WorkflowSpec
from osmo_ray.spec.reason import Reason

S, W = TaskStatus, WorkflowStatus
CODES = (0, 1, 9, 137, 302, 2010, 3001, 3003, 3004, 3006)
FROM_OUTSIDE = CANCELED | {S.FAILED_UPSTREAM}
"""Statuses that a group gets from elsewhere, whatever its tasks were."""

actions = st.sampled_from(
    [{}, {"RESCHEDULE": "9"}, {"COMPLETE": "1"}, {"FAIL": "0"}, {"RESCHEDULE": "3000-3010"}, {"COMPLETE": "3005,3006"}]
)
policies = st.builds(
    Policy,
    task_retries=st.integers(0, 2),
    platform_retries=st.integers(0, 2),
    start_timeout=st.just(40.0),
    exit_actions=actions,
)


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """One to four groups of one to three tasks, each reading from some earlier ones."""
    groups: list[GroupSpec] = []
    earlier: list[str] = []
    for number in range(draw(st.integers(1, 4))):
        size = draw(st.sampled_from([1, 1, 2, 3]))
        lead = draw(st.integers(0, size - 1))
        tasks = []
        for i in range(size):
            needs = draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True)) if earlier else []
            inputs = tuple(TaskInput(n) for n in needs)
            tasks.append(
                TaskSpec(f"t{number}{i}", "u", ("true",), lead=i == lead, inputs=inputs, exit_actions=draw(actions))
            )
        groups.append(GroupSpec(f"g{number}", tuple(tasks), draw(st.booleans()), draw(st.booleans())))
        earlier += [t.name for t in tasks]
    ids = (f"{n:032x}" for n in itertools.count(1))
    return admit(
        WorkflowSpec("w", tuple(groups)),
        id="w-1",
        uuid="f" * 32,
        uuids=ids,
        user="ann",
        pool="default",
        backend="local",
        priority=Priority.NORMAL,
        now=100.0,
        exec_timeout=draw(st.sampled_from([0.0, 0.0, 60.0])),
        queue_timeout=draw(st.sampled_from([0.0, 0.0, 60.0])),
    ).workflow


numbers = st.integers(0, 1_000_000)
kinds = st.sampled_from(
    ["place"] * 4 + ["see"] * 12 + ["good"] * 8 + ["send"] * 4 + ["hold", "preempt", "tick", "later", "cancel"]
)
histories = st.lists(st.tuples(kinds, numbers, numbers), max_size=40)


class World:
    """A workflow, its clock, and the attempts that a backend would have running."""

    def __init__(self, workflow: Workflow, policy: Policy) -> None:
        self.workflow, self.policy = workflow, policy
        self.now = 100.0
        self.outbox: list[Command] = []
        self.running: set[AttemptKey] = set()
        self.over: set[AttemptKey] = set()
        self.ended: dict[AttemptKey, TaskStatus] = {}

    def send(self, event: Event) -> None:
        before = self.workflow
        decision = decide(before, event, self.now, self.policy)
        lawful(before, decision, self.policy)
        again = decide(decision.workflow, event, self.now, self.policy)
        assert not again.changed and again.workflow is decision.workflow, f"twice is not once: {event}"
        self.workflow = decision.workflow
        self._final(decision)
        if isinstance(event, Observed) and event.observation.phase in (Phase.FINISHED, Phase.LOST):
            self.running.discard(event.observation.key)
            self.over.add(event.observation.key)
        self.outbox += decision.commands

    def _final(self, decision: Decision) -> None:
        """The first final status of an attempt stays."""
        for task in (*decision.retired, *tasks(decision.workflow)):
            key = AttemptKey(task.uuid, task.retry_id)
            if key in self.ended:
                assert task.status is self.ended[key]
            elif task.status.finished:
                self.ended[key] = task.status

    def carry_out(self) -> None:
        """As dispatch does: the newest plan of a group that lives, then the deletes."""
        for command in sorted(self.outbox, key=lambda c: isinstance(c, DeleteGroup)):
            group = group_named(self.workflow, command.group)
            ours = {k for k in self.running if group.task(k.task_uuid) is not None}
            if isinstance(command, ApplyGroup) and not group.status.finished:
                plan = group_plan(self.workflow, group, PoolRules())
                self.running -= ours
                self.running |= {a.key for a in plan.attempts} - self.over
            elif isinstance(command, DeleteGroup):
                self.running -= ours
        self.outbox.clear()


def lawful(before: Workflow, decision: Decision, policy: Policy) -> None:
    after = decision.workflow
    if before.status.finished:
        assert after is before and not decision.changed
    if not decision.changed:
        assert after is before
    assert before.status is after.status or (before.status, after.status) == (W.PENDING, W.RUNNING) or after.ended
    retired = {(t.uuid, t.retry_id): t for t in decision.retired}
    for old_group, group in zip(before.groups, after.groups, strict=True):
        assert group.status is old_group.status or may_move(old_group.status, group.status)
        assert group.pending <= old_group.pending
        assert group.barrier >= old_group.barrier and group.released >= old_group.released
        if group != old_group:
            touched = {t.uuid for t, o in zip(group.tasks, old_group.tasks, strict=True) if t != o}
            assert touched <= decision.changed_tasks
            if replace(group, tasks=()) != replace(old_group, tasks=()):
                assert group.name in decision.changed_groups
        for old, new in zip(old_group.tasks, group.tasks, strict=True):
            moved(old, new, retired, policy)
        consistent(after, group)
    assert after.status is fold_workflow(after.groups, after.status)


def moved(old: Task, new: Task, retired: dict[tuple[str, int], Task], policy: Policy) -> None:
    assert (new.uuid, new.name, new.lead) == (old.uuid, old.name, old.lead)
    assert new.user_retries <= policy.task_retries and new.platform_retries <= policy.platform_retries
    assert new.user_retries + new.platform_retries <= new.retry_id
    if new.retry_id == old.retry_id:
        assert new.status is old.status or may_move(old.status, new.status)
        return
    assert new.retry_id == old.retry_id + 1
    gone = retired[old.uuid, old.retry_id]
    spent = new.user_retries + new.platform_retries - old.user_retries - old.platform_retries
    assert spent == (0 if gone.exit_code == PREEMPTED else 1), "each new attempt is paid for, but after giving way"
    assert gone.status is S.RESCHEDULED and may_move(old.status, S.RESCHEDULED) and gone.times.ended
    assert new.output == "" and (new.node == "" or new.status.finished)


def consistent(workflow: Workflow, group: Group) -> None:
    """What holds inside one state."""
    statuses = {t.status for t in group.tasks}
    upstream = [group_named(workflow, name) for name in group.upstream]
    if not all(g.status is S.COMPLETED for g in upstream):
        assert statuses <= {S.WAITING} | FROM_OUTSIDE, "went on before its upstream was complete"
    assert group.pending == {g.name for g in upstream if g.status is not S.COMPLETED}
    assert group.status.finished == all(s.finished for s in statuses)
    if group.status.finished:
        ignore = workflow.spec.groups[group.index].ignore_nonlead_status
        assert group.status in FROM_OUTSIDE or group.status is fold_group(group.tasks, ignore)
    elif placed_any(group.tasks):
        fold = fold_group(group.tasks, False)
        assert group.status is fold or not may_move(group.status, fold)
    for task in group.tasks:
        waits_or_failed = task.status not in (S.COMPLETED, S.RUNNING)
        assert not waits_or_failed or explain(workflow, group, task) is not None
        assert task.status.finished == bool(task.times.ended)


def tasks(workflow: Workflow) -> Iterator[Task]:
    return (t for g in workflow.groups for t in g.tasks)


def group_named(workflow: Workflow, name: str) -> Group:
    found = workflow.group(name)
    assert found is not None
    return found


def hostile(world: World, kind: str, which: int, how: int) -> Event:
    """An event from numbers: anything, sense or not."""
    group = world.workflow.groups[which % len(world.workflow.groups)]
    task = group.tasks[how % len(group.tasks)]
    match kind:
        case "place":
            chosen = group.tasks if how % 3 else (task,)
            return Placed(group.name, {t.uuid: f"n{(how + i) % 2}" for i, t in enumerate(chosen)})
        case "hold":
            return Held(group.name, Reason("NoFit", f"nothing free {how % 2}"))
        case "preempt":
            return Preempted(group.name, Reason("Preempted", "a better claim"))
        case "cancel":
            return CancelRequested("bob", force=bool(how % 2))
        case "tick" | "later":
            return Tick()
    phases = tuple(Phase)
    phase = phases[how // 3 % len(phases)]
    retry = max(0, task.retry_id - (which // 7) % 2)
    code = CODES[how // 30 % len(CODES)] if phase is Phase.FINISHED else None
    reason = Reason("Seen", "something to say") if how % 5 == 0 else None
    address = ("", "10.0.0.1", "10.0.0.2")[how // 7 % 3]
    restart = which // 3 % (task.restarts + 1)
    key = AttemptKey(task.uuid, retry)
    return Observed(Observation(key, phase, world.now, task.node, address, restart, code, "out", reason))


def behaved(world: World) -> Event | None:
    """The next thing that a scheduler and a backend without faults would tell; None when the workflow has ended."""
    for group in world.workflow.groups:
        if group.status.finished or group.pending:
            continue
        waiting = {t.uuid: "n1" for t in group.tasks if t.status is S.PROCESSING}
        if waiting:
            return Placed(group.name, waiting)
        for plan in group_plan(world.workflow, group, PoolRules()).attempts:
            task = group.task(plan.key.task_uuid)
            assert task is not None
            if not plan.go:
                if task.ready < plan.restart:
                    return Observed(Observation(plan.key, Phase.READY, world.now, restart=plan.restart))
                continue
            phase = Phase.FINISHED if task.status is S.RUNNING else Phase.RUNNING
            code = 0 if phase is Phase.FINISHED else None
            return Observed(Observation(plan.key, phase, world.now, plan.node, exit_code=code))
        raise AssertionError(f"stuck: {group}")
    return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows(), policies, histories)
def test_whatever_happens_the_laws_hold_and_the_end_is_reached(
    workflow: Workflow, policy: Policy, history: list[tuple[str, int, int]]
):
    world = World(workflow, policy)
    consistent(workflow, workflow.groups[0])
    for kind, which, how in history:
        world.now += 50.0 if kind == "later" else 0.5
        if kind in ("send", "good"):  # a backend that behaves sees only what it was told to run
            world.carry_out()
        if kind == "send":
            continue
        event = behaved(world) if kind == "good" else hostile(world, kind, which, how)
        if event is not None:
            world.send(event)
    for _ in range(200):
        event = behaved(world)
        if event is None:
            break
        world.now += 0.1
        world.carry_out()
        world.send(event)
    world.carry_out()
    assert world.workflow.status.finished and world.workflow.ended
    assert not world.running, "an attempt goes on that nobody waits for"
    assert world.workflow.status is W.COMPLETED or world.workflow.reason is not None


def test_the_table_of_moves_has_no_way_back():
    """Nothing leaves a final status, and no two statuses may each go before the other."""
    for old, new in itertools.product(S, S):
        if old.finished:
            assert not may_move(old, new)
        assert not (may_move(old, new) and may_move(new, old))
    assert set(BEFORE) == set(S)
