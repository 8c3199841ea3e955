"""An index of the datasets in buckets, and which groups write which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "dataset_writes",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("group_uuid", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("group_uuid", "bucket", "name", name=op.f("pk_dataset_writes")),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"],
            ["workflows.uuid"],
            ondelete="CASCADE",
            name=op.f("fk_dataset_writes_workflow_uuid_workflows"),
        ),
    )
    op.create_index(op.f("ix_dataset_writes_bucket"), "dataset_writes", ["bucket"])
    op.create_index(op.f("ix_dataset_writes_workflow_uuid"), "dataset_writes", ["workflow_uuid"])
    op.create_table(
        "dataset_shelves",
        sa.Column("shelf", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("synced", sa.Double(), nullable=False),
        sa.Column("took", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("shelf", name=op.f("pk_dataset_shelves")),
    )
    op.create_table(
        "datasets",
        sa.Column("shelf", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name_number", sa.Integer(), nullable=False),
        sa.Column("stamp", sa.Text(), nullable=False),
        sa.Column("listed", sa.Double(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.Column("newest", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("labels_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("shelf", "name", name=op.f("pk_datasets")),
    )
    op.create_index(op.f("ix_datasets_shelf_changed"), "datasets", ["shelf", "changed"])
    op.create_index(op.f("ix_datasets_shelf_id"), "datasets", ["shelf", "id"])
    op.create_table(
        "dataset_versions",
        sa.Column("shelf", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("made", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("metadata_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("shelf", "dataset", "number", name=op.f("pk_dataset_versions")),
    )
    op.create_index(op.f("ix_dataset_versions_shelf_created_by"), "dataset_versions", ["shelf", "created_by"])
    op.create_index(op.f("ix_dataset_versions_workflow"), "dataset_versions", ["workflow"])
    op.create_table(
        "dataset_tags",
        sa.Column("shelf", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("tag_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("shelf", "dataset", "tag", name=op.f("pk_dataset_tags")),
    )
    op.create_table(
        "dataset_members",
        sa.Column("shelf", sa.Text(), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("shelf", "collection", "name", name=op.f("pk_dataset_members")),
    )
    op.create_index(op.f("ix_dataset_members_shelf_name_version"), "dataset_members", ["shelf", "name", "version"])
    op.create_table(
        "dataset_values",
        sa.Column("shelf", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("number", sa.Double(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("shelf", "dataset", "version", "path", "position", name=op.f("pk_dataset_values")),
    )
