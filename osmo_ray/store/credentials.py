"""Credentials as the database holds them: sealed by a key that is not in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, select

from osmo_ray.store.database import Database
from osmo_ray.store.protocol import Credential
from osmo_ray.store.schema import credentials
from osmo_ray.store.verbs import Verbs

_COLUMNS = ("kind", "profile", "sealed")


class Credentials(Verbs):
    """The verbs of credentials."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._upsert_credential = self.upsert(credentials, ("user_name", "name"), (), _COLUMNS)

    def save_credential(self, credential: Credential) -> None:
        c = credentials.c
        sealed = base64.b64encode(credential.sealed).decode()
        row = (credential.user, credential.name, credential.kind, credential.profile, sealed)
        same = delete(credentials).where(
            c.user_name == credential.user, c.profile == credential.profile, c.name != credential.name
        )

        def work(connection: Connection) -> None:
            if credential.profile is not None:
                connection.execute(same)
            self._upsert_credential.run(connection, [row])

        self.database.write(work)

    def credentials(self, user: str) -> Sequence[Credential]:
        ask = _all().where(credentials.c.user_name == user).order_by(credentials.c.name)
        return self.database.read(lambda connection: [_read(row) for row in connection.execute(ask)])

    def delete_credential(self, user: str, name: str) -> Credential | None:
        c = credentials.c
        mine = (c.user_name == user, c.name == name)

        def work(connection: Connection) -> Credential | None:
            row = connection.execute(_all().where(*mine)).first()
            connection.execute(delete(credentials).where(*mine))
            return None if row is None else _read(row)

        return self.database.write(work)


def _all() -> Any:
    c = credentials.c
    return select(c.user_name, c.name, c.kind, c.profile, c.sealed)


def _read(row: Sequence[Any]) -> Credential:
    return Credential(row[0], row[1], row[2], row[3], base64.b64decode(row[4]))
