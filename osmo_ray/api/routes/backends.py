"""Registered clusters: add, list, remove. For administrators only, since whoever registers one sends work there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field

from osmo_ray.api import agents, clusters
from osmo_ray.api.errors import ApiError
from osmo_ray.api.services import Services
from osmo_ray.api.standing import NODE_SILENT
from osmo_ray.backends.kubernetes.kubeconfig import KubeconfigError, open_kubeconfig
from osmo_ray.backends.kubernetes.settings import Platform
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.control.clusters import RUNTIME_IMAGE, Registration, seal
from osmo_ray.providers import secrets
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.store.protocol import Cluster, WorkflowQuery

if TYPE_CHECKING:
    from osmo_ray.backends.kubernetes.client import HttpApi

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")
_UNFINISHED = ("PENDING", "RUNNING", "WAITING")


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PlatformShape(_Shape):
    """A kind of node of a cluster."""

    labels: dict[str, str] = {}
    tolerations: list[dict[str, str]] = []


class BackendShape(_Shape):
    """A registration: with a kubeconfig, or with an agent inside the cluster that dials out. Without `platforms` all
    nodes are of one platform, `default`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kubeconfig": "apiVersion: v1\nkind: Config\n...", "pools": ["train"]}]}
    )

    kubeconfig: str = ""
    agent: bool = False
    context: str = ""
    namespace: str = ""
    pools: list[str] = []
    runtime_image: str = RUNTIME_IMAGE
    storage_url: str = ""
    platforms: dict[str, PlatformShape] = {}
    template: dict[str, Any] = {}
    scheduler: Literal["", "kai"] = Field("", description="Who places groups there: KAI, or (empty) this platform.")


class BackendView(_Shape):
    """A backend as it is listed. `status` is ONLINE, OFFLINE, or NEW until its first nodes were seen."""

    name: str
    kind: str
    pools: list[str]
    status: str
    nodes: int
    reasons: list[str]
    agent: bool = False


class BackendMade(BackendView):
    """`token` lets the agent of this backend in. It is shown once, when there was none before."""

    token: str = ""


class AgentToken(_Shape):
    token: str


class BackendList(_Shape):
    backends: list[BackendView]


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["backend"], prefix="/api/x/backend")

    @router.get("")
    async def listed() -> BackendList:
        told = await services.clusters()
        return BackendList(backends=await asyncio.to_thread(views, services, told))

    @router.post("/{name}")
    async def add(name: str, body: BackendShape) -> BackendMade:
        _free(services, name, body)
        if not body.agent:
            await _try(body)
        return await asyncio.to_thread(_register, services, name, body)

    @router.delete("/{name}")
    def remove(name: str, force: bool = False) -> BackendList:
        found = next((c for c in services.store.clusters() if c.name == name), None)
        if found is None:
            raise ApiError(f"There is no registered backend {name!r}; see osmo backend list.")
        query = WorkflowQuery(
            pools=Registration.from_json(found.settings).pools, statuses=_UNFINISHED, limit=1
        )  # fmt: skip
        rows, _ = services.store.list_workflows(query)
        if rows and not force:
            message = f"Backend {name} still runs {rows[0].id}; cancel what runs there, or remove it with --force."
            raise ApiError(message, "USER", 409)
        services.store.delete_cluster(name)
        agents.revoke(services, name)
        services.wake()
        return BackendList(backends=views(services))

    @router.post("/{name}/token")
    def renew(name: str) -> AgentToken:
        _with_agent(services, name)
        return AgentToken(token=agents.new_token(services, name))

    @router.delete("/{name}/token")
    def revoke(name: str) -> None:
        _with_agent(services, name)
        if not agents.revoke(services, name):
            raise ApiError(f"The agent of backend {name} has no token.")

    @router.websocket("/{name}/agent")
    async def agent(socket: WebSocket, name: str) -> None:
        await agents.serve(services, socket, name)

    return router


def _register(services: Services, name: str, body: BackendShape) -> BackendMade:
    platforms = tuple(Platform(n, p.labels, tuple(p.tolerations)) for n, p in body.platforms.items())
    registered = Registration(
        tuple(body.pools or [name]),
        body.context,
        body.namespace,
        body.runtime_image,
        body.storage_url,
        platforms or (Platform("default"),),
        body.template,
        body.agent,
        body.scheduler,
    )
    sealed = "" if body.agent else seal(secrets.key_file(services.settings.home), name, body.kubeconfig)
    services.store.save_cluster(Cluster(name, sealed, registered.to_json(), services.clock()))
    token = ""
    if not body.agent:
        agents.revoke(services, name)
    elif not agents.has_token(services, name):
        token = agents.new_token(services, name)
    services.wake()
    view = next(view for view in views(services) if view.name == name)
    return BackendMade(**view.model_dump(), token=token)


def _with_agent(services: Services, name: str) -> None:
    found = next((c for c in services.store.clusters() if c.name == name), None)
    if found is None or not Registration.from_json(found.settings).agent:
        raise ApiError(f"There is no backend {name!r} with an agent; see osmo backend list.")


def _free(services: Services, name: str, body: BackendShape) -> None:
    """Names that others have are refused; a cluster may be registered again."""
    if not _NAME.match(name):
        raise ApiError(f"The name {name!r} cannot be used: write at most 40 small letters, digits and dashes.", "USAGE")
    if bool(body.kubeconfig) == body.agent:
        raise ApiError("A cluster is registered with a kubeconfig or with an agent: give one of the two.", "USAGE")
    if body.agent and body.context:
        raise ApiError("`context` is of a kubeconfig, and a backend with an agent has none.", "USAGE")
    if name == services.settings.backend:
        raise ApiError(f"The name {name!r} is this platform's own backend.", "USAGE")
    taken = clusters.pools(services)
    for pool in body.pools or [name]:
        if taken.get(pool, name) != name:
            raise ApiError(f"The pool {pool!r} belongs to backend {taken[pool]!r} already.", "USAGE")


async def _try(body: BackendShape) -> None:
    """Whether the cluster answers and lets us in."""
    # Here, since the HTTP client is 7 MiB of memory that an API without clusters never needs.
    from osmo_ray.backends.kubernetes import kai
    from osmo_ray.backends.kubernetes.client import ApiError as Refused
    from osmo_ray.backends.kubernetes.client import HttpApi

    try:
        access = open_kubeconfig(body.kubeconfig, body.context)
    except (KubeconfigError, ValueError) as error:
        raise ApiError(f"The kubeconfig cannot be used: {error}.", "USAGE") from None
    api = HttpApi(access)
    namespace = body.namespace or access.namespace
    try:
        await api.get(f"/api/v1/namespaces/{namespace}/pods", {"limit": "1"})
        await api.get("/api/v1/nodes", {"limit": "1"})
    except (Refused, BackendUnavailable) as error:
        raise ApiError(f"The cluster was asked for its nodes and pods: {error}.", "USER") from None
    else:
        if body.scheduler:
            await _try_kai(api, kai.gangs(namespace))
    finally:
        await api.close()


async def _try_kai(api: HttpApi, gangs: str) -> None:
    from osmo_ray.backends.kubernetes.client import ApiError as Refused

    try:
        await api.get(gangs, {"limit": "1"})
    except (Refused, BackendUnavailable) as error:
        message = f"KAI is not there, or the account has not the rights of clusters/kubernetes/kai.yaml: {error}."
        raise ApiError(message, "USER") from None


def views(services: Services, told: Mapping[str, str] = {}) -> list[BackendView]:
    """All backends; `told` is what the controller says of those that do not answer."""
    now = services.clock()
    nodes: dict[str, list[tuple[float, NodeReport]]] = {}
    for backend, at, node in services.store.nodes():
        nodes.setdefault(backend, []).append((at, node))
    settings = services.settings
    own = _view(settings.backend, "ray", [settings.pool], nodes.get(settings.backend, []), now)
    others = [
        _shown(_view(c.name, "kubernetes", list(found.pools), nodes.get(c.name, []), now), found.agent, told)
        for c in services.store.clusters()
        for found in [Registration.from_json(c.settings)]
    ]
    return [own, *others]


def _shown(view: BackendView, agent: bool, told: Mapping[str, str]) -> BackendView:
    """Of what has no nodes the controller alone knows why."""
    reasons = view.reasons or [why for why in [told.get(view.name, "")] if why and view.status != "ONLINE"]
    return view.model_copy(update={"agent": agent, "reasons": reasons})


def _view(name: str, kind: str, pools: list[str], seen: Sequence[tuple[float, NodeReport]], now: float) -> BackendView:
    alive = [node for at, node in seen if node.alive and now - at < NODE_SILENT]
    reasons = dict.fromkeys(r.sentence for _, node in seen if not node.alive for r in node.reasons)
    status = "ONLINE" if alive else ("OFFLINE" if seen else "NEW")
    return BackendView(name=name, kind=kind, pools=pools, status=status, nodes=len(alive), reasons=list(reasons))
