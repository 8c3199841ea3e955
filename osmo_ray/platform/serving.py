"""The control plane in a Ray cluster that somebody else keeps, such as KubeRay: there Ray Serve is the keeper.

`serve deploy serve/config.yaml`, or a RayService, starts the API and beside it this deployment of one replica, which
brings schema and controller up and then only looks whether the controller lives. When it does not, the replica says it
is unhealthy, Serve makes a new one, and that puts back what is missing. It is safe to repeat and to race.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray._private.worker import get_dashboard_url
from ray.exceptions import RayError

from osmo_ray import settings as settings_room
from osmo_ray.backends.ray import names
from osmo_ray.backends.ray.programs import Cluster
from osmo_ray.logs import configure
from osmo_ray.platform import prepare
from osmo_ray.platform.bring_up import ensure_controller
from osmo_ray.settings import Settings

_HEAD = "node:__internal_head__"
_LIMIT = 20.0
_PERIOD = 10.0


def build(args: Mapping[str, str]) -> serve.Application:
    """The Serve application; it has no route and takes no arguments. It runs on the head, where the administrator's
    first token is then found."""
    deployment = serve.deployment(
        name="keeper",
        num_replicas=1,
        health_check_period_s=_PERIOD,
        health_check_timeout_s=_LIMIT + _PERIOD,
        graceful_shutdown_timeout_s=1,
        ray_actor_options={"num_cpus": 0, "resources": {_HEAD: 0.001}},
    )
    return deployment(Keeper).bind()


class Keeper:
    """Puts the controller into this Ray cluster, and watches it."""

    def __init__(self) -> None:
        settings = settings_room.load()
        configure(settings.log_level)
        prepare.main()
        bring_up(settings)

    async def check_health(self) -> None:
        """Raises while the controller does not answer."""
        try:
            actor = await asyncio.to_thread(ray.get_actor, names.CONTROLLER, names.NAMESPACE)
            await asyncio.wait_for(actor.health.remote(), _LIMIT)
        except (RayError, ValueError, TimeoutError) as error:
            raise RuntimeError(f"the controller does not answer: {type(error).__name__}") from error


def bring_up(settings: Settings) -> None:
    """The controller's actor, made where it is missing; one that is there and does not answer is started anew."""
    try:
        actor = ray.get_actor(names.CONTROLLER, names.NAMESPACE)
        ray.get(actor.health.remote(), timeout=_LIMIT)
    except ray.exceptions.GetTimeoutError:
        ray.kill(actor, no_restart=False)
    except (RayError, ValueError):
        address = ray.get_runtime_context().gcs_address
        ensure_controller(settings, head_of(ray.nodes()), Cluster(f"http://{get_dashboard_url()}", address))


def head_of(nodes: list[dict[str, Any]]) -> str:
    """The name of the living head among Ray's nodes. Raises LookupError."""
    for node in nodes:
        if node["Alive"] and _HEAD in node["Resources"]:
            return str(node["NodeName"] or node["NodeManagerAddress"])
    raise LookupError("this Ray cluster has no head that lives")
