"""What tasks wrote: a list, single files, and a whole folder as an archive.

Archives are streamed: one file after the other, a piece at a time, so that a folder of any size costs a few megabytes
of memory here.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from osmo_ray.api import cancel
from osmo_ray.api.errors import ApiError
from osmo_ray.api.routes.common import Bytes, Tar
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import OutputFile, OutputList, TaskOutputs
from osmo_ray.engine.model import Group, Task, Workflow
from osmo_ray.objects.protocol import NoSuchObject
from osmo_ray.runtime.transfer import FileEntry, Tree, read_manifest

PIECE = 1 << 20
MAX_LISTED = 10_000


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["outputs"])

    @router.get("/api/x/workflow/{name}/outputs")
    def outputs(name: str, task: str | None = None) -> OutputList:
        workflow = cancel.find(services, name)
        shown = [
            _listed(services, group, one)
            for group in workflow.groups
            for one in group.tasks
            if task in (None, one.name)
        ]
        if task and not shown:
            raise ApiError(f"Workflow {workflow.id} has no task {task!r}.", workflow_id=workflow.id)
        return OutputList(name=workflow.id, status=workflow.status.value, tasks=shown)

    @router.get("/api/x/workflow/{name}/outputs/{task}.tar", response_class=Tar)
    def archive(name: str, task: str) -> Response:
        workflow = cancel.find(services, name)
        found = _task(workflow, task)
        tree = _tree(services, found)
        disposition = f"attachment; filename*=UTF-8''{quote(f'{workflow.id}-{task}.tar')}"
        pieces = tar_pieces(services, found.output, tree, found.times.ended)
        return StreamingResponse(pieces, media_type="application/x-tar", headers={"content-disposition": disposition})

    @router.get("/api/x/workflow/{name}/outputs/{task}/{path:path}", response_class=Bytes)
    def download(name: str, task: str, path: str) -> Response:
        found = _task(cancel.find(services, name), task)
        entry = next((f for f in _tree(services, found).files if f.path == path), None)
        if entry is None:
            raise ApiError(f"Task {task} wrote no file {path!r}; see osmo workflow outputs {name}.", status=404)
        headers = {
            "content-length": str(entry.size),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2])}",
            "x-content-type-options": "nosniff",
        }
        pieces = _pieces(services, found.output, entry)
        return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)

    return router


def _task(workflow: Workflow, name: str) -> Task:
    task = next((t for g in workflow.groups for t in g.tasks if t.name == name), None)
    if task is None:
        raise ApiError(f"Workflow {workflow.id} has no task {name!r}.", workflow_id=workflow.id, status=404)
    if not task.output:
        state = "has kept no output" if task.status.finished else f"is {task.status.value} and has kept no output yet"
        raise ApiError(f"Task {name} of {workflow.id} {state}.", workflow_id=workflow.id, status=404)
    return task


def _tree(services: Services, task: Task) -> Tree:
    try:
        return read_manifest(services.objects, task.output)
    except NoSuchObject:
        raise ApiError(f"The output of task {task.name} is no longer kept.", status=410) from None


def _listed(services: Services, group: Group, task: Task) -> TaskOutputs:
    try:
        tree = read_manifest(services.objects, task.output) if task.output else Tree()
    except NoSuchObject:
        tree = Tree()
    files = [OutputFile(path=f.path, size=f.size) for f in tree.files[:MAX_LISTED]]
    return TaskOutputs(
        task=task.name,
        group=group.name,
        retry_id=task.retry_id,
        status=task.status.value,
        bytes=tree.size,
        count=len(tree.files),
        files=files,
        truncated=len(tree.files) > MAX_LISTED,
    )


def _pieces(services: Services, prefix: str, entry: FileEntry) -> Iterator[bytes]:
    key = f"{prefix.rstrip('/')}/{entry.key}"
    for start in range(0, entry.size, PIECE):
        yield services.objects.read(key, start, min(start + PIECE, entry.size))


def tar_pieces(services: Services, prefix: str, tree: Tree, modified: float) -> Iterator[bytes]:
    """The folder as a tar archive (PAX), in pieces."""
    for path, mode in tree.folders:
        yield _head(path, 0, mode, modified, tarfile.DIRTYPE)
    for entry in tree.files:
        yield _head(entry.path, entry.size, entry.mode, modified, tarfile.REGTYPE)
        yield from _pieces(services, prefix, entry)
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    for path, target in tree.links:
        yield _head(path, 0, 0o777, modified, tarfile.SYMTYPE, target)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _head(path: str, size: int, mode: int, modified: float, kind: bytes, link: str = "") -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime, info.type, info.linkname = size, mode & 0o777, int(modified), kind, link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
