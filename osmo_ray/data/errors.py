"""What the data room refuses, one small family. Whoever raises decides whether trying again can help."""

from __future__ import annotations


class DataError(Exception):
    """A request that cannot be met as it stands; the message says what to do instead."""

    permanent = True


class BadName(DataError):
    """A dataset, tag or reference that the grammar does not allow."""


class NoSuchDataset(DataError):
    """No dataset, version, tag or path of that name."""


class Conflict(DataError):
    """Somebody else changed the same thing first: read again and decide anew. `paths` are some that clash."""

    def __init__(self, message: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class Corrupt(DataError):
    """Bytes that are not what the manifest says. Nothing of them was given to the reader."""
