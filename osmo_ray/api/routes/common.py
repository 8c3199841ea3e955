"""What routes share: who asks, and the address that they used."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from osmo_ray.api.middleware import Caller
from osmo_ray.api.views import Links


async def _caller(request: Request) -> Caller:
    found: Caller = request.scope["caller"]
    return found


async def _links(request: Request) -> Links:
    return Links(str(request.base_url).rstrip("/"))


User = Annotated[Caller, Depends(_caller)]
Base = Annotated[Links, Depends(_links)]
