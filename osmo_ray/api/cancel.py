"""Cancelling: decided and committed before the client hears of it, again when somebody else was faster."""

from __future__ import annotations

import random
import time
from collections.abc import Collection

from osmo_ray.api.errors import ApiError, not_found
from osmo_ray.api.services import Services
from osmo_ray.engine.decide import decide
from osmo_ray.engine.events import CancelRequested
from osmo_ray.engine.model import Workflow

_TRIES = 20


def find(services: Services, name: str) -> Workflow:
    """A workflow by id or uuid. Raises `ApiError`."""
    workflow = services.store.find(name)
    if workflow is None:
        raise not_found(name)
    return workflow


def cancel(services: Services, name: str, user: str, message: str, force: bool, tasks: Collection[str] = ()) -> str:
    """Cancel one workflow, or the groups of these tasks and sweeps of it, and return its id. Raises `ApiError` for one
    that has finished, unless `force`."""
    for attempt in range(_TRIES):
        workflow = find(services, name)
        if workflow.status.finished:
            if force:
                return workflow.id
            raise ApiError(
                f"Workflow {workflow.id} has finished already ({workflow.status.value}).", workflow_id=workflow.id
            )
        event = CancelRequested(user, message, force, _groups(workflow, tasks) if tasks else None)
        decision = decide(workflow, event, services.clock())
        if not decision.changed or not services.store.commit([decision]):
            services.wake()
            return workflow.id
        time.sleep(random.uniform(0.0, 0.02 * (attempt + 1)))  # noqa: S311
    raise ApiError(f"Workflow {name} is changing too fast to be canceled now; try again.", "DATABASE", 503, name)


def _groups(workflow: Workflow, tasks: Collection[str]) -> frozenset[str]:
    """The groups of tasks, which may be named by their sweep."""
    found: set[str] = set()
    for name in tasks:
        homes = {
            g.name
            for g in workflow.spec.groups
            for t in g.tasks
            if t.name == name or (t.sweep is not None and t.sweep.name == name)
        }
        if not homes:
            raise ApiError(f"Workflow {workflow.id} has no task or sweep {name!r}.", workflow_id=workflow.id)
        found |= homes
    return frozenset(found)
