"""Users and what they may be, roles that administrators wrote, and the log of who changed what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, exists, insert, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from osmo_ray.spec import roles as spec
from osmo_ray.store import rows
from osmo_ray.store.protocol import Assigned, AuditLine, AuditQuery, User, UserQuery
from osmo_ray.store.schema import audit, roles, user_roles, users
from osmo_ray.store.verbs import Verbs

AUDIT_MEMORY = 400 * 86400.0
"""Seconds for which lines of the audit log are kept."""
_LINE = (audit.c.at, audit.c.user_name, audit.c.how, audit.c.action, audit.c.method, audit.c.path, audit.c.status)


class Identity(Verbs):
    """The verbs of users, roles and the audit log."""

    def add_user(self, user: User, given: Sequence[Assigned] = ()) -> bool:
        new = self._insert(users).values(id=user.id, created=user.created, created_by=user.created_by)

        def work(connection: Connection) -> bool:
            if connection.execute(new.on_conflict_do_nothing(index_elements=["id"])).rowcount == 0:
                return False
            for one in given:
                self._assign(connection, one)
            return True

        return self.database.write(work)

    def user(self, id: str) -> User | None:
        ask = select(users.c.id, users.c.created, users.c.created_by).where(users.c.id == id)
        row = self.database.read(lambda c: c.execute(ask).first())
        return None if row is None else User(*row)

    def users(self, query: UserQuery) -> tuple[Sequence[User], int]:
        ask = select(users.c.id, users.c.created, users.c.created_by)
        if query.prefix:
            ask = ask.where(users.c.id.startswith(query.prefix, autoescape=True))
        if query.roles:
            has = (user_roles.c.user_id == users.c.id, user_roles.c.role.in_(query.roles))
            ask = ask.where(exists().where(*has))
        page = ask.order_by(users.c.created.desc(), users.c.id).offset(query.offset).limit(query.limit)

        def work(connection: Connection) -> tuple[Sequence[User], int]:
            found = [User(*row) for row in connection.execute(page)]
            total = len(connection.execute(ask.with_only_columns(users.c.id)).all())
            return found, total

        return self.database.read(work)

    def delete_user(self, id: str) -> bool:
        """With the roles; tokens of that user lose what they were allowed with them."""
        gone = delete(users).where(users.c.id == id)
        return self.database.write(lambda c: bool(c.execute(gone).rowcount))

    def roles_of(self, user: str) -> Sequence[Assigned]:
        return self._assigned(user_roles.c.user_id == user)

    def holders(self, role: str) -> Sequence[Assigned]:
        return self._assigned(user_roles.c.role == role)

    def assign(self, given: Assigned) -> bool:
        """False when there is no such user; giving a role twice changes nothing."""

        def work(connection: Connection) -> bool:
            known = connection.execute(select(users.c.id).where(users.c.id == given.user)).first()
            if known is not None:
                self._assign(connection, given)
            return known is not None

        return self.database.write(work)

    def unassign(self, user: str, role: str) -> bool:
        gone = delete(user_roles).where(user_roles.c.user_id == user, user_roles.c.role == role)
        return self.database.write(lambda c: bool(c.execute(gone).rowcount))

    def roles(self) -> Sequence[spec.Role]:
        ask = select(roles.c.body).order_by(roles.c.name)
        return self.database.read(lambda c: [spec.from_json(json.loads(row[0])) for row in c.execute(ask)])

    def save_role(self, role: spec.Role) -> None:
        body = rows.dumps(spec.to_json(role))
        new = self._insert(roles).values(name=role.name, body=body)
        put = new.on_conflict_do_update(index_elements=["name"], set_={"body": body})
        self.database.write(lambda c: c.execute(put))

    def delete_role(self, name: str) -> bool:
        gone = delete(roles).where(roles.c.name == name)
        return self.database.write(lambda c: bool(c.execute(gone).rowcount))

    def note(self, line: AuditLine) -> None:
        values = (line.at, line.user, line.how, line.action, line.method, line.path, line.status)
        clean = {c.name: rows.clean(v) if isinstance(v, str) else v for c, v in zip(_LINE, values, strict=True)}
        old = delete(audit).where(audit.c.at < line.at - AUDIT_MEMORY)

        def work(connection: Connection) -> None:
            connection.execute(insert(audit).values(clean))
            connection.execute(old)

        self.database.write(work)

    def audit(self, query: AuditQuery) -> Sequence[AuditLine]:
        ask = select(*_LINE).order_by(audit.c.seq.desc()).offset(query.offset).limit(query.limit)
        if query.user:
            ask = ask.where(audit.c.user_name == query.user)
        if query.since:
            ask = ask.where(audit.c.at >= query.since)
        return self.database.read(lambda c: [AuditLine(*row) for row in c.execute(ask)])

    # -- inside

    def _insert(self, table: Any) -> Any:
        return (sqlite_insert if self.database.sqlite else postgres_insert)(table)

    def _assign(self, connection: Connection, given: Assigned) -> None:
        values = {"user_id": given.user, "role": given.role, "assigned_by": given.by, "assigned": given.at}
        new = self._insert(user_roles).values(values)
        connection.execute(new.on_conflict_do_nothing(index_elements=["user_id", "role"]))

    def _assigned(self, wanted: Any) -> Sequence[Assigned]:
        r = user_roles.c
        ask = select(r.user_id, r.role, r.assigned_by, r.assigned).where(wanted).order_by(r.assigned, r.user_id, r.role)
        return self.database.read(lambda c: [Assigned(*row) for row in c.execute(ask)])
