"""Alembic's entry: run the wanted steps on the connection, and in the transaction, that `migrating` hands over."""

from __future__ import annotations

from alembic import context

from osmo_ray.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column by rewriting its table
)
with context.begin_transaction():
    context.run_migrations()
