"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "names",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_names")),
    )
    op.create_table(
        "nodes",
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("backend", "name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "profiles",
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("email_notification", sa.Boolean(), nullable=False),
        sa.Column("slack_notification", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("user_name", name=op.f("pk_profiles")),
    )
    op.create_table(
        "tokens",
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_name", "name", name=op.f("pk_tokens")),
        sa.UniqueConstraint("sha256", name=op.f("uq_tokens_sha256")),
    )
    op.create_table(
        "workflows",
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("submitted", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=False),
        sa.Column("exec_timeout", sa.Double(), nullable=False),
        sa.Column("queue_timeout", sa.Double(), nullable=False),
        sa.Column("cancelled_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("tasks", sa.Integer(), nullable=False),
        sa.Column("finished", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_workflows")),
        sa.UniqueConstraint("id", name=op.f("uq_workflows_id")),
    )
    op.create_index(op.f("ix_workflows_ended"), "workflows", ["ended"], unique=False)
    op.create_index(op.f("ix_workflows_pool_submitted"), "workflows", ["pool", "submitted"], unique=False)
    op.create_index(op.f("ix_workflows_priority_submitted"), "workflows", ["priority", "submitted"], unique=False)
    op.create_index(op.f("ix_workflows_status_submitted"), "workflows", ["status", "submitted"], unique=False)
    op.create_index(op.f("ix_workflows_submitted_uuid"), "workflows", ["submitted", "uuid"], unique=False)
    op.create_index(op.f("ix_workflows_user_name_submitted"), "workflows", ["user_name", "submitted"], unique=False)
    op.create_table(
        "groups",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        sa.Column("downstream", sa.Text(), nullable=False),
        sa.Column("pending", sa.Text(), nullable=False),
        sa.Column("barrier", sa.Integer(), nullable=False),
        sa.Column("released", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("processing", sa.Double(), nullable=False),
        sa.Column("scheduling", sa.Double(), nullable=False),
        sa.Column("initializing", sa.Double(), nullable=False),
        sa.Column("running", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=False),
        sa.Column("download_start", sa.Double(), nullable=False),
        sa.Column("download_end", sa.Double(), nullable=False),
        sa.Column("upload_start", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], name=op.f("fk_groups_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_uuid", "position", name=op.f("pk_groups")),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("grace", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], name=op.f("fk_outbox_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_outbox_workflow_uuid"), "outbox", ["workflow_uuid"], unique=False)
    op.create_table(
        "records",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("retry_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], name=op.f("fk_records_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_uuid", "seq", name=op.f("pk_records")),
    )
    op.create_table(
        "submissions",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("rendered", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], name=op.f("fk_submissions_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_uuid", name=op.f("pk_submissions")),
    )
    op.create_table(
        "tags",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], name=op.f("fk_tags_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_uuid", "tag", name=op.f("pk_tags")),
    )
    op.create_index(op.f("ix_tags_tag_workflow_uuid"), "tags", ["tag", "workflow_uuid"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("n", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("retry_id", sa.Integer(), nullable=False),
        sa.Column("group_position", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("lead", sa.Boolean(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("cpu", sa.Double(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("gpu", sa.Integer(), nullable=False),
        sa.Column("storage", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("user_retries", sa.Integer(), nullable=False),
        sa.Column("platform_retries", sa.Integer(), nullable=False),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("ready", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("usage", sa.Text(), nullable=False),
        sa.Column("processing", sa.Double(), nullable=False),
        sa.Column("scheduling", sa.Double(), nullable=False),
        sa.Column("initializing", sa.Double(), nullable=False),
        sa.Column("running", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=False),
        sa.Column("download_start", sa.Double(), nullable=False),
        sa.Column("download_end", sa.Double(), nullable=False),
        sa.Column("upload_start", sa.Double(), nullable=False),
        sa.Column("place", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], name=op.f("fk_tasks_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_tasks")),
        sa.UniqueConstraint("uuid", "retry_id", name=op.f("uq_tasks_uuid_retry_id")),
    )
    op.create_index(op.f("ix_tasks_node_place"), "tasks", ["node", "place"], unique=False)
    op.create_index(op.f("ix_tasks_place"), "tasks", ["place"], unique=False)
    op.create_index(op.f("ix_tasks_pool_place"), "tasks", ["pool", "place"], unique=False)
    op.create_index(op.f("ix_tasks_priority_place"), "tasks", ["priority", "place"], unique=False)
    op.create_index(op.f("ix_tasks_running"), "tasks", ["running"], unique=False)
    op.create_index(op.f("ix_tasks_status_ended"), "tasks", ["status", "ended"], unique=False)
    op.create_index(op.f("ix_tasks_status_place"), "tasks", ["status", "place"], unique=False)
    op.create_index(op.f("ix_tasks_user_name_place"), "tasks", ["user_name", "place"], unique=False)
    op.create_index(op.f("ix_tasks_workflow_uuid"), "tasks", ["workflow_uuid"], unique=False)
    op.create_table(
        "usage",
        sa.Column("task_uuid", sa.Text(), nullable=False),
        sa.Column("retry_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("cpu", sa.Double(), nullable=False),
        sa.Column("memory", sa.Double(), nullable=False),
        sa.Column("gpu", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_uuid", "retry_id"],
            ["tasks.uuid", "tasks.retry_id"],
            name=op.f("fk_usage_task_uuid_retry_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("task_uuid", "retry_id", "at", name=op.f("pk_usage")),
    )
