"""Keys of sessions inside tasks: handed out by one replica of the API, used once, perhaps at another."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, select

from osmo_ray.store import rows, schema
from osmo_ray.store.database import Database
from osmo_ray.store.protocol import SessionKey
from osmo_ray.store.verbs import Verbs

_COLUMNS = ("key", "user_name", "workflow_uuid", "task_uuid", "retry_id", "node", "what", "expires")
_WHAT = ("kind", "argv", "port", "udp")


class Sessions(Verbs):
    """Two verbs over one small table."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._insert_key = self.insert(schema.session_keys, _COLUMNS)

    def save_session_key(self, key: SessionKey, now: float) -> bool:
        """False when there is such a key already, which then stays as it is. Keys past their time are removed."""
        k = schema.session_keys.c
        what = rows.dumps({name: getattr(key, name) for name in _WHAT})
        row = (key.key, key.user, key.workflow_uuid, key.task_uuid, key.retry_id, key.node, what, key.expires)

        def write(connection: Connection) -> bool:
            connection.execute(delete(schema.session_keys).where(k.expires < now))
            if connection.execute(select(k.key).where(k.key == key.key)).first() is not None:
                return False
            self._insert_key.run(connection, [row])
            return True

        return self.database.write(write)

    def take_session_key(self, key: str, now: float) -> SessionKey | None:
        """The key, which is then used up; None for one that does not exist, was used, or whose time is over."""
        k = schema.session_keys.c
        ask = select(*(k[name] for name in _COLUMNS)).where(k.key == key)

        def write(connection: Connection) -> SessionKey | None:
            row = connection.execute(ask).first()
            if row is None or connection.execute(delete(schema.session_keys).where(k.key == key)).rowcount == 0:
                return None
            what = json.loads(row[6])
            what["argv"] = tuple(what["argv"])
            return SessionKey(row[0], row[1], row[2], row[3], row[4], row[5], **what, expires=row[7])

        found = self.database.write(write)
        return found if found is not None and found.expires > now else None
