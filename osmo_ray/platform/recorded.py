"""What a platform can tell of its last hours: which groups came, how long they ran, and on which nodes.

All of it by HTTP, with the rights of whoever asks: a person without the right to see others' workflows replays only
their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from osmo_ray.sdk.http import Http
from osmo_ray.sim.trace import Arrival, Asked
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Priority
from osmo_ray.spec.quantity import to_bytes

_PAGE = 500
Amounts = Mapping[tuple[str, str], Asked]
"""What tasks asked for, by uuid of the workflow and name."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """`unknown` groups came and are not among the arrivals: they wait, or ended without having run, so nobody knows
    how long they take. `running` ones are, with the time that they have run so far."""

    arrivals: tuple[Arrival, ...]
    unknown: int = 0
    running: int = 0


def recorded(http: Http, now: float, seconds: float) -> Recorded:
    """Every group submitted in the last `seconds`. It arrived when nothing upstream of it was left to wait for.
    Raises `ClientError`."""
    after = datetime.fromtimestamp(now - seconds, UTC).isoformat()
    asked = _amounts(http, after)
    found: list[Arrival] = []
    unknown = running = 0
    params = {"submitted_after": after, "all_users": True, "all_pools": True, "order": "DESC"}
    seen: set[str] = set()
    for line in _pages(http, "/api/workflow", "workflows", params):
        if line["workflow_uuid"] in seen:
            continue  # a page that moved while new ones came
        seen.add(line["workflow_uuid"])
        workflow = http.json("GET", f"/api/workflow/{line['workflow_uuid']}")
        for group in workflow["groups"]:
            arrival = _arrival(workflow, group, asked, now)
            unknown += arrival is None
            if arrival is not None:
                found.append(arrival)
                running += group["end_time"] is None
    return Recorded(tuple(sorted(found, key=lambda a: a.submitted)), unknown, running)


def nodes(http: Http) -> tuple[NodeReport, ...]:
    """The nodes that are alive now. Storage is left out, as it is of traces. Raises `ClientError`."""
    found = http.json("GET", "/api/resources", {"all_pools": True})["resources"]
    return tuple(
        NodeReport(r["hostname"], "", float(a["cpu"]), to_bytes(a["memory"]), int(a["gpu"]), 0)
        for r in found
        for a in (r["allocatable_fields"],)
    )


def _amounts(http: Http, after: str) -> Amounts:
    params = {"started_after": after, "all_users": True, "all_pools": True}
    return {
        (t["workflow_uuid"], t["task_name"]): Asked(t["cpu"], t["memory"] << 30, t["gpu"])
        for t in _pages(http, "/api/task", "tasks", params)
    }


def _pages(http: Http, path: str, name: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        found = http.json("GET", path, {**params, "limit": _PAGE, "offset": offset})[name]
        yield from found
        if len(found) < _PAGE:
            return
        offset += _PAGE


def _arrival(workflow: dict[str, Any], group: dict[str, Any], asked: Amounts, now: float) -> Arrival | None:
    starts = [at for at in (_moment(t["start_time"]) for t in group["tasks"]) if at is not None]
    started, ended = min(starts, default=None), _moment(group["end_time"])  # of the newest attempts
    tasks = [asked.get((workflow["uuid"], name)) for name in dict.fromkeys(t["name"] for t in group["tasks"])]
    sizes = tuple(task for task in tasks if task is not None)
    if started is None or not sizes:
        return None
    came = _moment(group["processing_start_time"]) or _moment(workflow["submit_time"]) or started
    seconds = max((ended or now) - started, 0.0)
    return Arrival(
        came, seconds, workflow["pool"] or "-", sizes, workflow["submitted_by"], Priority(workflow["priority"])
    )


def _moment(text: str | None) -> float | None:
    """Times of the API are UTC and say no zone."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() if text else None
