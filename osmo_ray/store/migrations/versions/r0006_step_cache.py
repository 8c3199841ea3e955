"""Results that later tasks may use, and who uses whose outputs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "step_cache",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("task_uuid", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], op.f("fk_step_cache_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_step_cache")),
    )
    op.create_index(op.f("ix_step_cache_workflow_uuid"), "step_cache", ["workflow_uuid"])
    op.create_table(
        "output_uses",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("source_uuid", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], op.f("fk_output_uses_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_uuid", "source_uuid", name=op.f("pk_output_uses")),
    )
    op.create_index(op.f("ix_output_uses_source_uuid"), "output_uses", ["source_uuid"])
