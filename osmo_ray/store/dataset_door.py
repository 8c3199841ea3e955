"""The door to what the store knows of datasets; the whole door is `protocol.Store`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from osmo_ray.data.query import Query
from osmo_ray.store.dataset_nouns import (
    DatasetQuery,
    DatasetRead,
    DatasetWrite,
    Indexed,
    IndexedName,
    IndexedVersion,
    Marks,
    ShelfSums,
    Synced,
    Wrote,
)


class DatasetVerbs(Protocol):
    # -- who reads and writes
    def pin(self, reads: Sequence[DatasetRead]) -> Sequence[DatasetRead]:
        """Fix what one reference of one group means, or learn what it was fixed to before."""
        ...

    def pins(self, group_uuid: str) -> Sequence[DatasetRead]:
        """All that is fixed for a group."""
        ...

    def readers(self, bucket: str, name: str, version: int | None = None, limit: int = 1000) -> Sequence[DatasetRead]:
        """Who reads a dataset (in one version), newest first."""
        ...

    def reads_of(self, workflow_uuid: str, limit: int = 1000) -> Sequence[DatasetRead]:
        """What a workflow reads, in order of bucket, name and version."""
        ...

    def renamed(self, bucket: str, old: str, new: str) -> None:
        """A dataset has another name: who read it, reads it or writes it does so under the new one."""
        ...

    def expect_writes(self, writes: Sequence[DatasetWrite]) -> None:
        """These groups may write these datasets; said once or often."""
        ...

    def writes_of(self, workflow_uuid: str) -> Sequence[DatasetWrite]:
        """What a workflow's groups that were sent may write."""
        ...

    def writes_since(self, bucket: str, at: float, limit: int = 200) -> Sequence[str]:
        """Names of a bucket that workflows may have written since `at`."""
        ...

    # -- the index of buckets
    def synced(self, shelf: str) -> Synced | None:
        """When all of a shelf was read last; None: never."""
        ...

    def mark_synced(self, shelf: str, synced: Synced, known: Collection[str] | None = None) -> None:
        """All of it was read. Of another bucket than before (by its id) nothing is kept; of the same, with `known`, no
        names but these."""
        ...

    def index_stamps(self, shelf: str) -> Mapping[str, IndexedName]:
        """Every name, also those given up."""
        ...

    def index_names(self, shelf: str, found: Sequence[Indexed]) -> None:
        """Write down what was found; what was listed later stays."""
        ...

    def indexed(self, shelf: str, name: str) -> Indexed | None:
        """A name with everything the index has of it; versions in order."""
        ...

    def collections_of(self, shelf: str, name: str) -> Mapping[int, Sequence[str]]:
        """version -> collections that hold it."""
        ...

    def list_datasets(self, query: DatasetQuery) -> Sequence[IndexedName]: ...

    def query_datasets(
        self, shelf: str, query: Query, offset: int = 0, limit: int | None = None
    ) -> Sequence[tuple[IndexedName, IndexedVersion | None]]:
        """What a query finds, a page of it; with versions if it is about versions."""
        ...

    def marks(self, shelf: str, bucket: str, name: str = "", dataset: str = "") -> Marks:
        """What points at versions of one dataset (by its name and its id), or of all of a shelf."""
        ...

    def shelf_sums(self, shelf: str) -> ShelfSums: ...

    def written_by(self, workflow: str, limit: int = 1000) -> Sequence[Wrote]:
        """Versions that tasks of a workflow (by its id) made, as far as the index knows."""
        ...
