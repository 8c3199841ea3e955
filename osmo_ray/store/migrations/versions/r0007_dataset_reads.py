"""Which versions of datasets groups read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "dataset_reads",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("group_uuid", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("group_uuid", "reference", "name", name=op.f("pk_dataset_reads")),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"],
            ["workflows.uuid"],
            ondelete="CASCADE",
            name=op.f("fk_dataset_reads_workflow_uuid_workflows"),
        ),
    )
    op.create_index(op.f("ix_dataset_reads_bucket_name_version"), "dataset_reads", ["bucket", "name", "version"])
    op.create_index(op.f("ix_dataset_reads_workflow_uuid"), "dataset_reads", ["workflow_uuid"])
