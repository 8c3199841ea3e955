"""The language as strict models: every field, its type, its default.

Only the reader uses these; inside the house the frozen values of `spec.model` go round. Scalars are turned into what
a field wants as the language always did (a number or boolean may stand for text, a fraction of a CPU is cut off), a
field that nobody knows is an error, and every mistake of a file is found at once. `json_schema()` is the same
description for editors.
"""

from __future__ import annotations

import math
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from osmo_ray.spec.quantity import to_seconds

MAX_STRING = 4 << 20


def _text(value: object) -> object:
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("text may not hold a zero byte")
        if len(value) > MAX_STRING:
            raise ValueError(f"text is longer than {MAX_STRING >> 20} MiB; put it into a dataset or an image")
        return value
    return str(value) if isinstance(value, bool | int | float) else value


def _whole(value: object) -> object:
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    return int(value) if isinstance(value, bool) else value


def _seconds(value: object) -> object:
    return to_seconds(value) if isinstance(value, str | int | float) else value


def _minutes(value: object) -> object:
    if isinstance(value, str):
        return to_seconds(value) / 60
    return value


def _listed(value: object) -> object:
    """An absent list may be written as nothing (`inputs:`)."""
    return [] if value is None else value


def _credential(value: object) -> object:
    """The keys of one credential are text, whatever they look like."""
    return {name: _text(key) for name, key in value.items()} if isinstance(value, dict) else value


def _mapped(value: object) -> object:
    return {} if value is None else value


Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int | float | bool)]
Whole = Annotated[
    int, BeforeValidator(_whole, json_schema_input_type=int | float | str | bool), Field(ge=0, le=1_000_000)
]
Seconds = Annotated[
    float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(ge=0, allow_inf_nan=False)
]
Minutes = Annotated[
    float, BeforeValidator(_minutes, json_schema_input_type=float | str), Field(ge=0, le=100_000, allow_inf_nan=False)
]
Texts = Annotated[list[Text], BeforeValidator(_listed)]
TextMap = Annotated[dict[Text, Text], BeforeValidator(_mapped)]


class Model(BaseModel):
    """What all parts of the language share: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class DatasetInputModel(Model):
    """A version of a dataset to read."""

    name: Text = Field(description="`[bucket/]name[:tag]`; without a tag the newest version.")
    regex: Text = Field(default="", description="Only files whose path matches from its beginning.")
    localpath: Text = Field(default="", description="Uploaded as a new version by the command line.")
    mount: bool = Field(
        default=False,
        description="Extension: shown read-only and fetched as it is read, where the node can mount; else downloaded.",
    )
    path: Text = ""
    metadata: Texts = []
    labels: Texts = []

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class DatasetOutputModel(Model):
    """A new version of a dataset, made from the output folder."""

    name: Text = Field(description="`[bucket/]name[:tag]`")
    path: Text = Field(default="", description="A folder below `{{output}}`; empty for all of it.")
    regex: Text = ""
    metadata: Texts = []
    labels: Texts = []
    localpath: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class UpdateDatasetModel(Model):
    """A new version of a dataset: the old one with these paths added."""

    name: Text
    paths: Texts = Field(default=[], description="`local[:remote]`, below `{{output}}`.")
    metadata: Texts = []
    labels: Texts = []


def _exactly_one(present: list[str], kinds: tuple[str, ...], regex: bool) -> None:
    if len(present) != 1:
        listed = ", ".join(f"`{k}`" for k in kinds)
        raise ValueError(f"needs exactly one of {listed}; this has {' and '.join(present) or 'none'}")
    if regex and present[0] in ("dataset", "update_dataset"):
        raise ValueError(f"`regex` belongs inside `{present[0]}`")
    if regex and present[0] == "code":
        raise ValueError("`regex` does not go with `code`, which is one file")


class InputModel(Model):
    """What a task reads: the output of a task, a dataset, or files below a URL."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [kind]} for kind in ("task", "dataset", "url", "code")]}
    )
    task: Text | None = Field(
        default=None, description="A task listed earlier, or `<workflow id>:<task>` of a finished one."
    )
    dataset: DatasetInputModel | None = None
    url: Text | None = Field(default=None, description="s3://, gs://, azure://, swift:// or tos://")
    code: Text | None = Field(default=None, description="Extension: an archive that was sent before, by its SHA-256.")
    regex: Text = Field(default="", description="Only files whose path matches from its beginning.")

    @model_validator(mode="after")
    def _one(self) -> InputModel:
        kinds = ("task", "dataset", "url", "code")
        present = [k for k in kinds if getattr(self, k) is not None]
        _exactly_one(present, kinds[:3], bool(self.regex))
        return self


class OutputModel(Model):
    """Where the output folder goes besides the platform's own storage."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["url"]}, {"required": ["dataset"]}, {"required": ["update_dataset"]}]
        }
    )
    url: Text | None = None
    dataset: DatasetOutputModel | None = None
    update_dataset: UpdateDatasetModel | None = None
    regex: Text = ""

    @model_validator(mode="after")
    def _one(self) -> OutputModel:
        kinds = ("url", "dataset", "update_dataset")
        _exactly_one([k for k in kinds if getattr(self, k) is not None], kinds, bool(self.regex))
        return self


class FileModel(Model):
    """A read-only file put into the task before it starts."""

    path: Text = Field(description="Where it stands in the task; not below /osmo, except /osmo/data/output/.")
    contents: Text | None = None
    localpath: Text | None = Field(default=None, description="A text file beside this one; the command line reads it.")
    base64: bool = Field(default=False, description="`contents` is base64.")

    @model_validator(mode="after")
    def _contents(self) -> FileModel:
        if self.contents is not None and self.localpath is not None:
            raise ValueError("has both `contents` and `localpath`; keep one")
        if self.localpath is not None:
            raise ValueError("`localpath` is read by the command line; over the API send the text as `contents`")
        if self.contents is None:
            raise ValueError("needs `contents` (or `localpath`, with the command line)")
        return self


class KpiModel(Model):
    """A file of the output folder that is a key figure of the run."""

    index: Text
    path: Text


class CheckpointModel(Model):
    """A folder that is copied to a URL again and again while the task runs."""

    path: Text
    url: Text
    frequency: Seconds = Field(description="Seconds, or a duration such as 30m.")
    regex: Text = ""


class TopologyModel(Model):
    """Tasks with the same `group` are placed together at the level `key`."""

    key: Text
    group: Text = "default"
    requirement_type: Literal["required", "preferred"] = Field(default="required", alias="requirementType")


class ResourceModel(Model):
    """What one task gets."""

    cpu: Whole | None = Field(default=None, description="Cores.")
    gpu: Whole | None = Field(default=None, description="Whole GPUs.")
    memory: Text | None = Field(default=None, description="For example 4Gi.")
    storage: Text | None = Field(default=None, description="For example 10Gi.")
    platform: Text | None = None
    nodes_excluded: Texts = Field(default=[], alias="nodesExcluded", description="Host names never to run on.")
    topology: Annotated[list[TopologyModel], BeforeValidator(_listed)] = []


class RayWorkersModel(Model):
    """The workers of a Ray program."""

    count: Whole = Field(default=0, description="How many workers.")
    cpu: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(default=1.0, description="Cores of each.")
    gpu: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(default=0.0, description="GPUs of each.")
    memory: Text | None = Field(default=None, description="Memory of each, for example 4Gi.")


class RayModel(Model):
    """Marks a Ray program: the command calls `ray.init()`."""

    runtime_env: Annotated[dict[str, Any], BeforeValidator(_mapped)] = Field(default={}, alias="runtimeEnv")
    workers: RayWorkersModel = RayWorkersModel()


class SweepModel(Model):
    """Written by the platform: which task with a matrix this one came from."""

    of: Text = Field(description="The name of the task with the matrix.")
    values: TextMap = {}


class TaskModel(Model):
    """One command with its inputs, outputs and resources."""

    name: Text
    image: Text = Field(description="The container image, where the task runs in a container.")
    command: Annotated[list[Text], Field(min_length=1)] = Field(description="The program and its first arguments.")
    args: Texts = Field(default=[], description="Appended to `command`.")
    lead: bool = Field(default=False, description="The task that ends its group; exactly one in a group of several.")
    inputs: Annotated[list[InputModel], BeforeValidator(_listed)] = []
    outputs: Annotated[list[OutputModel], BeforeValidator(_listed)] = []
    kpis: Annotated[list[KpiModel], BeforeValidator(_listed)] = []
    environment: TextMap = {}
    files: Annotated[list[FileModel], BeforeValidator(_listed)] = []
    credentials: Annotated[dict[Text, Annotated[Any, BeforeValidator(_credential)]], BeforeValidator(_mapped)] = {}
    resource: Text = Field(default="default", description="A name in `workflow.resources`.")
    privileged: bool = False
    host_network: bool = Field(default=False, alias="hostNetwork")
    volume_mounts: Texts = Field(default=[], alias="volumeMounts", description="`source[:target]`")
    checkpoint: Annotated[list[CheckpointModel], BeforeValidator(_listed)] = []
    exit_actions: TextMap = Field(default={}, alias="exitActions", description="COMPLETE, FAIL, RESCHEDULE: `1,5-7`")
    download_type: Literal["download"] | None = Field(default=None, alias="downloadType")
    cache_size: Text | None = Field(default=None, alias="cacheSize")
    ray: RayModel | None = Field(default=None, description="Extension: this task is a Ray program.")
    sandbox: Literal["auto", "process", "container"] = Field(
        default="auto", description="Extension: how to run on a host."
    )
    hold: Minutes = Field(default=0.0, description="Extension: minutes to stay after a failure.")
    retries: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="Extension: how often a command that failed is run again."
    )
    requirements: Texts = Field(default=[], description="Extension: Python packages for a task without a container.")
    cache: bool = Field(default=False, description="Extension: the output of an earlier, equal task may be used.")
    matrix: Annotated[dict[Text, Annotated[list[Text], Field(min_length=1)]], BeforeValidator(_mapped)] = Field(
        default={}, description="Extension: one task for each combination of these values, `{{matrix:NAME}}` in texts."
    )
    sweep: SweepModel | None = Field(default=None, description="Extension: written by the platform.")
    resources: Annotated[Any, Field(json_schema_extra={"deprecated": True})] = None
    backend: Annotated[Any, Field(json_schema_extra={"deprecated": True})] = None


class GroupModel(Model):
    """Tasks that start together."""

    name: Text
    tasks: list[TaskModel] = []
    barrier: bool = Field(default=True, description="The commands begin together, when all inputs are there.")
    ignore_nonlead_status: bool = Field(default=True, alias="ignoreNonleadStatus")


class TimeoutModel(Model):
    """Seconds, or durations such as 30m; nothing for the pool's default."""

    exec_timeout: Seconds | None = None
    queue_timeout: Seconds | None = None


class WorkflowModel(Model):
    """The section `workflow`."""

    name: Text
    tasks: Annotated[list[TaskModel], BeforeValidator(_listed)] = Field(
        default=[], description="Each is a group of its own."
    )
    groups: Annotated[list[GroupModel], BeforeValidator(_listed)] = []
    resources: Annotated[dict[Text, ResourceModel | None], BeforeValidator(_mapped)] | None = None
    timeout: TimeoutModel | None = None
    pool: Text | None = Field(default="", description="Accepted and overruled by the pool of the submission.")
    backend: Text | None = Field(default="", description="Accepted and overruled by the pool's backend.")
    labels: TextMap = {}


class FileDocument(Model):
    """A whole workflow file."""

    version: Any = 2
    workflow: WorkflowModel
    default_values: dict[str, Any] | None = Field(
        default=None, alias="default-values", description="Values of template variables."
    )


def known_fields(path: tuple[str | int, ...]) -> list[str]:
    """The names that may stand in the mapping at `path` of a file, or none when `path` leads to no model."""
    model: type[BaseModel] | None = FileDocument
    for step in path:
        if model is None:
            return []
        if isinstance(step, int):
            continue
        fields = {f.alias or n: f.annotation for n, f in model.model_fields.items()}
        # A step that is no field is a key of a map (`resources.default`): its model was found one step earlier.
        model = _model_in(fields[step]) if step in fields else model
    return [f.alias or n for n, f in model.model_fields.items() if not _deprecated(f)] if model else []


def _deprecated(field: Any) -> bool:
    return bool(field.json_schema_extra and field.json_schema_extra.get("deprecated"))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for arg in typing.get_args(annotation) if (m := _model_in(arg)) is not None), None)


def json_schema() -> dict[str, Any]:
    """The language as a JSON Schema (draft 2020-12), for editors and other checkers."""
    schema = FileDocument.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "osmo-ray workflow file", **schema}
