"""Outputs of other workflows that a workflow reads."""

from __future__ import annotations

from collections.abc import Mapping

from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.model import Group, Workflow
from osmo_ray.engine.propagate import spec_of
from osmo_ray.spec.model import TaskInput


async def external(ledger: Ledger, workflow: Workflow, group: Group) -> Mapping[tuple[str, str], str]:
    """(workflow id, task) -> store prefix of its accepted output, for what this group reads of other workflows."""
    inputs = [i for t in spec_of(workflow.spec, group).tasks for i in t.inputs]
    found: dict[tuple[str, str], str] = {}
    for name in sorted({i.workflow for i in inputs if isinstance(i, TaskInput) and i.workflow}):
        other = await ledger.db(ledger.store.find, name)
        if other is not None:
            found.update({(name, t.name): t.output for g in other.groups for t in g.tasks})
    return found
