"""What routes share: who asks, the address that they used, lists, pages and times of queries."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from osmo_ray.api.caller import Caller
from osmo_ray.api.errors import ApiError
from osmo_ray.api.shapes import moment
from osmo_ray.api.views import Links

MAX_PAGE = 1000
MAX_OFFSET = 10**9


class Text(Response):
    """What a route says it answers with, for the description of the API."""

    media_type = "text/plain"


class Yaml(Text):
    media_type = "application/yaml"


class Tar(Text):
    media_type = "application/x-tar"


class Bytes(Text):
    media_type = "application/octet-stream"


async def _caller(request: Request) -> Caller:
    found: Caller = request.scope["caller"]
    return found


async def _links(request: Request) -> Links:
    return Links(str(request.base_url).rstrip("/"))


User = Annotated[Caller, Depends(_caller)]
Base = Annotated[Links, Depends(_links)]
Many = Annotated[list[str] | None, Query()]
Whole = Annotated[int | None, Query(ge=0, le=2**31 - 1)]
"""A number that every database takes."""


def parse_moment(name: str, text: str | None) -> float | None:
    """A time of a query. Raises `ApiError`."""
    try:
        return moment(text)
    except (ValueError, OverflowError):
        raise ApiError(f"{name}: {text!r} is not a time; write for example 2026-01-31T12:00:00 (UTC).") from None


def page(offset: int, limit: int, most: int = MAX_PAGE) -> None:
    """Raises `ApiError` for a page that cannot be."""
    if not 0 <= offset <= MAX_OFFSET or limit < 1 or limit > most:
        raise ApiError(f"limit must be 1 to {most} and offset not negative.")
