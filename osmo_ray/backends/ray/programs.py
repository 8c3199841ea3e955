"""Attempts that are Ray programs, on their way into a node's spool and out again.

Such an attempt runs `submit.py` under the common supervisor, outside the sandbox: it holds the cluster's token, which
is why only trusted pools take it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from osmo_ray.backends.ray import names
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, Observation, Phase
from osmo_ray.spec.quantity import to_bytes
from osmo_ray.spec.reason import Reason

_TOLD = ("OSMO_WORKFLOW_ID", "OSMO_GROUP", "OSMO_TASK", "OSMO_RETRY_ID", "OSMO_ATTEMPT", "OSMO_OUTPUT")
_RAY = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_USAGE_STATS_ENABLED")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where jobs are submitted: the dashboard's URL and the GCS address."""

    dashboard: str = ""
    address: str = ""


def lost_file(program: Path) -> Path:
    """Where `submit.py` writes that the attempt was lost with the cluster, and how."""
    return program.with_suffix(".lost")


class Programs:
    """The program files of one node, below its spool."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self._folder = root / "programs"
        self._cluster = cluster

    def wrap(self, plan: AttemptPlan) -> AttemptPlan:
        """The same attempt with `submit.py` as its command; the user's own follows after `--`, so that its tokens
        are expanded like any other's."""
        if not plan.trusted:
            return plan  # which the host refuses
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._file(plan.key)
        path.write_text(json.dumps(self._program(plan)))
        kept = {name: os.environ[name] for name in (*_RAY, "PYTHONPATH", "PATH") if name in os.environ}
        argv = (sys.executable, "-m", "osmo_ray.backends.ray.submit", str(path), "--", *plan.argv)
        return replace(plan, argv=argv, environment={**plan.environment, **kept})

    def translate(self, seen: Sequence[Observation]) -> Sequence[Observation]:
        """An end by which the cluster, not the program, failed is a loss."""
        return [self._lost(o) if o.phase is Phase.FINISHED and o.exit_code else o for o in seen]

    def _lost(self, seen: Observation) -> Observation:
        try:
            why = lost_file(self._file(seen.key)).read_text()
        except OSError:
            return seen
        return replace(seen, phase=Phase.LOST, exit_code=None, reason=Reason("RayClusterLost", why))

    def _file(self, key: AttemptKey) -> Path:
        return self._folder / f"{key}.json"

    def _program(self, plan: AttemptPlan) -> dict[str, object]:
        assert plan.ray is not None
        return {
            "id": str(plan.key),
            "dashboard": self._cluster.dashboard,
            "address": self._cluster.address,
            "environment": [*plan.environment, *_TOLD],
            "runtime_env": dict(plan.ray.runtime_env),
            "bundles": _bundles(plan),
            "metadata": {
                "name": names.attempt(plan.workflow_id, plan.task, plan.key.retry_id),
                "workflow": plan.workflow_id,
                "task": plan.task,
                "attempt": str(plan.key.retry_id),
                "user": plan.user,
            },
        }


def _bundles(plan: AttemptPlan) -> list[dict[str, float]]:
    """One bundle for the program's own share, one per worker: together what the scheduler charged."""
    assert plan.ray is not None
    workers = plan.ray.workers
    each = {"CPU": workers.cpu, "GPU": workers.gpu, "memory": float(to_bytes(workers.memory)) if workers.memory else 0}
    own = {
        "CPU": plan.cpu - workers.count * workers.cpu,
        "GPU": float(plan.gpu - int(workers.count * workers.gpu)),
    }
    bundles = [own, *[each] * workers.count]
    return [
        {name: amount for name, amount in bundle.items() if amount > 0} for bundle in bundles if any(bundle.values())
    ]
