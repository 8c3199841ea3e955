"""Plans and observations as JSON: what the spool holds.

The spool is read by a newer version of this program after an upgrade, so unknown keys are passed over and missing
ones take their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from osmo_ray.spec.attempt import (
    AttemptKey,
    AttemptPlan,
    CheckpointPlan,
    DataKey,
    DatasetPlan,
    FilePlan,
    InputPlan,
    KpiPlan,
    Observation,
    OutputPlan,
    Phase,
    RegistryLogin,
    Secrets,
)
from osmo_ray.spec.model import Sandbox
from osmo_ray.spec.reason import Reason

_PLAN_FIELDS = tuple(f.name for f in fields(AttemptPlan) if f.name not in ("key", "ray", "secrets"))
_PARTS = {
    "files": FilePlan,
    "inputs": InputPlan,
    "outputs": OutputPlan,
    "checkpoints": CheckpointPlan,
    "kpis": KpiPlan,
}
_TUPLES = ("argv", "peers", "requirements", "mounts")
_JOB_TUPLES = ("gpus", "engine_global", "engine_run")


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt as this host took it: the plan, and what the host gave it.

    `mode` is `namespaces`, `container` or `none`; `why` explains the choice; `gpus` are device numbers.
    """

    plan: AttemptPlan
    mode: str
    why: str = ""
    address: str = ""
    gpus: tuple[int, ...] = ()
    address_is_own: bool = False
    storage_url: str = ""
    engine: str = ""
    engine_global: tuple[str, ...] = ()
    engine_run: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Orders:
    """What an attempt is told while it lives. `go` is the newest generation whose barrier is open, -1 for none."""

    restart: int = 0
    go: int = -1
    hosts: Mapping[str, str] = field(default_factory=dict)
    stop: bool = False
    grace: float = 10.0
    why: str = ""
    release: bool = False
    """End a hold."""
    rerun: int = 0
    """How often it was asked to run again in place; counts for the hold during which it grows."""

    def updated(self, plan: AttemptPlan) -> Orders:
        """These orders with what a (newer) plan adds; generations never go back."""
        go = max(self.go, plan.restart if plan.go or not plan.barrier else -1)
        return Orders(
            restart=max(self.restart, plan.restart),
            go=go,
            hosts={**self.hosts, **plan.hosts},
            stop=self.stop,
            grace=self.grace,
            why=self.why,
            release=self.release,
            rerun=self.rerun,
        )


def plan_to_json(plan: AttemptPlan) -> dict[str, Any]:
    """A plan as JSON, without `ray` (such programs do not run here) and secrets (they have a file of their own)."""
    value: dict[str, Any] = {name: getattr(plan, name) for name in _PLAN_FIELDS}
    for name in _PARTS:
        value[name] = [asdict(part) for part in value[name]]
    value["environment"], value["hosts"] = dict(plan.environment), dict(plan.hosts)
    value["key"] = str(plan.key)
    return value


def plan_from_json(value: Mapping[str, Any]) -> AttemptPlan:
    """What `plan_to_json` wrote."""
    known = {name: value[name] for name in _PLAN_FIELDS if name in value}
    for name, kind in _PARTS.items():
        known[name] = tuple(kind(**_whole(part)) for part in known.get(name, ()))
    for name in _TUPLES:
        known[name] = tuple(known.get(name, ()))
    known["sandbox"] = Sandbox(known.get("sandbox", "auto"))
    return AttemptPlan(key=AttemptKey.parse(value["key"]), **known)


def _whole(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part's own values: tuples for lists, plans of datasets for their objects."""
    value: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in part.items()}
    if "datasets" in value:
        value["datasets"] = tuple(DatasetPlan(**one) for one in value["datasets"])
    if value.get("dataset"):
        value["dataset"] = DatasetPlan(**value["dataset"])
    return value


def secrets_to_json(secrets: Secrets) -> dict[str, Any]:
    """Secrets as JSON: for a file that only its owner may read."""
    return asdict(secrets)


def secrets_from_json(value: Mapping[str, Any]) -> Secrets:
    """What `secrets_to_json` wrote."""
    return Secrets(
        environment=dict(value["environment"]),
        files=tuple(FilePlan(**one) for one in value["files"]),
        masked=tuple(value["masked"]),
        registry=RegistryLogin(**value["registry"]) if value["registry"] else None,
        data=tuple(DataKey(**one) for one in value["data"]),
        missing=value["missing"],
    )


def job_to_json(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    value = {f.name: getattr(job, f.name) for f in fields(Job) if f.name != "plan"}
    return value | {"plan": plan_to_json(job.plan)}


def job_from_json(value: Mapping[str, Any]) -> Job:
    """What `job_to_json` wrote."""
    known = {f.name: value[f.name] for f in fields(Job) if f.name in value}
    return Job(**known | {"plan": plan_from_json(value["plan"]), **{n: tuple(known.get(n, ())) for n in _JOB_TUPLES}})


def orders_to_json(orders: Orders) -> dict[str, Any]:
    """Orders as JSON."""
    return {f.name: getattr(orders, f.name) for f in fields(Orders)}


def orders_from_json(value: Mapping[str, Any]) -> Orders:
    """What `orders_to_json` wrote."""
    return Orders(**{f.name: value[f.name] for f in fields(Orders) if f.name in value})


def observation_to_json(seen: Observation) -> dict[str, Any]:
    """One line of an attempt's status; node and key stand in the folder."""
    value: dict[str, Any] = {"phase": seen.phase.value, "at": seen.at, "restart": seen.restart}
    if seen.address:
        value["address"] = seen.address
    if seen.exit_code is not None:
        value["exit_code"] = seen.exit_code
    if seen.output:
        value["output"] = seen.output
    if seen.reason is not None:
        value["reason"] = seen.reason.to_json()
    if seen.usage:
        value["usage"] = dict(seen.usage)
    return value


def observation_from_json(value: Mapping[str, Any], key: AttemptKey, node: str) -> Observation:
    """What `observation_to_json` wrote."""
    reason = value.get("reason")
    return Observation(
        key=key,
        phase=Phase(value["phase"]),
        at=float(value["at"]),
        node=node,
        address=value.get("address", ""),
        restart=int(value.get("restart", 0)),
        exit_code=value.get("exit_code"),
        output=value.get("output", ""),
        reason=Reason.from_json(reason) if reason else None,
        usage=value.get("usage", {}),
    )
