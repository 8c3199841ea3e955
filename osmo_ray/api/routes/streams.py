"""Texts that are streamed: logs, error logs, events. Each follows until its workflow has ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse

from osmo_ray.api import cancel
from osmo_ray.api.errors import ApiError
from osmo_ray.api.follow import MAX_LAST, Filter, Following
from osmo_ray.api.loglines import AttemptLog, attempt_head
from osmo_ray.api.routes.common import Base, Text
from osmo_ray.api.services import Services
from osmo_ray.engine.model import Record, Workflow
from osmo_ray.store.protocol import StoreError, TaskRow

ERROR_LINES = 100
"""Lines of an error log, when nobody asks for another number."""
_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-cache", "x-accel-buffering": "no"}
_TYPE = "text/plain; charset=us-ascii"


def _stream(pieces: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(pieces, headers={**_HEADERS, "content-type": _TYPE})


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["workflow"])

    @router.get("/api/workflow/{name}/logs", response_class=Text)
    async def logs(
        name: str,
        last_n_lines: int | None = None,
        task_name: str | None = None,
        retry_id: int | None = None,
        query: str | None = None,
        follow: bool = True,
    ) -> Response:
        workflow = await _workflow(services, name, task_name)
        _check_last(last_n_lines)
        match = Filter(query) if query else None
        following = Following(services, workflow.uuid, task=task_name or "", retry_id=retry_id)
        return _stream(_log(following, match, last_n_lines, follow))

    @router.get("/api/workflow/{name}/error_logs", responses={200: {"content": {"text/plain": {}}}})
    async def error_logs(
        name: str,
        links: Base,
        last_n_lines: int | None = None,
        task_name: str | None = None,
        retry_id: int | None = None,
        query: str | None = None,
    ) -> Response:
        workflow = await _workflow(services, name, task_name)
        _check_last(last_n_lines)
        if not task_name:
            tasks = (t for g in workflow.groups for t in g.tasks if t.status.failed)
            told = [f"{t.name}: {links.task(workflow.id, 'error_logs', t.name, t.retry_id)}" for t in tasks]
            return JSONResponse("\n".join(told))
        rows = await asyncio.to_thread(services.store.attempts, workflow.uuid)
        row = _attempt(rows, task_name, retry_id)
        match = Filter(query) if query else None
        return _stream(_error_log(services, row, last_n_lines or ERROR_LINES, match))

    @router.get("/api/workflow/{name}/events", response_class=Text)
    async def events(
        name: str, task_name: str | None = None, retry_id: int | None = None, follow: bool = True
    ) -> Response:
        workflow = await _workflow(services, name, task_name)
        return _stream(_events(services, workflow.uuid, task_name, retry_id, follow))

    return router


async def _workflow(services: Services, name: str, task: str | None) -> Workflow:
    workflow = await asyncio.to_thread(cancel.find, services, name)
    if task and not any(t.name == task for g in workflow.groups for t in g.tasks):
        raise ApiError(f"Workflow {workflow.id} has no task {task!r}.", workflow_id=workflow.id)
    return workflow


def _check_last(number: int | None) -> None:
    if number is not None and not 0 < number <= MAX_LAST:
        raise ApiError(f"last_n_lines must be 1 to {MAX_LAST}.")


def _attempt(rows: object, task: str, retry_id: int | None) -> TaskRow:
    assert isinstance(rows, list | tuple)
    mine = [row for row in rows if row.task.name == task and retry_id in (None, row.task.retry_id)]
    if not mine:
        raise ApiError(f"Task {task!r} has no attempt {retry_id}.")
    found: TaskRow = max(mine, key=lambda row: row.task.retry_id)
    return found


async def _log(following: Following, match: Filter | None, last: int | None, follow: bool) -> AsyncIterator[bytes]:
    if last is not None:
        yield b"".join(await following.tail(last, match))
    if not follow:
        if last is None:
            async for piece in following.present(match):
                yield piece
        return
    async for piece in following.pieces(match):
        yield piece


async def _error_log(services: Services, row: TaskRow, last: int, match: Filter | None) -> AsyncIterator[bytes]:
    if not row.task.node:
        return
    log = AttemptLog(services, row, bare=True)
    kept: deque[bytes] = deque(maxlen=last)
    while not log.done:
        await log.fill(1 << 20, 0.0)
        kept.extend(line for _, line in log.lines if line and (match is None or match.keep(line)))
        log.lines = []
        if log.caught_up and not log.ended:
            break
        if log.caught_up:
            await asyncio.sleep(0.2)
    yield b"".join(kept)


async def _events(
    services: Services, workflow: str, task: str | None, retry_id: int | None, follow: bool
) -> AsyncIterator[bytes]:
    after, ended = 0, False
    while True:
        try:
            state = await asyncio.to_thread(services.store.load, [workflow])
            ended = not state or state[0].status.finished
            rows = await asyncio.to_thread(services.store.records, workflow, after)
        except StoreError as error:
            if error.permanent:
                raise
            rows = ()
        if rows:
            after = rows[-1][0]
            yield b"".join(_event(r) for _, r in rows if _wanted(r, task, retry_id))
        elif ended or not follow:
            return
        else:
            await asyncio.sleep(0.5)


def _wanted(record: Record, task: str | None, retry_id: int | None) -> bool:
    return not task or (record.task == task and retry_id in (None, record.retry_id))


def _event(record: Record) -> bytes:
    at = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%d %H:%M:%S+00:00")
    who = attempt_head(record.task, record.retry_id) if record.task else record.group
    return f"{at} {f'[{who}] ' if who else ''}{record.kind}: {record.message}\n".encode()
