"""Results of tasks that later ones may use, and what has to stay because workflows use it: outputs and code."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, delete, select

from osmo_ray.engine.cache import Earlier
from osmo_ray.store import schema
from osmo_ray.store.database import Database
from osmo_ray.store.verbs import Verbs, chunks

_COLUMNS = ("workflow_uuid", "task_uuid", "output", "at")


class Caching(Verbs):
    """Three small tables."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._remember = self.upsert(schema.step_cache, ("key",), (), _COLUMNS)
        self._use = self.upsert(schema.output_uses, ("workflow_uuid", "source_uuid"), (), ())

    def remember(self, workflow_uuid: str, found: Mapping[str, tuple[str, str, float]]) -> None:
        rows = [(key, workflow_uuid, *values) for key, values in sorted(found.items())]
        self.database.write(lambda c: self._remember.run(c, rows))

    def recall(self, keys: Collection[str]) -> Mapping[str, Earlier]:
        s, w = schema.step_cache.c, schema.workflows.c
        ask = select(s.key, s.output, w.id, s.task_uuid, s.at).join(schema.workflows, w.uuid == s.workflow_uuid)
        found: dict[str, Earlier] = {}
        for part in chunks(sorted(keys)):
            rows = self.database.read(lambda c, part=part: c.execute(ask.where(s.key.in_(part))).all())  # type: ignore[misc]
            found.update({key: Earlier(*values) for key, *values in rows})
        return found

    def use_outputs(self, workflow_uuid: str, sources: Collection[str]) -> None:
        rows = [(workflow_uuid, source) for source in sorted(sources)]
        self.database.write(lambda c: self._use.run(c, rows))

    def used_code(self, digests: Collection[str]) -> Collection[str]:
        d = schema.code_uses.c.digest
        found: set[str] = set()
        for part in chunks(sorted(digests)):
            ask = select(d).where(d.in_(part)).distinct()
            found.update(self.database.read(lambda c, ask=ask: c.execute(ask).scalars().all()))  # type: ignore[misc]
        return found

    def forget_results(self, uuids: Collection[str]) -> Mapping[str, Sequence[str]]:
        s, u, w = schema.step_cache.c, schema.output_uses.c, schema.workflows.c
        ask = select(u.source_uuid, w.id).join(schema.workflows, u.workflow_uuid == w.uuid).order_by(w.id)

        def work(connection: Connection) -> dict[str, list[str]]:
            used: dict[str, list[str]] = {}
            for part in chunks(sorted(uuids)):
                connection.execute(delete(schema.step_cache).where(s.workflow_uuid.in_(part)))
                for source, name in connection.execute(
                    ask.where(u.source_uuid.in_(part), u.workflow_uuid.not_in(part))
                ):
                    used.setdefault(source, []).append(name)
            return used

        return self.database.write(work)
