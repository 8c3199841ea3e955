"""An index of what buckets hold, so that lists and queries need not read the buckets, which are the truth.

A shelf is a bucket as it is reached by one set of keys (see `control.indexing`). What is written is what a listing
of the bucket told; each name is written in one transaction with everything it has, and never by an older listing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, or_, select

from osmo_ray.data.query import Query
from osmo_ray.data.versions import Lineage
from osmo_ray.store import rows
from osmo_ray.store.dataset_nouns import (
    COLLECTION,
    DATASET,
    READY,
    DatasetQuery,
    Indexed,
    IndexedName,
    IndexedTag,
    IndexedVersion,
    Marks,
    ShelfSums,
    Synced,
    Wrote,
)
from osmo_ray.store.dataset_query import Compiler, flattened
from osmo_ray.store.dataset_tables import (
    dataset_members,
    dataset_reads,
    dataset_shelves,
    dataset_tags,
    dataset_values,
    dataset_versions,
    datasets,
)
from osmo_ray.store.queries import one_of, part
from osmo_ray.store.verbs import Verbs, chunks

D, V, T, M, X, S, R = (
    datasets.c, dataset_versions.c, dataset_tags.c, dataset_members.c, dataset_values.c, dataset_shelves.c,
    dataset_reads.c,
)  # fmt: skip
_OF_DATASET = (dataset_versions, dataset_tags, dataset_values)


class DatasetIndex(Verbs):
    """The verbs of the index."""

    def synced(self, shelf: str) -> Synced | None:
        ask = select(S.bucket, S.synced, S.took).where(S.shelf == shelf)
        found = self.database.read(lambda c: c.execute(ask).first())
        return None if found is None else Synced(*found)

    def mark_synced(self, shelf: str, synced: Synced, known: Collection[str] | None = None) -> None:
        def work(connection: Connection) -> None:
            before = connection.execute(select(S.bucket).where(S.shelf == shelf)).scalar()
            if before not in (None, synced.bucket):
                _forget(connection, shelf)
            elif known is not None:
                ask = select(D.name).where(D.shelf == shelf, D.listed <= synced.at)
                gone = sorted(set(connection.execute(ask).scalars()) - set(known))
                for some in chunks(gone):
                    connection.execute(delete(datasets).where(D.shelf == shelf, D.name.in_(some)))
                _sweep(connection, shelf)
            connection.execute(delete(dataset_shelves).where(S.shelf == shelf))
            row = {"shelf": shelf, "bucket": synced.bucket, "synced": synced.at, "took": synced.took}
            connection.execute(insert(dataset_shelves).values(**row))

        self.database.write(work)

    def index_stamps(self, shelf: str) -> Mapping[str, IndexedName]:
        ask = select(datasets).where(D.shelf == shelf)
        return self.database.read(lambda c: {row.name: _name(row) for row in c.execute(ask)})

    def index_names(self, shelf: str, found: Sequence[Indexed]) -> None:
        for at in range(0, len(found), 100):
            some = found[at : at + 100]
            self.database.write(lambda c, some=some: _put_all(c, shelf, some))  # type: ignore[misc]

    def indexed(self, shelf: str, name: str) -> Indexed | None:
        return self.database.read(lambda c: _indexed(c, shelf, name))

    def collections_of(self, shelf: str, name: str) -> Mapping[int, Sequence[str]]:
        ask = select(M.version, D.name).join(datasets, (D.shelf == M.shelf) & (D.id == M.collection))
        ask = ask.where(M.shelf == shelf, M.name == name, D.kind == COLLECTION).order_by(D.name)
        found: dict[int, list[str]] = {}
        for version, collection in self.database.read(lambda c: c.execute(ask).all()):
            found.setdefault(version, []).append(collection)
        return found

    def list_datasets(self, query: DatasetQuery) -> Sequence[IndexedName]:
        ask = select(datasets).where(*_filters(query)).order_by(D.changed.desc(), D.shelf.desc(), D.name.desc())
        ask = ask.offset(query.offset).limit(query.limit)
        return self.database.read(lambda c: [_name(row) for row in c.execute(ask)])

    def query_datasets(
        self, shelf: str, query: Query, offset: int = 0, limit: int | None = None
    ) -> Sequence[tuple[IndexedName, IndexedVersion | None]]:
        compiler = Compiler(query.versions, self.database.sqlite)
        ask = _of_versions() if query.versions else select(datasets).where(D.kind != "")
        ask = ask.where(D.shelf == shelf, compiler.test(query.condition))
        if query.order:
            _, column = compiler.column(query.order)
            ask = ask.order_by(column.desc() if query.descending else column)
        ask = ask.order_by(compiler.ordered(D.name), *((V.number,) if query.versions else ()))
        limits = [n for n in (limit, None if query.limit is None else max(0, query.limit - offset)) if n is not None]
        ask = ask.offset(offset).limit(min(limits)) if limits else ask.offset(offset)
        width = len(datasets.columns)

        def one(row: Any) -> tuple[IndexedName, IndexedVersion | None]:
            return _name(row), _version(row[width:]) if query.versions else None

        return self.database.read(lambda c: [one(row) for row in c.execute(ask)])

    def marks(self, shelf: str, bucket: str, name: str = "", dataset: str = "") -> Marks:
        tags = select(T.dataset, T.version, T.tag).where(T.shelf == shelf, T.version > 0).order_by(T.tag)
        held = select(M.name, M.version, D.name).join(datasets, (D.shelf == M.shelf) & (D.id == M.collection))
        held = held.where(M.shelf == shelf, D.kind == COLLECTION).order_by(D.name)
        reads = select(R.name, R.version, func.max(R.at)).where(R.bucket == bucket).group_by(R.name, R.version)
        if name:
            tags = tags.where(T.dataset == dataset)
            held, reads = held.where(M.name == name), reads.where(R.name == name)

        def work(connection: Connection) -> Marks:
            read = {(one, version): at for one, version, at in connection.execute(reads)}
            return Marks(_gathered(connection.execute(tags)), _gathered(connection.execute(held)), read)

        return self.database.read(work)

    def shelf_sums(self, shelf: str) -> ShelfSums:
        names = select(D.kind, func.count(), func.sum(D.size)).where(D.shelf == shelf).group_by(D.kind)
        versions = select(func.count()).select_from(_joined()).where(V.shelf == shelf, V.status == READY)

        def work(connection: Connection) -> ShelfSums:
            kinds = {kind: (count, size) for kind, count, size in connection.execute(names)}
            count, size = kinds.get(DATASET, (0, 0))
            total = connection.execute(versions).scalar() or 0
            return ShelfSums(count, total, kinds.get(COLLECTION, (0, 0))[0], int(size))

        return self.database.read(work)

    def written_by(self, workflow: str, limit: int = 1000) -> Sequence[Wrote]:
        ask = _of_versions().where(V.workflow == workflow).order_by(D.shelf, D.name, V.number).limit(limit)
        width = len(datasets.columns)
        found = self.database.read(lambda c: c.execute(ask).all())
        return [Wrote(row.shelf, row.name, _version(row[width:])) for row in found]


def _gathered(found: Iterable[Any]) -> Mapping[tuple[str, int], Sequence[str]]:
    made: dict[tuple[str, int], list[str]] = {}
    for owner, version, name in found:
        made.setdefault((owner, version), []).append(name)
    return made


def _joined() -> Any:
    return dataset_versions.join(datasets, (D.shelf == V.shelf) & (D.id == V.dataset) & (D.kind == DATASET))


def _of_versions() -> Select[Any]:
    return select(datasets, dataset_versions).select_from(_joined()).where(V.status == READY)


def _filters(query: DatasetQuery) -> list[Any]:
    found: list[Any] = [D.shelf.in_(query.shelves), D.kind == query.kind if query.kind else D.kind != ""]
    if query.name:
        found.append(part(D.name, query.name))
    if query.users:
        made = select(V.number).where(V.shelf == D.shelf, V.dataset == D.id, *one_of(V.created_by, query.users))
        made = made.where(V.status == READY).correlate(datasets)
        found.append(or_(D.kind == COLLECTION, *one_of(D.created_by, query.users), made.exists()))
    if query.changed_before is not None:
        found.append(D.changed < query.changed_before)
    if query.changed_after is not None:
        found.append(D.changed > query.changed_after)
    return found


def _forget(connection: Connection, shelf: str) -> None:
    for table in (datasets, dataset_members, *_OF_DATASET):
        connection.execute(delete(table).where(table.c.shelf == shelf))


def _sweep(connection: Connection, shelf: str) -> None:
    """Of datasets that no name leads to any more nothing is kept."""
    used = select(D.id).where(D.shelf == shelf, D.kind != "")
    for table, column in (*((t, t.c.dataset) for t in _OF_DATASET), (dataset_members, M.collection)):
        connection.execute(delete(table).where(table.c.shelf == shelf, column.not_in(used)))


def _put_all(connection: Connection, shelf: str, found: Sequence[Indexed]) -> None:
    for one in found:
        _put(connection, shelf, one)


def _put(connection: Connection, shelf: str, found: Indexed) -> None:
    name = found.name
    ask = select(D.listed, D.id).where(D.shelf == shelf, D.name == name.name)
    before = connection.execute(ask).first()
    if before is not None and before.listed > name.listed:
        return
    connection.execute(delete(datasets).where(D.shelf == shelf, D.name == name.name))
    connection.execute(insert(datasets).values(**_name_row(shelf, name)))
    for id in {name.id if found.anew else "", before.id if before and before.id != name.id else ""} - {""}:
        _clear(connection, shelf, id, keep=id != name.id)
    if name.id:
        _put_values(connection, shelf, name.id, 0, name.labels)
        _put_versions(connection, shelf, found)
        _put_tags(connection, shelf, found)
        connection.execute(delete(dataset_members).where(M.shelf == shelf, M.collection == name.id))
        members = [{"shelf": shelf, "collection": name.id, "name": n, "version": v} for n, v in found.members]
        if members:
            connection.execute(insert(dataset_members), members)


def _clear(connection: Connection, shelf: str, id: str, *, keep: bool) -> None:
    """Remove what belongs to an id; with `keep` only if no other name leads to it."""
    used = select(D.name).where(D.shelf == shelf, D.id == id, D.kind != "").limit(1)
    if keep and connection.execute(used).first() is not None:
        return
    for table in _OF_DATASET:
        connection.execute(delete(table).where(table.c.shelf == shelf, table.c.dataset == id))
    connection.execute(delete(dataset_members).where(M.shelf == shelf, M.collection == id))


def _put_versions(connection: Connection, shelf: str, found: Indexed) -> None:
    id = found.name.id
    gone = [*found.dropped, *(version.number for version in found.versions)]
    for at in range(0, len(gone), 500):
        some = gone[at : at + 500]
        connection.execute(delete(dataset_versions).where(V.shelf == shelf, V.dataset == id, V.number.in_(some)))
    values = [_version_row(shelf, id, version) for version in found.versions]
    if values:
        connection.execute(insert(dataset_versions), values)
    for version in found.versions:
        _put_values(connection, shelf, id, version.number, version.metadata)
    for number in found.dropped:
        _put_values(connection, shelf, id, number, {})


def _put_tags(connection: Connection, shelf: str, found: Indexed) -> None:
    id = found.name.id
    for tag in found.tags:
        connection.execute(delete(dataset_tags).where(T.shelf == shelf, T.dataset == id, T.tag == tag.tag))
        row = {"shelf": shelf, "dataset": id, "tag": tag.tag, "version": tag.version, "tag_number": tag.number}
        connection.execute(insert(dataset_tags).values(**row))


def _put_values(connection: Connection, shelf: str, id: str, version: int, values: Mapping[str, Any]) -> None:
    mine = (X.shelf == shelf, X.dataset == id, X.version == version)
    connection.execute(delete(dataset_values).where(*mine))
    names = ("path", "position", "kind", "text", "number", "length")
    made = {row[:2]: row for row in flattened(values)}
    more = {"shelf": shelf, "dataset": id, "version": version}
    connection.execute(
        insert(dataset_values), [{**more, **dict(zip(names, row, strict=True))} for row in made.values()]
    )


def _indexed(connection: Connection, shelf: str, name: str) -> Indexed | None:
    row = connection.execute(select(datasets).where(D.shelf == shelf, D.name == name)).first()
    if row is None:
        return None
    found = _name(row)
    versions = select(dataset_versions).where(V.shelf == shelf, V.dataset == found.id).order_by(V.number)
    tags = select(T.tag, T.version, T.tag_number).where(T.shelf == shelf, T.dataset == found.id).order_by(T.tag)
    members = select(M.name, M.version).where(M.shelf == shelf, M.collection == found.id).order_by(M.name)
    return Indexed(
        found,
        [_version(one) for one in connection.execute(versions)],
        [IndexedTag(*one) for one in connection.execute(tags)],
        [(member, number) for member, number in connection.execute(members)],
    )


def _name(row: Any) -> IndexedName:
    return IndexedName(
        row.name, row.kind, row.id, row.name_number, row.stamp, row.listed, row.created_by, row.created, row.changed,
        row.newest, row.size, json.loads(row.labels), row.labels_number, row.shelf,
    )  # fmt: skip


def _name_row(shelf: str, name: IndexedName) -> dict[str, Any]:
    return {
        "shelf": shelf, "name": name.name, "kind": name.kind, "id": name.id, "name_number": name.number,
        "stamp": name.stamp, "listed": name.listed, "created_by": rows.clean(name.created_by),
        "created": name.created, "changed": name.changed, "newest": name.newest, "size": name.size,
        "labels": rows.dumps(dict(name.labels)), "labels_number": name.labels_number,
    }  # fmt: skip


def _version(row: Any) -> IndexedVersion:
    (_, _, number, status, by, created, size, files, checksum, message, parent, _, _, made, metadata, at) = row
    told = json.loads(made)
    lineage = Lineage(**{**told, "inputs": tuple(told["inputs"])})
    return IndexedVersion(
        number, status, by, created, size, files, checksum, message, parent, lineage, json.loads(metadata), at
    )


def _version_row(shelf: str, id: str, version: IndexedVersion) -> dict[str, Any]:
    made = version.lineage
    told = {
        "workflow": made.workflow, "task": made.task, "code": made.code, "image": made.image,
        "inputs": list(made.inputs), "retry": made.retry,
    }  # fmt: skip
    return {
        "shelf": shelf, "dataset": id, "number": version.number, "status": version.status,
        "created_by": rows.clean(version.created_by), "created": version.created, "size": version.size,
        "files": version.files, "checksum": rows.clean(version.checksum), "message": rows.clean(version.message),
        "parent": version.parent, "workflow": rows.clean(made.workflow), "task": rows.clean(made.task),
        "made": rows.dumps(told), "metadata": rows.dumps(dict(version.metadata)),
        "metadata_number": version.metadata_number,
    }  # fmt: skip
