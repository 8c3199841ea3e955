"""Cancelling: decided and committed before the client hears of it, again when somebody else was faster."""

from __future__ import annotations

import random
import time

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


def cancel(services: Services, name: str, user: str, message: str, force: bool) -> str:
    """Cancel one workflow and return its id. Raises `ApiError` for one that has finished, unless `force`."""
    for attempt in range(_TRIES):
        workflow = find(services, name)
        if workflow.status.finished:
            if force:
                return workflow.id
            raise ApiError(
                f"Workflow {workflow.id} has finished already ({workflow.status.value}).", workflow_id=workflow.id
            )
        decision = decide(workflow, CancelRequested(user, message, force), services.clock())
        if not decision.changed or not services.store.commit([decision]):
            services.wake()
            return workflow.id
        time.sleep(random.uniform(0.0, 0.02 * (attempt + 1)))  # noqa: S311
    raise ApiError(f"Workflow {name} is changing too fast to be canceled now; try again.", "DATABASE", 503, name)
