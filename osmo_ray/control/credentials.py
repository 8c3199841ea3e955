"""What an attempt gets of its user's credentials, put into its plan on the way to the node and kept nowhere else.

A group without credentials, whose images come from no named registry and whose data from no URL or dataset, costs
nothing here. Opened credentials of a user are kept for a moment, since groups of one workflow are sent one after the
other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from osmo_ray.providers.secrets import SecretError, Vault
from osmo_ray.runtime.container import registry_of
from osmo_ray.spec.attempt import AttemptPlan, DataKey, FilePlan, GroupPlan, RegistryLogin, Secrets
from osmo_ray.spec.model import CodeInput, GroupSpec, TaskInput, TaskSpec
from osmo_ray.store.protocol import Store

_KEPT = 1.0
"""Seconds for which opened credentials are believed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One credential with its values."""

    kind: str
    profile: str
    values: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Purse:
    """Opens credentials for plans. Its verbs block: they ask the store."""

    store: Store
    vault: Vault | None
    _known: dict[str, tuple[float, Mapping[str, Opened]]] = field(default_factory=dict)

    def fill(self, user: str, spec: GroupSpec, plan: GroupPlan) -> GroupPlan:
        """The plan with what its attempts may use of this user's."""
        if any(task.credentials for task in spec.tasks):
            self._known.pop(user, None)  # what is named was set on purpose, perhaps a moment ago
        mine = self._open(user)
        tasks = {task.name: task for task in spec.tasks}
        filled = tuple(replace(a, secrets=secrets(tasks[a.task], a, mine)) for a in plan.attempts)
        return replace(plan, attempts=filled)

    def data_keys(self, user: str) -> tuple[DataKey, ...]:
        """Keys for what lies at URLs."""
        return _data_keys(self._open(user))

    def _open(self, user: str) -> Mapping[str, Opened]:
        now = time.monotonic()
        self._known = {u: k for u, k in self._known.items() if now - k[0] < _KEPT}
        if user not in self._known:
            self._known[user] = now, self._read(user)
        return self._known[user][1]

    def _read(self, user: str) -> Mapping[str, Opened]:
        found: dict[str, Opened] = {}
        for one in self.store.credentials(user) if self.vault else ():
            try:
                assert self.vault is not None
                values = self.vault.open(user, one.name, one.sealed)
            except SecretError:
                continue  # it is missing then, and said to be
            found[one.name] = Opened(one.kind, one.profile or "", values)
        return found


def wanted(spec: GroupSpec) -> bool:
    """Whether any task of a group could use a credential; asks nobody."""
    return any(map(_may_need, spec.tasks))


def _may_need(task: TaskSpec) -> bool:
    data = bool(task.outputs) or any(not isinstance(one, TaskInput | CodeInput) for one in task.inputs)
    return bool(task.credentials or data or task.checkpoint or registry_of(task.image))


def secrets(task: TaskSpec, attempt: AttemptPlan, mine: Mapping[str, Opened]) -> Secrets:
    """What one attempt gets: what its task names, and keys of data and registry that apply by themselves."""
    environment: dict[str, str] = {}
    files: list[FilePlan] = []
    used: list[Opened] = []
    for name, wanted in task.credentials.items():
        found = mine.get(name)
        if found is None:
            return Secrets(missing=f"the credential {name!r} of {attempt.user} is not there any more; set it again")
        used.append(found)
        if isinstance(wanted, str):
            files += [FilePlan(f"{wanted.rstrip('/')}/{key}", value) for key, value in found.values.items()]
            continue
        for variable, key in wanted.items():
            if key not in found.values:
                return Secrets(missing=f"the credential {name!r} has no key {key!r} any more; set it again")
            environment[variable] = found.values[key]
    registry = next(
        (o for o in mine.values() if o.kind == "REGISTRY" and o.profile == registry_of(attempt.image)), None
    )
    data = [o for o in mine.values() if o.kind == "DATA"]
    masked = [v for o in used for v in o.values.values()]
    masked += [o.values["auth"] for o in (registry,) if o] + [
        o.values[k] for o in data for k in ("access_key", "encryption_key") if k in o.values
    ]
    return Secrets(
        environment,
        tuple(files),
        tuple(dict.fromkeys(masked)),
        RegistryLogin(registry.profile, registry.values["username"], registry.values["auth"]) if registry else None,
        _data_keys(mine),
    )


def _data_keys(mine: Mapping[str, Opened]) -> tuple[DataKey, ...]:
    return tuple(DataKey(o.profile, **o.values) for o in mine.values() if o.kind == "DATA")
