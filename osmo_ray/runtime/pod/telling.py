"""What a pod says of its task's end, and where it says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osmo_ray.runtime import reasons, work
from osmo_ray.runtime.logs import Log, log_prefix
from osmo_ray.runtime.place import Place
from osmo_ray.spec.attempt import AttemptPlan
from osmo_ray.spec.reason import Reason

MESSAGE = "/dev/termination-log"
_MESSAGE_LIMIT = 3500


def tell(result: Mapping[str, Any], path: Path = Path(MESSAGE)) -> None:
    """The termination message. Kubernetes keeps 4096 bytes of it, so a long reason is cut until it fits."""
    text = json.dumps(result)
    for size in (300, 100, 20):
        reason = result.get("reason")
        if len(text) <= _MESSAGE_LIMIT or not reason:
            break
        evidence = {name: str(value)[-size:] for name, value in list(reason["evidence"].items())[:6]}
        short = {**reason, "sentence": reason["sentence"][: 2 * size], "evidence": evidence}
        text = json.dumps({**result, "reason": short})
    path.write_text(text)


def judge(plan: AttemptPlan, end: Mapping[str, Any], log: Log) -> tuple[int | None, Reason | None]:
    """The exit code and why it is a failure; no code when only Kubernetes knows, since the launcher was killed."""
    if not end:
        return None, None
    if "error" in end:
        message = str(end["message"])
        if end["error"] == "missing":
            failure = reasons.command_not_found(message, plan, host=False)
        else:
            failure = reasons.start_failed(f"{message} (in the image {plan.image})")
        log.say(failure.reason.sentence)
        return failure.exit_code, failure.reason
    code = 128 + int(end["signal"]) if end.get("signal") else int(end.get("exit", 0))
    if code == 0:
        return 0, None
    seconds = float(end["ended"]) - float(end["began"])
    return code, reasons.command_failed(plan, code, seconds, usage(end), log.tail(), "")


def usage(end: Mapping[str, Any]) -> dict[str, float]:
    """What the launcher measured."""
    if not end:
        return {}
    return {"memory_peak": float(end.get("peak", 0)), "cpu_seconds": float(end.get("cpu", 0.0))}


def shipper(here: Place) -> work.Shipper:
    """Whoever brings the log into the storage."""
    prefix = log_prefix(here.job.plan.workflow_uuid, here.job.plan.key)
    return work.Shipper(here.job.storage_url, prefix, here.folder.log)
