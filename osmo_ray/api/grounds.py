"""What administrators configured of pools, and a submission held against it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from osmo_ray.api.errors import ApiError
from osmo_ray.api.services import Services
from osmo_ray.control.clusters import Registration
from osmo_ray.spec import demands, pools
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Priority, WorkflowSpec
from osmo_ray.spec.pools import PlatformSpec, PoolSpec, Rule
from osmo_ray.spec.reader import Written, refuse

POOL, RULES = "POOL", "RESOURCE_VALIDATION"
ADMIN = "osmo-admin"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    exec_timeout: float
    queue_timeout: float


def configured(services: Services, pool: str) -> PoolSpec:
    """A pool as it was configured, with what its backend says of platforms and what the settings say of defaults."""
    written = services.store.config(POOL)
    value = written.body.get(pool) if written else None
    try:
        found = pools.from_json(pool, value) if value is not None else PoolSpec(pool)
    except pools.BadPool as error:  # written by another version of this program
        raise ApiError(f"{error}; an administrator has to mend it.", "RESOURCE") from None
    return _with_backend(services, found)


def _with_backend(services: Services, found: PoolSpec) -> PoolSpec:
    """Platforms that the backend has and nobody wrote of allow nothing special."""
    settings = services.settings
    backend, names = settings.backend, [settings.platform]
    for cluster in services.store.clusters():
        registration = Registration.from_json(cluster.settings)
        if found.name in registration.pools:
            backend, names = cluster.name, [platform.name for platform in registration.platforms]
    usual = names[0] if names else ""
    platforms = {**{name: PlatformSpec() for name in sorted(names)}, **found.platforms}
    default = found.default_platform or usual
    return replace(found, platforms=platforms, default_platform=default, backend=backend, usual=usual)


def validations(services: Services) -> Mapping[str, tuple[Rule, ...]]:
    """The named lists of rules."""
    written = services.store.config(RULES)
    return {name: pools.rules_from_json(name, value) for name, value in written.body.items()} if written else {}


def share(services: Services, pool: str) -> tuple[float, float, float] | None:
    """(guarantee, maximum, weight) of GPUs of a pool's queue; None where there are no quotas for it."""
    quota = services.quota.snapshot() if services.quota else None
    if quota is None:
        return None
    name = quota.resolve(pool)
    return next((q.gpu for q in quota.queues if q.name == name), None)


def prepared(
    services: Services,
    found: PoolSpec,
    roles: Collection[str],
    priority: Priority,
    spec: WorkflowSpec,
    file: Written | None,
) -> WorkflowSpec:
    """The workflow with the pool's defaults put in, but for the platform that the backend takes anyway: a workflow that
    names none can go to another pool. Raises `SpecError` for what the pool refuses, each at its place, and `ApiError`
    while the pool is in maintenance."""
    if found.maintenance and ADMIN not in roles:
        raise ApiError(f"Pool {found.name} is in maintenance; only administrators submit to it now.", "USER")
    filled = demands.with_defaults(spec, found)
    ground = _ground(services, found, {one.platform for one in filled.resources.values() if one.platform})
    gpus = share(services, found.name) if priority is not Priority.LOW else None
    if gpus is not None and gpus[0] >= 0:
        ground = replace(ground, guarantee=gpus[0])
    refuse(lambda where: demands.check(filled, ground, where), "RESOURCE", file)
    unsaid = {name for name, one in spec.resources.items() if one.platform is None}
    kept = {
        name: replace(one, platform=None) if name in unsaid and one.platform == found.usual else one
        for name, one in filled.resources.items()
    }
    return replace(filled, resources=kept)


def _ground(services: Services, pool: PoolSpec, wanted: Collection[str]) -> demands.Ground:
    asked = any((*pool.rules, *(r for p in pool.platforms.values() for r in p.rules)))
    lists = validations(services) if asked else {}
    try:
        rules = {name: pool.rules_of(name, lists) for name in (*pool.platforms, "")}
    except pools.BadPool as error:
        raise ApiError(f"{error}; an administrator has to mend it.", "RESOURCE") from None
    nodes = _nodes(services, pool) if asked or not pool.platforms.keys() >= set(wanted) else []
    names = frozenset(pool.platforms) | {n.platform for n in nodes if n.platform}
    return demands.Ground(pool, names, rules, nodes)


def _nodes(services: Services, pool: PoolSpec) -> list[NodeReport]:
    """Those of the pool's backend, with platforms as the pool calls them."""
    found = [node for name, _, node in services.store.nodes() if name == pool.backend and node.alive]
    return [replace(node, platform=node.platform.removeprefix(f"{pool.backend}/")) for node in found]


def limits(services: Services, pool: PoolSpec, spec: WorkflowSpec) -> Limits:
    """A workflow's own timeouts, else the pool's, else the platform's; never more than the pool's and the platform's
    most."""
    own, settings = spec.timeout, services.settings
    return Limits(
        _within(own.exec_timeout, pool.default_exec_timeout, pool.max_exec_timeout, settings.exec_timeout),
        _within(own.queue_timeout, pool.default_queue_timeout, pool.max_queue_timeout, settings.queue_timeout),
    )


def _within(asked: float | None, default: float | None, most: float | None, platform: float) -> float:
    top = min(most or platform, platform)
    return min(asked or default or top, top)
