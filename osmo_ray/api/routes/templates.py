"""Pod templates: parts of a pod that the pods of a pool's tasks are merged over, where a pool runs on Kubernetes.

A pool names them in `common_pod_template`, a platform of it in `override_pod_template`; what the platform itself writes
of a pod is laid over all of them, so no template can take away what a task needs or reach its secrets' container.
"""

from __future__ import annotations

from fastapi import APIRouter

from osmo_ray.api import configs
from osmo_ray.api.configs import Change
from osmo_ray.api.errors import ApiError
from osmo_ray.api.grounds import POOL
from osmo_ray.api.people import Configs
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.control.templates import POD_TEMPLATE


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["config"], prefix="/api/configs/pod_template")

    @router.get("")
    def read_all() -> configs.Body:
        return configs.body(services, POD_TEMPLATE)

    @router.put("")
    def write_all(body: Configs, caller: User) -> None:
        wanted = configs.mapping(body)
        for name in configs.body(services, POD_TEMPLATE):
            if name not in wanted:
                _unused(services, name)
        configs.change(services, POD_TEMPLATE, caller.user, body, configs.put(wanted))

    @router.get("/{name}")
    def read_one(name: str) -> configs.Body:
        return dict(configs.there(configs.body(services, POD_TEMPLATE), "pod template", name))

    @router.put("/{name}")
    def write_one(name: str, body: Configs, caller: User) -> None:
        wanted = configs.mapping(body)
        configs.change(services, POD_TEMPLATE, caller.user, body, lambda old: old.update({name: wanted}), name)

    @router.delete("/{name}")
    def delete_one(name: str, caller: User, body: Change | None = None) -> None:
        _unused(services, name)

        def edit(old: configs.Body) -> None:
            configs.there(old, "pod template", name)
            del old[name]

        configs.change(services, POD_TEMPLATE, caller.user, body or Change(), edit, name)

    return router


def _unused(services: Services, name: str) -> None:
    for pool, value in configs.body(services, POOL).items():
        if name in configs.templates_of(value):
            raise ApiError(f"Pool {pool} uses the pod template {name}; take it out there first.", "USAGE")
