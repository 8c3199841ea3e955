"""What tables are made of: names of constraints, and columns as most tables have them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Integer, MetaData, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts only in a column declared INTEGER."""

TIMES = ("processing", "scheduling", "initializing", "running", "ended")
TRANSFERS = ("download_start", "download_end", "upload_start")


def text(name: str, default: str | None = "") -> Column[str]:
    return Column(name, Text, nullable=default is None)


def whole(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def double(name: str) -> Column[float]:
    return Column(name, Double, nullable=False)


def times() -> list[Column[float]]:
    """Seconds since the epoch, 0.0 for not yet."""
    return [double(name) for name in TIMES + TRANSFERS]


def of_workflow(*, primary: bool = False) -> Column[str]:
    return Column(
        "workflow_uuid", Text, ForeignKey("workflows.uuid", ondelete="CASCADE"), primary_key=primary, nullable=False
    )
