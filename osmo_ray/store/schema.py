"""The tables: one schema for SQLite and PostgreSQL.

Only types that need no conversion on either side are used (text, integers, doubles, booleans), since the hot path
binds plain tuples. Structured values are JSON text. `migrations/` brings a database to this schema, and a test holds
the two together.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)

from osmo_ray.store.columns import TIMES, TRANSFERS, double, metadata, of_workflow, serial, text, times, whole
from osmo_ray.store.dataset_tables import (
    dataset_members,
    dataset_reads,
    dataset_shelves,
    dataset_tags,
    dataset_values,
    dataset_versions,
    dataset_writes,
    datasets,
)

__all__ = [
    "TIMES",
    "TRANSFERS",
    "dataset_members",
    "dataset_reads",
    "dataset_shelves",
    "dataset_tags",
    "dataset_values",
    "dataset_versions",
    "dataset_writes",
    "datasets",
    "metadata",
]

REVISION = "0009"
"""The newest migration; the code works with this one only."""

meta = Table("meta", metadata, Column("key", Text, primary_key=True), text("value"))
"""`database_id`."""

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    text("holder"),
    Column("epoch", BigInteger, nullable=False),
    double("expires"),
)

names = Table("names", metadata, Column("name", Text, primary_key=True), Column("last", BigInteger, nullable=False))
"""The number of the last workflow of each name; never goes back, so an id is never used twice."""

workflows = Table(
    "workflows",
    metadata,
    Column("uuid", Text, primary_key=True),
    text("id"),
    text("user_name"),
    text("pool"),
    text("backend"),
    text("priority"),
    text("status"),
    double("submitted"),
    double("started"),
    double("ended"),
    double("exec_timeout"),
    double("queue_timeout"),
    text("cancelled_by"),
    text("reason", None),
    text("parent"),
    Column("version", BigInteger, nullable=False),
    whole("tasks"),
    whole("finished"),
    whole("failed"),
    UniqueConstraint("id"),
    Index(None, "submitted", "uuid"),
    Index(None, "user_name", "submitted"),
    Index(None, "pool", "submitted"),
    Index(None, "priority", "submitted"),
    Index(None, "status", "submitted"),
    Index(None, "ended"),
)
"""Narrow rows: lists read these and nothing else, and every commit rewrites one."""

submissions = Table(
    "submissions",
    metadata,
    of_workflow(primary=True),
    text("spec"),
    text("rendered"),
    text("template"),
    text("extra"),
)
"""What was submitted; written once. `spec` is the JSON of `spec.codec`."""

tags = Table(
    "tags",
    metadata,
    of_workflow(primary=True),
    Column("tag", Text, primary_key=True),
    Index(None, "tag", "workflow_uuid"),
)

groups = Table(
    "groups",
    metadata,
    of_workflow(primary=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    text("name"),
    text("uuid"),
    text("status"),
    text("upstream"),
    text("downstream"),
    text("pending"),
    whole("barrier"),
    whole("released"),
    text("reason", None),
    *times(),
)

tasks = Table(
    "tasks",
    metadata,
    Column("n", serial, primary_key=True, autoincrement=True),
    of_workflow(),
    text("uuid"),
    whole("retry_id"),
    whole("group_position"),
    whole("position"),
    text("group_name"),
    text("name"),
    Column("lead", Boolean, nullable=False),
    text("user_name"),
    text("pool"),
    text("priority"),
    double("cpu"),
    Column("memory", BigInteger, nullable=False),
    whole("gpu"),
    Column("storage", BigInteger, nullable=False),
    text("status"),
    whole("user_retries"),
    whole("platform_retries"),
    whole("restarts"),
    whole("ready"),
    text("node"),
    text("address"),
    Column("exit_code", Integer, nullable=True),
    text("reason", None),
    text("output"),
    text("usage"),
    *times(),
    double("place"),
    UniqueConstraint("uuid", "retry_id"),
    Index(None, "workflow_uuid"),
    Index(None, "place"),
    Index(None, "user_name", "place"),
    Index(None, "pool", "place"),
    Index(None, "node", "place"),
    Index(None, "priority", "place"),
    Index(None, "status", "place"),
    Index(None, "running"),
    Index(None, "status", "ended"),
)
"""One row per attempt. `place` orders a list of tasks (see `rows.place`), so that any page of it is one walk along an
index; user, pool and priority repeat the workflow's for the same reason, and never change."""

records = Table(
    "records",
    metadata,
    of_workflow(primary=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    double("at"),
    text("kind"),
    text("message"),
    text("group_name"),
    text("task"),
    whole("retry_id"),
)
"""`seq` is made of the workflow's version (see `rows.record_seq`): it grows in the order of commits."""

outbox = Table(
    "outbox",
    metadata,
    Column("seq", serial, primary_key=True, autoincrement=True),
    of_workflow(),
    text("group_name"),
    text("kind"),
    double("grace"),
    Index(None, "workflow_uuid"),
    sqlite_autoincrement=True,
)
"""Commands to send. A number is never used twice (AUTOINCREMENT), so a late `settle` cannot hit another command."""

nodes = Table(
    "nodes",
    metadata,
    Column("backend", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    double("seen"),
    text("report"),
)

profiles = Table(
    "profiles",
    metadata,
    Column("user_name", Text, primary_key=True),
    text("pool"),
    text("bucket"),
    Column("email_notification", Boolean, nullable=False),
    Column("slack_notification", Boolean, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("task_uuid", Text, primary_key=True),
    Column("retry_id", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, primary_key=True),
    double("cpu"),
    double("memory"),
    double("gpu"),
    ForeignKeyConstraint(["task_uuid", "retry_id"], ["tasks.uuid", "tasks.retry_id"], ondelete="CASCADE"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("user_name", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    text("sha256"),
    double("expires"),
    text("roles"),
    text("description"),
    UniqueConstraint("sha256"),
)

apps = Table(
    "apps",
    metadata,
    Column("uuid", Text, primary_key=True),
    text("name"),
    text("description"),
    text("owner"),
    double("created"),
    whole("last"),
    UniqueConstraint("name"),
    Index(None, "created", "uuid"),
    Index(None, "owner", "created"),
)
"""`last` is the number of the newest version, also when that one is deleted: a number is never used twice."""

app_versions = Table(
    "app_versions",
    metadata,
    Column("app_uuid", Text, ForeignKey("apps.uuid", ondelete="CASCADE"), primary_key=True, nullable=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    text("created_by"),
    double("created"),
    text("status"),
    text("spec"),
    Index(None, "created_by", "app_uuid"),
)

workflow_apps = Table(
    "workflow_apps",
    metadata,
    of_workflow(primary=True),
    text("app_uuid"),
    text("owner"),
    text("name"),
    whole("version"),
    text("user_name"),
    Index(None, "name", "version"),
    Index(None, "app_uuid", "user_name"),
)
"""Which app a workflow came of. It outlives the app, so owner and name stand here too; `user_name` ran it."""

credentials = Table(
    "credentials",
    metadata,
    Column("user_name", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    text("kind"),
    text("profile", None),
    text("sealed"),
    UniqueConstraint("user_name", "profile"),
)
"""`sealed` is what a vault made of the values, in base64; `profile` is NULL, a registry's host or an endpoint."""

notices = Table(
    "notices",
    metadata,
    of_workflow(primary=True),
    Column("channel", Text, primary_key=True),
    double("at"),
    text("error"),
)
"""Word of a workflow's end that went out by a channel, or that never can (`error`): once per workflow and channel."""

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    double("created"),
    text("created_by"),
    Index(None, "created", "id"),
)

user_roles = Table(
    "user_roles",
    metadata,
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, nullable=False),
    Column("role", Text, primary_key=True),
    text("assigned_by"),
    double("assigned"),
    Index(None, "role", "user_id"),
)

roles = Table("roles", metadata, Column("name", Text, primary_key=True), text("body"))
"""Roles that administrators wrote, as JSON; those of every platform are in the code."""

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    double("at"),
    text("user_name"),
    text("how"),
    text("action"),
    text("method"),
    text("path"),
    whole("status"),
    Index(None, "user_name", "seq"),
    Index(None, "at"),
)
"""Who changed what, or was refused."""
session_keys = Table(
    "session_keys",
    metadata,
    Column("key", Text, primary_key=True),
    text("user_name"),
    of_workflow(),
    text("task_uuid"),
    whole("retry_id"),
    text("node"),
    text("what"),
    double("expires"),
    Index(None, "expires"),
)
"""Short-lived: each is removed when it is used, or when another is made after its time."""

clusters = Table(
    "clusters",
    metadata,
    Column("name", Text, primary_key=True),
    text("sealed"),
    text("settings"),
    double("created"),
)
"""Registered clusters. `sealed` is the kubeconfig, encrypted with a key that is not in here."""

step_cache = Table(
    "step_cache",
    metadata,
    Column("key", Text, primary_key=True),
    of_workflow(),
    text("task_uuid"),
    text("output"),
    double("at"),
    Index(None, "workflow_uuid"),
)
"""Results that later tasks may use, by `engine.cache.key`; gone with the workflow that made them."""

code_uses = Table(
    "code_uses",
    metadata,
    of_workflow(primary=True),
    Column("digest", Text, primary_key=True),
    Index(None, "digest"),
)
"""Archives of code that a workflow names; those that none names may go."""

output_uses = Table(
    "output_uses",
    metadata,
    of_workflow(primary=True),
    Column("source_uuid", Text, primary_key=True),
    Index(None, "source_uuid"),
)
"""Workflows whose outputs another one reads or has as its own; they stay as long as that one does."""

configs = Table(
    "configs",
    metadata,
    Column("type", Text, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    text("name"),
    text("body"),
    text("user_name"),
    double("at"),
    text("description"),
    text("tags"),
    text("deleted"),
    Index(None, "at"),
)
"""Every revision of every type of configuration, whole, as JSON; `deleted` names who hid it from the history."""
