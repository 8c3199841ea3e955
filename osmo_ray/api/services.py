"""What the API needs from the rest of the house, as one frozen value.

The application holds no state of its own: every replica that gets the same doors answers the same.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from osmo_ray.backends.inside import Session, Size, Stream
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.control.credentials import Purse
from osmo_ray.control.indexing import Indexer
from osmo_ray.objects.protocol import ObjectStore
from osmo_ray.providers import buckets
from osmo_ray.providers.buckets import Buckets
from osmo_ray.providers.oidc import Provider
from osmo_ray.providers.passes import Passes
from osmo_ray.providers.quota import QuotaProvider
from osmo_ray.providers.secrets import Vault
from osmo_ray.providers.template import Renderer
from osmo_ray.scheduler.model import Outlook, Standing
from osmo_ray.settings import Settings
from osmo_ray.spec.attempt import AttemptKey, DataKey, LogChunk
from osmo_ray.store.protocol import Store


class LiveLogs(Protocol):
    """Logs of attempts whose node still knows them; every `Backend` is one."""

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        """Bytes from `offset`, waiting up to `wait` seconds when there is nothing new. Raises
        `BackendUnavailable` when the node cannot be asked now."""
        ...


class Inside(Protocol):
    """The way into running attempts; every `Backend` is one."""

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session: ...

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream: ...

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None: ...


class NoInside:
    """Of a platform whose nodes cannot be reached from here."""

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session:
        raise BackendUnavailable(f"node {node} cannot be reached from here")

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream:
        raise BackendUnavailable(f"node {node} cannot be reached from here")

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        raise BackendUnavailable(f"node {node} cannot be reached from here")


class StoredLogs(Protocol):
    """Logs that were shipped to the object store; offsets are those of the live log."""

    def __call__(self, workflow_uuid: str, key: AttemptKey, offset: int, limit: int) -> LogChunk:
        """Bytes from `offset`; empty and no end where nothing was shipped yet."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """How one part of the platform is, for `/ready` and `osmo status`."""

    healthy: bool
    text: str
    facts: Mapping[str, object] = field(default_factory=dict)


def _fresh_id() -> str:
    return uuid.uuid4().hex


def _nothing() -> None:
    return None


async def _no_parts() -> Mapping[str, Part]:
    return {}


async def _no_preview(images: Sequence[str]) -> Mapping[str, str]:
    return {}


async def _no_figures() -> Mapping[str, float]:
    return {}


async def _no_clusters() -> Mapping[str, str]:
    return {}


async def _no_standings() -> Sequence[Standing]:
    return ()


async def _no_outlook(_: str) -> Mapping[str, Outlook]:
    return {}


@dataclass(frozen=True)
class Services:
    """The doors of one platform. `wake` is called after a commit, best effort; `new_id` gives 32 hex digits."""

    store: Store
    settings: Settings
    objects: ObjectStore
    live_logs: LiveLogs
    stored_logs: StoredLogs
    renderer: Renderer
    inside: Inside = field(default_factory=NoInside)
    wake: Callable[[], None] = _nothing
    parts: Callable[[], Awaitable[Mapping[str, Part]]] = _no_parts
    """Health of what stands beside the API; the platform is ready when all of it is healthy."""
    figures: Callable[[], Awaitable[Mapping[str, float]]] = _no_figures
    """Figures of the controller for `/metrics`, by name; empty when it does not answer."""
    preview: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]] = _no_preview
    """How tasks of these images would run, in one sentence each; empty when no node can be asked."""
    quota: QuotaProvider | None = None
    """Quotas of pools; None: nobody set any."""
    standings: Callable[[], Awaitable[Sequence[Standing]]] = _no_standings
    """What each queue has, as the controller planned last; empty when it does not answer."""
    outlook: Callable[[str], Awaitable[Mapping[str, Outlook]]] = _no_outlook
    """Of a workflow by its uuid: why its groups wait now, and when they may start; empty when nobody answers."""
    clusters: Callable[[], Awaitable[Mapping[str, str]]] = _no_clusters
    """Why each registered cluster does not answer now (empty: it does), as the controller has it."""
    arrive: Callable[[str], Awaitable[Pipe]] | None = None
    """Where the link of a cluster's agent goes on. Raises `BackendUnavailable`."""
    vault: Vault | None = None
    """Seals credentials; without one none can be set."""
    prove: Callable[[str, str, Mapping[str, str]], None] | None = None
    """Tries a credential of a kind for a place before it is kept (raises `Unproven`); None: none is tried."""
    passes: Passes | None = None
    """Signs short-lived passes; without one only access tokens themselves get in."""
    provider: Provider | None = None
    """Where people log in; None: with access tokens, or in development mode."""
    gateway_key: bytes = b""
    """Secret of the storage gateway; empty: there is none."""
    clock: Callable[[], float] = time.time
    new_id: Callable[[], str] = _fresh_id

    @cached_property
    def buckets(self) -> Buckets:
        """The buckets that the settings tell. Raises `SettingsError`."""
        return buckets.load(self.settings)

    @cached_property
    def indexer(self) -> Indexer:
        """Knows what is in buckets."""
        return Indexer(self.store, self.clock)

    @cached_property
    def purse(self) -> Purse:
        return Purse(self.store, self.vault)

    def data_keys(self, user: str) -> Sequence[DataKey]:
        """The keys of a user that open what lies at URLs."""
        return self.purse.data_keys(user)
