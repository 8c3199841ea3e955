"""The JSON of datasets. The rules are those of `shapes.py`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from osmo_ray.api.shapes import Shape

_MEMBERS: Any = {"datasets": [{"name": "cats", "tag": "1"}]}


class UploadBody(Shape):
    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"robot": "arm"}}, {"labels": {"a": 1}}]})

    metadata: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, Any] = Field(default_factory=dict)


class UploadReply(Shape):
    version_id: str
    region: str = ""
    storage_path: str = ""
    manifest_path: str = ""


class Download(Shape):
    """Lists of the same length: one element for each dataset of a collection."""

    dataset_names: list[str]
    dataset_versions: list[str]
    locations: list[str]
    new_locations: list[str]
    is_collection: bool


class VersionView(Shape):
    name: str
    version: str
    status: str
    created_by: str
    created_date: str
    last_used: str
    size: int
    checksum: str
    location: str
    uri: str
    metadata: dict[str, Any]
    tags: list[str]
    collections: list[str]


class MemberView(Shape):
    name: str
    version: str
    location: str
    uri: str
    hash_location: str | None = None
    size: int


class DatasetView(Shape):
    name: str
    id: str
    bucket: str
    created_by: str | None = None
    created_date: str | None = None
    hash_location: str | None = None
    hash_location_size: int | None = None
    labels: dict[str, Any]
    type: str
    versions: list[VersionView | MemberView]


class DatasetEntry(Shape):
    name: str
    id: str
    bucket: str
    create_time: str
    last_created: str | None = None
    hash_location: str | None = None
    hash_location_size: int | None = None
    version_id: str | None = None
    type: str


class DatasetList(Shape):
    datasets: list[DatasetEntry]


class QueryReply(Shape):
    type: str
    datasets: list[VersionView | DatasetEntry]


class Removed(Shape):
    versions: list[str]
    delete_locations: list[str]
    cleaned_size: int


class AttributeBody(Shape):
    model_config = ConfigDict(json_schema_extra={"examples": [{"set_label": {"robot": "arm"}}]})

    set_label: dict[str, Any] = Field(default_factory=dict)
    set_metadata: dict[str, Any] = Field(default_factory=dict)


class Tagged(Shape):
    version_id: str
    tags: list[str]


class Attributes(Shape):
    metadata: dict[str, Any]


class AttributeReply(Shape):
    tag_response: Tagged | None = None
    label_response: Attributes | None = None
    metadata_response: Attributes | None = None


class Member(Shape):
    name: str
    tag: str = "latest"


class CollectBody(Shape):
    model_config = ConfigDict(json_schema_extra={"examples": [_MEMBERS]})

    datasets: list[Member]


class RecollectBody(Shape):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"add_datasets": [{"name": "cats", "tag": "1"}], "remove_datasets": []}]}
    )

    add_datasets: list[Member] = Field(default_factory=list)
    remove_datasets: list[Member] = Field(default_factory=list)


class MemberVersion(Shape):
    dataset_name: str
    version: str


class Recollected(Shape):
    versions: list[MemberVersion]


class Reader(Shape):
    """A workflow that read a version."""

    workflow: str
    user: str
    version: str
    at: str
    bucket: str = ""
    name: str = ""


class Made(Shape):
    """What made a version."""

    version: str
    created_by: str
    workflow: str
    task: str
    retry: int
    code: str
    image: str
    inputs: list[str]
    bucket: str = ""
    name: str = ""


class WorkflowDatasets(Shape):
    """What tasks of a workflow read, and the versions that they made."""

    read: list[Reader]
    written: list[Made]


class IndexView(Shape):
    """What the index has of a bucket. `size` is the bytes of all versions; `read_at` when all of it was read, which
    took `seconds`; `changed` names were not as the index had them, `wrong` ones cannot be read."""

    bucket: str
    datasets: int
    versions: int
    collections: int
    size: int
    read_at: str | None = None
    seconds: float = 0.0
    changed: int = 0
    wrong: list[str] = Field(default_factory=list)


class LineageView(Shape):
    made: list[Made]
    read: list[Reader]
