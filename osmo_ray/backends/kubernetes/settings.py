"""What one registered cluster needs to know about us, and we about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from osmo_ray.spec.attempt import NodeReport


@dataclass(frozen=True, slots=True)
class Platform:
    """A kind of node: those with all these labels. Its pods get the selector and the tolerations."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()

    def holds(self, node: NodeReport) -> bool:
        return all(node.labels.get(k) == v for k, v in self.labels.items())


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How tasks run in one cluster. `owner` tells the objects of one platform (one database) from another's."""

    owner: str
    storage_url: str
    """How pods reach the platform's storage; empty: they cannot, and the cluster takes no work."""
    runtime_image: str
    namespace: str = "default"
    platforms: tuple[Platform, ...] = (Platform("default"),)
    """The first is the default; a node belongs to the last one that holds it."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """A pod (`metadata`, `spec`) that every task's pod is merged over: pull secrets, mounts, a scheduler's name."""
    templates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same for `pool/platform`, with the templates that administrators gave to pools."""
    pull_policy: str = "IfNotPresent"
    scheduler: str = ""
    """`kai`: KAI places groups in this cluster; empty: we do."""

    def template_of(self, pool: str, platform: Platform) -> Mapping[str, Any]:
        """What the pods of a pool on a platform are merged over."""
        return self.templates.get(f"{pool}/{platform.name}", self.template)

    def platform_named(self, name: str) -> Platform:
        """The default one for a name that it does not have."""
        return next((p for p in self.platforms if p.name == name), self.platforms[0])

    def platform_of(self, node: NodeReport) -> Platform:
        """The most special platform that a node belongs to."""
        return next((p for p in reversed(self.platforms) if p.holds(node)), self.platforms[0])
