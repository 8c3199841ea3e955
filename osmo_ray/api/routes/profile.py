"""A person's own settings."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter
from pydantic import ConfigDict

from osmo_ray.api.errors import ApiError
from osmo_ray.api.nouns import ProfileSettings, ProfileView, TokenView
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Shape, stamp
from osmo_ray.api.submission import check_pool, pool_names

NOTICE_DAYS = 2 * 86400.0
"""Seconds for which the end of a workflow could still be announced, and more."""
_CHANNELS = {"email_notification": "mail", "slack_notification": "hook"}


class ProfileChange(Shape):
    """Any of the fields of a profile; those left out stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pool": "default"}]})

    username: str | None = None
    email_notification: bool | None = None
    slack_notification: bool | None = None
    bucket: str | None = None
    pool: str | None = None


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["profile"])

    @router.get("/api/profile/settings")
    def read(user: User) -> ProfileSettings:
        profile = services.store.profile(user.user)
        held = user.token
        return ProfileSettings(
            profile=ProfileView(
                username=user.user,
                email_notification=profile.email_notification,
                slack_notification=profile.slack_notification,
                bucket=profile.bucket or None,
                pool=profile.pool or services.settings.pool,
            ),
            roles=list(user.roles),
            pools=pool_names(services),
            token=TokenView(name=held.name, expires_at=stamp(held.expires)) if held else None,
        )

    @router.post("/api/profile/settings")
    def write(user: User, body: ProfileChange, set_default_backend: bool = False) -> None:
        if body.pool is not None:
            check_pool(services, body.pool)
        if body.bucket:
            raise ApiError(f"There is no bucket {body.bucket[:80]!r}; this platform has none.")
        changes = {k: v for k, v in body.model_dump().items() if v is not None and k != "username"}
        before = services.store.profile(user.user)
        since = services.clock() - NOTICE_DAYS
        for field, channel in _CHANNELS.items():
            if changes.get(field) and not getattr(before, field):
                services.store.mute(user.user, channel, since)
        services.store.save_profile(replace(before, **changes))

    return router
