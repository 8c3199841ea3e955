"""What the API says of datasets: of one by its bucket, which is the truth; of many by the index of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from osmo_ray.api.dataset_shapes import DatasetEntry, DatasetView, Made, MemberView, Reader, VersionView
from osmo_ray.api.errors import ApiError
from osmo_ray.api.services import Services
from osmo_ray.data.errors import NoSuchDataset
from osmo_ray.data.names import LATEST
from osmo_ray.data.query import Query
from osmo_ray.objects import datasets as stored
from osmo_ray.providers.buckets import Place
from osmo_ray.store.dataset_nouns import (
    COLLECTION,
    PENDING,
    READY,
    DatasetRead,
    Indexed,
    IndexedName,
    IndexedVersion,
    Marks,
)

if TYPE_CHECKING:
    from osmo_ray.objects.datasets.bucket import Bucket
    from osmo_ray.objects.datasets.catalog import Name
    from osmo_ray.objects.datasets.dataset import Dataset


@dataclass(frozen=True)
class Shelf:
    """One bucket as one user sees it."""

    services: Services
    place: Place
    user: str

    @staticmethod
    def of(services: Services, bucket: str, user: str) -> Shelf:
        """Raises `DataError`."""
        return Shelf(services, services.buckets.place(bucket), user)

    @cached_property
    def bucket(self) -> Bucket:
        """Raises `DataError` and `ObjectError`."""
        return self.services.buckets.open(self.place, self.services.data_keys(self.user))

    @cached_property
    def key(self) -> str:
        """Under which the index knows it."""
        return self.services.buckets.shelf(self.place, self.services.data_keys(self.user))

    @property
    def region(self) -> str:
        return self.place.region or "us-east-1"

    def writable(self) -> Shelf:
        """Itself. Raises `ApiError`."""
        if not self.place.writable:
            raise ApiError(f"The bucket {self.place.name} is {self.place.mode}; name another one.")
        return self

    def name(self, name: str) -> Name:
        """Raises `NoSuchDataset`."""
        found = stored.catalog.lookup(self.bucket, name)
        if found is None:
            raise self._nothing(name)
        return found

    def dataset(self, name: str, *, create: bool = False) -> Dataset:
        return stored.Dataset(self.bucket, name, create=create)

    def at(self, key: str) -> str:
        """The address of a key of the bucket."""
        return f"{self.place.path}/{key}"

    def uri(self, name: str, number: int) -> str:
        return f"osmo://{self.place.name}/{name}@{number}"

    # -- the index

    def look(self) -> None:
        """Make the index as new as a list has to be."""
        self.services.indexer.look(self.key, self.place.name, lambda: self.bucket)

    def refresh(self, *names: str) -> None:
        self.services.indexer.refresh(self.key, self.bucket, *names)

    def read(self, name: str) -> Indexed:
        """All of a dataset or collection, as its bucket has it now. Raises `NoSuchDataset`."""
        self.refresh(name)
        found = self.services.store.indexed(self.key, name)
        if found is None or not found.name.id:
            raise self._nothing(name)
        return found

    def holders(self, name: str) -> Mapping[int, Sequence[str]]:
        """version -> collections that hold it, for who is about to remove one: nothing is left out."""
        self.services.indexer.reconcile(self.key, self.bucket)
        return self.services.store.collections_of(self.key, name)

    def _nothing(self, name: str) -> NoSuchDataset:
        return NoSuchDataset(f"there is no dataset {name!r} in bucket {self.place.name}")

    # -- views

    def view(self, name: str, *, tag: str, everything: bool, count: int, descending: bool) -> DatasetView:
        found = self.read(name)
        entry = found.name
        if entry.kind == COLLECTION:
            return self._collection(found)
        chosen = [chosen_version(found, tag)] if tag else found.versions
        shown = [v for v in chosen if everything or v.status == READY][-count:]
        versions = self.versions(found, shown)
        return DatasetView(
            name=name,
            id=entry.id,
            bucket=self.place.name,
            created_by=entry.created_by,
            created_date=day(entry.created),
            hash_location=self.at(stored.guests.hashes_of(entry.id)),
            hash_location_size=entry.size,
            labels=dict(entry.labels),
            type="DATASET",
            versions=[*(reversed(versions) if descending else versions)],
        )

    def _collection(self, found: Indexed) -> DatasetView:
        members = []
        for name, number in found.members:
            version = self.dataset(name).version(str(number))
            uri = self.uri(name, number)
            members.append(MemberView(name=name, version=str(number), location=uri, uri=uri, size=version.size))
        name, id = found.name.name, found.name.id
        return DatasetView(name=name, id=id, bucket=self.place.name, labels={}, type="COLLECTION", versions=[*members])

    def versions(self, found: Indexed, shown: Sequence[IndexedVersion]) -> list[VersionView]:
        name = found.name.name
        marks = self.services.store.marks(self.key, self.place.name, name, found.name.id)
        return [self._version(found.name, version, marks) for version in shown]

    def _version(self, found: IndexedName, version: IndexedVersion, marks: Marks) -> VersionView:
        name, number = found.name, version.number
        newest = [LATEST] if number == found.newest and version.status == READY else []
        uri = self.uri(name, number)
        if version.status == PENDING:
            uri = self.at(stored.guests.listing_of(found.id, number))
        return VersionView(
            name=name,
            version=str(number),
            status=version.status,
            created_by=version.created_by,
            created_date=day(version.created),
            last_used=day(marks.reads.get((name, number), version.created)),
            size=version.size,
            checksum=version.checksum,
            location=uri,
            uri=uri,
            metadata=dict(version.metadata),
            tags=[*marks.tags.get((found.id, number), ()), *newest],
            collections=[*marks.holders.get((name, number), ())],
        )

    def entry(self, found: IndexedName) -> DatasetEntry:
        if found.kind == COLLECTION:
            made = day(found.created)
            return DatasetEntry(
                name=found.name, id=found.id, bucket=self.place.name, create_time=made, type="COLLECTION"
            )
        return DatasetEntry(
            name=found.name,
            id=found.id,
            bucket=self.place.name,
            create_time=day(found.created),
            last_created=day(found.changed) if found.newest else None,
            hash_location=self.at(stored.guests.hashes_of(found.id)),
            hash_location_size=found.size,
            version_id=str(found.newest) if found.newest else None,
            type="DATASET",
        )

    def query(self, asked: Query, offset: int, limit: int | None) -> list[DatasetEntry | VersionView]:
        self.look()
        store = self.services.store
        found = store.query_datasets(self.key, asked, offset, limit)
        marks = store.marks(self.key, self.place.name) if asked.versions else Marks({}, {}, {})
        return [self.entry(name) if v is None else self._version(name, v, marks) for name, v in found]


def chosen_version(found: Indexed, selector: str) -> IndexedVersion:
    """By number, tag or `latest`, as `Dataset.version` chooses. Raises `NoSuchDataset`."""
    tags = {tag.tag: tag.version for tag in found.tags}
    number = int(selector) if selector.isdigit() else found.name.newest if selector == LATEST else tags.get(selector)
    chosen = next((v for v in found.versions if v.number == number and v.status == READY), None)
    if chosen is None:
        raise NoSuchDataset(f"dataset {found.name.name!r} has no version or tag {selector!r}; see its log")
    return chosen


def made(version: IndexedVersion, *, bucket: str = "", name: str = "") -> Made:
    told = version.lineage
    return Made(
        version=str(version.number), created_by=version.created_by, workflow=told.workflow, task=told.task,
        retry=told.retry, code=told.code, image=told.image, inputs=[*told.inputs], bucket=bucket, name=name,
    )  # fmt: skip


def reader(read: DatasetRead) -> Reader:
    return Reader(
        workflow=read.workflow, user=read.user, version=str(read.version), at=day(read.at), bucket=read.bucket,
        name=read.name,
    )  # fmt: skip


def day(at: float) -> str:
    """A time as clients know it: no zone, whole seconds."""
    return datetime.fromtimestamp(int(at), UTC).replace(tzinfo=None).isoformat()
