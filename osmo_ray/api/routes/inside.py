"""Looking inside a running task: the calls that hand out keys, and the router's websockets that take them."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket

from osmo_ray.api.caller import Caller
from osmo_ray.api.errors import ApiError
from osmo_ray.api.inside import keys, serving
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Named, RouterReply
from osmo_ray.backends.inside import NotInside
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.spec.attempt import AttemptKey
from osmo_ray.spec.reason import HELD
from osmo_ray.store.protocol import SessionKey

MAX_PORTS = 30
MAX_COMMAND = 32 << 10
_TIMEOUT = 4000
Serve = Callable[[Services, WebSocket, SessionKey], Awaitable[None]]


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["inside"])

    @router.post("/api/workflow/{name}/exec/task/{task}")
    def exec_task(name: str, task: str, entry_command: str, user: User, request: Request) -> RouterReply:
        argv = _words(entry_command)
        workflow, found = keys.running_task(services, name, task)
        return _reply(request, keys.make(services, user.user, workflow, found, keys.EXEC, argv=argv))

    @router.post("/api/workflow/{name}/exec/group/{group}")
    def exec_group(name: str, group: str, entry_command: str, user: User, request: Request) -> dict[str, RouterReply]:
        argv = _words(entry_command)
        workflow, tasks = keys.running_group(services, name, group)
        made = {t.name: keys.make(services, user.user, workflow, t, keys.EXEC, argv=argv) for t in tasks}
        return {task: _reply(request, key) for task, key in made.items()}

    @router.post("/api/workflow/{name}/portforward/{task}")
    def forward(
        name: str,
        task: str,
        task_ports: Annotated[list[int], Query()],
        user: User,
        request: Request,
        use_udp: bool = False,
    ) -> list[RouterReply]:
        if len(task_ports) > MAX_PORTS or not all(0 < port < 65536 for port in task_ports):
            raise ApiError(f"Name at most {MAX_PORTS} ports between 1 and 65535.")
        workflow, found = keys.running_task(services, name, task)
        kind = keys.FORWARD if use_udp else keys.FORWARD + keys.CONTROL
        made = [keys.make(services, user.user, workflow, found, kind, port=p, udp=use_udp) for p in task_ports]
        return [_reply(request, key) for key in made]

    @router.post("/api/workflow/{name}/rsync/task/{task}")
    def rsync(name: str, task: str, user: User, request: Request) -> RouterReply:
        workflow, found = keys.running_task(services, name, task)
        return _reply(request, keys.make(services, user.user, workflow, found, keys.RSYNC + keys.CONTROL))

    @router.post("/api/x/workflow/{name}/task/{task}/release")
    async def release(name: str, task: str, rerun: bool = False) -> Named:
        workflow, found = await asyncio.to_thread(keys.running_task, services, name, task)
        if rerun and (found.reason is None or found.reason.code != HELD):
            message = f"Task {task} of {workflow.id} is not held after a failure, so it cannot be run again in place."
            raise ApiError(message, "USER", 409, workflow.id)
        try:
            await services.inside.release(AttemptKey(found.uuid, found.retry_id), found.node, rerun=rerun)
        except BackendUnavailable as error:
            raise ApiError(f"The node cannot be told now: {error}", "USER", 503, workflow.id) from error
        except NotInside as error:
            raise ApiError(f"{error}.", "USER", 409, workflow.id) from error
        return Named(name=workflow.id)

    _sockets(router, services)
    return router


def _sockets(router: APIRouter, services: Services) -> None:
    serves: dict[str, Serve] = {
        keys.EXEC: serving.serve_exec,
        keys.FORWARD: serving.serve_forward,
        keys.RSYNC: serving.serve_rsync,
    }

    @router.websocket("/api/router/{kind}/{name}/client/{key}")
    async def client(socket: WebSocket, kind: str, name: str, key: str) -> None:
        if kind not in serves:
            await socket.close(1008)
            return
        await socket.accept()
        caller: Caller = socket.scope["caller"]
        found = await keys.take(services, key, kind, caller.user)
        if found is None:
            await socket.close(_TIMEOUT, "Router connection timeout: no such key, or its time is over")
            return
        await serves[kind](services, socket, found)


def _words(command: str) -> tuple[str, ...]:
    """The command as a shell would split it."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise ApiError(f"The command {command[:60]!r} cannot be split into words: {error}.") from error
    if not words or len(command) > MAX_COMMAND or "\0" in command:
        raise ApiError(f"entry_command must have a word, and at most {MAX_COMMAND >> 10} KiB.")
    return words


def _reply(request: Request, key: SessionKey) -> RouterReply:
    base = str(request.base_url).rstrip("/")
    return RouterReply(router_address=base.replace("http", "ws", 1), key=key.key, cookie="")
