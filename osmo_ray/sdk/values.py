"""What the client gives back: the state of workflows as frozen values. Times are text, naive UTC, as on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ALIVE = ("PENDING", "RUNNING", "WAITING")


@dataclass(frozen=True, slots=True)
class TaskState:
    """The newest attempt of a task."""

    name: str
    group: str
    status: str
    retry_id: int
    lead: bool
    node: str
    exit_code: int | None
    failure: str
    started: str
    ended: str

    @property
    def finished(self) -> bool:
        return self.status == "COMPLETED" or self.failed

    @property
    def failed(self) -> bool:
        return self.status.startswith("FAILED")


@dataclass(frozen=True, slots=True)
class GroupState:
    name: str
    status: str
    waits_for: tuple[str, ...]
    tasks: tuple[TaskState, ...]


@dataclass(frozen=True, slots=True)
class WorkflowState:
    """A workflow as it is now."""

    name: str
    uuid: str
    status: str
    user: str
    pool: str
    submitted: str
    started: str
    ended: str
    duration: float | None
    groups: tuple[GroupState, ...]

    @property
    def finished(self) -> bool:
        return self.status not in ALIVE

    @property
    def tasks(self) -> Iterator[TaskState]:
        return (task for group in self.groups for task in group.tasks)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> WorkflowState:
        """From the answer of `GET /api/workflow/{name}`."""
        return WorkflowState(
            name=value["name"],
            uuid=value["uuid"],
            status=value["status"],
            user=value["submitted_by"],
            pool=value["pool"] or "",
            submitted=value["submit_time"],
            started=value["start_time"] or "",
            ended=value["end_time"] or "",
            duration=value["duration"],
            groups=tuple(_group(g) for g in value["groups"]),
        )


def _group(value: Mapping[str, Any]) -> GroupState:
    tasks = tuple(_task(t, value["name"]) for t in value["tasks"])
    return GroupState(value["name"], value["status"], tuple(value["remaining_upstream_groups"] or ()), tasks)


def _task(value: Mapping[str, Any], group: str) -> TaskState:
    return TaskState(
        name=value["name"],
        group=group,
        status=value["status"],
        retry_id=value["retry_id"],
        lead=value["lead"],
        node=value["node_name"] or "",
        exit_code=value["exit_code"],
        failure=value["failure_message"] or "",
        started=value["start_time"] or "",
        ended=value["end_time"] or "",
    )


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a task wrote; `size` in bytes."""

    task: str
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What `Client.download` put into a folder, and names it had to leave out because they led out of it."""

    files: int
    bytes: int
    skipped: tuple[str, ...] = ()
