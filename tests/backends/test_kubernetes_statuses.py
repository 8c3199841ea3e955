"""From what a cluster shows of a pod to what people read of its task: each row of the reference's table, through
`observe` and the engine. Where ours differs it is because work that the cluster took away is not its user's failure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from osmo_ray.engine.events import Observed, Policy
from osmo_ray.engine.model import Task
from osmo_ray.engine.status import TaskStatus as S
from osmo_ray.spec.attempt import AttemptKey, Observation
from tests.backends.test_kubernetes_pure import DONE, NOW, RUNNING, disrupted, ended, look, told, waiting
from tests.engine.test_decide import Run, loose, task

LONG_AGO, JUST_NOW = "2020-01-01T00:00:00Z", "2027-01-15T07:59:00Z"
CONFIG, UNKNOWN = waiting("CreateContainerConfigError", "no such secret"), ended(137, "ContainerStatusUnknown")
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}


def status_after(seen: Observation, lost_before: int = 0) -> tuple[S, int | None]:
    """Of the attempt that was seen so, when that many attempts had been lost already."""
    run = Run(loose(task("a")), Policy(platform_retries=3))
    for number in range(lost_before + 1):
        run.place("a")
        now = run.task("a")
        shown = seen if number == lost_before else LOST
        run.send(Observed(replace(shown, key=AttemptKey(now.uuid, now.retry_id))))
    left = [one for one in run.retired if isinstance(one, Task)]
    ended = left[lost_before] if len(left) > lost_before else run.task("a")
    return ended.status, ended.exit_code


LOST = look(user=RUNNING, gone=True)
TABLE: list[tuple[str, dict[str, Any], S, int | None]] = [
    ("pending", {"phase": "Pending", "conditions": (UNSCHEDULED,)}, S.SCHEDULING, None),
    ("a container is created", {"phase": "Pending", "init": RUNNING}, S.INITIALIZING, None),
    ("running", {"init": DONE, "user": RUNNING, "ctrl": RUNNING}, S.RUNNING, None),
    ("succeeded", {"phase": "Succeeded", "user": DONE, "ctrl": ended(0, "", told(0))}, S.COMPLETED, 0),
    ("failed", {"phase": "Failed", "user": ended(7), "ctrl": ended(0, "", told(7))}, S.FAILED, 7),
    ("the largest code", {"user": ended(7), "ctrl": ended(1, "", told(2012))}, S.FAILED, 2012),
    ("no code", {"user": ended(0, ""), "ctrl": ended(0, "", told(None))}, S.FAILED, 4000),
    ("sidecar ended", {"user": RUNNING, "ctrl": ended(1)}, S.FAILED, 2001),
    ("init failed", {"init": ended(1, "Error", "Traceback")}, S.FAILED, 256),
    ("out of memory", {"user": ended(137, "OOMKilled"), "ctrl": ended(0, "", told(None))}, S.FAILED_EVICTED, 3004),
    ("evicted", {"phase": "Failed", "reason": "Evicted"}, S.FAILED_EVICTED, 3004),
    ("ErrImagePull", {"user": waiting("ErrImagePull")}, S.FAILED_IMAGE_PULL, 302),
    ("ImagePullBackOff", {"user": waiting("ImagePullBackOff")}, S.FAILED_IMAGE_PULL, 301),
    ("config error, at first", {"user": CONFIG, "startTime": JUST_NOW}, S.SCHEDULING, None),
    ("config error, long", {"user": CONFIG, "startTime": LONG_AGO}, S.FAILED_BACKEND_ERROR, 3001),
    ("other waiting error", {"user": waiting("CrashLoopBackOff")}, S.FAILED, 999),
    ("StartError", {"user": ended(128, "StartError")}, S.FAILED_START_ERROR, 3003),
    ("deadline", {"phase": "Failed", "reason": "DeadlineExceeded"}, S.FAILED_BACKEND_ERROR, 3001),
    (
        "preempted, before all else",
        {"user": ended(137, "OOMKilled"), "conditions": disrupted("PreemptionByScheduler")},
        S.FAILED_PREEMPTED,
        3006,
    ),
]


@pytest.mark.parametrize(("what", "seen", "status", "code"), TABLE, ids=[row[0] for row in TABLE])
def test_each_observation_has_its_status_and_code(what: str, seen: dict[str, Any], status: S, code: int | None):
    assert status_after(look(**seen)) == (status, code)


TAKEN_AWAY: list[tuple[str, dict[str, Any]]] = [
    ("UnexpectedAdmissionError", {"phase": "Failed", "reason": "UnexpectedAdmissionError"}),
    ("node shut down", {"phase": "Failed", "reason": "Terminated"}),
    ("container status unknown", {"user": UNKNOWN, "ctrl": UNKNOWN}),
    ("drained", {"user": RUNNING, "gone": True, "conditions": disrupted("EvictionByEvictionAPI")}),
    ("node removed", {"user": RUNNING, "gone": True, "conditions": disrupted("DeletionByPodGC")}),
    ("node does not answer", {"user": RUNNING, "deleting": True, "later": 61.0}),
    ("pod vanished", {"user": RUNNING, "gone": True}),
]


@pytest.mark.parametrize(("what", "seen"), TAKEN_AWAY, ids=[row[0] for row in TAKEN_AWAY])
def test_what_the_cluster_takes_away_runs_again_on_the_platforms_budget(what: str, seen: dict[str, Any]):
    """And is the backend's failure once that is spent."""
    lost = look(**seen)
    assert lost.at in (NOW, NOW + 61)
    assert status_after(lost) == (S.RESCHEDULED, 3001)
    assert status_after(lost, lost_before=3) == (S.FAILED_BACKEND_ERROR, 3001)
