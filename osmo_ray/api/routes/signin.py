"""Signing in with a browser: to the provider and back (authorization code with PKCE), and signing out.

What a login must remember between its two halves is in a cookie of the browser that began it, so any replica can end
it, and nobody else's browser can.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from osmo_ray.api.errors import ApiError
from osmo_ray.api.middleware import SIGN_IN, cookie, cookie_name
from osmo_ray.api.nouns import SignedOut
from osmo_ray.api.routes.auth import signin_endpoints
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.api.signin import People, is_session
from osmo_ray.providers.oidc import BadToken, Identity, Provider, ProviderAway

CALLBACK = f"{SIGN_IN}/callback"
_LOGIN = "osmo_login"
_LIFE = 600
"""Seconds that somebody may take to sign in."""
_LOCAL = re.compile(r"/(?![/\\])[^\\\s\x00-\x1f]*")
_MOVED: dict[int | str, dict[str, Any]] = {302: {"description": "Where to go on."}}


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["auth"])
    people = People(services)
    address = services.settings.address

    @router.get(SIGN_IN, status_code=302, response_class=RedirectResponse, responses=_MOVED)
    async def sign_in(next: str = "/") -> Response:
        await signin_endpoints(services)
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        target = await _provider(services).authorize(address + CALLBACK, state, nonce, challenge)
        answer = RedirectResponse(target, 302, {"cache-control": "no-store"})
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "next": next if _LOCAL.fullmatch(next) else "/"}
        _keep(answer, address, _LOGIN, _pack(kept), _LIFE)
        return answer

    @router.get(CALLBACK, status_code=302, response_class=RedirectResponse, responses=_MOVED)
    async def signed_in(
        request: Request, code: str = "", state: str = "", error: str = "", error_description: str = "", iss: str = ""
    ) -> Response:
        provider = _provider(services)
        kept = _unpack(cookie({"cookie": request.headers.get("cookie", "")}, cookie_name(address, _LOGIN)))
        if not state or not hmac.compare_digest(kept.get("state", "").encode(), state.encode()):
            raise ApiError(f"This login was not begun by this browser, or long ago; begin again at {address}{SIGN_IN}")
        if error:
            raise ApiError(f"The identity provider refuses: {error_description or error}"[:300], status=403)
        if iss and iss != provider.settings.issuer:
            raise ApiError("Another provider has answered; nothing was signed in.", status=403)
        identity = await _redeem(provider, code, kept, address)
        try:
            roles = await asyncio.to_thread(people.admit, identity)
        except BadToken as refused:
            raise ApiError(f"The login is not accepted: {refused}.", status=403) from None
        secret = await asyncio.to_thread(people.begin, identity.user, roles)
        answer = RedirectResponse(kept["next"], 302, {"cache-control": "no-store"})
        _keep(answer, address, "osmo_session", secret, int(services.settings.oidc_session))
        _keep(answer, address, _LOGIN, "", 0)
        return answer

    @router.post("/api/x/logout")
    async def sign_out(response: Response, user: User) -> SignedOut:
        if user.token is not None and is_session(user.token):
            await asyncio.to_thread(services.store.delete_token, user.user, user.token.name)
        _keep(response, address, "osmo_session", "", 0)
        return SignedOut(provider_logout=await _logout_page(services))

    return router


async def _logout_page(services: Services) -> str | None:
    """Where the provider's own session can be ended. A provider that is away keeps nobody signed in here."""
    if services.provider is None:
        return None
    try:
        page = (await services.provider.endpoints()).logout
    except ProviderAway:
        return None
    return f"{page}?{urlencode({'client_id': services.provider.settings.client_id})}" if page else None


async def _redeem(provider: Provider, code: str, kept: dict[str, str], address: str) -> Identity:
    try:
        return await provider.redeem(code, kept["verifier"], address + CALLBACK, kept["nonce"])
    except BadToken as error:
        raise ApiError(f"The login is not accepted: {error}.", status=403) from None
    except ProviderAway as error:
        raise ApiError(f"Nobody can log in now: {error}.", "OSMO_ERROR", 503) from None


def _provider(services: Services) -> Provider:
    if services.provider is None:
        raise ApiError("This platform has no identity provider (setting oidc_issuer).")
    return services.provider


def _keep(answer: Response, address: str, name: str, value: str, life: int) -> None:
    """A cookie that no script reads and no other site's form sends; over https never without it."""
    secure = address.startswith("https:")
    answer.set_cookie(cookie_name(address, name), value, life, path="/", secure=secure, httponly=True, samesite="lax")


def _pack(value: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def _unpack(text: str) -> dict[str, str]:
    """What `_pack` made, all of it; empty for anything else."""
    try:
        value = json.loads(base64.urlsafe_b64decode(text))
    except ValueError:
        return {}
    wanted = ("state", "nonce", "verifier", "next")
    whole = isinstance(value, dict) and all(isinstance(value.get(name), str) for name in wanted)
    return value if whole and _LOCAL.fullmatch(value["next"]) else {}
