"""The tables of datasets: who reads and writes which, and an index of what their buckets hold."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text

from osmo_ray.store.columns import double, metadata, of_workflow, text, whole

dataset_reads = Table(
    "dataset_reads",
    metadata,
    of_workflow(),
    Column("group_uuid", Text, primary_key=True),
    Column("reference", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    text("bucket"),
    whole("version"),
    double("at"),
    Index(None, "bucket", "name", "version"),
    Index(None, "workflow_uuid"),
)
"""Which version a group reads where its workflow says `reference`: fixed when the group is first sent, so that retries
and all its tasks read the same one. A collection has a row for each member."""

dataset_writes = Table(
    "dataset_writes",
    metadata,
    of_workflow(),
    Column("group_uuid", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Index(None, "bucket"),
    Index(None, "workflow_uuid"),
)
"""Which datasets a group may write: known when it is sent. What it wrote stands in the versions themselves."""

dataset_shelves = Table(
    "dataset_shelves",
    metadata,
    Column("shelf", Text, primary_key=True),
    text("bucket"),
    double("synced"),
    double("took"),
)
"""A bucket as it is indexed (`shelf`: see `control.indexing`), its own id, when all of it was read last, and how long
that took."""

datasets = Table(
    "datasets",
    metadata,
    Column("shelf", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    text("kind"),
    text("id"),
    whole("name_number"),
    text("stamp"),
    double("listed"),
    text("created_by"),
    double("created"),
    double("changed"),
    whole("newest"),
    Column("size", BigInteger, nullable=False),
    text("labels"),
    whole("labels_number"),
    Index(None, "shelf", "id"),
    Index(None, "shelf", "changed"),
)
"""An index of names in buckets, which are the truth. `kind` is empty for a name that was given up; `stamp` tells if a
listing of the bucket has news; `*_number` are those of the records that were read. `newest` 0: no version yet."""

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("shelf", Text, primary_key=True),
    Column("dataset", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    text("status"),
    text("created_by"),
    double("created"),
    Column("size", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    text("checksum"),
    text("message"),
    whole("parent"),
    text("workflow"),
    text("task"),
    text("made"),
    text("metadata"),
    whole("metadata_number"),
    Index(None, "shelf", "created_by"),
    Index(None, "workflow"),
)
"""`dataset` is an id; `made` is the whole lineage as JSON; `parent` 0: none."""

dataset_tags = Table(
    "dataset_tags",
    metadata,
    Column("shelf", Text, primary_key=True),
    Column("dataset", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    whole("version"),
    whole("tag_number"),
)
"""`version` 0: the tag was removed."""

dataset_members = Table(
    "dataset_members",
    metadata,
    Column("shelf", Text, primary_key=True),
    Column("collection", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    whole("version"),
    Index(None, "shelf", "name", "version"),
)

dataset_values = Table(
    "dataset_values",
    metadata,
    Column("shelf", Text, primary_key=True),
    Column("dataset", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("path", Text, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    text("kind"),
    text("text"),
    double("number"),
    whole("length"),
)
"""Labels (version 0) and metadata, a row for each value in them, so that queries need no JSON functions, in which these
two differ. `path` is a hash of the keys that lead there; `position` 0 is the value itself, others are its elements."""
