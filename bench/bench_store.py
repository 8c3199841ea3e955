"""The store with 20,000 workflows and 100,000 tasks: what lists, queries and commits cost.

    python bench/bench_store.py [DATABASE_URL] [--workflows N]

Prints the median of each list (budget: 100 ms) beside plain sqlite3 statements on the same kind of rows without any
of our code, and the CPU time of a commit per task. Without a URL a SQLite file in a temporary folder is used. The
database is filled through the store's own verbs, so filling it is a measurement too.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from osmo_ray.engine.model import ApplyGroup, Decision, Group, Record, Task, Times, Workflow
from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.spec.model import GroupSpec, Priority, TaskSpec, WorkflowSpec
from osmo_ray.store.protocol import TaskQuery, Texts, WorkflowQuery
from osmo_ray.store.sql import SqlStore

S = TaskStatus
DICE = random.Random(7)
NOW = 1_700_000_000.0


def workflow(id: str, tasks: int, status: WorkflowStatus) -> Decision:
    at = NOW - DICE.random() * 30 * 86400
    finished = status.finished
    state = {WorkflowStatus.COMPLETED: S.COMPLETED, WorkflowStatus.FAILED: S.FAILED}.get(status, S.WAITING)
    spec = WorkflowSpec(
        id,
        tuple(GroupSpec(f"g{i}", (TaskSpec(f"t{i}", "ubuntu:24.04", ("bash", "-c", "true")),)) for i in range(tasks)),
    )
    times = Times(at, at, at, at + 1, at + 2 + DICE.random() * 600) if finished else Times(at)
    groups = tuple(
        Group(
            name=g.name,
            uuid=uuid.uuid4().hex,
            status=state,
            tasks=(
                Task(
                    uuid=uuid.uuid4().hex,
                    name=g.tasks[0].name,
                    lead=True,
                    status=state,
                    node=f"node-{DICE.randrange(1000)}" if finished else "",
                    exit_code=0 if finished else None,
                    times=times,
                ),
            ),
            times=times,
        )
        for g in spec.groups
    )
    w = Workflow(
        uuid=uuid.uuid4().hex,
        id=id,
        spec=spec,
        user=f"user-{DICE.randrange(100)}",
        pool=f"pool-{DICE.randrange(10)}",
        backend="local",
        priority=DICE.choice(list(Priority)),
        submitted=at,
        groups=groups,
        status=status,
        started=at + 1 if finished else 0.0,
        ended=times.ended,
    )
    return Decision(w, records=(Record(at, "Submitted", id),), changed=True)


def fill(store: SqlStore, workflows: int) -> None:
    kinds = [WorkflowStatus.COMPLETED] * 17 + [WorkflowStatus.FAILED] * 2 + [WorkflowStatus.PENDING]
    wall, cpu = time.perf_counter(), time.process_time()
    for i in range(workflows):
        status = kinds[i % len(kinds)]
        name = ("train", "sim", f"eval-{i % 50}")[i % 3]
        store.submit(name, lambda id, s=status: workflow(id, 5, s), Texts("rendered " * 50, tags=(f"tag-{i % 20}",)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"submitting {workflows} workflows of 5 tasks: {wall:.1f} s, CPU {cpu / workflows * 1e3:.2f} ms each\n")


def median(work: Callable[[], object], times: int = 9) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def lists(store: SqlStore) -> None:
    queries = {
        "workflows: first page": WorkflowQuery(),
        "workflows: newest 1000": WorkflowQuery(descending=True, limit=1000),
        "workflows: a page in the middle": WorkflowQuery(offset=10_000),
        "workflows: one user": WorkflowQuery(users=["user-7"], descending=True),
        "workflows: ten users": WorkflowQuery(users=[f"user-{i}" for i in range(10)], descending=True),
        "workflows: pool and status": WorkflowQuery(pools=["pool-3"], statuses=["FAILED"], descending=True),
        "workflows: priority": WorkflowQuery(priorities=["LOW"], descending=True),
        "workflows: tag": WorkflowQuery(tags=["tag-3"], descending=True),
        "workflows: part of the id, few": WorkflowQuery(name="eval-17"),
        "workflows: part of the id, none": WorkflowQuery(name="nothing"),
        "workflows: a day": WorkflowQuery(submitted_after=NOW - 9 * 86400, submitted_before=NOW - 8 * 86400),
    }
    for name, query in queries.items():
        print(f"  {name:<42}{median(lambda q=query: store.list_workflows(q)):8.1f} ms")
    tasks = {
        "tasks: first page": TaskQuery(),
        "tasks: 1000 of them": TaskQuery(limit=1000),
        "tasks: a page in the middle": TaskQuery(offset=50_000),
        "tasks: one user": TaskQuery(users=["user-7"]),
        "tasks: user and status": TaskQuery(users=["user-7"], statuses=["FAILED"]),
        "tasks: pool": TaskQuery(pools=["pool-3"]),
        "tasks: node": TaskQuery(nodes=["node-77"]),
        "tasks: priority": TaskQuery(priorities=["HIGH"]),
        "tasks: running (none)": TaskQuery(statuses=["RUNNING"]),
        "tasks: failed": TaskQuery(statuses=["FAILED"]),
        "tasks: started in an hour": TaskQuery(started_after=NOW - 86400, started_before=NOW - 82800),
        "tasks: part of the workflow's id, few": TaskQuery(workflow="eval-17-3"),
        "tasks: part of the workflow's id, many": TaskQuery(workflow="train"),
        "tasks: part of the workflow's id, none": TaskQuery(workflow="nothing"),
    }
    for name, query in tasks.items():
        print(f"  {name:<42}{median(lambda q=query: store.list_tasks(q)):8.1f} ms")
    one = store.list_workflows(WorkflowQuery(offset=5000, limit=1))[0][0]
    for name, work in {
        "query one workflow": lambda: store.find(one.id),
        "its attempts": lambda: store.attempts(one.uuid),
        "its records": lambda: store.records(one.uuid),
        "counts by status": store.count_by_status,
        "alive": store.alive,
        "finished before": lambda: store.finished_before(NOW - 20 * 86400),
        "outgoing (nothing)": store.outgoing,
    }.items():
        print(f"  {name:<42}{median(work):8.1f} ms")


def commits(store: SqlStore) -> None:
    """CPU per task transition."""
    print("\ncommits, CPU of this process per task transition")
    (made,) = store.load([_submit_wide(store, 500).uuid])
    print(f"  {'load a workflow of 500 tasks':<42}{median(lambda: store.load([made.uuid])):8.1f} ms")
    for batch in (500, 50, 10, 1):
        steps, cpu, wall = 0, 0.0, 0.0
        while steps < 1000 and steps < batch * 100:
            groups = list(made.groups)
            chosen = DICE.sample(range(500), batch)
            for i in chosen:
                task = groups[i].tasks[0]
                after = replace(task, status=S.RUNNING, node="n", times=replace(task.times, running=NOW + steps))
                groups[i] = replace(groups[i], tasks=(after,))
            decision = Decision(
                replace(made, groups=tuple(groups)),
                changed_groups=frozenset(groups[i].name for i in chosen),
                changed_tasks=frozenset(groups[i].tasks[0].uuid for i in chosen),
                records=tuple(Record(NOW, "Started", "started", groups[i].name) for i in chosen),
                commands=(ApplyGroup("g0"),),
                changed=True,
            )
            c, t = time.process_time(), time.perf_counter()
            assert not store.commit([decision])
            cpu, wall, steps = cpu + time.process_time() - c, wall + time.perf_counter() - t, steps + batch
            made = replace(decision.workflow, version=made.version + 1)
        name = f"{batch} tasks of one workflow in a commit"
        print(f"  {name:<42}{cpu / steps * 1e3:8.3f} ms (wall {wall / steps * 1e3:.3f})")


def _submit_wide(store: SqlStore, tasks: int) -> Workflow:
    c, t = time.process_time(), time.perf_counter()
    made = store.submit("wide", lambda id: workflow(id, tasks, WorkflowStatus.PENDING), Texts("x" * 20_000))
    c, t = time.process_time() - c, time.perf_counter() - t
    print(f"  {f'submit a workflow of {tasks} tasks':<42}{c * 1e3:8.1f} ms (wall {t * 1e3:.1f})")
    return made


def reference() -> None:
    """Plain sqlite3: a table of 100,000 narrow rows with one index, a page of it, and a full count."""
    print("\nreference: plain sqlite3, 100,000 rows")
    plain = sqlite3.connect(":memory:")
    plain.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, user TEXT, status TEXT, at REAL)")
    plain.execute("CREATE INDEX i ON t (user, at)")
    rows = [(f"user-{DICE.randrange(100)}", "COMPLETED", DICE.random()) for _ in range(100_000)]
    plain.executemany("INSERT INTO t (user, status, at) VALUES (?, ?, ?)", rows)
    page = "SELECT * FROM t WHERE user = 'user-7' ORDER BY at DESC LIMIT 20"
    count = "SELECT status, count(*) FROM t GROUP BY status"
    like = "SELECT * FROM t WHERE user LIKE '%nothing%'"
    for name, sql in (("a page along an index", page), ("count by status, no index", count), ("scan for a part", like)):
        print(f"  {name:<42}{median(lambda s=sql: plain.execute(s).fetchall()):8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--workflows", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = SqlStore(options.url or f"sqlite:///{Path(folder) / 'osmo.db'}")
        store.migrate()
        fill(store, options.workflows)
        print("lists, median of 9 (budget 100 ms)")
        lists(store)
        commits(store)
        store.close()
    reference()


if __name__ == "__main__":
    sys.exit(main())
