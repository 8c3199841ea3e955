"""Run the production core over tables of cases and write its answers.

    python tests/conformance/kai_replay.py CASES.jsonl RESULTS.jsonl

A case is a cluster, settings, the actions to run and what should come of them; the format of cases and answers is
that of the tables' own scorer. Nothing here looks at a case's name or at what is expected of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.cycle import run
from osmo_ray.scheduler.core.inputs import (
    Ask,
    ClaimIn,
    Company,
    GroupIn,
    JobIn,
    Near,
    NodeIn,
    PodSetIn,
    QueueIn,
    Settings,
    TaskIn,
    Term,
)
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.shares import Claimant, divide, divide_over_quota

Row = dict[str, Any]
States = dict[str, tuple[str, str | None]]
Shared = dict[str, tuple[str, ...]]
NOW = 1_000_000.0
CODES = {name: code for code, name in enumerate(st.NAMES)}
RESOURCES = ("gpu", "cpu", "mem")


def is_gpu(device_class: str) -> bool:
    return "gpu" in device_class


def nodes(case: Row) -> list[NodeIn]:
    slices: dict[str, dict[str, int]] = {}
    for one in case.get("dra", {}).get("ResourceSlices", []):
        slices.setdefault(one["NodeName"], {})[one["DeviceClassName"]] = one["Count"]
    return [node(n, slices.get(n["name"], {})) for n in case["nodes"]]


def node(n: Row, devices: dict[str, int]) -> NodeIn:
    mig = n.get("mig") or {}
    extra = {**mig, "pods": n.get("max_tasks", 110)}
    strategy = n.get("mig_strategy") or "none"
    gpu = 0 if strategy == "mixed" else n["gpu"]
    return NodeIn(
        n["name"],
        gpu,
        n["cpu"],
        n["mem"],
        n.get("gpu_memory") or 100,
        extra,
        devices,
        n.get("labels", {}),
        sliced=strategy != "none",
    )


def queues(case: Row) -> list[QueueIn]:
    return [
        QueueIn(
            q["name"],
            q.get("parent"),
            q["priority"],
            q["created"],
            three(q, "quota"),
            three(q, "limit"),
            three(q, "weight"),
            q.get("preempt_min_runtime"),
            q.get("reclaim_min_runtime"),
        )
        for q in case["queues"]
    ]


def three(q: Row, what: str) -> tuple[float, float, float]:
    mb = q["mem_mb"][what]
    return q["gpu"][what], q["cpu"][what], mb * 1e6 if what != "weight" and mb >= 0 else mb


def near(given: Row | None) -> Near | None:
    if not given or not given["topology"]:
        return None
    return Near(given["topology"], given["required"] or "", given["preferred"] or "")


def group(given: Row) -> GroupIn:
    sets = tuple(PodSetIn(p["name"], p["min_available"], near(p["topology"])) for p in given["pod_sets"])
    return GroupIn(given["name"], near(given["topology"]), sets, tuple(group(g) for g in given["groups"]))


def plain_group(j: Row) -> Row:
    pod_set = {"name": "default", "min_available": j["min_available"], "topology": None}
    return {"name": "", "topology": None, "pod_sets": [pod_set], "groups": []}


def ask(t: Row, case: Row) -> Ask:
    whole = float(t.get("gpu") or 0)
    fraction = float(t.get("fraction") or 0)
    if 0 < whole < 1 and not fraction:
        fraction = whole
    where = []
    if t.get("node_affinity"):
        where.append(Term("kai.scheduler/type", frozenset(t["node_affinity"])))
    together = t.get("pod_affinity")
    company = None
    if together:
        labels = tuple(sorted(together["labels"].items()))
        company = Company(labels, together["affinity_key"] or "", together["anti_affinity_key"] or "")
    return Ask(
        gpu=0 if fraction or t.get("gpu_memory") else whole,
        cpu=t["cpu"],
        memory=t["mem"],
        fraction=fraction,
        gpu_memory=int(t.get("gpu_memory") or 0),
        devices=int(t.get("devices") or t.get("num_devices") or t.get("fraction_devices") or 1),
        extra=tuple(sorted((t.get("mig") or {}).items())),
        where=tuple(where),
        company=company,
        claims=tuple(t.get("claims") or ()),
        refused="legacy MIG request" if t.get("legacy_mig") else "",
    )


def task(t: Row, case: Row, states: States, shared_by: Shared) -> TaskIn:
    state, place = states[t["name"]]
    code = CODES.get(state, st.FAILED)
    shared = shared_by.get(t["name"], ()) if place and st.USES[code] else ()
    asked = ask(t, case)
    if not (asked.fraction or asked.gpu_memory):
        shared = ()
    return TaskIn(t["name"], asked, code, place, t.get("sub_group") or "default", t.get("task_priority"), shared)


def jobs(
    case: Row, states: States, shared: Shared, started: dict[str, float], stale: dict[str, float], now: float
) -> list[JobIn]:
    out = []
    for j in case["jobs"]:
        out.append(
            JobIn(
                j["name"],
                j["queue"],
                tuple(task(t, case, states, shared) for t in j["tasks"]),
                j["priority"],
                j["preemptible"],
                -60.0 * j["age_minutes"],
                started.get(j["name"]),
                stale.get(j["name"], now),
                group(j.get("sub_groups") or plain_group(j)),
            )
        )
    return out


def claims(case: Row) -> list[ClaimIn]:
    names = {t["name"] for j in case["jobs"] for t in j["tasks"]}
    out = []
    for c in case.get("dra", {}).get("ResourceClaims", []):
        others = sum(1 for r in c.get("ClaimStatus", {}).get("ReservedFor", []) if r["Name"] not in names)
        label = c.get("Labels", {}).get("kai.scheduler/queue", "")
        out.append(ClaimIn(c["Name"], c["DeviceClassName"], c["Count"], label, is_gpu(c["DeviceClassName"]), others))
    return out


def settings(case: Row) -> Settings:
    given = case["session"]
    plugins = case.get("scheduler", {}).get("plugins", {})
    placement = plugins.get("nodeplacement", {})
    bound = given["max_consolidation_victims"]
    return Settings(
        spread_gpu=placement.get("gpu") == "spread",
        spread_cpu=placement.get("cpu") == "spread",
        spread_shared="gpuspread" in plugins,
        shared_first=not plugins or "gpusharingorder" in plugins,
        victims_per_move=None if bound < 0 else bound,
        count_moved=not given["consolidating_reclaim"],
        grace=given["staleness_grace_seconds"],
        signatures=given["scheduling_signatures"],
        smallest_gpu=given.get("min_gpu_memory") or 0,
    )


def cycle(
    case: Row, states: States, shared: Shared, now: float, started: dict[str, float], stale: dict[str, float]
) -> States:
    """One session on these states; the states after it."""
    session = Session(
        nodes(case),
        queues(case),
        jobs(case, states, shared, started, stale, now),
        claims(case),
        [(t["name"], tuple(t["levels"])) for t in case["topologies"]],
        settings(case),
        now,
        sorted({k for j in case["jobs"] for t in j["tasks"] for k in (t.get("mig") or {})}),
    )
    run(session, case["actions"])
    after = dict(states)
    moved = {entry[0] for entry in session.journal}
    for job in session.jobs.values():
        for one in job.tasks:
            shared[one.name] = one.kept_on or one.held_on
            if one not in moved:
                continue
            name = "Binding" if one.status == st.ALLOCATED else st.NAMES[one.status]
            after[one.name] = (name, session.nodes.names[one.node] if one.node >= 0 else states[one.name][1])
    return after


def settle(case: Row, states: States) -> States:
    """What stands between two rounds."""
    keeps = {t["name"]: bool(j.get("delete_in_test")) for j in case["jobs"] for t in j["tasks"]}
    out: States = {}
    for name, (state, place) in states.items():
        if (state == "Releasing" and not keeps[name]) or state == "Pipelined":
            out[name] = ("Pending", None)
        else:
            out[name] = ("Running" if state == "Binding" else state, place)
    return out


def replay(case: Row) -> Row:
    if case["mode"] == "fairshare":
        return share(case)
    states: States = {t["name"]: (t["state"], t["node"]) for j in case["jobs"] for t in j["tasks"]}
    shared: Shared = {t["name"]: tuple(t.get("gpu_groups") or ()) for j in case["jobs"] for t in j["tasks"]}
    now = NOW
    since = now - 60 * case["session"]["running_since_minutes"]
    started = {j["name"]: since for j in case["jobs"] if any(t["state"] == "Running" for t in j["tasks"])}
    stale = {j["name"]: now - j["stale_seconds"] for j in case["jobs"] if "stale_seconds" in j}
    if case["mode"] == "single":
        return {"id": case["id"], "states": [cycle(case, states, shared, now, started, stale)]}
    kept = []
    for number in range(case["rounds_until_match"] + case["rounds_after_match"]):
        states = settle(case, cycle(case, states, shared, now, started, stale))
        now += case.get("seconds_between_rounds", 0.0)
        if number + 1 >= case["rounds_until_match"]:
            kept.append(states)
    return {"id": case["id"], "states": kept}


def share(case: Row) -> Row:
    answer: Row = {"id": case["id"], "fair_share": {q["name"]: {} for q in case["queues"]}, "remaining": 0.0}
    for resource in RESOURCES:
        if resource not in case["total"]:
            continue
        claimants = [claimant(q, q[resource]) for q in case["queues"]]
        if case["function"] == "divide_over_quota":
            left = divide_over_quota(case["total"][resource], claimants, case["k_value"])
        else:
            left = divide(case["total"][resource], claimants, case["k_value"])
        for c in claimants:
            answer["fair_share"][c.name][resource] = c.share
        if resource == "gpu" or len(case["total"]) == 1:
            answer["remaining"] = left
    return answer


def claimant(q: Row, r: Row) -> Claimant:
    return Claimant(
        q["name"],
        q["priority"],
        q["created"],
        r["quota"],
        r["limit"],
        r["weight"],
        r["request"],
        r["usage"],
        r["fair_share"],
    )


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with Path(argv[0]).open() as cases, Path(argv[1]).open("w") as results:
        for line in cases:
            if line.strip():
                case = json.loads(line)
                try:
                    answer = replay(case)
                except Exception as error:  # one case that breaks must not hide the others
                    answer = {"id": case["id"], "unsupported": f"{type(error).__name__}: {error}"}
                results.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
