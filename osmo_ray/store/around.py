"""What is kept beside workflows: nodes, profiles, usage, tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, select, text

from osmo_ray.spec.attempt import NodeReport, UsageSample
from osmo_ray.spec.reason import Reason
from osmo_ray.store import rows, schema
from osmo_ray.store.database import Database
from osmo_ray.store.protocol import Profile, Token
from osmo_ray.store.verbs import Bulk, Verbs

NODE_MEMORY = 86400.0
"""Seconds after which a node that its backend no longer reports is forgotten."""

_USAGE = ("task_uuid", "retry_id", "at", "cpu", "memory", "gpu")
_PROFILE = ("pool", "bucket", "email_notification", "slack_notification")
_TOKEN = ("sha256", "expires", "roles", "description")


class Around(Verbs):
    """Small tables with plain verbs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._upsert_nodes = self.upsert(schema.nodes, ("backend", "name"), (), ("seen", "report"))
        self._upsert_profile = self.upsert(schema.profiles, ("user_name",), (), _PROFILE)
        self._upsert_token = self.upsert(schema.tokens, ("user_name", "name"), (), _TOKEN)
        self._add_usage = Bulk(database, _USAGE, _usage_statement)

    def save_nodes(self, backend: str, nodes: Sequence[NodeReport], at: float) -> None:
        """These nodes were seen at `at`. Nodes of this backend that were last seen a day before are forgotten."""
        n = schema.nodes.c
        seen = [(backend, node.name, at, _node_text(node)) for node in nodes]
        old = delete(schema.nodes).where(n.backend == backend, n.seen < at - NODE_MEMORY)
        self.database.write(lambda c: (self._upsert_nodes.run(c, seen), c.execute(old)))

    def nodes(self) -> Sequence[tuple[str, float, NodeReport]]:
        n = schema.nodes.c
        ask = select(n.backend, n.seen, n.report).order_by(n.backend, n.name)
        return self.database.read(lambda c: [(r[0], r[1], _read_node(r[2])) for r in c.execute(ask)])

    def profile(self, user: str) -> Profile:
        """Empty settings for a user who has none."""
        p = schema.profiles.c
        ask = select(*(p[name] for name in _PROFILE)).where(p.user_name == user)
        row = self.database.read(lambda c: c.execute(ask).first())
        return Profile(user) if row is None else Profile(user, row[0], row[1], bool(row[2]), bool(row[3]))

    def save_profile(self, profile: Profile) -> None:
        row = (profile.user, profile.pool, profile.bucket, profile.email_notification, profile.slack_notification)
        self.database.write(lambda c: self._upsert_profile.run(c, [row]))

    def add_usage(self, samples: Sequence[UsageSample]) -> None:
        """Samples of attempts that the store does not have (any more) are passed over, doubled ones too."""
        found = [(s.task_uuid, s.retry_id, s.at, s.cpu, s.memory, s.gpu) for s in samples]
        if found:
            self.database.write(lambda c: self._add_usage.run(c, found))

    def usage(self, task_uuid: str, retry_id: int) -> Sequence[UsageSample]:
        u = schema.usage.c
        ask = select(*(u[name] for name in _USAGE)).where(u.task_uuid == task_uuid, u.retry_id == retry_id)
        return self.database.read(lambda c: [UsageSample(*row) for row in c.execute(ask.order_by(u.at))])

    def save_token(self, token: Token) -> None:
        """Replaces the user's token of that name."""
        row = (token.user, token.name, token.sha256, token.expires, rows.dumps(token.roles), token.description)
        self.database.write(lambda c: self._upsert_token.run(c, [row]))

    def token(self, sha256: str) -> Token | None:
        """Also an expired one: the caller has the clock."""
        found = self._tokens(schema.tokens.c.sha256 == sha256)
        return found[0] if found else None

    def tokens(self, user: str) -> Sequence[Token]:
        return self._tokens(schema.tokens.c.user_name == user)

    def delete_token(self, user: str, name: str) -> bool:
        t = schema.tokens.c
        gone = delete(schema.tokens).where(t.user_name == user, t.name == name)
        return self.database.write(lambda c: c.execute(gone).rowcount > 0)

    def _tokens(self, wanted: Any) -> list[Token]:
        t = schema.tokens.c
        ask = select(t.name, t.user_name, *(t[name] for name in _TOKEN)).where(wanted).order_by(t.name)
        return self.database.read(lambda c: [_read_token(row) for row in c.execute(ask)])


def _usage_statement() -> Any:
    return text(
        "INSERT INTO usage (task_uuid, retry_id, at, cpu, memory, gpu) "
        "SELECT :p_task_uuid, :p_retry_id, :p_at, :p_cpu, :p_memory, :p_gpu "
        "WHERE EXISTS (SELECT 1 FROM tasks WHERE uuid = :p_task_uuid AND retry_id = :p_retry_id) "
        "ON CONFLICT DO NOTHING"
    )


def _node_text(node: NodeReport) -> str:
    return rows.dumps({**asdict(node), "reasons": [reason.to_json() for reason in node.reasons]})


def _read_node(text: str) -> NodeReport:
    values = json.loads(text)
    return NodeReport(**{**values, "reasons": tuple(Reason.from_json(reason) for reason in values["reasons"])})


def _read_token(row: Sequence[Any]) -> Token:
    return Token(row[0], row[1], row[2], row[3], tuple(json.loads(row[4])), row[5])
