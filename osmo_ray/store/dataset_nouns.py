"""What goes through the store's door about datasets: who reads and writes them, and the index of what buckets hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from osmo_ray.data.versions import Lineage

DATASET, COLLECTION = "dataset", "collection"
READY, PENDING, GONE = "READY", "PENDING", "PENDING_DELETE"


@dataclass(frozen=True, slots=True)
class DatasetRead:
    """A version that a group reads where its workflow names `reference`. `workflow` and `user` are filled in when it is
    read back."""

    workflow_uuid: str
    group_uuid: str
    reference: str
    bucket: str
    name: str
    version: int
    at: float
    workflow: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class DatasetWrite:
    """A dataset that a group may write."""

    workflow_uuid: str
    group_uuid: str
    bucket: str
    name: str


@dataclass(frozen=True, slots=True)
class Synced:
    """`bucket` is the bucket's own id: another one under the same name is another bucket. `took` seconds to read all
    of it, begun at `at`."""

    bucket: str
    at: float
    took: float


@dataclass(frozen=True, slots=True)
class IndexedName:
    """A name of a bucket. `kind` is empty for one that was given up. `number` and `labels_number` are those of the
    records that this was read from, `stamp` sums up all keys of it, `listed` is when they were listed (an older listing
    never replaces a newer one). `newest` 0: no version. `size` is the sum of all READY versions."""

    name: str
    kind: str
    id: str
    number: int
    stamp: str = ""
    listed: float = 0.0
    created_by: str = ""
    created: float = 0.0
    changed: float = 0.0
    newest: int = 0
    size: int = 0
    labels: Mapping[str, Any] = field(default_factory=dict)
    labels_number: int = 0
    shelf: str = ""


@dataclass(frozen=True, slots=True)
class IndexedVersion:
    """A version as the index knows it; `metadata_number` is that of the record it was read from, 0 for the version's
    own. `parent` 0: none."""

    number: int
    status: str
    created_by: str
    created: float
    size: int = 0
    files: int = 0
    checksum: str = ""
    message: str = ""
    parent: int = 0
    lineage: Lineage = field(default_factory=Lineage)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_number: int = 0


@dataclass(frozen=True, slots=True)
class IndexedTag:
    """`version` 0: it was removed; `number` is that of the record."""

    tag: str
    version: int
    number: int


@dataclass(frozen=True, slots=True)
class Indexed:
    """A name with all that the index has of it, or (in `index_names`) with what is new: versions and tags that are
    given replace those of the same number and name, `dropped` versions go, members are all members. `anew`: nothing
    that was known before stays."""

    name: IndexedName
    versions: Sequence[IndexedVersion] = ()
    tags: Sequence[IndexedTag] = ()
    members: Sequence[tuple[str, int]] = ()
    dropped: Sequence[int] = ()
    anew: bool = False


@dataclass(frozen=True, slots=True)
class DatasetQuery:
    """A page of names of these shelves, those that changed last first. `users`: who made one of its versions;
    collections are everybody's. Times are those of the newest version, else of the dataset."""

    shelves: Sequence[str]
    name: str = ""
    users: Sequence[str] = ()
    kind: str = ""
    changed_before: float | None = None
    changed_after: float | None = None
    offset: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class ShelfSums:
    """What is in a bucket, by the index; `size` is the bytes of all READY versions."""

    datasets: int
    versions: int
    collections: int
    size: int


@dataclass(frozen=True, slots=True)
class Marks:
    """What points at versions: tags by (dataset's id, number), collections and the last read by (name, number)."""

    tags: Mapping[tuple[str, int], Sequence[str]]
    holders: Mapping[tuple[str, int], Sequence[str]]
    reads: Mapping[tuple[str, int], float]


@dataclass(frozen=True, slots=True)
class Wrote:
    """A version that a task of a workflow made."""

    shelf: str
    name: str
    version: IndexedVersion
