"""Datasets, collections, their versions, tags, labels and metadata; queries; uploads by other clients."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query

from osmo_ray.api.dataset_shapes import (
    AttributeBody,
    AttributeReply,
    Attributes,
    CollectBody,
    DatasetList,
    DatasetView,
    Download,
    IndexView,
    LineageView,
    Member,
    MemberVersion,
    QueryReply,
    RecollectBody,
    Recollected,
    Removed,
    Tagged,
    UploadBody,
    UploadReply,
)
from osmo_ray.api.datasets import Shelf, chosen_version, day, made, reader
from osmo_ray.api.errors import ApiError
from osmo_ray.api.routes.common import Many, User, parse_moment
from osmo_ray.api.services import Services
from osmo_ray.control.datasets import resolve
from osmo_ray.data import query as language
from osmo_ray.data.errors import DataError
from osmo_ray.data.names import LATEST, Reference, check_tag
from osmo_ray.objects import datasets as stored
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.store.dataset_nouns import READY, DatasetQuery

if TYPE_CHECKING:
    from osmo_ray.objects.datasets.dataset import Dataset

_log = logging.getLogger(__name__)

Count = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=2**31)]
Size = Annotated[int, Query(ge=0, le=2**62)]
_DATASET = "/api/bucket/{bucket}/dataset/{name}"
_LABEL = 1 << 16
"""Letters of labels or metadata at once."""


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["dataset"])
    _lists(router, services)
    _reads(router, services)
    _uploads(router, services)
    _changes(router, services)
    return router


def _lists(router: APIRouter, services: Services) -> None:
    @router.get("/api/bucket/list_dataset")
    def list_datasets(
        user: User,
        name: str = "",
        users: Annotated[list[str] | None, Query(alias="user")] = None,
        buckets: Many = None,
        dataset_type: str = "",
        latest_before: str | None = None,
        latest_after: str | None = None,
        all_users: bool = False,
        order: str = "ASC",
        count: Count = 20,
        offset: Offset = 0,
    ) -> DatasetList:
        before, after = parse_moment("latest_before", latest_before), parse_moment("latest_after", latest_after)
        shelves = {s.key: s for s in _shelves(services, buckets, user.user)}
        wanted = users or ([] if all_users else [user.user])
        asked = DatasetQuery(
            [*shelves], name, wanted, dataset_type.lower(), changed_before=before, changed_after=after,
            offset=offset, limit=count,
        )  # fmt: skip
        found = [shelves[one.shelf].entry(one) for one in services.store.list_datasets(asked)]
        return DatasetList(datasets=found if order.upper() == "DESC" else found[::-1])

    @router.get("/api/bucket/{bucket}/query")
    def query_datasets(
        bucket: str, command: str, user: User, offset: Offset = 0, count: Annotated[int | None, Query(ge=1)] = None
    ) -> QueryReply:
        asked = language.parse(command)
        found = Shelf.of(services, bucket, user.user).query(asked, offset, count)
        if not found and not offset:
            raise ApiError(f"Nothing in bucket {bucket} is what the query asks for.")
        return QueryReply(type="VERSION" if asked.versions else "DATASET", datasets=found)


def _shelves(services: Services, buckets: list[str] | None, user: str) -> list[Shelf]:
    """Of these buckets, or of all. One that cannot be reached is left out, unless it was asked for or is known."""
    found = []
    for bucket in buckets or services.buckets.places:
        shelf = Shelf.of(services, bucket, user)
        try:
            shelf.look()
        except (DataError, ObjectError, OSError) as error:
            if buckets:
                raise
            _log.warning("datasets of bucket %s are not listed: %s", bucket, error)
            continue
        found.append(shelf)
    return found


def _reads(router: APIRouter, services: Services) -> None:
    @router.get(_DATASET)
    def download_dataset(bucket: str, name: str, user: User, tag: str = LATEST) -> Download:
        return _download(Shelf.of(services, bucket, user.user), name, tag)

    @router.post(f"{_DATASET}/migrate")
    def migrate_dataset(bucket: str, name: str, user: User, tag: str = LATEST) -> Download:
        return _download(Shelf.of(services, bucket, user.user), name, tag)

    @router.get(f"{_DATASET}/info")
    def dataset_info(
        bucket: str, name: str, user: User, tag: str = "", all_flag: bool = False, count: Count = 100,
        order: str = "ASC",
    ) -> DatasetView:  # fmt: skip
        shelf = Shelf.of(services, bucket, user.user)
        return shelf.view(name, tag=tag, everything=all_flag, count=count, descending=order.upper() == "DESC")

    @router.get("/api/x/bucket/{bucket}/dataset/{name}/lineage")
    def lineage(bucket: str, name: str, user: User, tag: str = "") -> LineageView:
        shelf = Shelf.of(services, bucket, user.user)
        found = shelf.read(name)
        versions = [chosen_version(found, tag)] if tag else [v for v in found.versions if v.status == READY]
        readers = services.store.readers(shelf.place.name, name, versions[0].number if tag else None)
        return LineageView(made=[made(version) for version in versions], read=[reader(one) for one in readers])

    @router.post("/api/x/bucket/{bucket}/dataset/{name}/index")
    def index_dataset(bucket: str, name: str, user: User) -> None:
        """Somebody wrote to the bucket itself: see what is new of this name."""
        Shelf.of(services, bucket, user.user).refresh(name)

    @router.get("/api/x/bucket/{bucket}/index")
    def read_index(bucket: str, user: User) -> IndexView:
        shelf = Shelf.of(services, bucket, user.user)
        shelf.look()
        return _index(shelf)

    @router.post("/api/x/bucket/{bucket}/index")
    def rebuild_index(bucket: str, user: User) -> IndexView:
        """Read all of the bucket anew, and tell what the index did not have as it is."""
        shelf = Shelf.of(services, bucket, user.user)
        report = services.indexer.reconcile(shelf.key, shelf.bucket, anew=True)
        return _index(shelf, changed=report.changed, wrong=report.wrong)


def _index(shelf: Shelf, *, changed: int = 0, wrong: Sequence[str] = ()) -> IndexView:
    sums, synced = shelf.services.store.shelf_sums(shelf.key), shelf.services.store.synced(shelf.key)
    return IndexView(
        bucket=shelf.place.name, datasets=sums.datasets, versions=sums.versions, collections=sums.collections,
        size=sums.size, read_at=day(synced.at) if synced else None, seconds=synced.took if synced else 0.0,
        changed=changed, wrong=[*wrong[:100]],
    )  # fmt: skip


def _download(shelf: Shelf, name: str, tag: str) -> Download:
    """Lists of files as other clients read them; only what such a client brought has one."""
    found = shelf.name(name)
    members = resolve(shelf.bucket, Reference(shelf.place.name, name, tag or LATEST))
    locations = []
    for member, number in members:
        dataset = shelf.dataset(member)
        there = stored.guests.has_listing(dataset, number)
        locations.append(shelf.at(stored.guests.listing(dataset, number)) if there else shelf.uri(member, number))
    return Download(
        dataset_names=[member for member, _ in members],
        dataset_versions=[str(number) for _, number in members],
        locations=locations,
        new_locations=["" for _ in members],
        is_collection=found.kind == stored.catalog.COLLECTION,
    )


def _uploads(router: APIRouter, services: Services) -> None:
    @router.post(_DATASET)
    def upload_dataset(
        bucket: str,
        name: str,
        user: User,
        body: UploadBody | None = None,
        tag: str = "",
        description: str = "",
        resume: bool = False,
        finish: bool = False,
        version_id: str = "",
        checksum: str = "",
        size: Size = 0,
        update_dataset_size: Annotated[int, Query(ge=-(2**62), le=2**62)] = 0,
    ) -> UploadReply:
        """Begin an upload, or finish one. What was uploaded is checked by itself: the sums that a client tells are
        not believed."""
        shelf = Shelf.of(services, bucket, user.user).writable()
        told = body or UploadBody()
        _small(told.metadata, told.labels)
        if finish:
            done = _finish(shelf.dataset(name), version_id, tag, told)
            shelf.refresh(name)
            return done
        if resume:
            dataset = shelf.dataset(name)
            claim = stored.guests.claimed(dataset, _number(tag))
        else:
            if tag and tag != LATEST:
                check_tag(tag)
            dataset = shelf.dataset(name, create=True)
            more = {"description": description} if description else {}
            claim = stored.guests.claim(dataset, user.user, {**told.metadata, **more})
            shelf.refresh(name)
        return UploadReply(
            version_id=str(claim.number),
            region=shelf.region,
            storage_path=shelf.at(stored.guests.hashes(dataset)),
            manifest_path=shelf.at(stored.guests.listing(dataset, claim.number)),
        )


def _finish(dataset: Dataset, version_id: str, tag: str, told: UploadBody) -> UploadReply:
    """Finishing twice is finishing once: the answer to the first may have been lost."""
    number = _number(version_id)
    claim = stored.guests.claimed(dataset, number)
    if number not in dataset.bucket.numbers(stored.layout.versions(dataset.id)):
        stored.guests.take_over(dataset, claim)
    if tag and tag != LATEST and not tag.isdigit():
        dataset.tag(tag, version_id)
    if told.labels:
        dataset.label(told.labels)
    return UploadReply(version_id=version_id)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ApiError(f"{text[:80]!r} is not the number of a version.")
    return int(text)


def _small(*values: dict[str, Any]) -> None:
    if any(len(repr(one)) > _LABEL for one in values):
        raise ApiError(f"Labels and metadata have at most {_LABEL >> 10} KiB.")


def _changes(router: APIRouter, services: Services) -> None:
    @router.delete(_DATASET)
    def delete_dataset(
        bucket: str, name: str, user: User, tag: str = "", all_flag: bool = False, finish: bool = False
    ) -> Removed:
        """Remove versions; their space comes back when garbage is collected. Collections that hold them go."""
        shelf = Shelf.of(services, bucket, user.user).writable()
        if shelf.name(name).kind == stored.catalog.COLLECTION:
            stored.catalog.forget(shelf.bucket, name)
            shelf.refresh(name)
            return Removed(versions=[], delete_locations=[], cleaned_size=0)
        dataset = shelf.dataset(name)
        chosen = dataset.versions() if all_flag else [] if finish else [dataset.version(tag or LATEST)]
        held = shelf.holders(name) if chosen else {}
        emptied = [collection for version in chosen for collection in held.get(version.number, ())]
        for collection in emptied:
            stored.catalog.forget(shelf.bucket, collection)
        for version in chosen:
            dataset.delete(str(version.number), force=True)
        locations = [] if dataset.versions() else _left(shelf, dataset)
        if finish and not dataset.versions():
            stored.catalog.forget(shelf.bucket, name)
        shelf.refresh(name, *emptied)
        freed = sum(version.size for version in chosen)
        return Removed(versions=[str(v.number) for v in chosen], delete_locations=locations, cleaned_size=freed)

    @router.post(f"{_DATASET}/attribute")
    def set_attributes(
        bucket: str,
        name: str,
        user: User,
        body: AttributeBody | None = None,
        tag: str = "",
        new_name: str = "",
        set_tag: Many = None,
        delete_tag: Many = None,
        delete_label: Many = None,
        delete_metadata: Many = None,
    ) -> AttributeReply:
        shelf = Shelf.of(services, bucket, user.user).writable()
        told = body or AttributeBody()
        _small(told.set_label, told.set_metadata)
        if new_name:
            _rename(shelf, name, new_name)
            return AttributeReply()
        dataset = shelf.dataset(name)
        reply = AttributeReply(
            tag_response=_tags(dataset, tag, set_tag or [], delete_tag or []) if set_tag or delete_tag else None,
            label_response=_labels(dataset, told, delete_label or []) if told.set_label or delete_label else None,
            metadata_response=_metadata(dataset, tag, told, delete_metadata or [])
            if told.set_metadata or delete_metadata
            else None,
        )
        shelf.refresh(name)
        return reply

    @router.post(f"{_DATASET}/collect")
    def make_collection(bucket: str, name: str, body: CollectBody, user: User) -> None:
        shelf = Shelf.of(services, bucket, user.user).writable()
        if stored.catalog.lookup(shelf.bucket, name) is not None:
            raise ApiError(f"There is a {name} in bucket {bucket} already; choose another name.")
        stored.catalog.collect(shelf.bucket, name, _members(shelf, body.datasets))
        shelf.refresh(name)

    @router.post(f"{_DATASET}/recollect")
    def change_collection(bucket: str, name: str, body: RecollectBody, user: User) -> Recollected:
        shelf = Shelf.of(services, bucket, user.user).writable()
        stored.catalog.collection(shelf.bucket, name)
        remove = [member.name for member in body.remove_datasets]
        after = stored.catalog.collect(shelf.bucket, name, _members(shelf, body.add_datasets), remove)
        shelf.refresh(name)
        return Recollected(versions=[MemberVersion(dataset_name=n, version=str(v)) for n, v in after.members])


def _rename(shelf: Shelf, old: str, new: str) -> None:
    """Collections that hold it hold it under its new name, and who read it has read what is called so now."""
    held = shelf.holders(old)
    stored.catalog.rename(shelf.bucket, old, new)
    shelf.services.store.renamed(shelf.place.name, old, new)
    for number, collections in held.items():
        for collection in collections:
            stored.catalog.collect(shelf.bucket, collection, [(new, number)], [old])
    shelf.refresh(old, new, *(collection for collections in held.values() for collection in collections))


def _left(shelf: Shelf, dataset: Dataset) -> list[str]:
    """What another client put there, and may now remove."""
    lists = [stored.guests.listing(dataset, n) for n in shelf.bucket.numbers(stored.layout.claims(dataset.id))]
    return [shelf.at(stored.guests.hashes(dataset)), *map(shelf.at, lists)]


def _members(shelf: Shelf, given: list[Member]) -> list[tuple[str, int]]:
    return [
        one
        for member in given
        for one in resolve(shelf.bucket, Reference(shelf.place.name, member.name, member.tag or LATEST))
    ]


def _tags(dataset: Dataset, selector: str, set_: list[str], delete: list[str]) -> Tagged:
    version = dataset.version(selector or LATEST)
    for tag in delete:
        dataset.tag(tag, None)
    for tag in set_:
        dataset.tag(tag, str(version.number))
    tags = [tag for tag, number in dataset.tags().items() if number == version.number]
    return Tagged(version_id=str(version.number), tags=tags)


def _labels(dataset: Dataset, told: AttributeBody, delete: list[str]) -> Attributes:
    if delete:
        dataset.label(_without(delete))
    return Attributes(metadata=dataset.label(told.set_label) if told.set_label else dataset.labels())


def _metadata(dataset: Dataset, selector: str, told: AttributeBody, delete: list[str]) -> Attributes:
    if not selector:
        raise ApiError("Metadata is of one version: name it by its number or a tag.")
    if delete:
        dataset.describe(selector, _without(delete))
    values = dataset.describe(selector, told.set_metadata) if told.set_metadata else dataset.metadata(selector)
    return Attributes(metadata=values)


def _without(paths: list[str]) -> dict[str, Any]:
    """`["a.b"]` -> what removes b of a when it is merged."""
    found: dict[str, Any] = {}
    for path in sorted(paths):
        _drop(found, path.split("."))
    return found


def _drop(at: dict[str, Any], keys: list[str]) -> None:
    if len(keys) == 1:
        at[keys[0]] = None
    elif at.setdefault(keys[0], {}) is not None:  # else all of it goes
        _drop(at[keys[0]], keys[1:])
