"""Apps with their versions, which workflows came of them, sealed credentials, and notices that were sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "apps",
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_apps")),
        sa.UniqueConstraint("name", name=op.f("uq_apps_name")),
    )
    op.create_index(op.f("ix_apps_created_uuid"), "apps", ["created", "uuid"])
    op.create_index(op.f("ix_apps_owner_created"), "apps", ["owner", "created"])
    op.create_table(
        "app_versions",
        sa.Column("app_uuid", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("app_uuid", "version", name=op.f("pk_app_versions")),
        sa.ForeignKeyConstraint(
            ["app_uuid"], ["apps.uuid"], ondelete="CASCADE", name=op.f("fk_app_versions_app_uuid_apps")
        ),
    )
    op.create_index(op.f("ix_app_versions_created_by_app_uuid"), "app_versions", ["created_by", "app_uuid"])
    op.create_table(
        "workflow_apps",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("app_uuid", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workflow_uuid", name=op.f("pk_workflow_apps")),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"],
            ["workflows.uuid"],
            ondelete="CASCADE",
            name=op.f("fk_workflow_apps_workflow_uuid_workflows"),
        ),
    )
    op.create_index(op.f("ix_workflow_apps_name_version"), "workflow_apps", ["name", "version"])
    op.create_index(op.f("ix_workflow_apps_app_uuid_user_name"), "workflow_apps", ["app_uuid", "user_name"])
    op.create_table(
        "credentials",
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=True),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_name", "name", name=op.f("pk_credentials")),
        sa.UniqueConstraint("user_name", "profile", name=op.f("uq_credentials_user_name_profile")),
    )
    op.create_table(
        "notices",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workflow_uuid", "channel", name=op.f("pk_notices")),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], ondelete="CASCADE", name=op.f("fk_notices_workflow_uuid_workflows")
        ),
    )
