"""The application as Ray Serve hosts it: `osmo_ray.api.app:build` is the import path of production.

A replica reads the settings of its environment, opens the doors they describe, and keeps no state. With an embedded
database replicas are held on the head, where its file is. Logs of running tasks come from the agents of their nodes,
which every replica finds by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve._private import replica

from osmo_ray import settings as settings_room
from osmo_ray.api import application, door
from osmo_ray.api.inside.clusters import MARK, ClusterSessions
from osmo_ray.api.services import Part, Services
from osmo_ray.backends.inside import Session, Size, Stream
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.backends.ray import inside, names
from osmo_ray.control import links
from osmo_ray.objects import open_store
from osmo_ray.providers import oidc, proofs, secrets
from osmo_ray.providers.passes import Passes
from osmo_ray.providers.quotas import open_quota, source_of
from osmo_ray.providers.template import ProcessRenderer
from osmo_ray.runtime import wakeup
from osmo_ray.runtime.logs import stored_log
from osmo_ray.scheduler.model import Outlook, Standing
from osmo_ray.settings import Settings, gateway_key
from osmo_ray.spec.attempt import AttemptKey, LogChunk
from osmo_ray.store.sql import SqlStore

_CALL = 10.0
"""Seconds that an agent or the controller may take beyond what it was asked to wait."""


def build(args: Mapping[str, str]) -> serve.Application:
    """The Serve application. `args` may hold `replicas`, a number, for databases that allow more than one; and
    `listen`, HOST:PORT, where replicas then listen themselves instead of leaving that to Serve's proxy."""
    settings = settings_room.load()
    embedded = settings.database.startswith("sqlite")
    deployment = serve.deployment(
        name="api",
        num_replicas=1 if embedded else int(args.get("replicas", "1")),
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=5,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001} if embedded else {}},
    )
    listen = args.get("listen", "")
    return deployment(serve.ingress(lambda: _application(listen))(Api)).bind()


class Api:
    """What Serve puts the routes on; it has none of its own."""


def _application(listen: str) -> FastAPI:
    _close_replica_port()
    services = services_from(settings_room.load())
    if not listen:
        return application.build(services)
    host, _, port = listen.rpartition(":")
    return application.build(services, beside=lambda app: door.listening(app, host, int(port)))


def _close_replica_port() -> None:
    """Serve opens a port in every replica for calls between deployments. It listens on all interfaces and unpickles
    what it gets, and there is no setting for it. This application is one deployment, so loopback is enough; a test
    of the running platform watches that it stays so."""
    opens = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        return int(opens(server, address.replace("[::]", "127.0.0.1")))

    replica.add_port_to_grpc_server = on_loopback


def services_from(settings: Settings) -> Services:
    """The doors of a platform whose controller and agents run in the Ray cluster of this process."""
    objects = open_store(settings.storage)

    def stored(workflow_uuid: str, key: AttemptKey, offset: int, limit: int) -> LogChunk:
        return stored_log(objects, workflow_uuid, key, offset, limit)

    key = secrets.key_file(settings.home)
    vault = secrets.load(key)
    store = SqlStore(settings.database, disk_reserve=settings.disk_reserve)
    agents = AskAgents(ClusterSessions(store, key, links.dial))
    return Services(
        store=store,
        settings=settings,
        objects=objects,
        live_logs=agents,
        stored_logs=stored,
        renderer=ProcessRenderer(),
        wake=partial(wake_controller, settings.home),
        parts=platform_parts,
        figures=controller_figures,
        inside=agents,
        preview=agents.preview,
        quota=open_quota(source_of(settings)),
        standings=controller_standings,
        outlook=controller_outlook,
        clusters=controller_clusters,
        arrive=partial(links.arrive, log_level=settings.log_level),
        vault=vault,
        prove=proofs.prove if settings.prove_credentials else None,
        passes=Passes(secrets.read_keys(key)),
        provider=oidc.from_settings(settings),
        gateway_key=gateway_key(settings),
    )


class AskAgents:
    """What replicas ask of agents: logs of running attempts, a look inside them (of pods: of their cluster), and how a
    task would run."""

    def __init__(self, clusters: ClusterSessions) -> None:
        self._agents: dict[str, Any] = {}
        self._clusters = clusters

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        """Part of a log. Raises `BackendUnavailable` when the agent cannot be asked now. The nodes of a registered
        cluster (`lab/node-1`) have none: the controller asks the cluster."""
        try:
            if MARK in node:
                controller = await asyncio.to_thread(ray.get_actor, names.CONTROLLER, names.NAMESPACE)
                asked = controller.logs.remote(key, node, offset, limit, wait)
            else:
                asked = (await self._agent(node)).logs.remote(key, offset, limit, wait)
            chunk: LogChunk = await asyncio.wait_for(asked, wait + _CALL)
            return chunk
        except (RayError, ValueError, TimeoutError, KeyError, FileNotFoundError) as error:
            self._agents.pop(node, None)
            raise BackendUnavailable(f"node {node} cannot be asked for logs: {error}") from error

    async def preview(self, images: Sequence[str]) -> Mapping[str, str]:
        """How tasks of these images would run on the first node that answers."""
        for node in await asyncio.to_thread(_living):
            try:
                agent = await self._agent(node)
                told: Mapping[str, str] = await asyncio.wait_for(agent.preview.remote(list(images)), _CALL)
                return told
            except (RayError, ValueError, TimeoutError):
                self._agents.pop(node, None)
        return {}

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session:
        """A command inside a running attempt. Raises `NotInside`, `BackendUnavailable`."""
        if MARK in node:
            return await (await self._clusters.of(node)).exec(key, node, argv, size, term)
        agent = await self._reach(node)
        return await inside.reached(node, inside.begin_exec(agent, key, tuple(argv), size, term))

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream:
        """A connection to a port of a running attempt. Raises `NotInside`, `BackendUnavailable`."""
        if MARK in node:
            return await (await self._clusters.of(node)).connect(key, node, port, udp=udp)
        agent = await self._reach(node)
        return await inside.reached(node, inside.begin_connect(agent, key, port, udp=udp))

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        """End a hold, or run again in place. Raises `BackendUnavailable`."""
        if MARK in node:
            await (await self._clusters.of(node)).release(key, node, rerun=rerun)
            return
        agent = await self._reach(node)
        await inside.reached(node, agent.release.remote(key, rerun))

    async def _reach(self, node: str) -> Any:
        """An agent that may have come back under another handle since it was last asked."""
        try:
            return await asyncio.to_thread(ray.get_actor, names.agent(node), names.NAMESPACE)
        except (RayError, ValueError) as error:
            raise BackendUnavailable(f"node {node} is not part of the cluster now") from error

    async def _agent(self, node: str) -> Any:
        if node not in self._agents:
            self._agents[node] = await asyncio.to_thread(ray.get_actor, names.agent(node), names.NAMESPACE)
        return self._agents[node]


def _living() -> list[str]:
    return [n["NodeName"] or n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]]


def wake_controller(home: Path) -> None:
    """Tell the controller that something was committed; it looks by itself a moment later anyway."""
    if wakeup.ring(home, "wake"):
        return
    try:
        ray.get_actor(names.CONTROLLER, names.NAMESPACE).wake.remote()
    except (RayError, ValueError):
        return


async def controller_figures() -> Mapping[str, float]:
    """The controller's counters and sizes; nothing when it does not answer."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, names.CONTROLLER, names.NAMESPACE)
        health = await asyncio.wait_for(actor.health.remote(), _CALL)
    except (RayError, ValueError, TimeoutError):
        return {}
    return {**health.counts, "live_workflows": health.live, "nodes": health.nodes, "epoch": health.epoch}


async def controller_clusters() -> Mapping[str, str]:
    """Registered clusters, and why each does not answer; nothing when the controller does not."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, names.CONTROLLER, names.NAMESPACE)
        found: Mapping[str, str] = (await asyncio.wait_for(actor.health.remote(), _CALL)).clusters
        return found
    except (RayError, ValueError, TimeoutError):
        return {}


async def controller_standings() -> Sequence[Standing]:
    """What each queue had in the controller's newest cycle; nothing when it does not answer."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, names.CONTROLLER, names.NAMESPACE)
        found: Sequence[Standing] = await asyncio.wait_for(actor.standings.remote(), _CALL)
        return found
    except (RayError, ValueError, TimeoutError, AttributeError):  # the last: it is of a version before this
        return ()


async def controller_outlook(uuid: str) -> Mapping[str, Outlook]:
    """What the controller expects of a workflow's waiting groups; nothing when it does not answer in time."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, names.CONTROLLER, names.NAMESPACE)
        found: Mapping[str, Outlook] = await asyncio.wait_for(actor.outlook.remote(uuid), _CALL)
        return found
    except (RayError, ValueError, TimeoutError, AttributeError):
        return {}


async def platform_parts() -> Mapping[str, Part]:
    """The controller and what it sees."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, names.CONTROLLER, names.NAMESPACE)
        health = await asyncio.wait_for(actor.health.remote(), _CALL)
    except (RayError, ValueError, TimeoutError) as error:
        return {"controller": Part(False, f"does not answer: {type(error).__name__}")}
    role = f"leads (epoch {health.epoch})" if health.leading else "does not lead yet"
    text = f"{role}, {health.live} unfinished workflows, pid {health.pid}"
    return {
        "controller": Part(bool(health.leading), text, {"leading": health.leading, "epoch": health.epoch}),
        "nodes": Part(health.nodes > 0, f"{health.nodes} alive"),
        "quotas": quota_part(health.quota_error, health.quota_queues),
    }


def quota_part(error: str, queues: int | None) -> Part:
    """Quotas in one line. Told, but never a reason to take the API away: it serves, and what was in force stays so."""
    facts: dict[str, object] = {"queues": queues, "stale": bool(error), "error": error}
    if not error:
        return Part(True, "none set" if queues is None else f"{queues} queues", facts)
    if queues is None:
        return Part(True, f"NONE IN FORCE, work runs without: {error}", facts)
    return Part(True, f"STALE, {f'{queues} queues stay in force' if queues else 'work waits'}: {error}", facts)
