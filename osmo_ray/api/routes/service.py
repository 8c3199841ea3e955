"""The service itself: version, health, metrics, how to log in."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from osmo_ray import __version__
from osmo_ray.api.metrics import Metrics
from osmo_ray.api.nouns import Version
from osmo_ray.api.routes.common import Text
from osmo_ray.api.services import Part, Services
from osmo_ray.api.standing import NODE_SILENT
from osmo_ray.store.protocol import StoreError, WorkflowQuery


def _shown(part: Part) -> dict[str, object]:
    return {"healthy": part.healthy, "text": part.text, **part.facts}


def version() -> Version:
    """The four fields clients expect, all text."""
    return _parts(__version__.partition("+")[0])


def _parts(text: str) -> Version:
    major, minor, revision = [*text.split("."), "0", "0"][:3]
    return Version(major=major, minor=minor, revision=revision, hash="")


def allowed_tags(services: Services) -> list[str]:
    """Tags that workflows may get; empty: any."""
    return [tag.strip() for tag in services.settings.tags.split(",") if tag.strip()]


def routes(services: Services, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/api/version")
    @router.get("/api/router/version")
    async def read_version() -> Version:
        return version()

    @router.get("/client/version", response_model=Version, responses={200: {"content": {"text/plain": {}}}})
    async def client_version(request: Request) -> Response:
        """As text for scripts that ask for text."""
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse(services.settings.latest_client)
        return JSONResponse(_parts(services.settings.latest_client).model_dump())

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "OK"}

    @router.get(
        "/ready",
        responses={503: {"description": "Some part is not well.", "content": {"application/json": {"schema": {}}}}},
    )
    async def ready() -> Response:
        parts = {"api": Part(True, f"answers, version {__version__}"), **await services.parts()}
        try:
            await asyncio.to_thread(services.store.ping)
        except StoreError as error:
            parts["database"] = Part(False, str(error))
        well = all(part.healthy for part in parts.values())
        shown = {"ready": well, "parts": {name: _shown(part) for name, part in parts.items()}}
        return JSONResponse(shown, 200 if well else 503)

    @router.get("/metrics", response_class=Text)
    async def read_metrics() -> Response:
        now = services.clock()
        reports = await asyncio.to_thread(services.store.nodes)
        alive = [report.alive and now - at < NODE_SILENT for _, at, report in reports]
        nodes = {"alive": sum(alive), "silent": len(alive) - sum(alive)}
        counts = await asyncio.to_thread(services.store.count_by_status)
        text = metrics.text(counts, nodes, await services.figures())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/api/tag")
    async def tags() -> dict[str, list[str]]:
        return {"tags": allowed_tags(services)}

    @router.get("/api/plugins/configs")
    async def plugins() -> dict[str, dict[str, object]]:
        return {
            "rsync": {
                "enabled": True,
                "enable_telemetry": False,
                "read_bandwidth_limit": 2_621_440,
                "write_bandwidth_limit": 2_621_440,
                "allowed_paths": {},
                "daemon_debounce_delay": 30.0,
                "daemon_poll_interval": 120.0,
                "daemon_reconcile_interval": 60.0,
                "client_upload_rate_limit": 2_621_440,
            }
        }

    @router.get("/api/users")
    def users() -> list[str]:
        begin = services.clock() - 90 * 86400
        rows, _ = services.store.list_workflows(WorkflowQuery(submitted_after=begin, limit=1000, descending=True))
        return sorted({row.user for row in rows})

    return router
