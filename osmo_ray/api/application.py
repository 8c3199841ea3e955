"""The application: every route over one set of services.

A replica of Ray Serve hosts it in production (`app.py`), plain uvicorn in tests; it is the same object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware import Middleware

from osmo_ray import __version__
from osmo_ray.api import errors
from osmo_ray.api.access import Access, check
from osmo_ray.api.gateway import gateway
from osmo_ray.api.metrics import Metrics
from osmo_ray.api.middleware import Gate
from osmo_ray.api.routes import (
    apps,
    auth,
    backends,
    buckets,
    code,
    configs,
    credentials,
    datasets,
    extra,
    inside,
    lineage,
    outputs,
    page,
    pools,
    profile,
    queues,
    service,
    signin,
    standing,
    streams,
    tasks,
    templates,
    users,
    workflows,
)
from osmo_ray.api.services import Services

Beside = Callable[[FastAPI], AbstractAsyncContextManager[None]]
"""What is open while the application is."""


_PARTS = (
    *(auth, signin, users, workflows, streams, tasks, pools, profile, credentials, apps, outputs, code, extra, inside),
    *(backends, datasets, lineage, buckets, configs, templates, standing, queues, page),
)


def build(services: Services, beside: Beside = lambda app: nullcontext()) -> FastAPI:
    """The application over `services`. It holds nothing else but its metrics."""
    metrics = Metrics()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with beside(app):
            yield
        close = getattr(services.renderer, "close", None)
        if close is not None:
            close()

    app = FastAPI(
        title="osmo-ray",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere; the description itself is enough
        redoc_url=None,
        lifespan=life,
        responses=errors.DOCUMENTED,
        middleware=[Middleware(Gate, services=services, metrics=metrics)],
    )
    errors.install(app)
    guard = Depends(Access(services))
    for router in _routers(services, metrics):
        check(router.routes)
        app.include_router(router, dependencies=[guard])
    return app


def _routers(services: Services, metrics: Metrics) -> Iterator[APIRouter]:
    """All there are: whatever is not among them is not part of the application."""
    yield service.routes(services, metrics)
    if services.gateway_key:
        yield gateway(services.objects, services.gateway_key)
    for part in _PARTS:
        yield part.routes(services)
