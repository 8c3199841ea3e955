"""May this caller do that? Asked here for every route, and nowhere else.

Each route of the application stands in `ACTIONS` with the action that it is; `check` refuses to build an application
with a route that does not. Routes that name a pool are judged on `pool/NAME`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import WebSocketException
from starlette.requests import HTTPConnection

from osmo_ray.api.caller import Caller
from osmo_ray.api.errors import ApiError
from osmo_ray.api.services import Services
from osmo_ray.spec.roles import BUILT_IN, EVERYBODY, PARTS, Role, Verdict, agent_of, judge

PUBLIC = "public"
"""Needs no caller: what must be known before one can log in, and what carries tokens of its own."""

AGENT = "internal:Backend"
"""What the agent of a registered cluster does, for the backend of its own name and no other."""

ACTIONS: Mapping[str, str] = {
    "GET /api/version": PUBLIC,
    "GET /api/router/version": PUBLIC,
    "GET /client/version": PUBLIC,
    "GET /health": PUBLIC,
    "GET /ready": PUBLIC,
    "GET /api/auth/login": PUBLIC,
    "GET /api/auth/keys": PUBLIC,
    "GET /api/auth/jwt/access_token": PUBLIC,
    "POST /api/auth/jwt/access_token": PUBLIC,
    "GET /api/x/login": PUBLIC,
    "GET /api/x/login/callback": PUBLIC,
    "HEAD /api/x/storage": PUBLIC,
    "GET /api/x/storage": PUBLIC,
    "HEAD /api/x/storage/{key:path}": PUBLIC,
    "GET /api/x/storage/{key:path}": PUBLIC,
    "PUT /api/x/storage/{key:path}": PUBLIC,
    "DELETE /api/x/storage/{key:path}": PUBLIC,
    "GET /metrics": "system:Metrics",
    "GET /api/x/status": "system:Status",
    "GET /api/x/schema": "system:Schema",
    "GET /workflows/{name}": "workflow:Read",
    "GET /api/plugins/configs": "system:Plugins",
    "POST /api/x/logout": "auth:Logout",
    "GET /api/auth/access_token": "auth:Token",
    "POST /api/auth/access_token/{token_name}": "auth:Token",
    "DELETE /api/auth/access_token/{token_name}": "auth:Token",
    "GET /api/auth/access_token/{token_name}/roles": "auth:Token",
    "GET /api/auth/user/{user_id}/access_token": "user:Token",
    "POST /api/auth/user/{user_id}/access_token/{token_name}": "user:Token",
    "DELETE /api/auth/user/{user_id}/access_token/{token_name}": "user:Token",
    "GET /api/auth/user": "user:List",
    "POST /api/auth/user": "user:Create",
    "GET /api/auth/user/{user_id}": "user:Read",
    "DELETE /api/auth/user/{user_id}": "user:Delete",
    "GET /api/auth/user/{user_id}/roles": "user:Read",
    "POST /api/auth/user/{user_id}/roles": "user:Assign",
    "DELETE /api/auth/user/{user_id}/roles/{role}": "user:Assign",
    "GET /api/auth/roles/{role}/users": "user:Read",
    "POST /api/auth/roles/{role}/users": "user:Assign",
    "GET /api/configs/role": "config:Read",
    "PUT /api/configs/role": "config:Write",
    "GET /api/configs/role/{name}": "config:Read",
    "PUT /api/configs/role/{name}": "config:Write",
    "DELETE /api/configs/role/{name}": "config:Write",
    "GET /api/configs/pool": "config:Read",
    "PUT /api/configs/pool": "config:Write",
    "GET /api/configs/pool/{name}": "config:Read",
    "PUT /api/configs/pool/{name}": "config:Write",
    "PATCH /api/configs/pool/{name}": "config:Write",
    "DELETE /api/configs/pool/{name}": "config:Write",
    "GET /api/configs/pool/{name}/platform": "config:Read",
    "GET /api/configs/pool/{name}/platform/{platform}": "config:Read",
    "PUT /api/configs/pool/{name}/platform/{platform}": "config:Write",
    "PUT /api/configs/pool/{name}/platform/{platform}/rename": "config:Write",
    "GET /api/configs/resource_validation": "config:Read",
    "PUT /api/configs/resource_validation": "config:Write",
    "GET /api/configs/resource_validation/{name}": "config:Read",
    "PUT /api/configs/resource_validation/{name}": "config:Write",
    "DELETE /api/configs/resource_validation/{name}": "config:Write",
    "GET /api/configs/pod_template": "config:Read",
    "PUT /api/configs/pod_template": "config:Write",
    "GET /api/configs/pod_template/{name}": "config:Read",
    "PUT /api/configs/pod_template/{name}": "config:Write",
    "DELETE /api/configs/pod_template/{name}": "config:Write",
    "GET /api/configs/service": "config:Read",
    "PUT /api/configs/service": "config:Write",
    "PATCH /api/configs/service": "config:Write",
    "GET /api/configs/workflow": "config:Read",
    "PUT /api/configs/workflow": "config:Write",
    "PATCH /api/configs/workflow": "config:Write",
    "GET /api/configs/dataset": "config:Read",
    "PUT /api/configs/dataset": "config:Write",
    "PATCH /api/configs/dataset": "config:Write",
    "GET /api/configs/group_template": "config:Read",
    "PUT /api/configs/group_template": "config:Write",
    "GET /api/configs/backend_test": "config:Read",
    "PUT /api/configs/backend_test": "config:Write",
    "PUT /api/configs/pool/{name}/rename": "config:Write",
    "GET /api/configs/backend": "config:Read",
    "GET /api/configs/backend/{name}": "config:Read",
    "GET /api/configs/history": "config:Read",
    "GET /api/configs/diff": "config:Read",
    "POST /api/configs/history/rollback": "config:Write",
    "DELETE /api/configs/history/{config_type}/revision/{revision}": "config:Write",
    "POST /api/configs/history/{config_type}/revision/{revision}/tags": "config:Write",
    "GET /api/x/audit": "audit:Read",
    "GET /api/x/backend": "backend:List",
    "POST /api/x/backend/{name}": "backend:Write",
    "DELETE /api/x/backend/{name}": "backend:Write",
    "POST /api/x/backend/{name}/token": "backend:Write",
    "DELETE /api/x/backend/{name}/token": "backend:Write",
    "WS /api/x/backend/{name}/agent": AGENT,
    "GET /api/users": "workflow:Read",
    "GET /api/tag": "workflow:Read",
    "GET /api/task": "workflow:Read",
    "GET /api/workflow": "workflow:Read",
    "GET /api/workflow/{name}": "workflow:Read",
    "GET /api/workflow/{name}/logs": "workflow:Read",
    "GET /api/workflow/{name}/error_logs": "workflow:Read",
    "GET /api/workflow/{name}/events": "workflow:Read",
    "GET /api/workflow/{name}/spec": "workflow:Read",
    "GET /api/workflow/{name}/task/{task}": "workflow:Read",
    "POST /api/workflow/{name}/cancel": "workflow:Write",
    "POST /api/workflow/{name}/tag": "workflow:Write",
    "POST /api/pool/{pool}/workflow": "workflow:Create",
    "POST /api/pool/{pool}/workflow/{workflow_id}/restart": "workflow:Create",
    "GET /api/x/workflow/{name}/explain": "workflow:Read",
    "GET /api/x/workflow/{name}/sweeps": "workflow:Read",
    "GET /api/x/workflow/{name}/plan": "workflow:Read",
    "GET /api/x/workflow/{name}/usage/{task}": "workflow:Read",
    "GET /api/x/workflow/{name}/datasets": "workflow:Read",
    "GET /api/x/workflow/{name}/outputs": "workflow:Read",
    "GET /api/x/workflow/{name}/outputs/{task}.tar": "workflow:Read",
    "GET /api/x/workflow/{name}/outputs/{task}/{path:path}": "workflow:Read",
    "POST /api/x/workflows/cancel": "workflow:Write",
    "DELETE /api/x/workflow/{name}": "workflow:Write",
    "HEAD /api/x/code/{digest}": "workflow:Create",
    "PUT /api/x/code/{digest}": "workflow:Create",
    "POST /api/workflow/{name}/exec/task/{task}": "workflow:Enter",
    "POST /api/workflow/{name}/exec/group/{group}": "workflow:Enter",
    "POST /api/workflow/{name}/portforward/{task}": "workflow:Enter",
    "POST /api/workflow/{name}/rsync/task/{task}": "workflow:Enter",
    "POST /api/x/workflow/{name}/task/{task}/release": "workflow:Enter",
    "WS /api/router/{kind}/{name}/client/{key}": "workflow:Enter",
    "GET /api/pool": "pool:List",
    "GET /api/pool_quota": "pool:List",
    "GET /api/x/queues": "pool:List",
    "GET /api/resources": "resources:Read",
    "GET /api/resources/{name:path}": "resources:Read",
    "GET /api/profile/settings": "profile:Read",
    "POST /api/profile/settings": "profile:Write",
    "GET /api/credentials": "credentials:Read",
    "POST /api/credentials/{cred_name}": "credentials:Write",
    "DELETE /api/credentials/{cred_name}": "credentials:Write",
    "GET /api/bucket": "dataset:List",
    "GET /api/bucket/{bucket}/location": "dataset:Read",
    "GET /api/bucket/list_dataset": "dataset:List",
    "GET /api/bucket/{bucket}/query": "dataset:Read",
    "GET /api/bucket/{bucket}/dataset/{name}": "dataset:Read",
    "POST /api/bucket/{bucket}/dataset/{name}": "dataset:Write",
    "DELETE /api/bucket/{bucket}/dataset/{name}": "dataset:Delete",
    "GET /api/bucket/{bucket}/dataset/{name}/info": "dataset:Read",
    "POST /api/bucket/{bucket}/dataset/{name}/attribute": "dataset:Write",
    "POST /api/bucket/{bucket}/dataset/{name}/collect": "dataset:Write",
    "POST /api/bucket/{bucket}/dataset/{name}/recollect": "dataset:Write",
    "POST /api/bucket/{bucket}/dataset/{name}/migrate": "dataset:Write",
    "GET /api/x/bucket/{bucket}/dataset/{name}/lineage": "dataset:Read",
    "POST /api/x/bucket/{bucket}/dataset/{name}/index": "dataset:Read",
    "GET /api/x/bucket/{bucket}/index": "dataset:List",
    "POST /api/x/bucket/{bucket}/index": "config:Write",
    "GET /api/x/bucket/{bucket}/access": "dataset:Read",
    "POST /api/x/bucket/{bucket}/access": "dataset:Write",
    "GET /api/app": "app:Read",
    "GET /api/app/user/{name}": "app:Read",
    "GET /api/app/user/{name}/spec": "app:Read",
    "POST /api/app/user/{name}": "app:Write",
    "PATCH /api/app/user/{name}": "app:Write",
    "DELETE /api/app/user/{name}": "app:Write",
    "POST /api/app/user/{name}/rename": "app:Write",
}
OPEN = frozenset(name.partition(" ")[2] for name, action in ACTIONS.items() if action == PUBLIC)
"""Paths that need no caller."""
OWNED: Mapping[str, str] = {"workflow:Enter": "workflow:EnterOthers"}
"""What one may do with one's own workflow, and what it takes for another's: inside a task are its user's secrets."""
_FRESH = 2.0
"""Seconds for which roles are remembered: so long an administrator's word takes to be heard by every replica."""


class UnknownRoute(Exception):
    """A route that nobody has said who may use it."""


def check(routes: Iterable[Any]) -> None:
    """Raises `UnknownRoute` unless each of these routes stands in the table."""
    for route in routes:
        for name in names(route):
            if name not in ACTIONS:
                raise UnknownRoute(f"{name} is not in ACTIONS (osmo_ray/api/access.py): which action is it?")


def names(route: Any) -> list[str]:
    """What a route is called in the table: one name per method."""
    methods = getattr(route, "methods", None)
    if methods is None:
        return [f"WS {route.path}"]
    alike = methods - {"HEAD"} if "GET" in methods else methods
    return [f"{method} {route.path}" for method in sorted(alike)]


@dataclass(slots=True)
class _Known:
    """What was read of a user, and when."""

    at: float
    managed: bool
    roles: frozenset[str]


class Access:
    """A dependency of every route. Raises 403, or closes a websocket with 1008."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._written: tuple[float, Mapping[str, Role]] = (float("-inf"), BUILT_IN)
        self._users: dict[str, _Known] = {}

    async def __call__(self, connection: HTTPConnection) -> None:
        action = _action(connection)
        if action == PUBLIC:
            return
        caller: Caller = connection.scope["caller"]
        pool = connection.path_params.get("pool")
        resource = f"pool/{pool}" if pool is not None else ""
        roles = await self.roles(caller)
        verdict = judge(roles, action, resource)
        connection.scope["action"] = action
        if verdict.allowed and action in OWNED and not await self._owns(caller, connection):
            action = OWNED[action]
            verdict = judge(roles, action, resource)
        if action == AGENT and caller.user != agent_of(connection.path_params["name"]):
            verdict = Verdict(False)
        if not verdict.allowed:
            who = f"the role {verdict.role} denies" if verdict.role else "none of your roles allows"
            what = f"{action} on {resource}" if resource else action
            _refuse(connection, f"{caller.user} may not do this: {who} {what}. Ask an administrator (osmo user).")

    async def _owns(self, caller: Caller, connection: HTTPConnection) -> bool:
        """Whether the workflow that is named is the caller's; a websocket's key is bound to who asked for it."""
        if connection.scope["type"] == "websocket":
            return True
        found = await asyncio.to_thread(self._services.store.find, connection.path_params["name"])
        return found is None or found.user == caller.user

    async def roles(self, caller: Caller) -> list[Role]:
        """What a caller is: what the token says, as far as administrators have not taken it back."""
        names = frozenset(caller.roles)
        if names and names <= PARTS:
            return [BUILT_IN[name] for name in sorted(names)]
        if caller.how != "development":
            known = await self._user(caller.user)
            if known.managed:
                names &= known.roles
        fixed = all(name in BUILT_IN and BUILT_IN[name].immutable for name in names)
        written = BUILT_IN if fixed else await self._roles()  # what cannot be written anew need not be read
        return [EVERYBODY, *(written[name] for name in sorted(names) if name in written)]

    async def _user(self, user: str) -> _Known:
        known = self._users.get(user)
        if known is None or time.monotonic() - known.at > _FRESH:
            known = self._users[user] = await asyncio.to_thread(self._read_user, user)
        return known

    def _read_user(self, user: str) -> _Known:
        store = self._services.store
        if len(self._users) > 10_000:
            self._users.clear()
        managed = store.user(user) is not None
        return _Known(time.monotonic(), managed, frozenset(a.role for a in store.roles_of(user)))

    async def _roles(self) -> Mapping[str, Role]:
        at, found = self._written
        if time.monotonic() - at > _FRESH:
            found = await asyncio.to_thread(all_roles, self._services)
            self._written = (time.monotonic(), found)
        return found


def all_roles(services: Services) -> Mapping[str, Role]:
    """The platform's own, and those that administrators wrote, which win unless the own one is immutable."""
    written = {role.name: role for role in services.store.roles()}
    fixed = {name: role for name, role in BUILT_IN.items() if role.immutable}
    return {**BUILT_IN, **written, **fixed}


def _action(connection: HTTPConnection) -> str:
    route = connection.scope["route"]
    if connection.scope["type"] == "websocket":
        return ACTIONS[f"WS {route.path}"]
    method = str(connection.scope["method"])
    name = f"{method} {route.path}"
    return ACTIONS[name if name in ACTIONS else f"GET {route.path}"]  # HEAD of what can be got


def _refuse(connection: HTTPConnection, sentence: str) -> None:
    if connection.scope["type"] == "websocket":
        raise WebSocketException(1008, sentence[:120])
    raise ApiError(sentence, status=403)
