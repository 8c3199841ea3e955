"""The buckets of a platform: named places for datasets, as its settings tell.

One is built in: a folder of the platform's own storage, which every node reaches as it reaches the storage. Others
are given by `buckets`, each with its place, what may be done to it, and the key that workflows use where their user has
none. A bucket's key stands in a file of its own, so that no environment ever holds it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from osmo_ray.data.errors import DataError
from osmo_ray.objects import datasets as stored
from osmo_ray.objects import open_store
from osmo_ray.objects.keyed import below, bucket_key, store_options, store_url
from osmo_ray.settings import Settings, SettingsError
from osmo_ray.spec.attempt import DataKey

if TYPE_CHECKING:
    from osmo_ray.objects.datasets.bucket import Bucket


BUILT_IN = "default"
READ_WRITE, READ_ONLY = "read-write", "read-only"
_KEYS = ("path", "description", "mode", "region", "credential_file")
_ACCOUNTS = ("az:", "abfs:", "abfss:")
"""Places whose account is named by the key."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")


class NoSuchBucket(DataError):
    """No bucket of that name; the message lists those that there are."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket lies. `path` is a URL as users write it; `inside` is a key prefix of the platform's storage for
    the built-in one, else empty."""

    name: str
    path: str
    description: str = ""
    mode: str = READ_WRITE
    region: str = ""
    credential_file: str = ""
    inside: str = ""

    @property
    def writable(self) -> bool:
        return self.mode == READ_WRITE

    def key(self) -> DataKey | None:
        """The bucket's own key, or None. Raises `DataError` for a file that holds none."""
        if not self.credential_file:
            return None
        try:
            found = yaml.safe_load(Path(self.credential_file).read_text())
            known = {
                name: str(found[name])
                for name in ("access_key_id", "access_key", "override_url", "addressing", "encryption_key")
                if name in found
            }
            if "encryption_key" in known:  # a folder needs no other key
                known = {"access_key_id": "", "access_key": "", **known}
            return DataKey(self.path, region=self.region, **known)
        except (OSError, yaml.YAMLError, TypeError) as error:
            raise DataError(
                f"the key of bucket {self.name!r} cannot be read from {self.credential_file}: write access_key_id and "
                f"access_key there ({error})"
            ) from None


@dataclass(slots=True)
class Buckets:
    """Every bucket of one platform; opened ones are kept. For many threads."""

    places: Mapping[str, Place]
    default: str
    storage: str
    _open: dict[tuple[str, Any], Bucket] = field(default_factory=dict)

    def place(self, name: str = "", preferred: str = "") -> Place:
        """By name; without one, the user's preferred bucket, then the platform's. Raises `NoSuchBucket`."""
        wanted = name or preferred or self.default
        found = self.places.get(wanted)
        if found is None:
            raise NoSuchBucket(f"there is no bucket {wanted[:80]!r}; buckets: {', '.join(sorted(self.places))}")
        return found

    def open(self, place: Place, keys: Sequence[DataKey] = ()) -> Bucket:
        """The bucket itself, by the user's key that covers it, else its own, else what the environment gives."""
        mine = self._keys(place, keys)
        options, key = store_options(mine, place.path), bucket_key(mine, place.path)
        known = place.name, json.dumps([options, key.hex() if key else ""], sort_keys=True)
        if known not in self._open:
            url = below(self.storage, place.inside) if place.inside else store_url(place.path)
            self._open[known] = stored.open_bucket(open_store(url, **options), key=key)
        return self._open[known]

    def shelf(self, place: Place, keys: Sequence[DataKey] = ()) -> str:
        """Under which name what is found there is indexed. Whoever brings an endpoint of his own in his key could show
        us any bucket he likes: what is read through it goes onto a shelf of that endpoint, which only those see who use
        it, too."""
        mine = max(_covering(place, keys), key=lambda key: len(key.endpoint), default=None)
        own = mine.access_key_id if mine and place.path.startswith(_ACCOUNTS) else ""
        endpoint = "" if mine is None or place.inside else mine.override_url or own
        return (
            f"{place.name}#{hashlib.blake2b(endpoint.encode(), digest_size=8).hexdigest()}" if endpoint else place.name
        )

    @staticmethod
    def _keys(place: Place, keys: Sequence[DataKey]) -> list[DataKey]:
        """What it is opened with: the user's keys, else its own."""
        if place.inside:
            return []
        own = None if _covering(place, keys) else place.key()
        return [own] if own else [*keys]


def _covering(place: Place, keys: Sequence[DataKey]) -> list[DataKey]:
    return [key for key in keys if f"{place.path}/".startswith(f"{key.endpoint.rstrip('/')}/")]


def load(settings: Settings) -> Buckets:
    """The buckets that settings tell. Raises `SettingsError`."""
    inside = f"buckets/{BUILT_IN}"
    built_in = Place(BUILT_IN, below(settings.storage, inside), "In the platform's own storage.", inside=inside)
    places = {BUILT_IN: built_in, **_given(settings.buckets)}
    if settings.default_bucket not in places:
        raise SettingsError(f"default_bucket: there is no bucket {settings.default_bucket!r}; name one of {[*places]}")
    return Buckets(places, settings.default_bucket, settings.storage)


def _given(text: str) -> dict[str, Place]:
    try:
        found = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise SettingsError(f"buckets: not YAML or JSON: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError("buckets: write a mapping of names, such as robots: {path: s3://robots/data}")
    return {str(name): _place(str(name), value) for name, value in found.items()}


def _place(name: str, value: object) -> Place:
    given = {"path": value} if isinstance(value, str) else value
    if not _NAME.fullmatch(name) or not isinstance(given, dict) or not given.get("path"):
        raise SettingsError(f"buckets: {name!r} needs a name of letters, digits, _ and -, and a `path`")
    if unknown := [key for key in given if key not in _KEYS]:
        raise SettingsError(f"buckets: {name!r} has the unknown key {unknown[0]!r}; keys: {', '.join(_KEYS)}")
    if given.get("mode", READ_WRITE) not in (READ_WRITE, READ_ONLY):
        raise SettingsError(f"buckets: the mode of {name!r} is {READ_WRITE} or {READ_ONLY}")
    return Place(name, **{key: str(text).rstrip("/") if key == "path" else str(text) for key, text in given.items()})
