"""What editors and compilers need: the schema of the language, and archives of Python code by the SHA-256 of their
bytes, sent once, named by any number of workflows.

An archive is stored like the output of a task, with a manifest, so that a task's input can name it and nodes fetch it
as they fetch everything else. Whoever may submit a workflow may send one; nobody can replace one, since the name is
made of the contents.
"""

from __future__ import annotations

import hashlib
import re
import tempfile

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from osmo_ray.api.errors import ApiError
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.engine.plans import CODE_GRACE, code_prefix
from osmo_ray.objects.protocol import NoSuchObject, ObjectStore
from osmo_ray.runtime.transfer import MANIFEST, FileEntry, Tree
from osmo_ray.spec.schema import json_schema

MAX_ARCHIVE = 256 << 20
"""Bytes of one archive."""
ARCHIVE = "code.zip"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_IN_MEMORY = 8 << 20


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["code"], prefix="/api/x")

    @router.get("/schema")
    def schema() -> dict[str, object]:
        return json_schema()

    @router.head("/code/{digest}", response_class=Response)
    def look(digest: str) -> Response:
        return Response(status_code=200 if keep(services.objects, digest, services.clock()) else 404)

    @router.put("/code/{digest}")
    async def put(digest: str, user: User, request: Request) -> dict[str, object]:
        if not _DIGEST.fullmatch(digest):
            raise ApiError("An archive of code is named by the 64 hex digits of its SHA-256.", "USAGE")
        found, size = hashlib.sha256(), 0
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            async for piece in request.stream():
                found.update(piece)
                size += len(piece)
                if size > MAX_ARCHIVE:
                    raise ApiError(f"The archive has more than {MAX_ARCHIVE >> 20} MiB.", "USAGE", 413)
                await run_in_threadpool(file.write, piece)
            if found.hexdigest() != digest:
                raise ApiError(f"The archive's SHA-256 is {found.hexdigest()}, not {digest}.", "USAGE")
            file.seek(0)
            await run_in_threadpool(_store, services.objects, digest, file, size)
        return {"digest": digest, "size": size}

    return router


def keep(objects: ObjectStore, digest: str, now: float) -> bool:
    """Whether the archive is here, whole; if so it stays for a while longer, though no workflow names it yet."""
    if not _DIGEST.fullmatch(digest):
        return False
    key = f"{code_prefix(digest)}/{MANIFEST}"
    try:
        if objects.stat(key).modified < now - CODE_GRACE / 2:
            objects.write(key, objects.read(key))
    except NoSuchObject:
        return False
    return True


def _store(objects: ObjectStore, digest: str, file: object, size: int) -> None:
    prefix = code_prefix(digest)
    objects.write(f"{prefix}/{ARCHIVE}", file)  # type: ignore[arg-type]
    manifest = Tree([FileEntry(ARCHIVE, size, 0o444, ARCHIVE)]).to_json().encode()
    objects.write(f"{prefix}/{MANIFEST}", manifest)
