"""The engine, event by event: one test per rule of the language."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from osmo_ray.engine.admit import admit
from osmo_ray.engine.decide import decide, decide_all
from osmo_ray.engine.events import CancelRequested, Observed, Placed, Policy, Preempted, Tick
from osmo_ray.engine.explain import explain
from osmo_ray.engine.limits import next_limit
from osmo_ray.engine.model import ApplyGroup, DeleteGroup, Workflow
from osmo_ray.engine.plans import PoolRules, group_plan
from osmo_ray.engine.status import TaskStatus as S
from osmo_ray.engine.status import WorkflowStatus as W
from osmo_ray.spec.attempt import AttemptKey, Observation, Phase
from osmo_ray.spec.model import GroupSpec, Priority, TaskInput, TaskSpec, UrlInput, UrlOutput, WorkflowSpec
from osmo_ray.spec.reason import Reason


def task(name: str, *needs: str, **more: object) -> TaskSpec:
    return TaskSpec(
        name=name,
        image="ubuntu",
        command=("true",),
        inputs=tuple(TaskInput(n) for n in needs),
        **more,  # type: ignore[arg-type]
    )


def loose(*tasks: TaskSpec) -> WorkflowSpec:
    return WorkflowSpec("w", tuple(GroupSpec(f"{t.name}-group", (replace(t, lead=True),)) for t in tasks))


def admitted(spec: WorkflowSpec, **more: object) -> Workflow:
    ids = (f"{n:032x}" for n in itertools.count(1))
    values: dict[str, object] = {"exec_timeout": 0.0, "queue_timeout": 0.0, **more}
    return admit(
        spec,
        id="w-1",
        uuid="f" * 32,
        uuids=ids,
        user="ann",
        pool="default",
        backend="local",
        priority=Priority.NORMAL,
        now=100.0,
        **values,  # type: ignore[arg-type]
    ).workflow


class Run:
    """A workflow with a clock that moves one second per event."""

    def __init__(self, spec: WorkflowSpec, policy: Policy | None = None, **more: object) -> None:
        self.workflow = admitted(spec, **more)
        self.policy = policy or Policy()
        self.now = 100.0
        self.commands: list[object] = []
        self.retired: list[object] = []

    def send(self, *events: object) -> Run:
        self.now += 1
        decision = decide_all(self.workflow, events, self.now, self.policy)  # type: ignore[arg-type]
        self.workflow = decision.workflow
        self.commands = list(decision.commands)
        self.retired += decision.retired
        return self

    def task(self, name: str):
        return next(t for g in self.workflow.groups for t in g.tasks if t.name == name)

    def group_of(self, name: str):
        return next(g for g in self.workflow.groups for t in g.tasks if t.name == name)

    def place(self, *names: str, node: str = "n1") -> Run:
        group = self.group_of(names[0])
        return self.send(Placed(group.name, {self.task(n).uuid: node for n in names}))

    def see(self, name: str, phase: Phase, **more: object) -> Run:
        t = self.task(name)
        retry = more.pop("retry", t.retry_id)
        return self.send(Observed(Observation(AttemptKey(t.uuid, retry), phase, self.now, **more)))  # type: ignore[arg-type]

    def finish(self, name: str, code: int = 0, **more: object) -> Run:
        return self.see(name, Phase.RUNNING).see(name, Phase.FINISHED, exit_code=code, **more)

    def statuses(self) -> dict[str, S]:
        return {t.name: t.status for g in self.workflow.groups for t in g.tasks}


def test_roots_are_ready_and_the_rest_waits_with_a_reason():
    run = Run(loose(task("a"), task("b", "a")))
    assert run.statuses() == {"a": S.PROCESSING, "b": S.WAITING}
    group = run.group_of("b")
    assert explain(run.workflow, group, group.tasks[0]).sentence == "waits for a-group (PROCESSING)"


def test_a_chain_runs_in_order_and_completes():
    run = Run(loose(task("a"), task("b", "a"))).place("a")
    assert run.commands == [ApplyGroup("a-group")]
    run.finish("a", output="workflows/x/a/0")
    assert run.statuses() == {"a": S.COMPLETED, "b": S.PROCESSING}
    assert run.workflow.status is W.RUNNING
    run.place("b")
    plan = group_plan(run.workflow, run.group_of("b"), PoolRules())
    assert plan.attempts[0].inputs[0].source == "workflows/x/a/0"
    run.finish("b")
    assert run.workflow.status is W.COMPLETED and run.workflow.ended == run.now


def test_a_failure_fails_what_depends_on_it_and_nothing_else():
    run = Run(loose(task("a"), task("b", "a"), task("c", "b"), task("d"))).place("a").finish("a", 7)
    assert run.statuses() == {"a": S.FAILED, "b": S.FAILED_UPSTREAM, "c": S.FAILED_UPSTREAM, "d": S.PROCESSING}
    assert run.task("a").exit_code == 7 and run.task("c").exit_code == 3000
    assert run.workflow.status is W.PENDING or run.workflow.status is W.RUNNING
    run.place("d").finish("d")
    assert run.workflow.status is W.FAILED
    assert run.workflow.reason == run.task("a").reason


@pytest.mark.parametrize(
    ("code", "status", "whole"),
    [
        (1, S.FAILED, W.FAILED),
        (137, S.FAILED, W.FAILED),
        (302, S.FAILED_IMAGE_PULL, W.FAILED),
        (3001, S.FAILED_BACKEND_ERROR, W.FAILED),
        (3003, S.FAILED_START_ERROR, W.FAILED),
        (3004, S.FAILED_EVICTED, W.FAILED_EVICTED),
        (3006, S.FAILED_PREEMPTED, W.FAILED_PREEMPTED),
    ],
)
def test_codes_name_the_status(code: int, status: S, whole: W):
    run = Run(loose(task("a"))).place("a").finish("a", code)
    assert (run.task("a").status, run.workflow.status) == (status, whole)


def test_exit_actions_override_the_status():
    run = Run(loose(task("a", exit_actions={"complete": "3-5", "FAIL": "0"}))).place("a").finish("a", 4)
    assert run.task("a").status is S.COMPLETED
    run = Run(loose(task("a", exit_actions={"FAIL": "0"}))).place("a").finish("a", 0)
    assert run.task("a").status is S.FAILED


def test_reschedule_needs_a_budget():
    spec = loose(task("a", exit_actions={"RESCHEDULE": "9"}))
    run = Run(spec).place("a").finish("a", 9)
    assert run.task("a").status is S.FAILED and "0 retries allowed" in run.task("a").reason.sentence
    run = Run(spec, Policy(task_retries=1)).place("a").finish("a", 9)
    assert (run.task("a").status, run.task("a").retry_id) == (S.PROCESSING, 1)
    assert run.retired[0].status is S.RESCHEDULED and run.retired[0].exit_code == 9
    assert run.group_of("a").status is S.RUNNING
    run.place("a").finish("a", 9)
    assert run.task("a").status is S.FAILED


def test_reports_of_an_older_attempt_are_refused():
    run = Run(loose(task("a", exit_actions={"RESCHEDULE": "9"})), Policy(task_retries=1)).place("a").finish("a", 9)
    before = run.place("a").workflow
    run.see("a", Phase.FINISHED, retry=0, exit_code=0, output="stale")
    assert run.workflow is before


def test_lost_work_has_a_budget_of_its_own():
    run = Run(loose(task("a")), Policy(task_retries=0, platform_retries=2))
    for retry in range(2):
        run.place("a").see("a", Phase.RUNNING).see("a", Phase.LOST)
        assert (run.task("a").status, run.task("a").retry_id) == (S.PROCESSING, retry + 1)
    run.place("a").see("a", Phase.LOST)
    assert run.task("a").status is S.FAILED_BACKEND_ERROR and run.task("a").exit_code == 3001


def group(*tasks: TaskSpec, **more: object) -> WorkflowSpec:
    return WorkflowSpec("w", (GroupSpec("g", tasks, **more),))  # type: ignore[arg-type]


def test_a_group_starts_together_behind_its_barrier():
    run = Run(group(task("lead", lead=True), task("b"))).place("lead", "b")
    plan = group_plan(run.workflow, run.group_of("b"), PoolRules())
    assert [a.go for a in plan.attempts] == [False, False]
    run.see("b", Phase.READY, address="10.0.0.2")
    assert run.commands == []
    reason = explain(run.workflow, run.group_of("b"), run.task("b"))
    assert reason.code == "AtBarrier" and "lead" in reason.sentence
    run.see("lead", Phase.READY, address="10.0.0.1")
    assert run.commands == [ApplyGroup("g")]
    plan = group_plan(run.workflow, run.group_of("b"), PoolRules())
    assert [a.go for a in plan.attempts] == [True, True]
    assert plan.attempts[0].hosts == {"lead": "10.0.0.1", "b": "10.0.0.2"}


def test_the_end_of_the_lead_ends_the_group():
    run = Run(group(task("lead", lead=True), task("b"))).place("lead", "b")
    run.see("b", Phase.RUNNING).finish("lead")
    assert run.statuses() == {"lead": S.COMPLETED, "b": S.COMPLETED}
    assert run.task("b").exit_code is None and run.commands == [DeleteGroup("g")]
    assert run.workflow.status is W.COMPLETED


def test_a_failed_member_counts_only_when_the_group_minds():
    run = Run(group(task("lead", lead=True), task("b"))).place("lead", "b").finish("b", 3)
    assert run.task("lead").status is S.SCHEDULING
    run = Run(group(task("lead", lead=True), task("b"), ignore_nonlead_status=False))
    run.place("lead", "b").see("lead", Phase.RUNNING).finish("b", 3)
    assert run.statuses() == {"lead": S.FAILED, "b": S.FAILED} and run.workflow.status is W.FAILED


def test_a_rescheduled_lead_makes_the_others_begin_again_together():
    spec = group(task("lead", lead=True, exit_actions={"RESCHEDULE": "9"}), task("b"))
    run = Run(spec, Policy(task_retries=1)).place("lead", "b")
    run.see("lead", Phase.READY).see("b", Phase.READY).see("b", Phase.RUNNING).finish("lead", 9)
    assert (run.task("b").restarts, run.task("b").status, run.task("b").retry_id) == (1, S.RUNNING, 0)
    assert (run.task("lead").restarts, run.task("lead").retry_id) == (1, 1)
    run.place("lead").see("b", Phase.READY, restart=1)
    assert run.group_of("b").released == 0
    run.see("lead", Phase.READY, restart=1)
    assert run.group_of("b").released == 1


def test_cancel_ends_everything_and_says_who():
    run = Run(loose(task("a"), task("b", "a"))).place("a").see("a", Phase.RUNNING)
    run.send(CancelRequested("bob", "wrong data"))
    assert set(run.statuses().values()) == {S.FAILED_CANCELED}
    assert run.workflow.status is W.FAILED_CANCELED and run.workflow.cancelled_by == "bob"
    assert run.task("a").exit_code is None and "wrong data" in run.workflow.reason.sentence
    assert run.commands == [DeleteGroup("a-group", 30.0)]
    before = run.workflow
    assert run.finish("a").workflow is before


def test_cancel_of_a_part_ends_what_depends_on_it_and_nothing_else():
    run = Run(loose(task("a"), task("b", "a"), task("c"), task("d", "a", "c"))).place("a").place("c")
    run.send(CancelRequested("ann", "enough", groups=frozenset({"a-group"})))
    assert run.statuses() == {
        "a": S.FAILED_CANCELED, "b": S.FAILED_UPSTREAM, "c": S.SCHEDULING, "d": S.FAILED_UPSTREAM
    }  # fmt: skip
    run.finish("c")
    assert run.task("c").status is S.COMPLETED
    assert run.workflow.status is W.FAILED_CANCELED


def test_queue_and_execution_timeouts():
    run = Run(loose(task("a")), queue_timeout=5.0)
    run.now += 10
    assert run.send(Tick()).workflow.status is W.FAILED_QUEUE_TIMEOUT
    run = Run(loose(task("a")), exec_timeout=5.0).place("a").see("a", Phase.RUNNING)
    run.now += 10
    assert run.send(Tick()).workflow.status is W.FAILED_EXEC_TIMEOUT
    assert run.commands == [DeleteGroup("a-group", 30.0)]


def test_timeouts_of_each_group_where_the_platform_says_so():
    spec = loose(task("a"), task("b", "a"), task("c"))
    run = Run(spec, Policy(timeouts="per-group"), queue_timeout=100.0, exec_timeout=50.0)
    assert next_limit(run.workflow, run.policy) == run.workflow.submitted + 100.0
    run.place("a").see("a", Phase.RUNNING)
    began = run.group_of("a").times.running
    run.now = began + 48.0  # `send` adds one
    assert run.send(Tick()).task("a").status is S.RUNNING
    assert next_limit(run.workflow, run.policy) == began + 50.0
    assert run.send(Tick()).statuses() == {"a": S.FAILED_EXEC_TIMEOUT, "b": S.FAILED_UPSTREAM, "c": S.PROCESSING}
    run.now = run.workflow.submitted + 100.0
    assert run.send(Tick()).task("c").status is S.FAILED_QUEUE_TIMEOUT
    assert run.workflow.status is W.FAILED_EXEC_TIMEOUT


def test_a_start_that_takes_too_long():
    run = Run(loose(task("a")), Policy(start_timeout=5)).place("a")
    run.now += 10
    run.send(Tick())
    assert run.task("a").status is S.FAILED_START_TIMEOUT and run.task("a").exit_code == 3005


def test_who_waits_in_a_clusters_own_queue_is_not_late_until_it_has_a_node():
    run = Run(loose(task("a")), Policy(start_timeout=5)).place("a", node="lab/*")
    run.now += 10
    assert next_limit(run.workflow, run.policy) == float("inf")
    assert run.send(Tick()).task("a").status is S.SCHEDULING
    bound = run.now
    run.see("a", Phase.ACCEPTED, node="lab/n1")
    assert run.task("a").node == "lab/n1"
    run.see("a", Phase.ACCEPTED, node="lab/n2")
    assert run.task("a").node == "lab/n1", "what is placed stays there"
    assert next_limit(run.workflow, run.policy) == bound + 5
    run.now += 10
    assert run.send(Tick()).task("a").status is S.FAILED_START_TIMEOUT


def test_preemption_is_a_failure_that_exit_actions_may_turn():
    reason = Reason("Preempted", "a job of higher priority needs the place")
    spec = loose(task("a", exit_actions={"RESCHEDULE": "3006"}))
    run = Run(spec).place("a").see("a", Phase.RUNNING).send(Preempted("a-group", reason))
    assert (run.task("a").status, run.task("a").retry_id, run.task("a").user_retries) == (S.PROCESSING, 1, 0)
    run = Run(loose(task("a", exit_actions={"FAIL": "3006"})), Policy(exit_actions={"RESCHEDULE": "3006"}))
    run.place("a").see("a", Phase.RUNNING).send(Preempted("a-group", reason))
    assert run.task("a").status is S.FAILED_PREEMPTED
    run = Run(loose(task("a"))).place("a").see("a", Phase.RUNNING).send(Preempted("a-group", reason))
    assert run.task("a").status is S.FAILED_PREEMPTED and run.commands == [DeleteGroup("a-group", 30.0)]


def test_the_same_event_twice_changes_nothing():
    run = Run(loose(task("a"))).place("a").see("a", Phase.RUNNING)
    uuid = run.task("a").uuid
    again = Observed(Observation(AttemptKey(uuid, 0), Phase.RUNNING, 1.0))
    assert not decide(run.workflow, again, run.now).changed


def test_a_late_earlier_phase_does_not_go_back():
    run = Run(loose(task("a"))).place("a").see("a", Phase.RUNNING).see("a", Phase.ACCEPTED)
    assert run.task("a").status is S.RUNNING


def test_urls_carry_the_workflow_that_they_name():
    spec = loose(
        replace(
            task("a"),
            inputs=(UrlInput("s3://b/{{workflow_id}}/in"),),
            outputs=(UrlOutput("s3://b/{{workflow_id}}/{{output}}"),),
        )
    )
    run = Run(spec).place("a")
    (attempt,) = group_plan(run.workflow, run.group_of("a"), PoolRules()).attempts
    id = run.workflow.id
    assert attempt.inputs[0].source == f"s3://b/{id}/in"
    assert attempt.outputs[0].target == f"s3://b/{id}/{{{{output}}}}"
