"""The names of a bucket: datasets and collections, found, made, renamed, removed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from osmo_ray.data.errors import Conflict, NoSuchDataset
from osmo_ray.data.names import check_name
from osmo_ray.data.versions import Collection
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.protocol import AlreadyExists

DATASET, COLLECTION = "dataset", "collection"


@dataclass(frozen=True, slots=True)
class Name:
    """`kind` is `dataset` or `collection`."""

    name: str
    kind: str
    id: str


def names(bucket: Bucket) -> list[Name]:
    """All that are in use, in order."""
    known = sorted({info.key.split("/")[1] for info in bucket.store.list(layout.NAMES)})
    return [found for name in known if (found := lookup(bucket, name)) is not None]


def lookup(bucket: Bucket, name: str) -> Name | None:
    _, record = bucket.newest(_folder(name))
    return Name(name, record["kind"], record["id"]) if record.get("id") else None


def dataset_id(bucket: Bucket, name: str, *, create: bool = False) -> str:
    """Raises `NoSuchDataset`, or `Conflict` if the name is a collection's."""
    found = lookup(bucket, name)
    if found is None:
        if not create:
            raise NoSuchDataset(f"there is no dataset {name!r} here; list the bucket to see what there is")
        found = _take(bucket, name, DATASET, uuid.uuid4().hex)
    if found.kind != DATASET:
        raise Conflict(f"{name!r} is a collection; choose another name")
    return found.id


def rename(bucket: Bucket, old: str, new: str) -> None:
    """The new name is taken before the old one is given up: in between, both lead to the same."""
    found = lookup(bucket, old)
    if found is None:
        raise NoSuchDataset(f"there is no {old!r} to rename")
    taken = _take(bucket, new, found.kind, found.id)
    if taken.id != found.id:
        raise Conflict(f"{new!r} is taken; choose another name")
    forget(bucket, old)


def forget(bucket: Bucket, name: str) -> None:
    """Give a name up; what it led to stays until it is collected."""
    number, record = bucket.newest(_folder(name))
    if record.get("id"):
        bucket.append(_folder(name), number + 1, {"kind": "", "id": ""})


def collection(bucket: Bucket, name: str) -> Collection:
    found = lookup(bucket, name)
    if found is None or found.kind != COLLECTION:
        raise NoSuchDataset(f"there is no collection {name!r} here")
    _, record = bucket.newest(f"{layout.COLLECTIONS}/{found.id}")
    return Collection(tuple((str(member), int(number)) for member, number in record.get("members", [])))


def collect(bucket: Bucket, name: str, add: list[tuple[str, int]], remove: list[str] | None = None) -> Collection:
    """Make or change a collection; an emptied one gives its name up. Raises `Conflict`."""
    found = lookup(bucket, name) or _take(bucket, name, COLLECTION, uuid.uuid4().hex)
    if found.kind != COLLECTION:
        raise Conflict(f"{name!r} is a dataset; choose another name")
    folder = f"{layout.COLLECTIONS}/{found.id}"
    number, record = bucket.newest(folder)
    before = Collection(tuple((str(m), int(n)) for m, n in record.get("members", [])))
    after = before.changed(add, remove or ())
    try:
        bucket.append(folder, number + 1, {"members": [list(member) for member in after.members]})
    except AlreadyExists:
        raise Conflict(f"collection {name!r} was changed meanwhile; try again") from None
    if not after.members:
        forget(bucket, name)
    return after


def collections_with(bucket: Bucket, dataset: str, number: int | None = None) -> list[str]:
    """The collections that hold this dataset (in this version, if one is given)."""
    found = [name.name for name in names(bucket) if name.kind == COLLECTION]
    return [
        name for name in found if any(m == dataset and number in (None, n) for m, n in collection(bucket, name).members)
    ]


def _take(bucket: Bucket, name: str, kind: str, id: str) -> Name:
    """The name, ours or the one of who was faster."""
    while (found := lookup(bucket, name)) is None:
        number, _ = bucket.newest(_folder(name))
        try:
            bucket.append(_folder(name), number + 1, {"kind": kind, "id": id})
        except AlreadyExists:
            continue
    return found


def _folder(name: str) -> str:
    return f"{layout.NAMES}/{check_name(name)}"
