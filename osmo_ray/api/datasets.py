"""What the API says of datasets: read from their bucket, which is the truth about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from osmo_ray.api.dataset_shapes import DatasetEntry, DatasetView, MemberView, VersionView
from osmo_ray.api.errors import ApiError
from osmo_ray.api.services import Services
from osmo_ray.data.errors import NoSuchDataset
from osmo_ray.data.query import Row
from osmo_ray.data.versions import Version
from osmo_ray.objects import datasets as stored
from osmo_ray.providers.buckets import Place

if TYPE_CHECKING:
    from osmo_ray.objects.datasets.bucket import Bucket
    from osmo_ray.objects.datasets.catalog import Name
    from osmo_ray.objects.datasets.dataset import Dataset


READY, PENDING, GONE = "READY", "PENDING", "PENDING_DELETE"


@dataclass(frozen=True)
class Shelf:
    """One bucket as one user sees it."""

    services: Services
    place: Place
    bucket: Bucket

    @staticmethod
    def of(services: Services, bucket: str, user: str) -> Shelf:
        """Raises `DataError` and `ObjectError`."""
        place = services.buckets.place(bucket)
        return Shelf(services, place, services.buckets.open(place, services.data_keys(user)))

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
            raise NoSuchDataset(f"there is no dataset {name!r} in bucket {self.place.name}")
        return found

    def dataset(self, name: str, *, create: bool = False) -> Dataset:
        return stored.Dataset(self.bucket, name, create=create)

    def at(self, key: str) -> str:
        """The address of a key of the bucket."""
        return f"{self.place.path}/{key}"

    @cached_property
    def holders(self) -> dict[tuple[str, int], list[str]]:
        """Which collections hold which versions."""
        found: dict[tuple[str, int], list[str]] = defaultdict(list)
        for one in stored.catalog.names(self.bucket):
            if one.kind == stored.catalog.COLLECTION:
                for member in stored.catalog.collection(self.bucket, one.name).members:
                    found[member].append(one.name)
        return found

    # -- views

    def view(self, name: str, *, tag: str, everything: bool, count: int, descending: bool) -> DatasetView:
        found = self.name(name)
        if found.kind == stored.catalog.COLLECTION:
            return self._collection(found)
        dataset = self.dataset(name)
        versions = self._versions(dataset, tag, everything)[-count:]
        entry = self.entry(found)
        return DatasetView(
            name=name,
            id=found.id,
            bucket=self.place.name,
            created_by=self._first(dataset)[0],
            created_date=entry.create_time,
            hash_location=entry.hash_location,
            hash_location_size=entry.hash_location_size,
            labels=dataset.labels(),
            type="DATASET",
            versions=[*(reversed(versions) if descending else versions)],
        )

    def _collection(self, found: Name) -> DatasetView:
        members = []
        for name, number in stored.catalog.collection(self.bucket, found.name).members:
            version = self.dataset(name).version(str(number))
            uri = self.uri(name, number)
            members.append(MemberView(name=name, version=str(number), location=uri, uri=uri, size=version.size))
        return DatasetView(
            name=found.name, id=found.id, bucket=self.place.name, labels={}, type="COLLECTION", versions=[*members]
        )

    def _versions(self, dataset: Dataset, tag: str, everything: bool) -> list[VersionView]:
        if tag:
            return [self.version(dataset, dataset.version(tag))]
        tags = dataset.tags()
        views = [self.version(dataset, version, tags=tags) for version in dataset.versions()]
        if everything:
            gone = set(self.bucket.numbers(stored.layout.deleted(dataset.id)))
            there = [n for n in self.bucket.numbers(stored.layout.versions(dataset.id)) if n in gone]
            views += [self.version(dataset, dataset.numbered(number), GONE, tags) for number in there]
            views += [self._pending(dataset, claim) for claim in stored.guests.claims(dataset)]
        return sorted(views, key=lambda view: int(view.version))

    def version(
        self, dataset: Dataset, version: Version, status: str = READY, tags: dict[str, int] | None = None
    ) -> VersionView:
        number = version.number
        named = [name for name, at in (dataset.tags() if tags is None else tags).items() if at == number]
        newest = status == READY and number == dataset.version().number
        read = self.services.store.readers(self.place.name, dataset.name, number, 1)
        uri = self.uri(dataset.name, number)
        return VersionView(
            name=dataset.name,
            version=str(number),
            status=status,
            created_by=version.created_by,
            created_date=day(version.created_at),
            last_used=day(read[0].at if read else version.created_at),
            size=version.size,
            checksum=version.checksum,
            location=uri,
            uri=uri,
            metadata=dataset.metadata(str(number)) if status == READY else dict(version.metadata),
            tags=[*named, *(["latest"] if newest else [])],
            collections=self.holders.get((dataset.name, number), []),
        )

    def _pending(self, dataset: Dataset, claim: stored.guests.Claim) -> VersionView:
        uri = self.at(stored.guests.listing(dataset, claim.number))
        at = day(claim.at)
        return VersionView(
            name=dataset.name, version=str(claim.number), status=PENDING, created_by=claim.by, created_date=at,
            last_used=at, size=0, checksum="", location=uri, uri=uri, metadata=dict(claim.metadata), tags=[],
            collections=[],
        )  # fmt: skip

    def uri(self, name: str, number: int) -> str:
        return f"osmo://{self.place.name}/{name}@{number}"

    # -- lists

    def entries(self) -> list[tuple[Name, DatasetEntry]]:
        names = stored.catalog.names(self.bucket)
        with ThreadPoolExecutor(stored.THREADS) as pool:
            return list(zip(names, pool.map(self.entry, names), strict=True))

    def entry(self, found: Name) -> DatasetEntry:
        kind = found.kind.upper()
        if found.kind == stored.catalog.COLLECTION:
            made = day(self._collected(found))
            return DatasetEntry(name=found.name, id=found.id, bucket=self.place.name, create_time=made, type=kind)
        dataset = self.dataset(found.name)
        versions = dataset.versions()
        newest = versions[-1] if versions else None
        return DatasetEntry(
            name=found.name,
            id=found.id,
            bucket=self.place.name,
            create_time=day(self._first(dataset)[1]),
            last_created=day(newest.created_at) if newest else None,
            hash_location=self.at(stored.guests.hashes(dataset)),
            hash_location_size=sum(version.size for version in versions),
            version_id=str(newest.number) if newest else None,
            type=kind,
        )

    def rows(self, *, versions: bool) -> Iterator[tuple[Row, DatasetEntry | VersionView]]:
        """What a query asks about."""
        for found, entry in self.entries():
            if found.kind == stored.catalog.COLLECTION:
                if not versions:
                    yield Row(found.name, found.id, "", self._collected(found), is_collection=True), entry
                continue
            dataset = self.dataset(found.name)
            labels = dataset.labels()
            if not versions:
                by, at = self._first(dataset)
                yield Row(found.name, found.id, by, at, label=labels), entry
                continue
            for version in dataset.versions():
                view = self.version(dataset, version)
                yield (
                    Row(
                        found.name, found.id, version.created_by, version.created_at, label=labels,
                        metadata=view.metadata, version=version.number,
                    ),
                    view,
                )  # fmt: skip

    def users(self, found: Name) -> set[str]:
        """Who made versions of it."""
        if found.kind == stored.catalog.COLLECTION:
            return set()
        return {version.created_by for version in self.dataset(found.name).versions()}

    def _first(self, dataset: Dataset) -> tuple[str, float]:
        """Who made it, and when."""
        numbers = self.bucket.numbers(stored.layout.versions(dataset.id))
        if numbers:
            first = dataset.numbered(numbers[0])
            return first.created_by, first.created_at
        begun = stored.guests.claims(dataset)
        return (begun[0].by, begun[0].at) if begun else ("", 0.0)

    def _collected(self, found: Name) -> float:
        infos = list(self.bucket.store.list(f"{stored.layout.COLLECTIONS}/{found.id}"))
        return min((info.modified for info in infos), default=0.0)


def day(at: float) -> str:
    """A time as clients know it: no zone, whole seconds."""
    return datetime.fromtimestamp(int(at), UTC).replace(tzinfo=None).isoformat()
