"""Keys of sessions inside tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "session_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("task_uuid", sa.Text(), nullable=False),
        sa.Column("retry_id", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"],
            ["workflows.uuid"],
            name=op.f("fk_session_keys_workflow_uuid_workflows"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_session_keys")),
    )
    op.create_index(op.f("ix_session_keys_expires"), "session_keys", ["expires"], unique=False)
