"""A person's own settings."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter

from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Shape, stamp
from osmo_ray.api.submission import check_pool


class ProfileChange(Shape):
    """Any of the fields of a profile; those left out stay."""

    username: str | None = None
    email_notification: bool | None = None
    slack_notification: bool | None = None
    bucket: str | None = None
    pool: str | None = None


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["profile"])

    @router.get("/api/profile/settings")
    def read(user: User) -> dict[str, Any]:
        profile = services.store.profile(user.user)
        shown = {k: v for k, v in asdict(profile).items() if k != "user"}
        shown |= {
            "username": user.user,
            "pool": profile.pool or services.settings.pool,
            "bucket": profile.bucket or None,
        }
        token = user.token and {"name": user.token.name, "expires_at": stamp(user.token.expires)}
        return {
            "profile": shown,
            "roles": list(user.roles),
            "pools": [services.settings.pool],
            "token": token,
        }

    @router.post("/api/profile/settings")
    def write(user: User, body: ProfileChange, set_default_backend: bool = False) -> None:
        if body.pool is not None:
            check_pool(services, body.pool)
        changes = {k: v for k, v in body.model_dump().items() if v is not None and k != "username"}
        services.store.save_profile(replace(services.store.profile(user.user), **changes))

    return router
