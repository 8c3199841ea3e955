"""The websocket of an agent that dials out: this replica carries its bytes to where links are held, and no more.

The gate has read its token and `access` has judged it before. While the link stands the token is looked at again, so
that one which was revoked, or whose backend is gone, ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from osmo_ray.api.caller import Caller
from osmo_ray.api.services import Services
from osmo_ray.backends.kubernetes.tunnel.pipes import join
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.control.clusters import Registration
from osmo_ray.spec.roles import agent_of
from osmo_ray.store.protocol import StoreError, Token

TOKEN, ROLE = "agent", "osmo-backend"
LOOK_EVERY = 5.0
"""Seconds after which a token that was revoked has surely ended its link."""
_LIFE = 100 * 365 * 86400.0
"""A token holds until it is revoked: one that ends by itself would take a cluster away one day."""
_REFUSED, _LATER = 1008, 1013
_REASON = 120


def new_token(services: Services, name: str) -> str:
    """The one token of a backend's agent; it takes the place of the one before, and is shown once."""
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    until = services.clock() + _LIFE
    services.store.save_token(Token(TOKEN, agent_of(name), digest, until, (ROLE,), f"the agent of backend {name}"))
    return secret


def revoke(services: Services, name: str) -> bool:
    """False when there was none."""
    return services.store.delete_token(agent_of(name), TOKEN)


def has_token(services: Services, name: str) -> bool:
    return any(token.name == TOKEN for token in services.store.tokens(agent_of(name)))


async def serve(services: Services, socket: WebSocket, name: str) -> None:
    """Carry the link until either side, or an administrator, ends it."""
    await socket.accept()
    wire = _Wire(socket)
    why = await asyncio.to_thread(_unwelcome, services, name, socket.scope["caller"])
    if why or services.arrive is None:
        await wire.end(_REFUSED if why else _LATER, why or "this platform holds no links to agents")
        return
    try:
        pipe = await services.arrive(name)
    except BackendUnavailable as error:
        await wire.end(_LATER, str(error))
        return
    carried = asyncio.ensure_future(join(wire, pipe))
    watched = asyncio.ensure_future(_until_unwelcome(services, wire, name))
    try:
        await asyncio.wait([carried, watched], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (watched, carried):
            task.cancel()
        await asyncio.gather(watched, carried, return_exceptions=True)


async def _until_unwelcome(services: Services, wire: _Wire, name: str) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY)
        why = await asyncio.to_thread(_unwelcome, services, name, wire.socket.scope["caller"])
        if why:
            await wire.end(_REFUSED, why)
            return


def _unwelcome(services: Services, name: str, caller: Caller) -> str:
    """Why this agent may not be linked (any more). A database that is away changes nothing."""
    try:
        digest = caller.token.sha256 if caller.token is not None else ""
        row = next((one for one in services.store.clusters() if one.name == name), None)
        if row is None or not Registration.from_json(row.settings).agent:
            return f"no backend {name} is registered with an agent"
        return "" if services.store.token(digest) else "the token was revoked"
    except StoreError:
        return ""


class _Wire:
    """The websocket as a pipe."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket

    async def read(self) -> bytes:
        while True:
            try:
                data = await self.socket.receive_bytes()
            except (WebSocketDisconnect, RuntimeError, KeyError):  # the last: text, which is no part of the wire
                return b""
            if data:
                return data

    async def write(self, data: bytes) -> None:
        try:
            await self.socket.send_bytes(data)
        except (RuntimeError, WebSocketDisconnect) as error:
            raise ConnectionResetError("the agent went away") from error

    async def close(self) -> None:
        await self.end(_LATER, "the link has ended here")

    async def end(self, code: int, why: str) -> None:
        """Safe to repeat, also after the agent has gone."""
        if self.socket.application_state is WebSocketState.CONNECTED:
            short = why.encode()[:_REASON].decode(errors="ignore")
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, OSError):
                await self.socket.close(code, short)
