"""The command behind a task that is a Ray program: submit it as a Ray job, follow it, end with its verdict.

It runs under the same supervisor as every other task, so logs, outputs, cancel and adoption are the same. The
submission id is the attempt's, so a second submit of the same attempt finds the first job. The job table alone decides
nothing: a job counts as over only when its status is final *and* the cluster that ran it still answers; a cluster that
is gone makes the attempt lost, not failed.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.placement_group import placement_group, remove_placement_group

from osmo_ray.backends.ray.programs import lost_file

LOST = 75
"""Exit code (EX_TEMPFAIL) when the platform, not the program, failed. A program may end with it too, so what counts
is the file that `_lost` leaves beside the program's."""
_RETRY_FOR = 60.0
_GONE_AFTER = 45.0
_FINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


@dataclass(frozen=True, slots=True)
class Program:
    """What to submit. `bundles` are the resources charged for it, reserved as one placement group."""

    id: str
    dashboard: str
    address: str
    environment: Sequence[str]
    """Names of variables that the program gets from this process's environment."""
    runtime_env: Mapping[str, Any]
    bundles: Sequence[Mapping[str, float]]
    metadata: Mapping[str, str]

    @property
    def namespace(self) -> str:
        """Ray namespace of the program's placement group: names in it meet no other attempt's."""
        return f"osmo-{self.id}"


class Stopped(Exception):
    """TERM came: the job has to be stopped for real."""


def main(path: str, argv: Sequence[str]) -> int:
    """`python -m osmo_ray.backends.ray.submit PROGRAM.json -- COMMAND...`; returns the program's exit code."""
    program = Program(**json.loads(Path(path).read_text()))
    signal.signal(signal.SIGTERM, _term)
    try:
        return _run(program, argv)
    except Lost as error:
        print(str(error), flush=True)
        lost_file(Path(path)).write_text(str(error))
        return LOST


def _run(program: Program, argv: Sequence[str]) -> int:
    client = _connect(program)
    group = None
    try:
        group = _reserve(program)
        _submit(client, program, argv)
        return _follow(client, program)
    except Stopped:
        _stop(client, program.id)
        return 128 + signal.SIGTERM
    except (ConnectionError, RuntimeError) as error:
        raise Lost(f"the Ray cluster does not answer: {error}") from error
    finally:
        _release(group)


class Lost(Exception):
    """The cluster went away under the program; nothing is known about how it ended."""


def _term(number: int, frame: FrameType | None) -> None:
    raise Stopped


def _connect(program: Program) -> JobSubmissionClient:
    until = time.monotonic() + _RETRY_FOR
    while True:
        try:
            return JobSubmissionClient(program.dashboard)
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() > until:
                raise Lost(f"the Ray cluster does not answer: {error}") from error
            time.sleep(0.5)


def _reserve(program: Program) -> Any:
    """The placement group, named after the attempt. It waits in Ray only for what our scheduler already granted."""
    if not program.bundles:
        return None
    ray.init(address=program.address, namespace=program.namespace, log_to_driver=False, logging_level="ERROR")
    signal.signal(signal.SIGTERM, _term)  # `ray.init` puts a handler of its own, which would leave the job running
    group = placement_group(list(map(dict, program.bundles)), strategy="PACK", name="program")
    group.wait(timeout_seconds=300)
    return group


def _release(group: Any) -> None:
    if group is not None:
        remove_placement_group(group)
        ray.shutdown()


def _submit(client: JobSubmissionClient, program: Program, argv: Sequence[str]) -> None:
    """Submit once. Right after a head's start there may be no agent yet; a duplicate means that it is there."""
    environment = {name: os.environ[name] for name in program.environment if name in os.environ}
    environment |= {"OSMO_RAY_NAMESPACE": program.namespace, "OSMO_PLACEMENT_GROUP": "program"}
    # `python` is the one that has Ray, whatever the host's is.
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    runtime = {**program.runtime_env, "env_vars": {**program.runtime_env.get("env_vars", {}), **environment}}
    until = time.monotonic() + _RETRY_FOR
    while True:
        try:
            client.submit_job(
                entrypoint=shlex.join(argv),  # Ray wants one shell line; this is exactly these arguments
                submission_id=program.id,
                runtime_env=runtime,
                metadata=dict(program.metadata),
            )
            return
        except RuntimeError as error:
            if "already exists" in str(error):
                return
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.5)


def _follow(client: JobSubmissionClient, program: Program) -> int:
    shown, silent_since = 0, 0.0
    while True:
        try:
            status = client.get_job_status(program.id)
            shown = _show(client, program.id, shown)
            silent_since = 0.0
        except (ConnectionError, RuntimeError) as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _GONE_AFTER:
                raise Lost(f"the Ray cluster is gone: {error}") from error
            time.sleep(0.5)
            continue
        if status in _FINAL:
            _show(client, program.id, shown)
            return _verdict(client, program.id)
        time.sleep(0.3)


def _show(client: JobSubmissionClient, id: str, shown: int) -> int:
    text = client.get_job_logs(id)
    if len(text) > shown:
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
    return len(text)


def _verdict(client: JobSubmissionClient, id: str) -> int:
    info = client.get_job_info(id)
    if info.status is JobStatus.SUCCEEDED:
        return 0
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code) & 0xFF or 1
    if info.status is JobStatus.FAILED:
        raise Lost(f"Ray says: {info.message}")
    return 128 + signal.SIGTERM


def _stop(client: JobSubmissionClient, id: str) -> None:
    """Stop the job and see it stopped; one that waits for resources may need more than one word."""
    for _ in range(60):
        try:
            if client.get_job_status(id) in _FINAL:
                return
            client.stop_job(id)
        except (ConnectionError, RuntimeError):
            return
        time.sleep(0.5)


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    raise SystemExit(main(sys.argv[1], sys.argv[3:]))
