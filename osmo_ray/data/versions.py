"""What a version, a tag and a dataset's attributes are, and how they are written down.

Each is a small JSON object under a numbered key that is created once and never replaced: the highest number stands.
Two writers who want the same number cannot both have it, and that is all the locking there is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from osmo_ray.data.errors import Conflict, Corrupt

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """What made a version. `inputs` are references of the versions that were read, `code` a commit or a digest, `retry`
    the number of the task's attempt."""

    workflow: str = ""
    task: str = ""
    code: str = ""
    image: str = ""
    inputs: tuple[str, ...] = ()
    retry: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable snapshot. `writer` is what may have one version only (an output of a task), in its attempt
    `lineage.retry`; empty for people. `manifest` is a key below the dataset, `checksum` the hash of the manifest's
    content, `size` the bytes of all files, `created_at` seconds since the epoch, `parent` the version it was made
    from."""

    number: int
    manifest: str
    checksum: str
    files: int
    size: int
    created_at: float
    created_by: str = ""
    parent: int | None = None
    message: str = ""
    session: str = ""
    lineage: Lineage = Lineage()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    writer: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """Named pairs of (dataset, version), at most one version of each dataset; nothing is copied."""

    members: tuple[tuple[str, int], ...] = ()

    def changed(self, add: Iterable[tuple[str, int]], remove: Iterable[str] = ()) -> Collection:
        """Removal goes first. Raises `Conflict` when a dataset is there in another version."""
        gone = set(remove)
        kept = {name: number for name, number in self.members if name not in gone}
        for name, number in add:
            if kept.setdefault(name, number) != number:
                raise Conflict(f"the collection has {name}:{kept[name]}, not {name}:{number}; remove that one first")
        return Collection(tuple(sorted(kept.items())))


@dataclass(frozen=True, slots=True)
class Requires:
    """A tag moves only if it still is where it was read: `at` is a version, None if there was no such tag."""

    tag: str
    at: int | None


def move_tag(tags: Mapping[str, int], need: Requires, to: int | None) -> dict[str, int]:
    """The tags after the move; `to` None removes the tag. Raises `Conflict`."""
    if tags.get(need.tag) != need.at:
        raise Conflict(f"tag {need.tag!r} is at {tags.get(need.tag)}, not {need.at}; read it again")
    moved = {**tags, need.tag: to}
    return {tag: number for tag, number in moved.items() if number is not None}


def latest(numbers: Iterable[int], deleted: Iterable[int]) -> int | None:
    """The newest version that is not deleted. Numbers only grow, so among live versions this never moves back."""
    return max(set(numbers) - set(deleted), default=None)


def already(drafted: Version, others: Iterable[Version]) -> Version | None:
    """The version that stands for a draft: its own attempt's, or an earlier attempt's with the same content. Raises
    `Conflict` when a later attempt of the same writer has committed: this one is not wanted any more."""
    mine = [other for other in others if drafted.writer and other.writer == drafted.writer]
    retry = drafted.lineage.retry
    if any(other.lineage.retry > retry for other in mine):
        raise Conflict(f"a later attempt than {retry} has committed this output; this one is not wanted any more")
    return next((o for o in mine if o.lineage.retry == retry or o.checksum == drafted.checksum), None)


def dump_version(version: Version) -> bytes:
    return json.dumps({"format": FORMAT, **dataclasses.asdict(version)}, sort_keys=True).encode()


def load_version(data: bytes) -> Version:
    """Raises `Corrupt` for what is no version, or of a format that this reader does not know."""
    found = load_object(data, "version")
    try:
        lineage = dict(found.pop("lineage"))
        lineage["inputs"] = tuple(lineage["inputs"])
        return Version(**found, lineage=Lineage(**lineage))
    except (KeyError, TypeError) as error:
        raise Corrupt(f"this is not the record of a version: {error}") from error


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object of a known format."""
    try:
        found = json.loads(data)
        known = found.pop("format", FORMAT)
    except (ValueError, AttributeError, TypeError) as error:
        raise Corrupt(f"this is not the record of a {what}: {error}") from error
    if known != FORMAT:
        raise Corrupt(f"this {what} has format {known}, this program reads format {FORMAT}; use a newer one")
    return dict(found)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Labels and metadata: objects are merged key by key, anything else is replaced, None removes a key."""
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = value
    return result
