"""Submitting, committing, settling, removing: every change of a workflow.

A commit writes what its decisions name and nothing else. The workflow's row is locked first (on SQLite the whole
database is), so versions, records and outbox numbers of one workflow grow in the order of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, delete, select, text

from osmo_ray.engine.model import Decision, Task, Workflow
from osmo_ray.store import filesystem, rows, schema
from osmo_ray.store.database import Database
from osmo_ray.store.leading import Leading
from osmo_ray.store.protocol import Advance, Lease, Outgoing, StorageFull, StoreError, Texts
from osmo_ray.store.rows import Row
from osmo_ray.store.verbs import chunks

_AT_ONCE = 1000
"""Commands in one look at the outbox."""


@dataclass(slots=True)
class _Batch:
    """Rows of many decisions, written kind by kind."""

    workflows: list[Row] = field(default_factory=list)
    groups: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    new_tasks: list[Row] = field(default_factory=list)
    records: list[Row] = field(default_factory=list)
    commands: list[Row] = field(default_factory=list)


class Writing(Leading):
    """The verbs that change workflows."""

    def __init__(self, database: Database, disk_reserve: int) -> None:
        super().__init__(database)
        self._disk_reserve = disk_reserve
        self._insert_workflow = self.insert(schema.workflows, rows.WORKFLOW)
        self._insert_submission = self.insert(schema.submissions, rows.SUBMISSION)
        self._insert_groups = self.insert(schema.groups, rows.GROUP)
        self._insert_tasks = self.insert(schema.tasks, rows.TASK)
        self._insert_tags = self.insert(schema.tags, ("workflow_uuid", "tag"))
        self._insert_uses = self.insert(schema.output_uses, ("workflow_uuid", "source_uuid"))
        self._insert_code = self.insert(schema.code_uses, ("workflow_uuid", "digest"))
        self._insert_app = self.insert(
            schema.workflow_apps, ("workflow_uuid", "app_uuid", "owner", "name", "version", "user_name")
        )
        self._insert_records = self.insert(schema.records, rows.RECORD)
        self._insert_commands = self.insert(schema.outbox, rows.OUTBOX)
        self._delete_commands = self.delete(schema.outbox, "seq")
        self._update_workflows = self.update(schema.workflows, ("uuid",), rows.WORKFLOW_MOVES)
        self._update_groups = self.update(schema.groups, ("workflow_uuid", "position"), rows.GROUP_MOVES)
        self._update_tasks = self.update(schema.tasks, rows.TASK_KEY, rows.TASK_MOVES)
        self._upsert_tasks = self.upsert(schema.tasks, rows.TASK_KEY, rows.TASK_KEPT, rows.TASK_MOVES)

    # -- submitting

    def submit(self, name: str, build: Callable[[str], Decision], texts: Texts) -> Workflow:
        """See the protocol. What `build` raises passes through, and the number stays free."""
        self._check_space()
        made: list[Decision] = []

        def work(connection: Connection) -> Workflow:
            if made and (done := self._written(connection, made[-1].workflow)):
                return done  # the connection broke during COMMIT, which had gone through
            decision = build(f"{name}-{_next_number(connection, name)}")
            made.append(decision)
            return self._store(connection, decision, texts)

        return self.database.write(work)

    def _check_space(self) -> None:
        file = self.database.file
        if file is None or not self._disk_reserve:
            return
        free = filesystem.free_bytes(file.parent)
        if free < self._disk_reserve:
            raise StorageFull(
                f"only {free >> 20} MiB are free in {file.parent}, {self._disk_reserve >> 20} MiB are kept for the "
                "work that runs; free some space, or lower the setting disk_reserve"
            )

    def _written(self, connection: Connection, w: Workflow) -> Workflow | None:
        found = connection.execute(select(schema.workflows.c.version).where(schema.workflows.c.uuid == w.uuid)).scalar()
        return None if found is None else replace(w, version=w.version + 1)

    def _store(self, connection: Connection, decision: Decision, texts: Texts) -> Workflow:
        w = replace(decision.workflow, version=decision.workflow.version + 1)
        self._insert_workflow.run(connection, [rows.workflow_kept(w) + rows.workflow_moves(w, w.version)])
        written = (texts.rendered, texts.template)
        self._insert_submission.run(
            connection,
            [(w.uuid, rows.spec_text(w.spec), *map(rows.clean, written), rows.dumps(dict(texts.extra)))],
        )
        self._insert_uses.run(connection, [(w.uuid, source) for source in texts.sources])
        self._insert_code.run(connection, [(w.uuid, digest) for digest in texts.code])
        self._insert_tags.run(connection, [(w.uuid, tag) for tag in dict.fromkeys(texts.tags)])
        if (app := texts.app) is not None:
            self._insert_app.run(connection, [(w.uuid, app.uuid, app.owner, app.name, app.version, w.user)])
        self._insert_groups.run(
            connection, [rows.group_kept(w.uuid, i, g) + rows.group_moves(g) for i, g in enumerate(w.groups)]
        )
        whole = rows.TaskRows(w)
        self._insert_tasks.run(
            connection, [whole.row(i, j, t) for i, g in enumerate(w.groups) for j, t in enumerate(g.tasks)]
        )
        self._insert_records.run(connection, rows.record_rows(w.uuid, w.version, decision.records))
        self._insert_commands.run(connection, rows.outbox_rows(w.uuid, decision.commands))
        return w

    # -- committing

    def commit(
        self, decisions: Sequence[Decision], lease: Lease | None = None, settled: Sequence[int] = ()
    ) -> Sequence[str]:
        """See the protocol. Of two decisions on one workflow in the same call the second is a conflict.

        What was fixed at submission (id, spec, user, pool, backend, priority, parent, the names of groups and tasks)
        is not written again.
        """
        return self._commit(decisions, lease, settled, tell=False).conflicts

    def advance(self, decisions: Sequence[Decision], lease: Lease | None, settled: Sequence[int] = ()) -> Advance:
        """See the protocol."""
        return self._commit(decisions, lease, settled, tell=True)

    def _commit(
        self, decisions: Sequence[Decision], lease: Lease | None, settled: Sequence[int], *, tell: bool
    ) -> Advance:
        def work(connection: Connection) -> Advance:
            if lease is not None:
                self.check_lease(connection, lease)
            versions = self._lock(connection, sorted({d.workflow.uuid for d in decisions}))
            conflicts, batch = [], _Batch()
            for decision in decisions:
                if versions.pop(decision.workflow.uuid, None) == decision.workflow.version:
                    _collect(batch, decision)
                else:
                    conflicts.append(decision.workflow.uuid)
            self._write(connection, batch)
            self._delete_commands.run(connection, [(seq,) for seq in settled])
            return Advance(conflicts, self._outgoing(connection, _AT_ONCE) if tell and batch.commands else ())

        return self.database.write_plainly(work) if decisions else Advance()

    def _lock(self, connection: Connection, uuids: Sequence[str]) -> dict[str, int]:
        """The versions of these workflows, which nobody else changes until the transaction ends. Rows are locked in
        order of uuid, so that two writers never wait for each other in a circle."""
        found: dict[str, int] = {}
        for part in chunks(uuids):  # plain SQL: building the expression costs as much as all the rest of a small commit
            marks = ", ".join([self.database.mark] * len(part))
            rule = "" if self.database.sqlite else " FOR UPDATE"
            ask = f"SELECT uuid, version FROM workflows WHERE uuid IN ({marks}) ORDER BY uuid{rule}"  # noqa: S608
            found.update((row[0], row[1]) for row in self.database.plain(connection, ask, tuple(part)))
        return found

    def _write(self, connection: Connection, batch: _Batch) -> None:
        self._update_workflows.run(connection, batch.workflows)
        self._update_groups.run(connection, batch.groups)
        if self._update_tasks.run(connection, batch.tasks) != len(batch.tasks):
            raise StoreError(
                "a decision names an attempt that the store does not have and does not say which one it replaces",
                permanent=True,
            )
        self._upsert_tasks.run(connection, batch.new_tasks)
        self._insert_records.run(connection, batch.records)
        self._insert_commands.run(connection, batch.commands)

    # -- the outbox

    def outgoing(self, limit: int = _AT_ONCE) -> Sequence[Outgoing]:
        """See the protocol. Rows stay until they are settled and all of them are read each time, so one that commits
        after a larger number did is only seen later, never skipped; within a workflow numbers are in order."""
        return self.database.read(lambda connection: self._outgoing(connection, limit))

    def _outgoing(self, connection: Connection, limit: int) -> Sequence[Outgoing]:
        columns = ", ".join(rows.OUTBOX)
        ask = f"SELECT seq, {columns} FROM outbox ORDER BY seq LIMIT {int(limit)}"  # noqa: S608 - our own names
        return [rows.outgoing(row) for row in self.database.plain(connection, ask)]

    def settle(self, seqs: Sequence[int], lease: Lease | None = None) -> None:
        def work(connection: Connection) -> None:
            if lease is not None:
                self.check_lease(connection, lease)
            self._delete_commands.run(connection, [(seq,) for seq in seqs])

        if seqs:
            self.database.write_plainly(work)

    # -- removing

    def delete_workflows(self, uuids: Sequence[str]) -> int:
        """See the protocol. In small transactions, so that the controller's commits come in between."""
        return sum(self._delete(part) for part in chunks(list(dict.fromkeys(uuids)), 50))

    def _delete(self, uuids: Sequence[str]) -> int:
        w = schema.workflows.c
        unsettled = select(schema.outbox.c.workflow_uuid)
        gone = delete(schema.workflows).where(
            w.uuid.in_(uuids), w.status.not_in(rows.ALIVE_WORKFLOWS), w.uuid.not_in(unsettled)
        )
        return self.database.write(lambda connection: connection.execute(gone).rowcount)

    def tag(self, uuid: str, add: Iterable[str], remove: Iterable[str]) -> None:
        """`remove` goes first. An unknown workflow is a permanent `StoreError`."""
        t = schema.tags.c
        added, removed = list(dict.fromkeys(add)), list(remove)

        def work(connection: Connection) -> None:
            if uuid not in self._lock(connection, [uuid]):
                raise StoreError(f"no workflow {uuid}", permanent=True)
            connection.execute(delete(schema.tags).where(t.workflow_uuid == uuid, t.tag.in_(removed)))
            has = set(connection.execute(select(t.tag).where(t.workflow_uuid == uuid)).scalars())
            self._insert_tags.run(connection, [(uuid, tag) for tag in added if tag not in has])

        self.database.write(work)


def _next_number(connection: Connection, name: str) -> int:
    """Numbers of one name are given out under the lock of its row, and are never used again."""
    found = connection.execute(
        text(
            "INSERT INTO names (name, last) VALUES (:name, 1) "
            "ON CONFLICT (name) DO UPDATE SET last = names.last + 1 RETURNING last"
        ),
        {"name": name},
    )
    return int(found.scalar_one())


def _collect(batch: _Batch, decision: Decision) -> None:
    w = decision.workflow
    version = w.version + 1
    batch.workflows.append((*rows.workflow_moves(w, version), w.uuid))
    batch.records += rows.record_rows(w.uuid, version, decision.records)
    batch.commands += rows.outbox_rows(w.uuid, decision.commands)
    if decision.changed_groups:
        batch.groups += [
            (*rows.group_moves(g), w.uuid, i) for i, g in enumerate(w.groups) if g.name in decision.changed_groups
        ]
    if decision.changed_tasks or decision.retired:
        _collect_tasks(batch, decision)


def _collect_tasks(batch: _Batch, decision: Decision) -> None:
    w, changed = decision.workflow, decision.changed_tasks
    retired: dict[str, list[Task]] = {}
    for task in decision.retired:
        retired.setdefault(task.uuid, []).append(task)
    whole = rows.TaskRows(w) if retired else None
    for i, group in enumerate(w.groups):
        for j, task in enumerate(group.tasks):
            if whole is not None and task.uuid in retired:
                # The oldest of them has a row; those in between may have come and gone within this decision.
                batch.new_tasks += [whole.row(i, j, t) for t in (*retired[task.uuid], task)]
            elif task.uuid in changed:
                batch.tasks.append((*rows.task_moves(task), task.uuid, task.retry_id))
