"""How a task is named on the command line: `ID TASK`, `ID/TASK`, or `ID` alone for its lead task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from osmo_ray.sdk.errors import ClientError

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client


def task_of(client: Client, workflow: str, task: str = "") -> tuple[str, str]:
    """Workflow id and task name. Raises `ClientError`."""
    if "/" in workflow and not task:
        workflow, _, task = workflow.partition("/")
    if task:
        return workflow, task
    groups = client.view(workflow)["groups"]
    tasks = list(groups[0]["tasks"])
    if not tasks:
        raise ClientError(f"Workflow {workflow} has no task", status=400)
    running = [t for g in groups for t in g["tasks"] if t["status"] == "RUNNING"]
    lead = next((t for t in (*running, *tasks) if t.get("lead")), (running or tasks)[0])
    return workflow, str(lead["name"])
