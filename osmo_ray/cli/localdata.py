"""`localpath` of a dataset in a workflow file: the folder becomes a new version before the file is sent.

The name in the file gets the number of that version, on the same line, so that every line keeps its number and the
workflow reads exactly what was uploaded, whatever comes after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osmo_ray.sdk.errors import ClientError

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client


@dataclass(frozen=True, slots=True)
class LocalData:
    """A dataset whose files lie here; spans are places in the text."""

    name: str
    path: str
    name_at: tuple[int, int]
    path_at: tuple[int, int]


def local_data(text: str) -> list[LocalData]:
    """Every dataset of the file that names a `localpath`. What is no YAML has none: the platform tells why."""
    import yaml

    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return []
    found = {one.name_at: one for one in _found(root, set())}
    return [found[place] for place in sorted(found)]


def upload(client: Client, text: str, wanted: Sequence[LocalData], base: Path) -> str:
    """The text with the versions that were made in it. Raises `ClientError`; what was uploaded by then stays."""
    made: dict[tuple[str, str], str] = {}
    for one in wanted:
        if (one.name, one.path) not in made:
            made[one.name, one.path] = _upload(client, one, base)
    edits = [(one.name_at, made[one.name, one.path]) for one in wanted]
    edits += [(one.path_at, "path: ''") for one in wanted]
    for (start, end), replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def _upload(client: Client, one: LocalData, base: Path) -> str:
    from osmo_ray.data.errors import DataError
    from osmo_ray.objects.datasets import Dataset
    from osmo_ray.objects.datasets.dataset import About, Source
    from osmo_ray.objects.protocol import ObjectError
    from osmo_ray.sdk import buckets

    path = base / one.path
    if not path.exists():
        raise ClientError(f"localpath {one.path}: {path} does not exist", status=400, code="USAGE")
    try:
        reference = buckets.named(client, one.name)
        place = buckets.opened(client, reference.bucket, write=True)
        dataset = Dataset(place.bucket, reference.name, create=True)
        about = About(created_by=place.user, metadata={"localpath_dataset": one.name, "localpath": one.path})
        version = dataset.upload([Source(path, contents=False)], about)
        buckets.tell(client, reference)
    except (DataError, ObjectError, OSError) as error:
        raise ClientError(f"localpath {one.path}: {error}", status=400, code="USAGE") from None
    return f"{reference.bucket}/{reference.name}:{version.number}"


def _found(node: Any, seen: set[int]) -> Iterator[LocalData]:
    if id(node) in seen:
        return
    seen.add(id(node))
    kind = str(getattr(node, "id", ""))
    if kind == "sequence":
        for child in node.value:
            yield from _found(child, seen)
    elif kind == "mapping":
        for key, value in node.value:
            if getattr(key, "value", None) == "inputs":
                for entry in value.value if str(getattr(value, "id", "")) == "sequence" else ():
                    yield from _dataset(entry)
            yield from _found(value, seen)


def _dataset(entry: Any) -> Iterator[LocalData]:
    parts = _keys(_keys(entry).get("dataset", (None, None))[1])
    if "name" in parts and "localpath" in parts:
        name, (key, path) = parts["name"][1], parts["localpath"]
        yield LocalData(
            str(name.value), str(path.value), (name.start_mark.index, name.end_mark.index),
            (key.start_mark.index, path.end_mark.index),
        )  # fmt: skip


def _keys(node: Any) -> dict[str, tuple[Any, Any]]:
    """The scalar keys of a mapping, each with its node and its value's."""
    if str(getattr(node, "id", "")) != "mapping":
        return {}
    return {str(key.value): (key, value) for key, value in node.value if str(getattr(key, "id", "")) == "scalar"}
