"""What the programs of a pod are told, as the Secret holds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from osmo_ray.runtime import codec, work
from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.pod.patience import BEFORE, patiently
from osmo_ray.spec.attempt import AttemptPlan, FilePlan


def job_to_json(plan: AttemptPlan, storage_url: str, files_at: str) -> str:
    """What the Secret holds for our containers. Orders and names of siblings come later, by the annotation; files that
    are too large for a Secret are in the storage, under the key `files_at`. What the user's container gets of
    credentials stands in the Secret too, beside this."""
    kept = replace(plan, hosts={}, files=() if files_at else plan.files)
    names = dict.fromkeys(plan.secrets.environment, "")
    secrets = codec.secrets_to_json(replace(plan.secrets, environment=names, files=(), registry=None))
    job = codec.job_to_json(Job(kept, "pod", storage_url=storage_url))
    return json.dumps(job | {"files_at": files_at, "secrets": secrets})


def job_from_json(text: str, *, with_files: bool) -> Job:
    """What `job_to_json` wrote; with its files, wherever they are."""
    value = json.loads(text)
    job = codec.job_from_json(value)
    job = replace(job, plan=replace(job.plan, secrets=codec.secrets_from_json(value["secrets"])))
    if not with_files or not value["files_at"]:
        return job
    store = work.open_store(job.storage_url)
    files = json.loads(patiently(BEFORE, lambda: store.read(value["files_at"])))
    return replace(job, plan=replace(job.plan, files=tuple(FilePlan(**file) for file in files)))


def files_to_json(files: Sequence[FilePlan]) -> bytes:
    """Files as they wait in the storage."""
    return json.dumps([{"path": f.path, "contents": f.contents, "base64": f.base64} for f in files]).encode()
