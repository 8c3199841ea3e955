"""Loading workflows, and the lists, histories and counts that people see.

A read is one snapshot, so a workflow never comes out with the groups of one version and the tasks of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, func, or_, select, text

from osmo_ray.engine.model import Record, Workflow
from osmo_ray.store import queries, rows
from osmo_ray.store.protocol import AppUse, StoreError, TaskQuery, TaskRow, TaskSum, Texts, WorkflowQuery, WorkflowRow
from osmo_ray.store.schema import (
    groups,
    outbox,
    output_uses,
    records,
    submissions,
    tags,
    tasks,
    workflow_apps,
    workflows,
)
from osmo_ray.store.verbs import Verbs, chunks

_DAY = 86400.0


class Reading(Verbs):
    """The verbs that only read."""

    def alive(self) -> Mapping[str, int]:
        w = workflows.c
        running = select(w.uuid, w.version).where(w.status.in_(rows.ALIVE_WORKFLOWS))
        sending = select(w.uuid, w.version).where(w.uuid.in_(select(outbox.c.workflow_uuid)))
        ask = running.union(sending)
        return self.database.read(lambda connection: {row[0]: row[1] for row in connection.execute(ask)})

    def load(self, uuids: Sequence[str]) -> Sequence[Workflow]:
        """In the order of `uuids`."""
        wanted = list(dict.fromkeys(uuids))

        def work(connection: Connection) -> list[Workflow]:
            found: dict[str, Workflow] = {}
            for part in chunks(wanted):
                found.update((w.uuid, w) for w in _load(connection, part))
            return [found[uuid] for uuid in wanted if uuid in found]

        return self.database.read(work) if wanted else ()

    def find(self, name: str) -> Workflow | None:
        w = workflows.c

        def work(connection: Connection) -> Workflow | None:
            uuid = connection.execute(select(w.uuid).where(or_(w.uuid == name, w.id == name)).limit(1)).scalar()
            return None if uuid is None else _load(connection, [uuid])[0]

        return self.database.read(work)

    def texts(self, uuid: str) -> Texts:
        """An unknown workflow is a permanent `StoreError`. Tags come in order of name."""
        s = submissions.c

        def work(connection: Connection) -> Texts:
            ask = select(s.rendered, s.template, s.extra).where(s.workflow_uuid == uuid)
            row = connection.execute(ask).first()
            if row is None:
                raise StoreError(f"no workflow {uuid}", permanent=True)
            tag = select(tags.c.tag).where(tags.c.workflow_uuid == uuid).order_by(tags.c.tag)
            a = workflow_apps.c
            came = select(a.app_uuid, a.owner, a.name, a.version).where(a.workflow_uuid == uuid)
            app = connection.execute(came).first()
            return Texts(
                row[0],
                row[1],
                tuple(connection.execute(tag).scalars()),
                json.loads(row[2]),
                AppUse(*app) if app else None,
            )

        return self.database.read(work)

    def list_workflows(self, query: WorkflowQuery) -> tuple[Sequence[WorkflowRow], bool]:
        """In order of submission, oldest first unless `query.descending`; tags are any of."""
        ask = queries.workflow_page(query)
        found = self.database.read(lambda connection: [rows.workflow_row(r) for r in connection.execute(ask)])
        return found[: query.limit], len(found) > query.limit

    def finished_before(self, at: float, limit: int = 1000) -> Sequence[WorkflowRow]:
        """Those with commands still to send are not among them."""
        w = workflows.c
        done = (
            w.ended < at,
            w.status.not_in(rows.ALIVE_WORKFLOWS),
            w.uuid.not_in(select(outbox.c.workflow_uuid)),
            w.uuid.not_in(select(output_uses.c.source_uuid)),
        )
        ask = select(*(w[name] for name in rows.WORKFLOW_LIST)).where(*done).order_by(w.ended, w.uuid).limit(limit)
        return self.database.read(lambda connection: [rows.workflow_row(r) for r in connection.execute(ask)])

    def list_tasks(self, query: TaskQuery) -> Sequence[TaskRow]:
        """`query.workflow` is a part of the workflow's id."""

        def work(connection: Connection) -> list[TaskRow]:
            few: Sequence[str] | None = None
            if query.workflow:
                match = connection.execute(queries.workflows_like(query.workflow)).scalars().all()
                few = match if len(match) <= queries.FEW_WORKFLOWS else None
            return [rows.task_row(r) for r in connection.execute(queries.task_page(query, few))]

        return self.database.read(work)

    def sum_tasks(self, query: TaskQuery, *, by_workflow: bool) -> Sequence[TaskSum]:
        """One statement over all that match; the database adds up."""
        ask = queries.task_sums(query, by_workflow=by_workflow)

        def work(connection: Connection) -> list[TaskSum]:
            found = connection.execute(ask)
            return [TaskSum(r[0], r[1], r[2], r[3], float(r[4]), int(r[5]), int(r[6]), int(r[7])) for r in found]

        return self.database.read(work)

    def attempts(self, workflow_uuid: str) -> Sequence[TaskRow]:
        t = tasks.c
        ask = queries.with_workflow().where(t.workflow_uuid == workflow_uuid)
        ask = ask.order_by(t.group_position, t.position, t.retry_id)
        return self.database.read(lambda connection: [rows.task_row(r) for r in connection.execute(ask)])

    def records(self, workflow_uuid: str, after: int = 0, limit: int = 1000) -> Sequence[tuple[int, Record]]:
        """Nothing is missed by going on from the last number seen: see `rows.record_seq`."""
        r = records.c
        ask = select(*(r[name] for name in rows.RECORD[1:])).where(r.workflow_uuid == workflow_uuid, r.seq > after)
        ask = ask.order_by(r.seq).limit(limit)
        return self.database.read(lambda connection: [rows.read_record(row) for row in connection.execute(ask)])

    def count_by_status(self) -> Mapping[str, Mapping[str, int]]:
        """Tasks are counted by attempt. What ended in the last day by the database's clock counts too."""

        def work(connection: Connection) -> dict[str, dict[str, int]]:
            since = connection.execute(text(f"SELECT {self.database.clock}")).scalar_one() - _DAY
            found: dict[str, dict[str, int]] = {}
            for kind, table, alive in (
                ("workflow", workflows, rows.ALIVE_WORKFLOWS),
                ("task", tasks, rows.ALIVE_TASKS),
            ):
                c = table.c
                ask = select(c.status, func.count()).where(or_(c.status.in_(alive), c.ended >= since))
                found[kind] = {row[0]: row[1] for row in connection.execute(ask.group_by(c.status))}
            return found

        return self.database.read(work)


def _load(connection: Connection, uuids: Sequence[str]) -> list[Workflow]:
    w, g, t = workflows.c, groups.c, tasks.c
    top = select(submissions.c.spec, *(w[name] for name in rows.WORKFLOW)).join_from(workflows, submissions)
    heads = connection.execute(top.where(w.uuid.in_(uuids))).all()
    group_rows = connection.execute(
        select(*(g[name] for name in rows.GROUP))
        .where(g.workflow_uuid.in_(uuids))
        .order_by(g.workflow_uuid, g.position)
    ).all()
    task_rows = connection.execute(
        select(*(t[name] for name in rows.TASK_LOAD))
        .where(t.workflow_uuid.in_(uuids))
        .order_by(t.workflow_uuid, t.group_position, t.position, t.retry_id)
    ).all()
    parts = rows.gather([tuple(r) for r in group_rows], [tuple(r) for r in task_rows])
    empty = rows.Parts([], [])
    return [rows.workflow(row[1:], row[0], parts.get(row[1], empty)) for row in heads]
