"""Which datasets groups read and write. What they read is fixed once, and asked for when somebody wants to know who
read a version; what they may write is known when they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, exists, insert, or_, select, update

from osmo_ray.store.database import Database
from osmo_ray.store.dataset_nouns import DatasetRead, DatasetWrite
from osmo_ray.store.schema import dataset_reads, dataset_writes, workflows
from osmo_ray.store.verbs import Verbs


class Datasets(Verbs):
    """The verbs of reads and writes."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        keys = ("group_uuid", "bucket", "name")
        self._writes = self.upsert(dataset_writes, keys, ("workflow_uuid",), ())

    def pin(self, reads: Sequence[DatasetRead]) -> Sequence[DatasetRead]:
        r = dataset_reads.c
        first = reads[0]
        mine = (r.group_uuid == first.group_uuid, r.reference == first.reference)

        def work(connection: Connection) -> Sequence[DatasetRead]:
            found = [_read(row) for row in connection.execute(_all().where(*mine).order_by(r.name))]
            if found:
                return found
            connection.execute(insert(dataset_reads), [_row(one) for one in reads])
            return reads

        return self.database.write(work)

    def pins(self, group_uuid: str) -> Sequence[DatasetRead]:
        r = dataset_reads.c
        ask = _all().where(r.group_uuid == group_uuid).order_by(r.reference, r.name)
        return self.database.read(lambda connection: [_read(row) for row in connection.execute(ask)])

    def readers(self, bucket: str, name: str, version: int | None = None, limit: int = 1000) -> Sequence[DatasetRead]:
        r = dataset_reads.c
        ask = _all().where(r.bucket == bucket, r.name == name)
        ask = ask if version is None else ask.where(r.version == version)
        ask = ask.order_by(r.at.desc(), r.group_uuid).limit(limit)
        return self.database.read(lambda connection: [_read(row) for row in connection.execute(ask)])

    def reads_of(self, workflow_uuid: str, limit: int = 1000) -> Sequence[DatasetRead]:
        r = dataset_reads.c
        ask = _all().where(r.workflow_uuid == workflow_uuid).order_by(r.bucket, r.name, r.version, r.group_uuid)
        return self.database.read(lambda connection: [_read(row) for row in connection.execute(ask.limit(limit))])

    def renamed(self, bucket: str, old: str, new: str) -> None:
        r, w = dataset_reads, dataset_writes
        there, wrote = r.alias(), w.alias()
        read = exists().where(
            there.c.group_uuid == r.c.group_uuid, there.c.reference == r.c.reference, there.c.name == new
        )
        written = exists().where(wrote.c.group_uuid == w.c.group_uuid, wrote.c.bucket == bucket, wrote.c.name == new)
        reads = update(r).where(r.c.bucket == bucket, r.c.name == old, ~read).values(name=new)
        writes = update(w).where(w.c.bucket == bucket, w.c.name == old, ~written).values(name=new)

        def work(connection: Connection) -> None:
            connection.execute(reads)
            connection.execute(writes)

        self.database.write(work)

    def expect_writes(self, writes: Sequence[DatasetWrite]) -> None:
        rows = sorted((w.group_uuid, w.bucket, w.name, w.workflow_uuid) for w in writes)
        self.database.write(lambda connection: self._writes.run(connection, rows))

    def writes_of(self, workflow_uuid: str) -> Sequence[DatasetWrite]:
        w = dataset_writes.c
        ask = select(w.workflow_uuid, w.group_uuid, w.bucket, w.name).where(w.workflow_uuid == workflow_uuid)
        ask = ask.order_by(w.bucket, w.name, w.group_uuid)
        return self.database.read(lambda connection: [DatasetWrite(*row) for row in connection.execute(ask)])

    def writes_since(self, bucket: str, at: float, limit: int = 200) -> Sequence[str]:
        w, f = dataset_writes.c, workflows.c
        ask = select(w.name).join(workflows, f.uuid == w.workflow_uuid).where(w.bucket == bucket)
        ask = ask.where(or_(f.ended == 0.0, f.ended >= at)).distinct().order_by(w.name).limit(limit)
        return self.database.read(lambda connection: connection.execute(ask).scalars().all())


def _all() -> Any:
    r, w = dataset_reads.c, workflows.c
    joined = dataset_reads.join(workflows, w.uuid == r.workflow_uuid)
    columns = (r.workflow_uuid, r.group_uuid, r.reference, r.bucket, r.name, r.version, r.at, w.id, w.user_name)
    return select(*columns).select_from(joined)


def _read(row: Sequence[Any]) -> DatasetRead:
    return DatasetRead(*row)


def _row(read: DatasetRead) -> dict[str, Any]:
    return {
        "workflow_uuid": read.workflow_uuid, "group_uuid": read.group_uuid, "reference": read.reference,
        "bucket": read.bucket, "name": read.name, "version": read.version, "at": read.at,
    }  # fmt: skip
