"""The application: every route over one set of services.

Ray Serve hosts it in production (`app.py`), uvicorn in tests; it is the same object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware import Middleware

from osmo_ray import __version__
from osmo_ray.api import errors
from osmo_ray.api.gateway import gateway
from osmo_ray.api.metrics import Metrics
from osmo_ray.api.middleware import Gate
from osmo_ray.api.routes import backends, code, extra, outputs, page, pools, profile, service, streams, tasks, workflows
from osmo_ray.api.services import Services


def build(services: Services) -> FastAPI:
    """The application over `services`. It holds nothing else but its metrics."""
    metrics = Metrics()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
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
        middleware=[Middleware(Gate, services=services, metrics=metrics)],
    )
    errors.install(app)
    app.include_router(service.routes(services, metrics))
    if services.gateway_key:
        app.include_router(gateway(services.objects, services.gateway_key))
    for part in (workflows, streams, tasks, pools, profile, outputs, code, extra, backends, page):
        app.include_router(part.routes(services))
    return app
