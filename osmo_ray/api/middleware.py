"""What happens to every request before its route: who asks, how much they send, how old their client is, metrics.

Pure ASGI, because a middleware that wraps responses would hold back streams. The only place where a request gets its
caller: a bearer token of the store or of the identity provider, a browser's session, or, on a platform that listens on
loopback alone and has no provider, whoever asks from loopback by a loopback name.
"""

from __future__ import annotations

import asyncio
import base64
import getpass
import hashlib
import ipaddress
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import HTTPException

from osmo_ray.api.access import OPEN
from osmo_ray.api.caller import Caller
from osmo_ray.api.errors import body
from osmo_ray.api.metrics import Metrics
from osmo_ray.api.peers import is_task
from osmo_ray.api.services import Services
from osmo_ray.api.signin import People, foreign, is_session
from osmo_ray.objects.gateway import ROUTE
from osmo_ray.providers.oidc import BadToken, ProviderAway, issuer_of
from osmo_ray.providers.passes import BadPass
from osmo_ray.store.protocol import AuditLine, StoreError, Token

log = logging.getLogger(__name__)
T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CODE = "/api/x/code/"
"""Archives of code are streamed, and have a limit of their own."""
MAX_BODY = 24 << 20
"""Bytes of one request: a file of the largest size, twice (as written and as rendered)."""
COOKIE = "osmo_session"
"""Holds a browser's session; over https with the prefix that binds it to this host."""
SIGN_IN = "/api/x/login"
"""Where browsers without a session are sent."""
_WARN_BEFORE = 7 * 86400.0
"""Seconds before an access token's end from which its holder is told so."""
_LOOK_EVERY = 5.0
"""Seconds for which it is remembered whether tasks share our loopback."""
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:\.[A-Za-z0-9]+)?")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}")
_HOST = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\[\]]+)(?::\d+)?")


class Refused(Exception):
    """No entry, with a status and a sentence."""

    def __init__(self, status: int, message: str, code: str = "USER") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Gate:
    """The one door into the application."""

    def __init__(self, app: App, services: Services, metrics: Metrics) -> None:
        self._app, self._services, self._metrics = app, services, metrics
        self._shared, self._looked = False, float("-inf")
        self._people = People(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await self._note(scope, status)
                message["headers"] = [*message.get("headers", ()), *warning]
            await send(message)

        warning: list[tuple[bytes, bytes]] = []
        try:
            headers = _headers(scope)
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                raise Refused(400, "An address cannot hold the character NUL.")
            settings = self._services.settings
            told = check_version(scope["path"], headers, settings.latest_client, settings.min_client)
            caller = scope["caller"] = await self._caller(scope, headers)
            told += self._ending(caller.token, headers)
            warning += _warning(told, settings.latest_client)
            streamed = scope["path"].startswith((ROUTE, CODE))
            await self._app(scope, receive if streamed else _limited(receive, headers), watch)
        except Refused as error:
            warning.append((b"connection", b"close"))
            page = self._sign_in(scope, error)
            await (_redirect(watch, page) if page else _answer(watch, error))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(scope["method"], route, status, time.perf_counter() - begin)

    async def _note(self, scope: Scope, status: int) -> None:
        """Changes and refusals go into the log of who did what, before the answer is given."""
        caller, action = scope.get("caller"), scope.get("action")
        if caller is None or action is None or not (status == 403 or scope["method"] not in ("GET", "HEAD")):
            return
        clock = self._services.clock()
        path = scope["path"][:500]
        line = AuditLine(clock, caller.user, caller.how, action, scope["method"], path, status)
        try:
            await asyncio.to_thread(self._services.store.note, line)
        except StoreError as error:
            log.warning("not in the audit log: %s (%s)", line, error)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                scope["caller"] = await self._caller(scope, _headers(scope))
            except Refused as error:
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
                return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope, headers: dict[str, str]) -> Caller:
        secret = _bearer(headers)
        if secret and not scope["path"].startswith(ROUTE):
            return await self._by_token(secret)
        if scope["path"] in OPEN or scope["path"].startswith(ROUTE):
            return Caller()  # the storage gateway's own tokens say what each request may do
        session = cookie(headers, cookie_name(self._services.settings.address))
        if session and self._services.provider is not None:
            return await self._by_session(scope, headers, session)
        reason = not_development(scope, headers, self._services.settings.host)
        if self._services.provider is not None:
            raise Refused(401, "Log in first (osmo login URL): this platform has an identity provider.")
        if reason:
            raise Refused(401, f"Log in first (osmo login URL --method token): {reason}.")
        if await self._from_task(scope):
            raise Refused(401, "A task needs an access token of its own.")
        user = headers.get("x-osmo-user", "")
        if user and not _USER.fullmatch(user):
            raise Refused(400, "x-osmo-user is not a user's name.")
        return Caller(user or system_user(), ("osmo-admin",), "development")

    async def _from_task(self, scope: Scope) -> bool:
        """Only asked where a task could share our loopback: on hosts without private namespaces."""
        now = time.monotonic()
        if now - self._looked > _LOOK_EVERY:
            nodes = await self._ask(self._services.store.nodes)
            self._shared = any(n.alive and not n.sandbox.startswith("namespaces") for _, _, n in nodes)
            self._looked = now
        if not self._shared:
            return False
        host, port = scope["client"][:2]
        return await asyncio.to_thread(is_task, host, port)

    async def _by_session(self, scope: Scope, headers: dict[str, str], secret: str) -> Caller:
        """A browser. What changes something, and every websocket, must come from a page of ours."""
        token = await self._ask(self._people.session, secret)
        if token is None:
            raise Refused(401, "The session has ended; sign in again.")
        if scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD"):
            reason = foreign(headers, self._services.settings.address)
            if reason:
                raise Refused(403, f"This request is refused for the sake of the browser's user: {reason}.")
        return Caller(token.user, token.roles, "session", token)

    async def _by_provider(self, secret: str) -> Caller:
        try:
            return await self._people.caller(secret)
        except BadToken as error:
            raise Refused(401, f"The provider's token is not accepted: {error}; log in again.") from None
        except ProviderAway as error:
            raise Refused(503, f"Nobody can be let in now: {error}.", "OSMO_ERROR") from None
        except StoreError as error:
            raise Refused(503, f"The database does not answer: {error}", "DATABASE") from None

    def _sign_in(self, scope: Scope, error: Refused) -> str:
        """Where a browser that looks at a page is sent instead of being refused; empty for everybody else."""
        page = scope["method"] == "GET" and not scope["path"].startswith("/api/")
        if error.status != 401 or self._services.provider is None or not page:
            return ""
        if "text/html" not in _headers(scope).get("accept", ""):
            return ""
        return f"{SIGN_IN}?next={quote(scope['path'], safe='/')}"

    async def _by_token(self, secret: str) -> Caller:
        provider = self._services.provider
        if secret.count(".") == 2 and provider is not None and issuer_of(secret) == provider.settings.issuer:
            return await self._by_provider(secret)
        if secret.count(".") == 2:
            token = await self._by_pass(secret)
        else:
            digest = hashlib.sha256(secret.encode()).hexdigest()
            token = await self._ask(self._services.store.token, digest)
        if token is None or token.expires <= self._services.clock() or is_session(token):
            raise Refused(401, "The access token is unknown or has expired; log in again.")
        return Caller(token.user, token.roles, "token", token)

    async def _by_pass(self, text: str) -> Token | None:
        """The access token that a pass was given for: one that was deleted since ends its passes."""
        if self._services.passes is None:
            return None
        try:
            found = self._services.passes.read(text, self._services.clock())
        except BadPass:
            return None
        tokens = await self._ask(self._services.store.tokens, found.user)
        return next((t for t in tokens if t.name == found.token), None)

    def _ending(self, token: Token | None, headers: dict[str, str]) -> str:
        """Word that an access token ends soon, for clients that show such words."""
        left = token.expires - self._services.clock() if token else _WARN_BEFORE
        if token is None or is_session(token) or left >= _WARN_BEFORE or "x-osmo-client-version" not in headers:
            return ""
        return f"WARNING: the access token {token.name} ends in {int(left // 86400)} days; make a new one in time.\n"

    async def _ask(self, verb: Callable[..., T], *args: object) -> T:
        """What the store says; nobody gets in while it does not answer."""
        try:
            return await asyncio.to_thread(verb, *args)
        except StoreError as error:
            raise Refused(503, f"The database does not answer: {error}", "DATABASE") from None


def cookie(headers: dict[str, str], name: str) -> str:
    """What a browser keeps under a name; empty when it keeps nothing that can be read."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def cookie_name(address: str, name: str = COOKIE) -> str:
    """Over https a name that browsers take from this very host alone, and only with its other protections."""
    return f"__Host-{name}" if address.startswith("https:") else name


def system_user() -> str:
    """The operating system's name of whoever runs the platform."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"


def not_development(scope: Scope, headers: dict[str, str], listen: str) -> str:
    """Why this request is no development login, or an empty string. Peer, name and origin must all be loopback, so
    that neither another host, nor a proxy, nor a web page that plays with names gets in."""
    if not is_loopback(listen):
        return "this platform listens beyond loopback and wants an access token"
    peer = scope.get("client")
    if not peer or not is_loopback(str(peer[0])):
        return "only this host may come without an access token"
    if "forwarded" in headers or "x-forwarded-for" in headers:
        return "a proxy sent this request"
    host = _HOST.fullmatch(headers.get("host", ""))
    if host is None or not is_loopback(host[1].strip("[]")):
        return f"the name {headers.get('host', '')!r} is not one of this host's loopback"
    origin = headers.get("origin")
    scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", ""), scope.get("scheme", "http"))
    if origin is not None and origin != f"{scheme}://{headers.get('host', '')}":
        return f"a page of {origin!r} sent this request"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "a page of another site sent this request"
    return ""


def is_loopback(name: str) -> bool:
    """Whether a host name or address is loopback; no name is looked up."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_version(path: str, headers: dict[str, str], latest: str, least: str) -> str:
    """A warning for an old client, or nothing. Raises `Refused` for a version that is none, and for one below
    `least`."""
    text = headers.get("x-osmo-client-version")
    if text is None or path.startswith("/client/"):
        return ""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise Refused(400, f"The client version {text[:40]!r} is not of the form N.N.N.", "OSMO_ERROR")
    if _numbers(text) >= _numbers(latest):
        return ""
    if least and _numbers(text) < _numbers(least):
        raise Refused(400, f"Client {text} is too old for this service; it wants {least} at least.", "OSMO_ERROR")
    return f"WARNING: client {text} is older than {latest}, which this service speaks; please update it.\n"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split(".")[:3])


def _warning(told: str, latest: str) -> list[tuple[bytes, bytes]]:
    if not told:
        return []
    encoded = base64.b64encode(told.rstrip("\n").encode())
    return [(b"x-osmo-warning", encoded), (b"x-osmo-service-version", latest.encode())]


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _bearer(headers: dict[str, str]) -> str:
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    return headers.get("x-osmo-auth", "")


def _limited(receive: Receive, headers: dict[str, str]) -> Receive:
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise Refused(413, f"The request has more than {MAX_BODY >> 20} MiB.")
    seen = 0

    async def count() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:  # raised inside the route, where only this kind goes through unchanged
            raise HTTPException(413, f"The request has more than {MAX_BODY >> 20} MiB.")
        return message

    return count


async def _redirect(send: Send, target: str) -> None:
    head = [(b"location", target.encode()), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 302, "headers": head})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, error: Refused) -> None:
    data = json.dumps(body(str(error), error.code)).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if error.status == 401:
        head.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": head})
    await send({"type": "http.response.body", "body": data})
