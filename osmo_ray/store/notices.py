"""Who is to hear of the end of a workflow, and who has."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, exists, insert, literal, select

from osmo_ray.store import rows
from osmo_ray.store.protocol import Ended
from osmo_ray.store.schema import notices, profiles, workflows
from osmo_ray.store.verbs import Verbs

_WANTED = {"mail": profiles.c.email_notification, "hook": profiles.c.slack_notification}


class Notices(Verbs):
    """The verbs of notices."""

    def unannounced(self, channel: str, since: float, limit: int = 100) -> Sequence[Ended]:
        """A walk along the index of ends, so its cost follows what ended lately."""
        w, n = workflows.c, notices.c
        told = exists().where(n.workflow_uuid == w.uuid, n.channel == channel)
        joined = workflows.join(profiles, profiles.c.user_name == w.user_name)
        ask = select(w.uuid, w.id, w.user_name, w.status).select_from(joined)
        ask = ask.where(w.ended >= since, w.ended > 0, w.status.not_in(rows.ALIVE_WORKFLOWS), _WANTED[channel], ~told)
        ask = ask.order_by(w.ended).limit(limit)
        return self.database.read(lambda c: [Ended(r[0], r[1], r[2], r[3], channel) for r in c.execute(ask)])

    def mute(self, user: str, channel: str, since: float) -> None:
        w, n = workflows.c, notices.c
        told = exists().where(n.workflow_uuid == w.uuid, n.channel == channel)
        past = select(w.uuid, literal(channel), w.ended, literal("it ended before word of it was wanted"))
        past = past.where(w.user_name == user, w.ended >= since, w.ended > 0, ~told)
        quiet = insert(notices).from_select(["workflow_uuid", "channel", "at", "error"], past)
        self.database.write(lambda c: c.execute(quiet))

    def announced(self, uuid: str, channel: str, at: float, error: str = "") -> None:
        n = notices.c

        def work(connection: Connection) -> None:
            there = connection.execute(select(workflows.c.uuid).where(workflows.c.uuid == uuid)).first()
            known = select(n.at).where(n.workflow_uuid == uuid, n.channel == channel)
            if there is None or connection.execute(known).first() is not None:
                return
            row = {"workflow_uuid": uuid, "channel": channel, "at": at, "error": rows.clean(error)}
            connection.execute(insert(notices).values(**row))

        self.database.write(work)
