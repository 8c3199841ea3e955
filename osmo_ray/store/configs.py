"""Configuration that administrators write, with its history: each change is a new revision of its whole type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from osmo_ray.store import rows, schema
from osmo_ray.store.protocol import Config, ConfigQuery, Conflicted
from osmo_ray.store.verbs import Verbs

_C = schema.configs.c
_COLUMNS = (_C.type, _C.revision, _C.name, _C.body, _C.user_name, _C.at, _C.description, _C.tags, _C.deleted)


class Configs(Verbs):
    """One table; the newest revision of a type is what holds."""

    def config(self, type: str, revision: int = 0) -> Config | None:
        ask = select(*_COLUMNS).where(_C.type == type).order_by(_C.revision.desc()).limit(1)
        if revision:
            ask = ask.where(_C.revision == revision)
        row = self.database.read(lambda c: c.execute(ask).first())
        return None if row is None else _config(row)

    def save_config(self, config: Config) -> int:
        newest = select(func.max(_C.revision)).where(_C.type == config.type)

        def work(connection: Connection) -> int:
            last = connection.execute(newest).scalar() or 0
            if last != config.revision - 1:
                raise Conflicted(f"{config.type} is at revision {last}, not {config.revision - 1}")
            values = {
                "type": config.type, "revision": config.revision, "name": config.name, "body": rows.dumps(config.body),
                "user_name": config.user, "at": config.at, "description": config.description,
                "tags": rows.dumps(list(config.tags)), "deleted": "",
            }  # fmt: skip
            connection.execute(insert(schema.configs).values(**values))
            return config.revision

        return self.database.write(work)

    def config_history(self, query: ConfigQuery) -> Sequence[Config]:
        order = (_C.at.desc(), _C.revision.desc()) if query.descending else (_C.at, _C.revision)
        ask = select(*_COLUMNS).where(_C.deleted == "").order_by(*order).offset(query.offset).limit(query.limit)
        if query.types:
            ask = ask.where(_C.type.in_(query.types))
        if query.name:
            ask = ask.where(_C.name == query.name)
        if query.revision:
            ask = ask.where(_C.revision == query.revision)
        if query.after:
            ask = ask.where(_C.at >= query.after)
        if query.before:
            ask = ask.where(_C.at < query.before)
        return self.database.read(lambda c: [_config(row) for row in c.execute(ask)])

    def mark_config(self, type: str, revision: int, *, deleted_by: str = "", tags: Sequence[str] | None = None) -> bool:
        values = {} if tags is None else {"tags": rows.dumps(list(tags))}
        if deleted_by:
            values["deleted"] = deleted_by
        change = update(schema.configs).where(_C.type == type, _C.revision == revision, _C.deleted == "")
        return self.database.write(lambda c: c.execute(change.values(**values)).rowcount > 0)


def _config(row: Any) -> Config:
    type, revision, name, body, user, at, description, tags, deleted = row
    return Config(type, revision, json.loads(body), user, at, name, description, tuple(json.loads(tags)), deleted)
