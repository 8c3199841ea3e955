"""Why an attempt failed, in sentences: every `Reason` that the runtime gives is made here."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence

from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.spec.attempt import AttemptPlan
from osmo_ray.spec.quantity import show_bytes, show_seconds
from osmo_ray.spec.reason import HELD, Reason

IMAGE_PULL, DOWNLOAD_FAILED, UPLOAD_FAILED = 302, 2010, 2012
INVALID_INPUT, INVALID_COMMAND, INVALID_FILE = 2030, 2031, 2032
START_ERROR, EVICTED = 3003, 3004
UNTRUSTED = Reason(
    "UntrustedPool",
    "the task is a Ray program, and its pool does not trust those: they run outside the sandbox (setting ray_programs)",
)


def logs_command(plan: AttemptPlan) -> str:
    """What to type to read on."""
    return f"osmo workflow logs {plan.workflow_id} --task {plan.task}"


def bad_file(path: str, why: str) -> RuntimeFailure:
    """A `files` entry that cannot be had."""
    return RuntimeFailure(INVALID_FILE, Reason("FileRefused", f"the file {path} cannot be put there: {why}"))


def needs_namespaces(path: str, why: str) -> RuntimeFailure:
    """A `files` entry outside the task's own folders, on a host without namespaces."""
    sentence = (
        f"the file {path} needs a private file system, which this host cannot give ({why}); "
        "write it below {{output}}, or use a host that allows namespaces"
    )
    return RuntimeFailure(INVALID_FILE, Reason("NeedsNamespaces", sentence, {"path": path}))


def download_failed(source: str, error: Exception | str) -> RuntimeFailure:
    return RuntimeFailure(
        DOWNLOAD_FAILED,
        Reason("DownloadFailed", f"the input {source} could not be fetched: {error}", {"source": source}),
    )


def bad_mount(source: str, target: str, why: str) -> RuntimeFailure:
    sentence = f"{source} cannot be mounted at {target}: {why}"
    return RuntimeFailure(START_ERROR, Reason("MountFailed", sentence, {"source": source, "target": target}))


def mount_failed(source: str, why: str) -> RuntimeFailure:
    sentence = f"the input {source} could not be mounted again: {why}; without `mount` it is downloaded"
    return RuntimeFailure(DOWNLOAD_FAILED, Reason("DownloadFailed", sentence, {"source": source}))


def mount_died(source: str) -> Reason:
    """The task is ended: what it went on to read would be missing."""
    sentence = f"the process that showed the input {source} to the task died, so the task was ended; run it again"
    return Reason("MountDied", sentence, {"source": source})


def upload_failed(target: str, error: Exception | str) -> RuntimeFailure:
    return RuntimeFailure(
        UPLOAD_FAILED, Reason("UploadFailed", f"the output could not be kept at {target}: {error}", {"target": target})
    )


def checkpoint_failed(why: str) -> RuntimeFailure:
    return RuntimeFailure(UPLOAD_FAILED, Reason("CheckpointFailed", f"the last {why}"))


def start_failed(what: str) -> RuntimeFailure:
    return RuntimeFailure(START_ERROR, Reason("StartError", what))


def command_not_found(program: str, plan: AttemptPlan, *, host: bool) -> RuntimeFailure:
    """The program is nowhere on PATH."""
    brought = f"; the image {plan.image} would have brought it" if host and plan.image else f" in {plan.image}"
    sentence = (
        f"the program {program} is not on this host{brought}" if host else f"the program {program} is not{brought}"
    )
    return RuntimeFailure(START_ERROR, Reason("CommandNotFound", sentence, {"program": program, "image": plan.image}))


def command_failed(
    plan: AttemptPlan, code: int, seconds: float, usage: dict[str, float], last_lines: Sequence[str], watched: str
) -> Reason:
    """The command's own failure: what, how long, how much memory, what it said last."""
    shown = shlex.join(plan.argv)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    ended = f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
    evidence = {
        "exit_code": str(code),
        "memory_peak": f"{show_bytes(usage.get('memory_peak', 0.0))} of {show_bytes(plan.memory)}{watched}",
        "last_lines": "\n".join(last_lines),
    }
    if code > 128:
        evidence["signal"] = str(code - 128)
    return Reason("CommandFailed", f"{shown} {ended} after {show_seconds(seconds)}", evidence, logs_command(plan))


def out_of_memory(plan: AttemptPlan, peak: float, last_lines: Sequence[str], watched: str) -> Reason:
    sentence = f"used more memory than its {show_bytes(plan.memory)}"
    evidence = {
        "peak": show_bytes(max(peak, 0.0)) + watched,
        "limit": show_bytes(plan.memory),
        "last_lines": "\n".join(last_lines),
    }
    return Reason("OutOfMemory", sentence, evidence, "raise resources.<name>.memory in the workflow and submit again")


def out_of_storage(plan: AttemptPlan, peak: float) -> Reason:
    sentence = f"wrote more than its {show_bytes(plan.storage)} of storage"
    evidence = {"peak": show_bytes(peak), "limit": show_bytes(plan.storage)}
    return Reason("OutOfStorage", sentence, evidence, "raise resources.<name>.storage in the workflow and submit again")


def stopped(why: str) -> Reason:
    return Reason("Stopped", f"ended by order: {why}" if why else "ended by order of the platform")


def lease_expired(silent: float) -> Reason:
    sentence = (
        f"no controller vouched for this node in time, so the task was ended {show_seconds(silent)} after the lease"
    )
    return Reason("LeaseExpired", sentence)


def supervisor_died(rebooted: bool, killed: int) -> Reason:
    how = "the node was started anew" if rebooted else "its supervisor was killed"
    sentence = f"{how} before the command's end was known; nothing of it runs any more"
    return Reason("SupervisorLost", sentence, {"processes_killed": str(killed)})


def held(plan: AttemptPlan, until: float, reason: Reason) -> Reason:
    """`until` in seconds since the epoch."""
    return _held(plan.workflow_id, plan.task, plan.hold, until, reason.sentence, reason.evidence)


def held_in_pod(workflow: str, task: str, hold: float, until: float) -> Reason:
    """The same, as far as is known of a pod that runs: `hold` seconds, the rest stands in its log."""
    return _held(workflow, task, hold, until, "its log says why", {})


def _held(workflow: str, task: str, hold: float, until: float, why: str, evidence: Mapping[str, str]) -> Reason:
    at = time.strftime("%H:%M:%S", time.gmtime(until))
    sentence = (
        f"failed, and stays until {at} UTC ({show_seconds(hold)}) for a look inside: {why} "
        f"(osmo workflow release {workflow} {task} ends that, with --rerun it runs again in place)"
    )
    return Reason(HELD, sentence, dict(evidence), f"osmo shell {workflow}/{task}")


def runs_again(times: int) -> Reason:
    """After a hold; `times` counts the runs of this attempt."""
    return Reason("RunAgain", f"runs again in place, with its files as they were left (run {times})")


def not_held(why: str) -> Reason:
    """It failed and should have stayed, which cannot be."""
    return Reason("NotHeld", f"failed, and cannot stay for a look inside: {why}")
