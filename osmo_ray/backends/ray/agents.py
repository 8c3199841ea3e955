"""The agents of a cluster: one per living node, made when a node appears, replaced when one cannot come back."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from osmo_ray.backends.ray import names
from osmo_ray.backends.ray.agent import AgentSettings, RemoteAgent
from osmo_ray.spec.attempt import AttemptKey, NodeReport

_REMEMBERED = 100_000
_PATIENCE = 20.0
"""Seconds to wait for an agent found by name before it is replaced; its tasks live on either way."""


@dataclass(frozen=True, slots=True)
class _Node:
    id: str
    name: str
    address: str
    labels: Mapping[str, str]


class Agents:
    """`known` maps the name of each living node to its agent's handle."""

    def __init__(self, settings: AgentSettings) -> None:
        self.known: dict[str, Any] = {}
        self._settings = settings
        self._ids: dict[str, str] = {}
        self._suspects: set[str] = set()
        self._named: OrderedDict[AttemptKey, None] = OrderedDict()

    async def refresh(self) -> list[str]:
        """Look at the cluster's nodes; returns the names of those that live."""
        nodes = await asyncio.to_thread(_alive)
        changed = [n for n in nodes if self._ids.get(n.name) != n.id or n.name in self._suspects]
        for node, agent in zip(changed, await asyncio.gather(*map(self._ensure, changed)), strict=True):
            self.known[node.name] = agent
            self._ids[node.name] = node.id
            self._suspects.discard(node.name)
        for name in set(self.known) - {n.name for n in nodes}:
            self.known.pop(name, None)
            self._ids.pop(name, None)
        return [n.name for n in nodes]

    def suspect(self, node: str) -> None:
        """A call failed in a way that may mean the actor is gone for good: ask for it by name again."""
        self._suspects.add(node)

    def first_time(self, key: AttemptKey) -> bool:
        """Whether this attempt has not been named yet by this process."""
        if key in self._named:
            return False
        self._named[key] = None
        if len(self._named) > _REMEMBERED:
            self._named.popitem(last=False)
        return True

    async def _ensure(self, node: _Node) -> Any:
        old = await asyncio.to_thread(_named, node)
        if old is not None:
            if await _lives_on(old, node):
                return old
            # Pinned to a node that is gone it can never run again, and it holds the name.
            await asyncio.to_thread(ray.kill, old, no_restart=True)
        return await asyncio.to_thread(self._create, node)

    def _create(self, node: _Node) -> Any:
        return RemoteAgent.options(
            name=names.agent(node.name),
            namespace=names.NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(self._settings, node.name, node.address, node.id, node.labels)


def _named(node: _Node) -> Any | None:
    try:
        return ray.get_actor(names.agent(node.name), namespace=names.NAMESPACE)
    except ValueError:
        return None


async def _lives_on(agent: Any, node: _Node) -> bool:
    """Whether this agent answers from this very Ray node (a node that came back has the same name, another id)."""
    try:
        report: NodeReport = await asyncio.wait_for(agent.report.remote(), _PATIENCE)
    except (TimeoutError, RayError):
        return False
    return report.backend_id == node.id


def _alive() -> list[_Node]:
    return [
        _Node(n["NodeID"], n["NodeName"] or n["NodeManagerAddress"], n["NodeManagerAddress"], n.get("Labels") or {})
        for n in ray.nodes()
        if n["Alive"]
    ]
