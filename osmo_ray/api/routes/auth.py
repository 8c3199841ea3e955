"""How to log in: what is there, access tokens, and the short-lived passes that clients trade them for."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from osmo_ray.api.errors import ApiError
from osmo_ray.api.nouns import AccessToken, LoginInfo, PassView, TokenEntry, TokenRole, TokenRoles
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import stamp
from osmo_ray.api.signin import is_session
from osmo_ray.providers.oidc import Endpoints, OidcSettings, ProviderAway
from osmo_ray.providers.passes import Passes
from osmo_ray.store.protocol import Token

MAX_LIFE = 365 * 86400.0
_NAME = re.compile(r"[a-zA-Z]([a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}|[0-9a-f]{64}")


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["auth"])
    store = services.store

    @router.get("/api/auth/login")
    async def login() -> LoginInfo:
        if services.provider is None:
            return LoginInfo()
        return _login_info(services.provider.settings, await signin_endpoints(services))

    @router.get("/api/auth/keys")
    async def keys() -> dict[str, Any]:
        return services.passes.public() if services.passes else {"keys": []}

    @router.post("/api/auth/jwt/access_token")
    def trade(body: AccessToken) -> PassView:
        return _trade(services, body.token)

    @router.get("/api/auth/jwt/access_token")
    def trade_by_query(access_token: str) -> PassView:
        return _trade(services, access_token)

    @router.get("/api/auth/access_token")
    def list_tokens(user: User) -> list[TokenEntry]:
        return listed(services, user.user)

    @router.post("/api/auth/access_token/{token_name}")
    def create_token(
        token_name: str,
        user: User,
        expires_at: str,
        description: str = "",
        roles: Annotated[list[str] | None, Query()] = None,
    ) -> str:
        return create(services, user.user, user.roles, token_name, expires_at, description, roles)

    @router.delete("/api/auth/access_token/{token_name}")
    def delete_token(token_name: str, user: User) -> None:
        if not store.delete_token(user.user, token_name):
            raise ApiError(f"There is no token {token_name[:80]!r}.")

    @router.get("/api/auth/access_token/{token_name}/roles")
    def token_roles(token_name: str, user: User) -> TokenRoles:
        found = next((t for t in store.tokens(user.user) if t.name == token_name), None)
        if found is None:
            raise ApiError(f"There is no token {token_name[:80]!r}.")
        listed = [TokenRole(role_name=r, assigned_by=user.user, assigned_at="") for r in found.roles]
        return TokenRoles(user_name=user.user, token_name=found.name, roles=listed)

    return router


def listed(services: Services, user: str) -> list[TokenEntry]:
    return [_entry(t) for t in services.store.tokens(user) if not is_session(t)]


def create(
    services: Services,
    user: str,
    has: Sequence[str],
    name: str,
    expires_at: str,
    description: str,
    roles: Sequence[str] | None,
) -> str:
    """A token for a user who has these roles; shown once. Raises `ApiError`."""
    if not _NAME.fullmatch(name) or len(name) > 128:
        raise ApiError(f"{name[:80]!r} is not a token's name: letters, digits, - and _, a letter first.")
    until = _until(expires_at, services.clock())
    missing = [r for r in roles or () if r not in has]
    if missing:
        raise ApiError(f"{user} does not have the role {missing[0][:80]!r}, so a token cannot have it.")
    given = tuple(roles or has)
    if not given:
        raise ApiError(f"{user} has no role, and a token needs one; give one first: osmo user update {user}.")
    if any(t.name == name for t in services.store.tokens(user)):
        raise ApiError(f"There is a token {name} already; delete it first.")
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    services.store.save_token(Token(name, user, digest, until, given, description[:1000]))
    return secret


async def signin_endpoints(services: Services) -> Endpoints:
    """Where the provider is asked for what. Raises `ApiError`."""
    if services.provider is None:
        raise ApiError("This platform has no identity provider (setting oidc_issuer).")
    try:
        return await services.provider.endpoints()
    except ProviderAway as error:
        raise ApiError(f"Nobody can log in now: {error}.", "OSMO_ERROR", 503) from None


def _login_info(settings: OidcSettings, found: Endpoints) -> LoginInfo:
    device = settings.device_client_id or settings.client_id
    return LoginInfo(
        device_endpoint=found.device or None,
        device_client_id=device,
        browser_endpoint=found.authorization,
        browser_client_id=settings.client_id,
        token_endpoint=found.token,
        logout_endpoint=found.logout or None,
    )


def _passes(services: Services) -> Passes:
    if services.passes is None:
        raise ApiError("This platform has no key to sign with (OSMO_SECRET_KEY_FILE).", status=503)
    return services.passes


def _trade(services: Services, secret: str) -> PassView:
    if not _TOKEN.fullmatch(secret):
        raise ApiError("That is not an access token: those have 43 characters.")
    now = services.clock()
    token = services.store.token(hashlib.sha256(secret.encode()).hexdigest())
    if token is None or token.expires <= now or is_session(token):
        raise ApiError("The access token is unknown or has expired; make a new one with: osmo token set NAME.")
    made, until = _passes(services).sign(token.user, token.name, token.roles, now)
    return PassView(token=made, expires_at=until)


def _until(text: str, now: float) -> float:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ApiError(f"expires_at: {text[:40]!r} is not a date; write for example 2026-12-31.") from None
    if not now < day <= now + MAX_LIFE:
        raise ApiError("expires_at must be a day in the future, at most 365 days from now.")
    return day


def _entry(token: Token) -> TokenEntry:
    return TokenEntry(
        user_name=token.user,
        token_name=token.name,
        expires_at=stamp(token.expires),
        description=token.description,
        roles=list(token.roles),
    )
