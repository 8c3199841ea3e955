"""Apps: named specs with versions, and whose they are.

A version is written once and keeps its number for ever; deleting one drops its text and leaves the line. The app's
row is locked by every change of it, so that two people who update at once get two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from osmo_ray.store import rows
from osmo_ray.store.protocol import App, AppQuery, AppVersion, NameTaken
from osmo_ray.store.queries import one_of, part
from osmo_ray.store.schema import app_versions, apps, workflow_apps
from osmo_ray.store.verbs import Verbs

READY, DELETED = "READY", "DELETED"


class Apps(Verbs):
    """The verbs of apps."""

    def create_app(self, app: App, spec: str) -> None:
        dialect = sqlite_insert if self.database.sqlite else postgres_insert
        row = {"uuid": app.uuid, "name": app.name, "description": rows.clean(app.description), "owner": app.owner}
        new = dialect(apps).values(**row, created=app.created, last=1).on_conflict_do_nothing(index_elements=["name"])

        def work(connection: Connection) -> None:
            known = connection.execute(select(apps.c.uuid).where(apps.c.name == app.name)).scalar()
            if known == app.uuid:
                return  # the connection broke during COMMIT, which had gone through
            if known is not None or connection.execute(new).rowcount == 0:
                raise NameTaken(f"there is an app {app.name} already")
            _add(connection, app.uuid, 1, app.owner, app.created, spec)

        self.database.write(work)

    def add_app_version(self, name: str, user: str, at: float, spec: str) -> tuple[App, int] | None:
        def work(connection: Connection) -> tuple[App, int] | None:
            count = update(apps).where(apps.c.name == name).values(last=apps.c.last + 1).returning(apps.c.last)
            number = connection.execute(count).scalar()
            if number is None:
                return None
            row = connection.execute(_apps().where(apps.c.name == name)).one()
            _add(connection, row[0], number, user, at, spec)
            return App(row[0], row[1], row[2], row[3], row[4], number), number

        return self.database.write(work)

    def app(self, name: str) -> App | None:
        return self._one(apps.c.name == name)

    def app_by_uuid(self, uuid: str) -> App | None:
        return self._one(apps.c.uuid == uuid)

    def app_versions(self, uuid: str) -> Sequence[AppVersion]:
        v = app_versions.c
        ask = select(v.version, v.created_by, v.created, v.status).where(v.app_uuid == uuid)
        ask = ask.order_by(v.version.desc())
        return self.database.read(lambda c: [AppVersion(*row) for row in c.execute(ask)])

    def app_spec(self, uuid: str, version: int) -> str | None:
        v = app_versions.c
        ask = select(v.spec).where(v.app_uuid == uuid, v.version == version, v.status == READY)
        found: str | None = self.database.read(lambda c: c.execute(ask).scalar())
        return found

    def list_apps(self, query: AppQuery) -> tuple[Sequence[App], bool]:
        a = apps.c
        ask = _apps().where(*_filters(query))
        order = (a.created.desc(), a.uuid.desc()) if query.descending else (a.created, a.uuid)
        ask = ask.order_by(*order).offset(query.offset).limit(query.limit + 1)
        found = self.database.read(lambda c: [App(*row) for row in c.execute(ask)])
        return found[: query.limit], len(found) > query.limit

    def delete_app(self, uuid: str, version: int | None) -> Sequence[int]:
        v = app_versions.c
        wanted = [v.app_uuid == uuid, v.status == READY, *([v.version == version] if version is not None else [])]

        def work(connection: Connection) -> list[int]:
            _lock(connection, uuid)
            gone = update(app_versions).where(*wanted).values(status=DELETED, spec="").returning(v.version)
            numbers = sorted(connection.execute(gone).scalars())
            left = select(v.version).where(v.app_uuid == uuid, v.status == READY).limit(1)
            if connection.execute(left).first() is None:
                connection.execute(delete(apps).where(apps.c.uuid == uuid))
            return numbers

        return self.database.write(work)

    def rename_app(self, uuid: str, name: str) -> None:
        def work(connection: Connection) -> None:
            known = connection.execute(select(apps.c.uuid).where(apps.c.name == name)).scalar()
            if known not in (None, uuid):
                raise NameTaken(f"there is an app {name} already")
            connection.execute(update(apps).where(apps.c.uuid == uuid).values(name=name))
            used = update(workflow_apps).where(workflow_apps.c.app_uuid == uuid)
            connection.execute(used.values(name=name))

        self.database.write(work)

    def _one(self, wanted: ColumnElement[bool]) -> App | None:
        row = self.database.read(lambda c: c.execute(_apps().where(wanted)).first())
        return None if row is None else App(*row)


def _add(connection: Connection, uuid: str, number: int, user: str, at: float, spec: str) -> None:
    row = {"app_uuid": uuid, "version": number, "created_by": user, "created": at}
    connection.execute(insert(app_versions).values(**row, status=READY, spec=rows.clean(spec)))


def _lock(connection: Connection, uuid: str) -> None:
    """Writing the row is a lock on both databases."""
    connection.execute(update(apps).where(apps.c.uuid == uuid).values(last=apps.c.last))


def _apps() -> Select[Any]:
    """Rows for `App`."""
    a, v = apps.c, app_versions.c
    newest = select(func.coalesce(func.max(v.version), 0)).where(v.app_uuid == a.uuid, v.status == READY)
    return select(a.uuid, a.name, a.description, a.owner, a.created, newest.scalar_subquery())


def _filters(query: AppQuery) -> list[ColumnElement[bool]]:
    a, v, w = apps.c, app_versions.c, workflow_apps.c
    found = [exists().where(v.app_uuid == a.uuid, v.status == READY), *one_of(a.owner, query.owners)]
    if query.name:
        found.append(part(a.name, query.name))
    if query.involved:
        changed = exists().where(v.app_uuid == a.uuid, v.created_by == query.involved)
        ran = exists().where(w.app_uuid == a.uuid, w.user_name == query.involved)
        found.append(or_(a.owner == query.involved, changed, ran))
    return found
