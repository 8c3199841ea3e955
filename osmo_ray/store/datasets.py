"""Which versions of datasets groups read: fixed once, and asked for when somebody wants to know who read a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select

from osmo_ray.store.database import Database
from osmo_ray.store.protocol import DatasetRead
from osmo_ray.store.schema import dataset_reads, workflows
from osmo_ray.store.verbs import Verbs


class Datasets(Verbs):
    """The verbs of reads of datasets."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)

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
