"""Versions that other clients bring: an object per content and a list of them in JSON, taken over as one of ours.

Such a client asks for a number first, puts objects named by their MD5 sum below the dataset's own folder, then a list,
then says that it is done. The number is claimed by a record that is created once, so that no other writer takes it;
the version appears when every object has been read, compared with its sum, and committed like any other upload.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from osmo_ray.data.errors import Conflict, Corrupt, DataError, NoSuchDataset
from osmo_ray.data.versions import Version
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import THREADS
from osmo_ray.objects.datasets.dataset import About, Dataset
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject

PART = 8 << 20
"""Above this many bytes a sum is the sum of its parts' sums."""
_ENTRIES = 5_000_000
_RACES = 100


@dataclass(frozen=True, slots=True)
class Claim:
    """A number that somebody is uploading."""

    number: int
    by: str
    at: float
    metadata: Mapping[str, Any] = field(default_factory=dict)


def guest_id(id: str) -> str:
    """The dataset's id as other clients write it: 22 letters."""
    return base64.urlsafe_b64encode(uuid.UUID(id).bytes).decode().rstrip("=")


def hashes_of(id: str) -> str:
    return f"{guest_id(id)}/hashes"


def hashes(dataset: Dataset) -> str:
    return hashes_of(dataset.id)


def listing(dataset: Dataset, number: int) -> str:
    return listing_of(dataset.id, number)


def listing_of(id: str, number: int) -> str:
    return f"{guest_id(id)}/manifests/{number}.json"


def claim(dataset: Dataset, by: str, metadata: Mapping[str, Any]) -> Claim:
    """The next number, for this upload alone."""
    bucket = dataset.bucket
    for _ in range(_RACES):
        taken = [*bucket.numbers(layout.versions(dataset.id)), *bucket.numbers(layout.claims(dataset.id))]
        found = Claim(max(taken, default=0) + 1, by, bucket.now(), dict(metadata))
        try:
            record = {"by": found.by, "at": found.at, "metadata": dict(metadata), "id": uuid.uuid4().hex}
            bucket.append(layout.claims(dataset.id), found.number, record)
        except AlreadyExists:
            continue
        return found
    raise Conflict(f"{_RACES} other writers were faster, one after another; try again when fewer write")


def claims(dataset: Dataset) -> list[Claim]:
    """Uploads that were begun and have made no version yet, oldest first."""
    bucket = dataset.bucket
    done = {*bucket.numbers(layout.versions(dataset.id)), *bucket.numbers(layout.deleted(dataset.id))}
    return [claimed(dataset, number) for number in bucket.numbers(layout.claims(dataset.id)) if number not in done]


def claimed(dataset: Dataset, number: int) -> Claim:
    """Raises `NoSuchDataset`."""
    try:
        record = dataset.bucket.record(layout.numbered(layout.claims(dataset.id), number))
    except NoSuchObject:
        raise NoSuchDataset(f"dataset {dataset.name!r} has no upload of version {number} that was begun") from None
    return Claim(number, str(record["by"]), float(record["at"]), record["metadata"])


def take_over(dataset: Dataset, found: Claim) -> Version:
    """Make the version of what was uploaded. What is missing or wrong is told, and nothing is published."""
    entries = _entries(dataset, found.number)
    with tempfile.TemporaryDirectory(prefix="osmo-guest-") as folder:
        root = Path(folder)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda entry: _fetch(dataset, root, entry), entries))
        about = About(created_by=found.by, metadata=found.metadata)
        return dataset.upload([root], about, claimed=found.number)


def has_listing(dataset: Dataset, number: int) -> bool:
    """Whether another client can read this version: only what one brought."""
    try:
        dataset.bucket.store.stat(listing(dataset, number))
    except NoSuchObject:
        return False
    return True


def checksum(path: Path) -> str:
    """The MD5 sum of a file; above 8 MiB that of its parts' sums, with their number."""
    sums = []
    with path.open("rb") as opened:
        while data := opened.read(PART):
            sums.append(hashlib.md5(data, usedforsecurity=False).digest())
    if len(sums) > 1:
        return f"{hashlib.md5(b''.join(sums), usedforsecurity=False).hexdigest()}-{len(sums)}"
    return (sums[0] if sums else hashlib.md5(b"", usedforsecurity=False).digest()).hex()


def _entries(dataset: Dataset, number: int) -> list[dict[str, Any]]:
    key = listing(dataset, number)
    try:
        found = json.loads(dataset.bucket.store.read(key))
    except NoSuchObject:
        raise DataError(f"there is no {key} in the bucket; upload it before the upload is finished") from None
    except ValueError as error:
        raise Corrupt(f"{key} is no JSON: {error}") from None
    if not isinstance(found, list) or len(found) > _ENTRIES or not all(isinstance(e, dict) for e in found):
        raise Corrupt(f"{key} is no list of files")
    return found


def _fetch(dataset: Dataset, root: Path, entry: dict[str, Any]) -> None:
    name, sum_, size = (entry.get(key) for key in ("relative_path", "etag", "size"))
    path = PurePosixPath(str(name))
    if not name or path.is_absolute() or ".." in path.parts or "\0" in str(name):
        raise Corrupt(f"{str(name)[:200]!r} leads out of the dataset")
    key = f"{hashes(dataset)}/{sum_}"
    if not str(entry.get("storage_path", "")).endswith(f"/{key}"):
        raise DataError(f"{name} lies outside of the dataset, and what is elsewhere may change; upload a copy of it")
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        dataset.bucket.store.download(key, target)
    except NoSuchObject:
        raise DataError(f"{name}: {key} was not uploaded; resume the upload") from None
    if target.stat().st_size != size or checksum(target) != sum_:
        raise Corrupt(f"{name}: {key} is not what its name says; remove it and resume the upload")


__all__ = ["Claim", "checksum", "claim", "claimed", "claims", "has_listing", "hashes", "listing", "take_over"]
