"""Registered clusters, from their rows in the store to backends that the loops drive, kept in step while they run."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from osmo_ray.backends.kubernetes.settings import ClusterSettings, Platform
from osmo_ray.backends.many import ManyBackends
from osmo_ray.backends.protocol import Backend
from osmo_ray.providers import secrets
from osmo_ray.store.protocol import Cluster

if TYPE_CHECKING:
    from osmo_ray.backends.kubernetes.inside import PodSessions
    from osmo_ray.backends.kubernetes.kubeconfig import Access

log = logging.getLogger(__name__)
VAULT_OWNER = "clusters"
RUNTIME_IMAGE = "osmo-ray/runtime:0.1"
"""Where a registration names none; see clusters/README.md for how it is made."""
NAMESPACE = "osmo"
"""Of tasks, where a registration with an agent names none; `clusters/helm/osmo-backend` makes it."""
Way = Callable[[str], str]
"""The local socket that leads to the cluster of this name through its agent."""


class ClusterError(ValueError):
    """A registration that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a registration says beside the kubeconfig, as it is stored."""

    pools: tuple[str, ...]
    context: str = ""
    namespace: str = ""
    runtime_image: str = RUNTIME_IMAGE
    storage_url: str = ""
    """How its pods reach the storage, where that differs from what the platform says."""
    platforms: tuple[Platform, ...] = (Platform("default"),)
    template: Mapping[str, Any] = field(default_factory=dict)
    agent: bool = False
    """Reached through an agent inside, so that there is no kubeconfig."""
    scheduler: str = ""
    """Who places groups there: `kai`, or empty for us."""

    def to_json(self) -> str:
        platforms = [
            {"name": p.name, "labels": dict(p.labels), "tolerations": [dict(t) for t in p.tolerations]}
            for p in self.platforms
        ]
        return json.dumps(
            {
                "pools": list(self.pools),
                "context": self.context,
                "namespace": self.namespace,
                "runtime_image": self.runtime_image,
                "storage_url": self.storage_url,
                "platforms": platforms,
                "template": dict(self.template),
                "agent": self.agent,
                "scheduler": self.scheduler,
            }
        )

    @staticmethod
    def from_json(text: str) -> Registration:
        value = json.loads(text)
        platforms = tuple(Platform(p["name"], p["labels"], tuple(p["tolerations"])) for p in value["platforms"])
        return Registration(
            tuple(value["pools"]), value["context"], value["namespace"], value["runtime_image"],
            value["storage_url"], platforms, value["template"], value.get("agent", False), value.get("scheduler", ""),
        )  # fmt: skip


def seal(key: Path, name: str, kubeconfig: str) -> str:
    """A kubeconfig as the store may hold it, by the key in this file."""
    return base64.b64encode(secrets.load(key).seal(VAULT_OWNER, name, {"kubeconfig": kubeconfig})).decode()


def connect(cluster: Cluster, key: Path, owner: str, storage_url: str, way: Way | None = None) -> Backend:
    """The backend of a registered cluster. Raises `ClusterError`; does not ask the cluster anything. What talks to
    Kubernetes is loaded here: most platforms have no cluster."""
    from osmo_ray.backends.kubernetes.backend import KubernetesBackend
    from osmo_ray.backends.kubernetes.client import HttpApi

    registered, access = _opened(cluster, key, way)
    settings = ClusterSettings(
        owner=owner,
        storage_url=registered.storage_url or storage_url,
        runtime_image=registered.runtime_image,
        namespace=registered.namespace or access.namespace,
        platforms=registered.platforms,
        template=registered.template,
        scheduler=registered.scheduler,
    )
    return KubernetesBackend(cluster.name, HttpApi(access), settings)


def sessions(cluster: Cluster, key: Path, owner: str, way: Way | None = None) -> PodSessions:
    """The way into a cluster's pods, without what else a backend does. Raises `ClusterError`."""
    from osmo_ray.backends.kubernetes.client import HttpApi
    from osmo_ray.backends.kubernetes.inside import PodSessions

    registered, access = _opened(cluster, key, way)
    return PodSessions(cluster.name, HttpApi(access), registered.namespace or access.namespace, owner)


def _opened(cluster: Cluster, key: Path, way: Way | None) -> tuple[Registration, Access]:
    from osmo_ray.backends.kubernetes.kubeconfig import Access, open_kubeconfig

    try:
        registered = Registration.from_json(cluster.settings)
        if registered.agent and way is not None:
            return registered, Access(f"http://{cluster.name}.agent", NAMESPACE, None, socket=way(cluster.name))
        vault = secrets.load(key)
        text = vault.open(VAULT_OWNER, cluster.name, base64.b64decode(cluster.sealed))["kubeconfig"]
        return registered, open_kubeconfig(text, registered.context)
    except (secrets.SecretError, ValueError, KeyError) as error:
        raise ClusterError(f"cluster {cluster.name}: {error}") from error


Connect = Callable[[Cluster], Backend]


@runtime_checkable
class Templated(Protocol):
    """A backend whose pods are merged over what administrators gave to their pool."""

    def use_templates(self, templates: Mapping[str, Mapping[str, Any]]) -> None: ...


class Clusters:
    """Keeps the members of `backends` what the store says."""

    def __init__(self, backends: ManyBackends, connect: Connect) -> None:
        self._backends, self._connect = backends, connect
        self._known: dict[str, Cluster] = {}
        self._made: dict[str, Backend] = {}

    async def update(self, rows: Sequence[Cluster]) -> Mapping[str, str] | None:
        """Start what is new, end what is gone, start anew what changed. Returns the default platform of each cluster
        by its name when anything changed, else None."""
        wanted = {row.name: row for row in rows}
        if wanted == self._known:
            return None
        for name in [n for n, row in self._known.items() if wanted.get(n) != row]:
            self._made.pop(name, None)
            if name in self._backends.clusters:
                await self._backends.remove(name)
        for name, row in wanted.items():
            if self._known.get(name) != row:
                await self._add(row)
        self._known = wanted
        return {name: _default_platform(row) for name, row in wanted.items()}

    def use_templates(self, templates: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """What administrators gave to the pods of pools, by cluster; the next pods are made with it."""
        for name, backend in self._made.items():
            if isinstance(backend, Templated):
                backend.use_templates(templates.get(name, {}))

    async def _add(self, row: Cluster) -> None:
        try:
            # Certificates and a plugin's first token are read from files: off the loop.
            self._made[row.name] = await asyncio.to_thread(self._connect, row)
            self._backends.add(row.name, self._made[row.name])
            log.info("cluster %s is registered", row.name)
        except ClusterError as error:
            log.error("%s", error)


def delegating(rows: Sequence[Cluster]) -> Mapping[str, str]:
    """Clusters that place by themselves, and the default platform of each as the cluster calls it."""
    found = {row.name: Registration.from_json(row.settings) for row in rows}
    return {name: one.platforms[0].name for name, one in found.items() if one.scheduler}


def _default_platform(row: Cluster) -> str:
    return f"{row.name}/{Registration.from_json(row.settings).platforms[0].name}"
