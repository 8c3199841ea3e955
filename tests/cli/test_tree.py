"""The tree and the report, as pure functions."""

from __future__ import annotations

from typing import Any

from osmo_ray.cli.explain import report
from osmo_ray.cli.tree import changes, draw
from osmo_ray.sdk.values import GroupState, TaskState, WorkflowState


def task(name: str, status: str, group: str = "g", **more: Any) -> TaskState:
    fields = {"retry_id": 0, "lead": True, "node": "n1", "exit_code": None, "failure": "", "started": "", "ended": ""}
    return TaskState(name=name, group=group, status=status, **{**fields, **more})


def workflow(*groups: GroupState, status: str = "RUNNING") -> WorkflowState:
    return WorkflowState(
        "w-1", "u", status, "ann", "default", "2027-01-15T08:00:00", "2027-01-15T08:00:00", "", None, groups
    )


def group(*tasks: TaskState, name: str = "g", status: str = "RUNNING") -> GroupState:
    return GroupState(name, status, (), tasks)


NOW = 1_800_000_010.0


def test_groups_and_tasks_show_status_time_node_and_reason() -> None:
    state = workflow(
        group(task("load", "COMPLETED", started="2027-01-15T08:00:00", ended="2027-01-15T08:00:04"), name="load-group"),
        group(task("a", "RUNNING", started="2027-01-15T08:00:05"), task("b", "PROCESSING", node=""), name="work"),
        group(task("end", "FAILED", failure="exit code 3", started="2027-01-15T08:00:05", ended="2027-01-15T08:00:06")),
    )
    assert [line.text for line in draw(state, {"b": "needs 1 GPU, 0 free"}, NOW)] == [
        "w-1  RUNNING  1/4 tasks  10s",
        "  ✓ load  COMPLETED  4.0s",
        "  work  RUNNING",
        "    ● a  RUNNING  5.0s  n1",
        "    ○ b  PROCESSING  needs 1 GPU, 0 free",
        "  ✗ end  FAILED  1.0s  exit code 3",
    ]


def test_many_equal_siblings_fold_and_others_stay() -> None:
    tasks = [task(f"t{n}", "RUNNING") for n in range(500)] + [task("odd", "FAILED", failure="boom")]
    lines = [line.text for line in draw(workflow(group(*tasks)), {}, NOW)]
    assert lines[2:] == ["    ● 500 tasks (t0 ... t499)  RUNNING", "    ✗ odd  FAILED  boom"]
    groups = [group(task(f"t{n}", "WAITING"), name=f"t{n}-group", status="WAITING") for n in range(500)]
    assert len(draw(workflow(*groups), {}, NOW)) == 2


def test_twelve_siblings_do_not_fold_and_thirteen_do() -> None:
    def lines(number: int) -> int:
        return len(draw(workflow(group(*(task(f"t{n}", "RUNNING") for n in range(number)))), {}, NOW))

    assert (lines(12), lines(13)) == (14, 3)


def test_a_tree_never_outgrows_the_screen_and_keeps_failures() -> None:
    groups = [group(task(f"t{n}", "COMPLETED"), task(f"u{n}", "COMPLETED"), name=f"g{n}") for n in range(50)]
    groups.append(group(task("bad", "FAILED", failure="x"), name="last"))
    lines = draw(workflow(*groups), {}, NOW, width=40, height=20)
    assert len(lines) == 20
    assert any("bad" in line.text for line in lines)
    assert all(len(line.text) <= 40 for line in lines)


def test_changes_are_one_line_each() -> None:
    first = workflow(group(task("a", "WAITING")), status="PENDING")
    second = workflow(group(task("a", "RUNNING")))
    third = workflow(group(task("a", "FAILED", failure="exit code 1")), status="FAILED")
    assert changes(None, first) == ["w-1 PENDING"]
    assert changes(first, second) == ["g/a RUNNING on n1", "w-1 RUNNING"]
    assert changes(second, third) == ["g/a FAILED: exit code 1", "w-1 FAILED"]
    assert changes(third, third) == []


def explained(name: str, status: str, **more: Any) -> dict[str, Any]:
    reason = {
        "code": "ExitCode",
        "sentence": "the command ended with exit code 137",
        "evidence": {},
        "next_command": "",
    }
    fields: dict[str, Any] = {"group": "g", "retry_id": 0, "exit_code": None, "node": "n1", "reason": reason}
    fields |= {"usage": {}, "limits": {"memory": 2 << 30}, "last_lines": []}
    return {"task": name, "status": status, **fields, **more}


def test_a_failure_is_told_in_twelve_lines() -> None:
    first = explained(
        "train", "FAILED", exit_code=137, usage={"memory_peak": 2.0 * (1 << 30)}, last_lines=list("abcdefgh")
    )
    others = [explained(f"t{n}", "FAILED") for n in range(50)] + [
        explained(f"u{n}", "FAILED_UPSTREAM") for n in range(9)
    ]
    lines = report({"name": "w-1", "status": "FAILED", "reason": None, "tasks": [first, *others]})
    assert len(lines) <= 12
    text = "\n".join(lines)
    for part in (
        "task train",
        "exit code 137",
        "SIGKILL",
        "peak 2.0 GiB of 2.0 GiB",
        "50 more failed",
        "9 ended because",
    ):
        assert part in text
    assert lines[-1].split() == ["next", "osmo", "workflow", "logs", "w-1", "-t", "train"]
    assert [line.split()[-1] for line in lines if line.split()[-1] in "abcdefgh"] == list("efgh")


def test_what_waits_is_told_once_per_reason() -> None:
    reason = {"code": "NoFit", "sentence": "needs 8 GPUs, 4 free", "evidence": {}, "next_command": "osmo resource list"}
    waiting = [explained(f"t{n}", "PROCESSING", reason=reason) for n in range(9)]
    assert report({"name": "w-1", "status": "PENDING", "reason": None, "tasks": waiting}) == [
        "PROCESSING   t0, t1, t2 and 6 more: needs 8 GPUs, 4 free",
        "  next        osmo resource list",
    ]


def test_a_canceled_workflow_says_who_and_why() -> None:
    reason = {"code": "Canceled", "sentence": "canceled by eve: enough", "evidence": {}, "next_command": ""}
    told = {"name": "w-1", "status": "FAILED_CANCELED", "reason": reason, "tasks": [explained("a", "FAILED_CANCELED")]}
    assert report(told) == ["w-1  FAILED_CANCELED: canceled by eve: enough (1 tasks)"]


def test_a_wait_is_told_with_its_place_in_the_line_and_an_estimate() -> None:
    from datetime import UTC, datetime, timedelta

    start = (datetime.now(UTC) + timedelta(minutes=12)).replace(tzinfo=None).isoformat()
    facts = {
        "queue": "train", "position": "2 of 5", "held": "8 GPU", "quota": "8 GPU", "limit": "16 GPU",
        "fair_share": "8 GPU", "would_start_with": "2 GPU more free on n3",
    }  # fmt: skip
    reason = {"code": "NoFit", "sentence": "no room", "evidence": facts, "next_command": ""}
    one = explained("t", "PROCESSING", reason=reason, expected_start=start, expected_why="from earlier tasks")
    lines = report({"name": "w-1", "status": "PENDING", "reason": None, "tasks": [one]})
    assert lines[1:4] == [
        "  position    2 of 5 in queue train",
        "  queue       holds 8 GPU: quota 8 GPU, limit 16 GPU, fair share 8 GPU",
        "  starts with 2 GPU more free on n3",
    ]
    assert lines[4].startswith("  expected    in about 12 minutes (") and lines[4].endswith("), from earlier tasks")
