"""Configuration that is the process's own, in the contract's shape: to read here, to write in `config.yaml`.

Service, workflow and dataset settings stand in a file beside the platform, where they are reviewed, deployed and rolled
back like everything else of it; a call that would write them says so. Registered clusters are read here as backends.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from osmo_ray.api import configs
from osmo_ray.api.configs import Merged, NewName
from osmo_ray.api.errors import ApiError
from osmo_ray.api.people import Configs
from osmo_ray.api.routes.backends import BackendView, views
from osmo_ray.api.services import Services
from osmo_ray.spec.quantity import show_seconds

_NONE = {
    "group_template": "There are no group templates here: a group is no object of a cluster. Pod templates there are.",
    "backend_test": "There are no backend tests here: osmo doctor and osmo backend list say what is wrong.",
}
_HIDDEN = "**********"


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["config"], prefix="/api/configs")
    for name, read in (("service", _service), ("workflow", _workflow), ("dataset", _dataset)):
        _section(router, services, name, read)

    for name, why in _NONE.items():
        _empty(router, name, why)

    @router.put("/pool/{name}/rename")
    def rename_pool(name: str, body: NewName) -> None:
        where = "in what registers its backend and in its queue"
        raise ApiError(f"A pool's name stands {where}; give {name[:80]} another name there.", "USAGE")

    @router.get("/backend")
    def backends() -> dict[str, list[configs.Body]]:
        return {"backends": [_backend(services, view) for view in views(services)]}

    @router.get("/backend/{name}")
    def backend(name: str) -> configs.Body:
        found = {view.name: view for view in views(services)}
        return _backend(services, configs.there(found, "backend", name))

    return router


def _section(router: APIRouter, services: Services, name: str, read: Any) -> None:
    def shown() -> configs.Body:
        found: configs.Body = read(services)
        return found

    def write(body: Configs) -> configs.Body:
        raise _elsewhere(name)

    def merge(body: Merged) -> configs.Body:
        raise _elsewhere(name)

    router.add_api_route(f"/{name}", shown, methods=["GET"], name=f"read_{name}")
    router.add_api_route(f"/{name}", write, methods=["PUT"], name=f"write_{name}")
    router.add_api_route(f"/{name}", merge, methods=["PATCH"], name=f"merge_{name}")


def _empty(router: APIRouter, name: str, why: str) -> None:
    """A section of the contract of which there is nothing here."""

    def shown() -> configs.Body:
        return {}

    def write(body: Configs) -> None:
        raise ApiError(why, "USAGE")

    router.add_api_route(f"/{name}", shown, methods=["GET"], name=f"read_{name}")
    router.add_api_route(f"/{name}", write, methods=["PUT"], name=f"write_{name}")


def _elsewhere(name: str) -> ApiError:
    where = "its config.yaml or environment (docs/configuration.md) and hold from its next start"
    return ApiError(f"The {name} settings of this platform stand in {where}.", "USAGE")


def _service(services: Services) -> configs.Body:
    settings = services.settings
    login = {"issuer": settings.oidc_issuer, "client_id": settings.oidc_client_id} if settings.oidc_issuer else None
    return {
        "service_base_url": settings.public_url or f"http://{settings.host}:{settings.port}",
        "service_auth": {"login_info": login},
        "cli_config": {
            "latest_version": settings.latest_client or None,
            "min_supported_version": settings.min_client or None,
        },
    }


def _workflow(services: Services) -> configs.Body:
    settings = services.settings
    return {
        "workflow_info": {"tags": [tag.strip() for tag in settings.tags.split(",") if tag.strip()]},
        "workflow_alerts": {
            "smtp_settings": {"host": settings.mail_host, "sender": settings.mail_sender, "password": _HIDDEN}
            if settings.mail_host
            else None
        },
        "credential_config": {
            "disable_registry_validation": not settings.prove_credentials,
            "disable_data_validation": not settings.prove_credentials,
        },
        "user_workflow_limits": {
            "max_num_workflows": settings.max_user_workflows or None,
            "max_num_tasks": settings.max_user_tasks or None,
        },
        "max_num_tasks": settings.max_tasks,
        "max_retry_per_task": settings.task_retries,
        "max_retry_per_job": settings.platform_retries,
        "max_exec_timeout": show_seconds(settings.exec_timeout),
        "max_queue_timeout": show_seconds(settings.queue_timeout),
        "force_cleanup_delay": show_seconds(settings.cancel_grace),
    }


def _dataset(services: Services) -> configs.Body:
    found = services.buckets.places
    return {
        "buckets": {
            place.name: {
                "dataset_path": place.path,
                "region": place.region,
                "description": place.description,
                "mode": place.mode,
                "default_credential": _HIDDEN if place.credential_file else None,
            }
            for place in found.values()
        },
        "default_bucket": services.settings.default_bucket,
    }


def _backend(services: Services, view: BackendView) -> configs.Body:
    return {
        "name": view.name,
        "description": view.kind,
        "online": view.status == "ONLINE",
        "pools": view.pools,
        "nodes": view.nodes,
        "scheduler_settings": {"scheduler_type": "osmo-ray", "scheduler_name": "osmo-ray"},
        "tests": [],
        "reasons": view.reasons,
    }
