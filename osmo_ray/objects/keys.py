"""What a key may be, in one place for every store.

A key names an object below the store's URL. The rules are those that all stores can keep: relative, `/` between
parts, no part empty, `.` or `..`, no control characters. They are checked before anything is touched, so that no
key of a task or of a stranger can leave the store.
"""

from __future__ import annotations

from osmo_ray.objects.protocol import ObjectError

MAX_BYTES = 1024
"""The longest key in UTF-8 bytes: the limit of S3 and Azure."""


def check_key(key: str) -> str:
    """The key itself. Raises a permanent `ObjectError` that says what is wrong with it."""
    problem = _problem(key)
    if problem:
        raise ObjectError(f"bad object key {key!r}: {problem}; write for example 'folder/name'", permanent=True)
    return key


def check_prefix(prefix: str) -> str:
    """The prefix as `""` or `"folder/"`; a trailing `/` is allowed. Raises a permanent `ObjectError`."""
    bare = prefix[:-1] if prefix.endswith("/") and prefix != "/" else prefix
    return f"{check_key(bare)}/" if bare else ""


def _problem(key: str) -> str:
    if not key:
        return "it is empty"
    if key.startswith("/"):
        return "it begins with '/'"
    if any(ord(c) < 32 or ord(c) == 127 for c in key):
        return "it has control characters"
    parts = key.split("/")
    if "" in parts:
        return "it has an empty part"
    if "." in parts or ".." in parts:
        return "it has a part '.' or '..'"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return f"it is longer than {MAX_BYTES} bytes" if size > MAX_BYTES else ""
