"""The keys of a bucket, all relative to where it lies: copy the folder elsewhere and it is the same bucket."""

from __future__ import annotations

BUCKET = "bucket.json"
PACKS, INDEX, SESSIONS, GARBAGE, NAMES, DATASETS, COLLECTIONS = (
    "packs",
    "index",
    "sessions",
    "garbage",
    "names",
    "datasets",
    "collections",
)
DIGITS = 12


def pack(name: str) -> str:
    """`name` is `session/number`."""
    return f"{PACKS}/{name}"


def numbered(folder: str, number: int) -> str:
    return f"{folder}/{number:0{DIGITS}}"


def number_of(key: str) -> int:
    return int(key.rsplit("/", 1)[1])


def begun(session: str) -> str:
    return f"{SESSIONS}/{session}/begun"


def ended(session: str) -> str:
    return f"{SESSIONS}/{session}/ended"


def void(session: str) -> str:
    """An upload that finds this may not make its version any more."""
    return f"{SESSIONS}/{session}/void"


def buried(session: str) -> str:
    """That upload cannot make its version any more."""
    return f"{SESSIONS}/{session}/buried"


def versions(dataset: str) -> str:
    return f"{DATASETS}/{dataset}/versions"


def claims(dataset: str) -> str:
    return f"{DATASETS}/{dataset}/claims"


def deleted(dataset: str) -> str:
    return f"{DATASETS}/{dataset}/deleted"


def manifests(dataset: str) -> str:
    return f"{DATASETS}/{dataset}/manifests"


def appends(dataset: str, run: str = "") -> str:
    """The folder of one append, or of all: `parts/<writer>`, and `closing`, `closed`, `done`, `gone`."""
    return f"{DATASETS}/{dataset}/appends/{run}" if run else f"{DATASETS}/{dataset}/appends"


def tag(dataset: str, name: str) -> str:
    return f"{DATASETS}/{dataset}/tags/{name}"


def labels(dataset: str) -> str:
    return f"{DATASETS}/{dataset}/labels"


def metadata(dataset: str, version: int) -> str:
    return f"{DATASETS}/{dataset}/metadata/{version}"
