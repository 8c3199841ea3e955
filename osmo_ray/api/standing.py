"""Which nodes each pool stands on, and what is held there: the numbers behind pools and resources.

A pool stands on every node of its backend, so pools of one backend share a node set, and its capacity counts once.
Numbers of use come from the tasks that hold something now, numbers of capacity from the nodes' own reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from osmo_ray.api.grounds import configured
from osmo_ray.api.services import Services
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.pools import PoolSpec
from osmo_ray.store.protocol import TaskQuery, TaskRow

HOLDING = ("SCHEDULING", "INITIALIZING", "RUNNING")
NODE_SILENT = 120.0
"""Seconds after which a node that nobody heard of counts as gone."""


@dataclass(frozen=True, slots=True)
class Held:
    """What tasks hold on a node or in a pool; `firm` are the GPUs of tasks that are never asked to give way."""

    cpu: float = 0.0
    memory: int = 0
    gpu: int = 0
    storage: int = 0
    firm: int = 0

    def plus(self, row: TaskRow) -> Held:
        firm = row.gpu if row.priority != "LOW" else 0
        return self + Held(row.cpu, row.memory, row.gpu, row.storage, firm)

    def __add__(self, other: Held) -> Held:
        return Held(
            self.cpu + other.cpu,
            self.memory + other.memory,
            self.gpu + other.gpu,
            self.storage + other.storage,
            self.firm + other.firm,
        )


@dataclass(frozen=True, slots=True)
class Use:
    """What is held now, by node and by pool."""

    nodes: Mapping[str, Held]
    pools: Mapping[str, Held]

    def of(self, nodes: Sequence[NodeReport]) -> Held:
        return sum((self.nodes.get(node.name, Held()) for node in nodes), Held())


@dataclass(frozen=True, slots=True)
class Standing:
    """A pool as configured, and the nodes it stands on; their platforms are named as the pool names them."""

    pool: PoolSpec
    nodes: tuple[NodeReport, ...]

    @property
    def gpus(self) -> int:
        return sum(node.gpu for node in self.nodes)


def in_use(services: Services) -> Use:
    """Read from the store, page by page."""
    nodes: dict[str, Held] = {}
    pools: dict[str, Held] = {}
    offset = 0
    while rows := services.store.list_tasks(TaskQuery(statuses=HOLDING, offset=offset, limit=1000)):
        for row in rows:
            nodes[row.task.node] = nodes.get(row.task.node, Held()).plus(row)
            pools[row.pool] = pools.get(row.pool, Held()).plus(row)
        offset += len(rows)
        if len(rows) < 1000:
            break
    return Use(nodes, pools)


def alive_nodes(services: Services) -> Mapping[str, Sequence[NodeReport]]:
    """By backend, those heard of in the last two minutes."""
    now = services.clock()
    found: dict[str, list[NodeReport]] = {}
    for backend, at, node in services.store.nodes():
        if node.alive and now - at < NODE_SILENT:
            found.setdefault(backend, []).append(replace(node, platform=node.platform.removeprefix(f"{backend}/")))
    return found


def standings(services: Services, pools: Sequence[str]) -> Sequence[Standing]:
    """Of these pools, in their order."""
    nodes = alive_nodes(services)
    found = [configured(services, name) for name in pools]
    return [Standing(pool, tuple(nodes.get(pool.backend, ()))) for pool in found]


def node_sets(standings: Sequence[Standing]) -> Sequence[Sequence[Standing]]:
    """Pools that share nodes, together, in the order of the first of each set."""
    sets: dict[str, list[Standing]] = {}
    for one in standings:
        sets.setdefault(one.pool.backend, []).append(one)
    return list(sets.values())
