"""Errors as clients know them: a status and `{message, error_code, workflow_id}`."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from osmo_ray.api.shapes import ErrorView
from osmo_ray.data.errors import DataError
from osmo_ray.objects.protocol import NoSuchObject, ObjectError
from osmo_ray.spec.errors import SpecError
from osmo_ray.store.protocol import StorageFull, StoreError

_log = logging.getLogger(__name__)
_STATUSES = {
    400: "What was asked for cannot be done; `message` says why.",
    401: "Nobody is logged in.",
    403: "Not allowed.",
    404: "There is no such thing.",
    409: "Not now.",
    410: "It is over, or kept no longer.",
    413: "More than a request may have.",
    425: "Not yet: the task does not run.",
    503: "The platform is away for a moment.",
    507: "The platform's disk is full.",
}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": ErrorView.model_json_schema()}}}
    for status, text in _STATUSES.items()
}
"""The refusals that every route may answer with."""


class ApiError(Exception):
    """A refusal. `code` is one of USER, USAGE, RESOURCE, CREDENTIAL, DATABASE, SUBMISSION, OSMO_ERROR."""

    def __init__(self, message: str, code: str = "USER", status: int = 400, workflow_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.status, self.workflow_id = code, status, workflow_id


def not_found(name: str) -> ApiError:
    """What clients expect for a workflow that does not exist: 400, not 404."""
    return ApiError(f"Workflow {name} not found.", "DATABASE", workflow_id=name)


def body(message: str, code: str, workflow_id: str | None = None) -> dict[str, str | None]:
    """The JSON of an error."""
    return {"message": message, "error_code": code, "workflow_id": workflow_id}


def install(app: FastAPI) -> None:
    """Answer the errors of the rooms below in the clients' form."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return JSONResponse(body(str(error), error.code, error.workflow_id), error.status)

    @app.exception_handler(SpecError)
    async def wrong_file(request: Request, error: SpecError) -> Response:
        return JSONResponse({**body(str(error), error.code), "problems": problems(error)}, 400)

    @app.exception_handler(DataError)
    async def wrong_data(request: Request, error: DataError) -> Response:
        text = str(error)
        return JSONResponse(body(f"{text[:1].upper()}{text[1:]}.", "USER"), 400)

    @app.exception_handler(StorageFull)
    async def full(request: Request, error: StorageFull) -> Response:
        return JSONResponse(body(f"The disk of the platform is full: {error}", "SUBMISSION"), 507)

    @app.exception_handler(StoreError)
    async def database(request: Request, error: StoreError) -> Response:
        _log.warning("database: %s", error)
        headers = {} if error.permanent else {"retry-after": "2"}
        message = f"The database does not answer: {error}"
        return JSONResponse(body(message, "DATABASE"), 500 if error.permanent else 503, headers)

    @app.exception_handler(NoSuchObject)
    async def no_object(request: Request, error: NoSuchObject) -> Response:
        return JSONResponse(body(str(error), "USER"), 404)

    @app.exception_handler(ObjectError)
    async def storage(request: Request, error: ObjectError) -> Response:
        return JSONResponse(body(f"The storage does not answer: {error}", "USER"), 500 if error.permanent else 503)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return JSONResponse({"message": f"Internal server error: {type(error).__name__}: {error}"}, 500)


def problems(error: SpecError) -> list[dict[str, str | int]]:
    """Every mistake of a file with its place, for clients that show them themselves."""
    return [
        {
            "message": p.message,
            "path": p.path,
            "line": p.line,
            "column": p.column,
            "source": p.source,
            "hint": p.hint,
        }
        for p in error.problems
    ]
