"""Where things stand in a pod, and what a plan's names mean there."""

from __future__ import annotations

import os
from pathlib import Path

from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.place import Place
from osmo_ray.runtime.pod.shared import PodFolder
from osmo_ray.runtime.sandbox import OUTPUT
from osmo_ray.spec.attempt import AttemptPlan
from osmo_ray.spec.tokens import Tokens, expand

SHARED, SECRET, ORDERS = "/osmo", "/osmo-job", "/osmo-orders"
"""Where the folder of both containers, the job and the orders are mounted."""
TASK_SEES = (("bin", True), ("run", False), ("run/lock", False), ("data/input", False), ("data/output", False))
"""What of the shared folder the user's container has, each as a mount of its own, and whether only to read: a task can
neither move nor replace what is mounted, so that these names mean the same on both sides."""
LAUNCHER = f"{SHARED}/bin/launcher"
OWN_LAUNCHER = "/usr/local/bin/osmo-launcher"
"""The same in our image, where no task can have changed it."""
MASKED = f"{SHARED}/run/masked"
"""Where the launcher finds the forms of secrets that no output may show."""
_FILES = "run/files"


def file_target(path: str, tokens: Tokens) -> tuple[str, str]:
    """Where a file of the plan goes: (`mount`, absolute path), (`output`, path below the output folder), or
    (`refused`, why)."""
    target = os.path.normpath(expand(path, tokens))
    if target.startswith(OUTPUT + "/"):
        return "output", target[len(OUTPUT) + 1 :]
    if not mountable(target):
        return "refused", f"it must be absolute, without colons, and outside /osmo except {OUTPUT}"
    return "mount", target


def mountable(target: str) -> bool:
    """Whether one file can be mounted there beside ours."""
    whole = target.startswith("/") and os.path.normpath(target) == target and target != "/"
    return whole and not f"{target}/".startswith("/osmo") and ":" not in target


def file_part(number: int) -> str:
    """The n-th file of a plan, below the shared folder."""
    return f"{_FILES}/{number}"


def place(job: Job, root: Path = Path(SHARED)) -> Place:
    """The attempt as both programs see it."""
    return Place(PodFolder(root), job, None)


def waits(plan: AttemptPlan) -> bool:
    """Whether the command waits for a word from outside: for the barrier, or for its siblings' names."""
    return plan.barrier or len(plan.peers) > 1
