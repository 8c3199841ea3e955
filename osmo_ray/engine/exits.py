"""What an exit code means: the platform's table, and the user's `exitActions`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from osmo_ray.engine.status import TaskStatus

UPSTREAM_FAILED = 3000
BACKEND_ERROR = 3001
START_ERROR = 3003
EVICTED = 3004
START_TIMEOUT = 3005
PREEMPTED = 3006

_STATUS = {
    301: TaskStatus.FAILED_IMAGE_PULL,
    302: TaskStatus.FAILED_IMAGE_PULL,
    UPSTREAM_FAILED: TaskStatus.FAILED_UPSTREAM,
    BACKEND_ERROR: TaskStatus.FAILED_BACKEND_ERROR,
    3002: TaskStatus.FAILED_SERVER_ERROR,
    START_ERROR: TaskStatus.FAILED_START_ERROR,
    EVICTED: TaskStatus.FAILED_EVICTED,
    START_TIMEOUT: TaskStatus.FAILED_START_TIMEOUT,
    PREEMPTED: TaskStatus.FAILED_PREEMPTED,
}


class ExitAction(StrEnum):
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    RESCHEDULE = "RESCHEDULE"


def parse_codes(text: str) -> tuple[tuple[int, int], ...]:
    """`"1-5,137"` -> ((1, 5), (137, 137)). Raises ValueError naming the piece that is wrong."""
    ranges: list[tuple[int, int]] = []
    for piece in text.split(","):
        low, dash, high = piece.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise ValueError(f"{piece!r} is not an exit code; write numbers and ranges, such as 1,3-7")
        ranges.append((int(low), int(high) if dash else int(low)))
    return tuple(ranges)


def action_for(code: int, actions: Mapping[str, str]) -> ExitAction | None:
    """The first action, in written order, whose codes hold `code`; None when none does."""
    for name, codes in actions.items():
        if any(low <= code <= high for low, high in parse_codes(codes)):
            return ExitAction(name.upper())
    return None


def status_of(code: int) -> TaskStatus:
    """The status of an attempt that ended with `code` when no exit action says otherwise."""
    if code == 0:
        return TaskStatus.COMPLETED
    return _STATUS.get(code, TaskStatus.FAILED)
