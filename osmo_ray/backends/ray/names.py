"""Names by which the parts of a platform find each other inside its Ray cluster."""

from __future__ import annotations

NAMESPACE = "osmo"
CONTROLLER = "osmo-controller"
SERVE_APP = "osmo"
LINKS = "osmo-links"
"""The actor that holds the links to agents of registered clusters."""


def agent(node: str) -> str:
    """The actor that watches the tasks of a node."""
    return f"osmo-agent-{node}"


def attempt(workflow_id: str, task: str, retry_id: int) -> str:
    """What Ray's dashboard calls one attempt."""
    return f"{workflow_id}/{task}" + (f"#{retry_id}" if retry_id else "")
