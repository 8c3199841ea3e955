"""Every status and every move, on one page.

A move that is not in `BEFORE` cannot happen: late, doubled and reordered news therefore changes nothing. The first
final status wins.
"""

from __future__ import annotations

from enum import StrEnum


class TaskStatus(StrEnum):
    """Status of a task's attempt, and of a group."""

    SUBMITTING = "SUBMITTING"
    WAITING = "WAITING"
    PROCESSING = "PROCESSING"
    SCHEDULING = "SCHEDULING"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    RESCHEDULED = "RESCHEDULED"
    FAILED = "FAILED"
    FAILED_CANCELED = "FAILED_CANCELED"
    FAILED_SERVER_ERROR = "FAILED_SERVER_ERROR"
    FAILED_BACKEND_ERROR = "FAILED_BACKEND_ERROR"
    FAILED_EXEC_TIMEOUT = "FAILED_EXEC_TIMEOUT"
    FAILED_QUEUE_TIMEOUT = "FAILED_QUEUE_TIMEOUT"
    FAILED_IMAGE_PULL = "FAILED_IMAGE_PULL"
    FAILED_UPSTREAM = "FAILED_UPSTREAM"
    FAILED_EVICTED = "FAILED_EVICTED"
    FAILED_START_ERROR = "FAILED_START_ERROR"
    FAILED_START_TIMEOUT = "FAILED_START_TIMEOUT"
    FAILED_PREEMPTED = "FAILED_PREEMPTED"

    @property
    def finished(self) -> bool:
        """Final for an attempt; RESCHEDULED is final for the attempt, though not for the task."""
        return self not in ALIVE

    @property
    def failed(self) -> bool:
        return self.value.startswith("FAILED")


class WorkflowStatus(StrEnum):
    """Status of a whole workflow."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    FAILED_SUBMISSION = "FAILED_SUBMISSION"
    FAILED_SERVER_ERROR = "FAILED_SERVER_ERROR"
    FAILED_EXEC_TIMEOUT = "FAILED_EXEC_TIMEOUT"
    FAILED_QUEUE_TIMEOUT = "FAILED_QUEUE_TIMEOUT"
    FAILED_CANCELED = "FAILED_CANCELED"
    FAILED_BACKEND_ERROR = "FAILED_BACKEND_ERROR"
    FAILED_IMAGE_PULL = "FAILED_IMAGE_PULL"
    FAILED_EVICTED = "FAILED_EVICTED"
    FAILED_START_ERROR = "FAILED_START_ERROR"
    FAILED_START_TIMEOUT = "FAILED_START_TIMEOUT"
    FAILED_PREEMPTED = "FAILED_PREEMPTED"

    @property
    def finished(self) -> bool:
        return self not in WORKFLOW_ALIVE

    @property
    def failed(self) -> bool:
        return self.value.startswith("FAILED")


_S = TaskStatus
PRESCHEDULING = frozenset({_S.SUBMITTING, _S.WAITING, _S.PROCESSING})
IN_QUEUE = PRESCHEDULING | {_S.SCHEDULING}
PRE_RUNNING = IN_QUEUE | {_S.INITIALIZING}
ALIVE = PRE_RUNNING | {_S.RUNNING}
WORKFLOW_ALIVE = frozenset({WorkflowStatus.PENDING, WorkflowStatus.RUNNING, WorkflowStatus.WAITING})
CANCELED = frozenset({_S.FAILED_CANCELED, _S.FAILED_EXEC_TIMEOUT, _S.FAILED_QUEUE_TIMEOUT})

BEFORE: dict[TaskStatus, frozenset[TaskStatus]] = {
    _S.SUBMITTING: frozenset(),
    _S.WAITING: frozenset({_S.SUBMITTING}),
    _S.PROCESSING: frozenset({_S.SUBMITTING, _S.WAITING}),
    _S.SCHEDULING: frozenset({_S.SUBMITTING, _S.WAITING, _S.PROCESSING}),
    _S.INITIALIZING: IN_QUEUE,
    _S.RUNNING: PRE_RUNNING,
    _S.FAILED_START_TIMEOUT: PRE_RUNNING,
    **{s: ALIVE for s in TaskStatus if s not in ALIVE and s is not _S.FAILED_START_TIMEOUT},
}
"""For each status, those that may go before it."""


def may_move(old: TaskStatus, new: TaskStatus) -> bool:
    """Whether an attempt (or group) in `old` may become `new`."""
    return old in BEFORE[new]
