"""Results that later tasks may use, who uses whose outputs, and who names which archive of code."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_DIGEST = re.compile(r'"digest": ?"([0-9a-f]{64})"')


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
    op.create_table(
        "code_uses",
        sa.Column("workflow_uuid", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_uuid"], ["workflows.uuid"], op.f("fk_code_uses_workflow_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_uuid", "digest", name=op.f("pk_code_uses")),
    )
    op.create_index(op.f("ix_code_uses_digest"), "code_uses", ["digest"])
    _fill_code_uses()


def _fill_code_uses() -> None:
    """What older workflows name, from their specs."""
    connection = op.get_bind()
    found = connection.execute(sa.text("SELECT workflow_uuid, spec FROM submissions WHERE spec LIKE '%\"digest\"%'"))
    rows = [(uuid, digest) for uuid, spec in found for digest in sorted(set(_DIGEST.findall(spec)))]
    for uuid, digest in rows:
        connection.execute(sa.text("INSERT INTO code_uses VALUES (:uuid, :digest)"), {"uuid": uuid, "digest": digest})
