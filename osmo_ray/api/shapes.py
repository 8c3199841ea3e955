"""The JSON that clients read, field by field.

Times are naive UTC text, durations are seconds; a field that may be missing is null, never left out.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Replies are built by us alone, requests may hold nothing that we do not know."""

    model_config = ConfigDict(extra="forbid")


def stamp(seconds: float) -> str | None:
    """`0.0` -> None; else ISO 8601 without a zone, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat() if seconds else None


def moment(text: str | None) -> float | None:
    """What a client sends as a time, naive meaning UTC. Raises ValueError."""
    if not text:
        return None
    value = datetime.fromisoformat(text)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


class Submission(Shape):
    """The body of a submission."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"file": "workflow:\n  name: hello\n  tasks:\n  - {name: a, image: ubuntu, command: [echo, hi]}\n"}
            ]
        }
    )

    file: str
    set_variables: list[str] = []
    set_string_variables: list[str] = []
    uploaded_templated_spec: str | None = None


class Submitted(Shape):
    """The reply to a submission, a dry run or a validation."""

    name: str
    overview: str | None = None
    logs: str | None = None
    spec: str | None = None
    dashboard_url: str | None = None


class WorkflowEntry(Shape):
    """A line of the list."""

    user: str
    name: str
    workflow_uuid: str
    submit_time: str
    start_time: str | None
    end_time: str | None
    queued_time: float
    duration: float | None
    status: str
    overview: str
    logs: str
    error_logs: str | None = None
    grafana_url: str | None = None
    dashboard_url: str | None = None
    pool: str | None
    app_owner: str | None = None
    app_name: str | None = None
    app_version: int | None = None
    priority: str


class WorkflowList(Shape):
    workflows: list[WorkflowEntry]
    more_entries: bool


class TaskView(Shape):
    """A task's attempt inside the view of its workflow."""

    name: str
    retry_id: int
    status: str
    failure_message: str | None
    exit_code: int | None
    logs: str
    error_logs: str | None
    processing_start_time: str | None
    scheduling_start_time: str | None
    initializing_start_time: str | None
    events: str
    start_time: str | None
    end_time: str | None
    input_download_start_time: str | None
    input_download_end_time: str | None
    output_upload_start_time: str | None
    dashboard_url: str | None = None
    pod_name: str
    pod_ip: str | None
    task_uuid: str
    node_name: str | None
    lead: bool


class GroupView(Shape):
    name: str
    status: str
    start_time: str | None
    end_time: str | None
    processing_start_time: str | None
    scheduling_start_time: str | None
    initializing_start_time: str | None
    remaining_upstream_groups: list[str] | None
    downstream_groups: list[str] | None
    failure_message: str | None
    tasks: list[TaskView]


class PluginsView(Shape):
    rsync: bool = False


class WorkflowView(Shape):
    """A whole workflow."""

    name: str
    uuid: str
    submitted_by: str
    cancelled_by: str | None
    spec: str
    template_spec: str
    logs: str
    events: str
    overview: str
    parent_name: str | None
    parent_job_id: int | None = None
    dashboard_url: str | None = None
    grafana_url: str | None = None
    tags: list[str]
    submit_time: str
    start_time: str | None
    end_time: str | None
    exec_timeout: float | None
    queue_timeout: float | None
    duration: float | None
    queued_time: float
    status: str
    outputs: str
    groups: list[GroupView]
    pool: str | None
    backend: str | None
    app_owner: str | None = None
    app_name: str | None = None
    app_version: int | None = None
    plugins: PluginsView = PluginsView()
    priority: str


class Named(Shape):
    name: str


class RouterReply(Shape):
    """Where a session begins: a websocket address, a key that is good once, and a cookie, which may be empty."""

    router_address: str
    key: str
    cookie: str


class TaskEntry(Shape):
    """A line of the list of tasks; amounts are whole cores, GPUs and Gi."""

    user: str
    workflow_id: str
    workflow_uuid: str
    task_name: str
    retry_id: int
    pool: str | None
    node: str | None
    start_time: str | None
    end_time: str | None
    duration: float | None
    status: str
    overview: str
    logs: str
    error_logs: str | None
    grafana_url: str | None = None
    dashboard_url: str | None = None
    storage: int
    cpu: int
    memory: int
    gpu: int
    priority: str


class TaskList(Shape):
    tasks: list[TaskEntry]


class Summary(Shape):
    """What a user holds."""

    user: str
    pool: str | None
    storage: int
    cpu: int
    memory: int
    gpu: int
    priority: str


class SummaryList(Shape):
    summaries: list[Summary]


class WorkflowSummary(Summary):
    """What a workflow holds."""

    workflow_id: str


class WorkflowSummaryList(Shape):
    summaries: list[WorkflowSummary]


class TaskPlace(Shape):
    """One task, for programs that watch it."""

    workflow_id: str
    task_name: str
    node: str | None
    start_time: str | None
    end_time: str | None
    status: str
    storage: int
    cpu: int
    memory: int
    gpu: int


class ReasonView(Shape):
    code: str
    sentence: str
    evidence: dict[str, str]
    next_command: str


class Explained(Shape):
    """Why one task waits or failed. `expected_start` is an estimate for one that waits for a place; `expected_why` says
    from what, or why there is none."""

    group: str
    task: str
    retry_id: int
    status: str
    exit_code: int | None
    node: str | None
    reason: ReasonView | None
    expected_start: str | None = None
    expected_why: str = ""
    usage: dict[str, float]
    limits: dict[str, float]
    last_lines: list[str]


class Explanation(Shape):
    name: str
    status: str
    reason: ReasonView | None
    tasks: list[Explained]


class OutputFile(Shape):
    path: str
    size: int


class TaskOutputs(Shape):
    """What one task wrote."""

    task: str
    group: str
    retry_id: int
    status: str
    bytes: int
    count: int
    files: list[OutputFile]
    truncated: bool


class OutputList(Shape):
    name: str
    status: str
    tasks: list[TaskOutputs]


class UsagePoint(Shape):
    at: str
    cpu: float
    memory: float
    gpu: float


class SweepTask(Shape):
    """One task of a sweep; `figures` are its key figures, `seconds` how long it ran (so far)."""

    name: str
    values: dict[str, str]
    status: str
    exit_code: int | None
    node: str
    seconds: float | None
    figures: dict[str, float]
    reason: str


class SweepView(Shape):
    """The tasks that one task with a matrix became; `counts` are by status."""

    name: str
    counts: dict[str, int]
    tasks: list[SweepTask]


class SweepList(Shape):
    sweeps: list[SweepView]


class UsageView(Shape):
    task: str
    retry_id: int
    figures: dict[str, float]
    samples: list[UsagePoint]


class NodeView(Shape):
    """A node as the platform sees it; amounts are cores, bytes, whole GPUs."""

    name: str
    address: str
    backend: str
    platform: str
    alive: bool
    seen: str | None
    cpu: float
    memory: int
    gpu: int
    storage: int
    sandbox: str
    reasons: list[ReasonView]


class StatusView(Shape):
    version: str
    database_id: str
    user: str
    pool: str
    nodes: list[NodeView]
    counts: dict[str, dict[str, int]]


class PlanView(Shape):
    """How the tasks of a workflow will run: by image, in one sentence; empty when no node can be asked."""

    name: str
    images: dict[str, str]


class BulkCancel(Shape):
    """Workflows to cancel: named, or all unfinished ones of the caller."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"names": ["hello-1"], "message": "no longer needed"}]})

    names: list[str] = []
    all_mine: bool = False
    message: str = ""
    force: bool = False


class BulkCanceled(Shape):
    canceled: list[str]
    failed: dict[str, str]


class ErrorView(BaseModel):
    """A refusal. What is wrong with a file comes with `problems`, each with its place."""

    message: str
    error_code: str | None = None
    workflow_id: str | None = None
