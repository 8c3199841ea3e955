"""An upload as others see it: announced before it relies on anything, ended by whoever comes first.

`sessions/<id>/begun` is written at the start and refreshed while packs go out. `sessions/<id>/ended` can be created
once: by the upload just before it commits (then it names the manifest, which counts as reachable from that moment, and
the object that it will make next), or by a collection that found it silent for too long (then the upload fails
instead of committing). One that named a manifest and went silent then is ended by `burying.py`.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from osmo_ray.data.errors import DataError
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError

_REFRESH = 60.0


class Session:
    """Begun when made."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.id = f"{int(bucket.now()):x}-{uuid.uuid4().hex[:16]}"
        self._told = 0.0
        self.alive()

    def alive(self) -> None:
        """Say so to collections, now and then."""
        now = self._bucket.now()
        if now - self._told >= _REFRESH:
            self._bucket.store.write(layout.begun(self.id), json.dumps({"at": now}).encode())
            self._told = now

    def commit(self, manifest: str, key: str) -> None:
        """From here on `manifest` is reachable; what is made next is `key`, a version or a part of one. Raises
        `DataError` if a collection has given this upload up."""
        try:
            self._bucket.append_once(layout.ended(self.id), {"manifest": manifest, "keys": [key]})
        except AlreadyExists:
            if (ended := self._bucket.record(layout.ended(self.id))).get("manifest") is None:
                raise _given_up() from None
            self._replace(ended, manifest, key)
        if self._bucket.has(layout.void(self.id)):  # only after the key was told: see `burying.py`
            raise _given_up()

    def _replace(self, ended: dict[str, Any], manifest: str, key: str) -> None:
        """A rebase made another manifest, or another writer took the number: both count beside the first."""
        more, keys = list(ended.get("more", [])), list(ended["keys"])
        if manifest not in (ended["manifest"], *more):
            more.append(manifest)
        if key not in keys:
            keys.append(key)
        self._bucket.rewrite(layout.ended(self.id), {**ended, "more": more, "keys": keys})

    def abandon(self) -> None:
        """After a failure. An upload that has named a manifest may have committed without learning of it: then it is
        left to a collection to find out; so is one that the store no longer answers."""
        try:
            self._bucket.record(layout.ended(self.id))
        except NoSuchObject:
            try:
                self._bucket.store.delete([layout.begun(self.id)])
            except ObjectError:
                return
        except ObjectError:
            return

    def finish(self) -> None:
        """After the commit, or after giving up: nothing of this upload is needed but what a version reaches."""
        self._bucket.store.delete([layout.begun(self.id), layout.ended(self.id), layout.void(self.id)])


def _given_up() -> DataError:
    return DataError(
        "this upload was silent for so long that a garbage collection gave it up; run it again: what has "
        "been sent and is still there is not sent twice"
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A session that has begun and not been cleared. `at` is when it last said so; `manifests` are what it is about
    to commit; `given_up` says that a collection ended it."""

    id: str
    at: float
    manifests: tuple[str, ...] = ()
    given_up: bool = False


def sessions(bucket: Bucket) -> list[Seen]:
    """All sessions that have not been cleared away."""
    names = sorted({info.key.split("/")[1] for info in bucket.store.list(layout.SESSIONS)})
    return [seen for name in names if (seen := _look(bucket, name)) is not None]


def give_up(bucket: Bucket, session: str) -> bool:
    """End a silent session. False if it has begun to commit meanwhile."""
    try:
        bucket.append_once(layout.ended(session), {"manifest": None})
    except AlreadyExists:
        return bucket.record(layout.ended(session)).get("manifest") is None
    return True


def _look(bucket: Bucket, name: str) -> Seen | None:
    try:
        at = float(json.loads(bucket.store.read(layout.begun(name)))["at"])
    except NoSuchObject:
        at = 0.0
    try:
        ended = bucket.record(layout.ended(name))
    except NoSuchObject:
        return Seen(name, at) if at else None
    if ended.get("manifest") is None or bucket.has(layout.buried(name)):
        return Seen(name, at, given_up=True)
    return Seen(name, at, (ended["manifest"], *ended.get("more", [])))
