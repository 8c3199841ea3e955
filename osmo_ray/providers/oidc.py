"""Login through an OpenID Connect provider: what it says of itself, its keys, its tokens, and codes for tokens.

The platform is a relying party and nothing more: people sign in at the provider, and what comes back is believed only
if the provider's key signed it, for us, for now. Keys are remembered, so that a provider that is away for a moment
locks nobody out who has a token; a key that is not known makes them be fetched again, which is how rotation is
noticed, and not more often than `_PAUSE` allows, so that forged key names cost the provider nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from osmo_ray.settings import Settings

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Only those whose secret half the provider alone has: never `none`, never HMAC."""
LEEWAY = 30.0
"""Seconds by which clocks may differ."""
_FRESH = 600.0
"""Seconds after which keys and endpoints are asked for again, so that a withdrawn key ends."""
_STALE = 86400.0
"""Seconds for which they are still good while the provider does not answer."""
_PAUSE = 5.0
"""Seconds between two questions because of unknown keys, and after one that failed."""
_LIMIT = 1 << 20
"""Bytes of one answer of the provider."""


class BadToken(ValueError):
    """A token that is not believed; the text says why."""


class ProviderAway(Exception):
    """The provider does not answer, or not as one should."""


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """`issuer` as it stands in tokens. The browser's client may have a secret, the one for devices has none.
    `user_claim` and `roles_claim` are paths with dots; `role_map` is a name of the provider -> our roles, where `*` is
    everybody who can sign in."""

    issuer: str
    client_id: str
    client_secret: str = ""
    device_client_id: str = ""
    audience: str = ""
    scopes: str = "openid profile email offline_access"
    user_claim: str = "preferred_username"
    roles_claim: str = "roles"
    role_map: Mapping[str, tuple[str, ...]] | None = None

    @property
    def audiences(self) -> tuple[str, ...]:
        """Whom tokens that are shown to us may be meant for."""
        return tuple(dict.fromkeys(a for a in (self.client_id, self.device_client_id, self.audience) if a))


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the provider is asked for what; empty where it offers none."""

    authorization: str
    token: str
    keys: str
    device: str = ""
    logout: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed in: our name of the user, the provider's names of groups or roles, and until when."""

    user: str
    groups: tuple[str, ...]
    expires: float


@dataclass(frozen=True, slots=True)
class _Known:
    at: float
    endpoints: Endpoints
    keys: KeySet


class Provider:
    """One provider. `clock` judges tokens; memory ages by `ticks`."""

    def __init__(
        self,
        settings: OidcSettings,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        timeout: float = 5.0,
    ) -> None:
        check_address(settings.issuer)
        self.settings = settings
        self._clock, self._ticks, self._timeout = clock, ticks, timeout
        self._known: _Known | None = None
        self._tried = float("-inf")
        self._asking = asyncio.Lock()

    async def endpoints(self) -> Endpoints:
        """Raises `ProviderAway`."""
        return (await self._fresh()).endpoints

    async def verify(self, token: str) -> Identity:
        """Who shows this ID token or access token. Raises `BadToken`, `ProviderAway`."""
        return self._identity(await self._claims(token, self.settings.audiences))

    async def redeem(self, code: str, verifier: str, redirect: str, nonce: str) -> Identity:
        """The end of a browser's login: the code for a token. Raises `BadToken`, `ProviderAway`."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
            "client_id": self.settings.client_id,
        }
        answer = await self._post((await self.endpoints()).token, fields)
        claims = await self._claims(str(answer.get("id_token", "")), (self.settings.client_id,))
        if claims.get("nonce") != nonce:
            raise BadToken("the provider's answer belongs to another login")
        return self._identity(claims)

    async def authorize(self, redirect: str, state: str, nonce: str, challenge: str) -> str:
        """Where a browser goes to sign in. Raises `ProviderAway`."""
        asked = {
            "client_id": self.settings.client_id,
            "response_type": "code",
            "scope": " ".join(s for s in self.settings.scopes.split() if s != "offline_access"),
            "redirect_uri": redirect,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        target = (await self.endpoints()).authorization
        return f"{target}{'&' if '?' in target else '?'}{urlencode(asked)}"

    # -- tokens

    async def _claims(self, token: str, audiences: Sequence[str]) -> dict[str, Any]:
        # Here and below: libraries that a platform without a provider never needs.
        from joserfc import jwt
        from joserfc.errors import ExpiredTokenError, JoseError

        known = await self._fresh()
        if _head(token).get("kid") not in {key.kid for key in known.keys.keys}:
            known = await self._fresh(than=known)
        try:
            claims = dict(jwt.decode(token, known.keys, algorithms=ALGORITHMS).claims)
            times = jwt.JWTClaimsRegistry(
                now=int(self._clock()),
                leeway=int(LEEWAY),
                iss={"essential": True, "value": self.settings.issuer},
                exp={"essential": True},
                aud={"essential": True, "values": list(audiences)},
                sub={"essential": True},
            )
            times.validate(claims)
        except ExpiredTokenError:
            raise BadToken("it has expired") from None
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise BadToken(str(error) or type(error).__name__) from None
        _meant_for(claims, audiences)
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        path = self.settings.user_claim
        user = _at(claims, path)
        if not isinstance(user, str) or not user:
            raise BadToken(f"it has no claim {path!r}, which names the user (setting oidc_user_claim)")
        if path == "email" and claims.get("email_verified") is not True:
            raise BadToken("the provider has not verified this email address")
        groups = _at(claims, self.settings.roles_claim)
        texts = groups.split() if isinstance(groups, str) else groups if isinstance(groups, list) else []
        return Identity(user, tuple(g for g in texts if isinstance(g, str)), float(claims["exp"]))

    # -- what the provider says of itself

    async def _fresh(self, than: _Known | None = None) -> _Known:
        """What is known, asked for again when it is old; or when it is still `than`, in which a key is missing."""
        known = self._known
        if known is not None and known is not than and self._ticks() - known.at < _FRESH:
            return known
        async with self._asking:
            known = self._known
            if known is not None and known is not than and self._ticks() - known.at < _FRESH:
                return known
            if self._ticks() - self._tried < _PAUSE:
                return self._old()
            self._tried = self._ticks()
            try:
                self._known = await self._learn()
            except ProviderAway:
                return self._old()
            return self._known

    def _old(self) -> _Known:
        if self._known is not None and self._ticks() - self._known.at < _STALE:
            return self._known
        raise ProviderAway(f"the identity provider {self.settings.issuer} does not answer")

    async def _learn(self) -> _Known:
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        issuer = self.settings.issuer
        told = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if told.get("issuer") != issuer:
            raise ProviderAway(f"it calls itself {told.get('issuer')!r}, not {issuer!r}")
        try:
            found = Endpoints(
                told["authorization_endpoint"],
                told["token_endpoint"],
                told["jwks_uri"],
                told.get("device_authorization_endpoint") or "",
                told.get("end_session_endpoint") or "",
            )
            for url in (found.authorization, found.token, found.keys, found.device, found.logout):
                if url:
                    check_address(url)
            usable = [k for k in (await self._get(found.keys))["keys"] if k.get("kty") != "oct" and "kid" in k]
            return _Known(self._ticks(), found, KeySet.import_key_set({"keys": usable}))
        except (KeyError, TypeError, AttributeError, ValueError, JoseError) as error:
            raise ProviderAway(f"{issuer} does not describe itself as a provider: {error}") from error

    async def _get(self, url: str) -> dict[str, Any]:
        return await self._ask("GET", url, None, None)

    async def _post(self, url: str, fields: Mapping[str, str]) -> dict[str, Any]:
        secret = self.settings.client_secret
        pair = (quote(self.settings.client_id, safe=""), quote(secret, safe="")) if secret else None
        return await self._ask("POST", url, fields, pair)

    async def _ask(
        self, method: str, url: str, fields: Mapping[str, str] | None, login: tuple[str, str] | None
    ) -> dict[str, Any]:
        import httpx

        try:
            async with httpx.AsyncClient(timeout=self._timeout, follow_redirects=False) as client:
                auth = httpx.BasicAuth(*login) if login else None
                answer = await client.request(method, url, data=fields, auth=auth)
        except httpx.HTTPError as error:
            raise ProviderAway(f"{url} does not answer: {type(error).__name__}") from error
        try:
            value = json.loads(answer.content) if len(answer.content) <= _LIMIT else None
        except ValueError:
            value = None
        if answer.status_code == 400 and isinstance(value, dict) and method == "POST":
            raise BadToken(f"the provider refuses: {value.get('error_description') or value.get('error')}"[:300])
        if answer.status_code != 200 or not isinstance(value, dict):
            raise ProviderAway(f"{url} answers with status {answer.status_code}")
        return value


def from_settings(settings: Settings) -> Provider | None:
    """The provider that the settings name, if any. Raises ValueError or OSError for settings that cannot be."""
    if not settings.oidc_issuer:
        return None
    secret = settings.oidc_client_secret_file
    return Provider(
        OidcSettings(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            client_secret=Path(secret).read_text().strip() if secret else "",
            device_client_id=settings.oidc_device_client_id,
            audience=settings.oidc_audience,
            scopes=settings.oidc_scopes,
            user_claim=settings.oidc_user_claim,
            roles_claim=settings.oidc_roles_claim,
            role_map=read_role_map(settings.oidc_role_map),
        )
    )


def issuer_of(token: str) -> str:
    """Who a JWT says has made it; nothing is proven by that."""
    try:
        return str(_json(token.split(".")[1]).get("iss", ""))
    except (IndexError, ValueError):
        return ""


def check_address(url: str) -> None:
    """Raises ValueError unless this is https, or http on loopback."""
    parts = urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise ValueError(f"{url!r}: a provider of identities is reached by https (by http on loopback alone)")


def read_role_map(text: str) -> dict[str, tuple[str, ...]]:
    """`robot-admins=osmo-admin, *=osmo-user` -> a dict. Raises ValueError."""
    found: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        name, equals, role = (p.strip() for p in part.rpartition("="))
        if not part.strip():
            continue
        if not (name and equals and role):
            raise ValueError(f"oidc_role_map: {part.strip()!r} is not NAME=ROLE")
        found[name] = (*found.get(name, ()), role)
    return found


def _meant_for(claims: Mapping[str, Any], audiences: Sequence[str]) -> None:
    """A token for several must name one of us as the one that it was made for."""
    aud = claims["aud"]
    if isinstance(aud, list) and len(aud) > 1 and claims.get("azp") not in audiences:
        raise BadToken("it was made for another client")


def _head(token: str) -> dict[str, Any]:
    try:
        return _json(token.split(".")[0])
    except (IndexError, ValueError):
        raise BadToken("it is broken") from None


def _json(part: str) -> dict[str, Any]:
    value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _at(claims: Mapping[str, Any], path: str) -> object:
    """A claim by its name, or by a path with dots (`realm_access.roles`)."""
    if path in claims:
        return claims[path]
    value: object = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
