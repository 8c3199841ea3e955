"""People who come from an identity provider: their place among the users, and their browsers' sessions.

Whoever the provider vouches for is written down as a user with the roles that the provider's words stand for, so that
access tokens, other replicas and administrators see the same person. Roles that came so are taken back when the
provider no longer says them; those that an administrator gave stay. A session is a row like an access token, under a
name that no token can have; its secret is in a cookie that no script reads.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from osmo_ray.api.access import all_roles
from osmo_ray.api.caller import Caller
from osmo_ray.api.services import Services
from osmo_ray.providers.oidc import BadToken, Identity
from osmo_ray.spec.roles import USER
from osmo_ray.store.protocol import Assigned, Token
from osmo_ray.store.protocol import User as Person

PROVIDER = "(identity provider)"
"""Who gave the roles that came with a login: no user can be called so."""
SESSION = "~"
"""How names of sessions begin: no access token can be called so."""
_FRESH = 60.0
"""Seconds for which it is remembered that somebody's row agrees with the provider's words."""
_MOST = 10_000


class People:
    """Users as the provider's tokens name them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._seen: dict[tuple[str, tuple[str, ...]], float] = {}

    async def caller(self, token: str) -> Caller:
        """Who shows this token of the provider. Raises `BadToken`, `ProviderAway`."""
        provider = self._services.provider
        if provider is None:
            raise BadToken("this platform has no identity provider")
        identity = await provider.verify(token)
        return Caller(identity.user, await asyncio.to_thread(self.admit, identity), "provider")

    def admit(self, identity: Identity) -> tuple[str, ...]:
        """Write down who that is, unless it stands there already, and say which roles it has. Raises `BadToken`."""
        if not USER.fullmatch(identity.user):
            raise BadToken(f"{identity.user[:80]!r} cannot be a user's name here: letters, digits, and _ . @ - inside")
        roles = self._roles(identity)
        key = (identity.user, roles)
        if time.monotonic() - self._seen.get(key, float("-inf")) > _FRESH:
            if len(self._seen) > _MOST:
                self._seen.clear()
            _write(self._services, identity.user, roles)
            self._seen = {k: at for k, at in self._seen.items() if k[0] != identity.user} | {key: time.monotonic()}
        return tuple(a.role for a in self._services.store.roles_of(identity.user))

    def begin(self, user: str, roles: tuple[str, ...]) -> str:
        """A session of a browser; its secret."""
        services = self._services
        now, secret = services.clock(), secrets.token_urlsafe(32)
        for old in services.store.tokens(user):
            if old.name.startswith(SESSION) and old.expires <= now:
                services.store.delete_token(user, old.name)
        until = now + services.settings.oidc_session
        services.store.save_token(Token(SESSION + secrets.token_hex(8), user, _digest(secret), until, roles, "browser"))
        return secret

    def session(self, secret: str) -> Token | None:
        """The session of a cookie, if it is one and has not ended."""
        found = self._services.store.token(_digest(secret))
        return found if found and found.name.startswith(SESSION) and found.expires > self._services.clock() else None

    def _roles(self, identity: Identity) -> tuple[str, ...]:
        provider = self._services.provider
        mapped: Mapping[str, tuple[str, ...]] = (provider.settings.role_map if provider else None) or {}
        known = all_roles(self._services)
        given = {role for name in ("*", *identity.groups) for role in mapped.get(name, ())}
        given |= {role.name for role in known.values() if set(role.external) & set(identity.groups)}
        return tuple(sorted(given & known.keys()))


def is_session(token: Token) -> bool:
    return token.name.startswith(SESSION)


def foreign(scope_headers: Mapping[str, str], address: str) -> str:
    """Why a request with a cookie did not come from a page of this platform, or nothing. Browsers name the page that
    sends in `Origin`; a request that changes something without that name is refused."""
    origin = scope_headers.get("origin")
    if origin is None:
        same = scope_headers.get("sec-fetch-site") == "same-origin"
        return "" if same else "it does not say from which page it comes (Origin)"
    parts, own = urlsplit(origin), urlsplit(address)
    here = (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
    return "" if here else f"a page of {origin[:200]!r} sent it"


def _write(services: Services, user: str, roles: tuple[str, ...]) -> None:
    store, now = services.store, services.clock()
    if store.user(user) is None:
        store.add_user(Person(user, now, PROVIDER))
    has = {a.role: a.by for a in store.roles_of(user)}
    for role in roles:
        if role not in has:
            store.assign(Assigned(user, role, PROVIDER, now))
    for role, by in has.items():
        if by == PROVIDER and role not in roles:
            store.unassign(user, role)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
