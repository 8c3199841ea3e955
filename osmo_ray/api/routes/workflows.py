"""Workflows: submit, list, look at, cancel, tag."""

from __future__ import annotations

from collections import defaultdict

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response

from osmo_ray.api import cancel
from osmo_ray.api.errors import ApiError
from osmo_ray.api.routes.apps import used
from osmo_ray.api.routes.common import Base, Many, User, Whole, Yaml, page, parse_moment
from osmo_ray.api.routes.credentials import secret_values
from osmo_ray.api.routes.service import allowed_tags
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Named, Submission, Submitted, WorkflowList, WorkflowView
from osmo_ray.api.submission import Order, submit
from osmo_ray.api.views import entry, workflow_view
from osmo_ray.engine.model import Task
from osmo_ray.runtime.masking import mask
from osmo_ray.store.protocol import WorkflowQuery


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["workflow"])
    store = services.store

    @router.post("/api/pool/{pool}/workflow")
    def submit_workflow(
        pool: str,
        user: User,
        links: Base,
        body: Submission | None = None,
        workflow_id: str | None = None,
        app_uuid: str | None = None,
        app_version: Whole = None,
        dry_run: bool = False,
        validation_only: bool = False,
        priority: str = "NORMAL",
        env_vars: Many = None,
    ) -> Submitted:
        environment = tuple(env_vars or ())
        order = Order(
            pool,
            user.user,
            user.roles,
            body=body,
            resubmit=workflow_id or "",
            dry_run=dry_run,
            validation_only=validation_only,
            priority=priority or "NORMAL",
            environment=environment,
            app=used(services, app_uuid, app_version),
        )
        return submit(services, order, links)

    @router.post("/api/pool/{pool}/workflow/{workflow_id}/restart")
    def restart_workflow(
        pool: str,
        workflow_id: str,
        user: User,
        links: Base,
        body: Submission | None = None,
        from_task: Many = None,
        env_vars: Many = None,
    ) -> Submitted:
        old = cancel.find(services, workflow_id)
        order = Order(
            pool,
            user.user,
            user.roles,
            body=body,
            priority=old.priority.value,
            environment=tuple(env_vars or ()),
            restart=old.id,
            tasks=tuple(from_task or ()),
        )
        return submit(services, order, links)

    @router.get("/api/workflow")
    def list_workflows(
        user: User,
        links: Base,
        users: Many = None,
        name: str = "",
        statuses: Many = None,
        offset: int = 0,
        limit: int = 20,
        order: str = "ASC",
        all_users: bool = False,
        pools: Many = None,
        all_pools: bool = False,
        submitted_before: str | None = None,
        submitted_after: str | None = None,
        tags: Many = None,
        app: str | None = None,
        priority: Many = None,
    ) -> WorkflowList:
        page(offset, limit)
        app_name, _, version = (app or "").partition(":")
        if version and not version.isdigit():
            raise ApiError(f"app: {app!r} is not a name, or a name with a version such as train:3.")
        query = WorkflowQuery(
            users=users or ([] if all_users else [user.user]),
            name=name or "",
            statuses=statuses or (),
            pools=pools or ([] if all_pools else [store.profile(user.user).pool or services.settings.pool]),
            priorities=[p.upper() for p in priority or ()],
            tags=tags or (),
            app=app_name,
            app_version=int(version) if version else None,
            submitted_before=parse_moment("submitted_before", submitted_before),
            submitted_after=parse_moment("submitted_after", submitted_after),
            offset=offset,
            limit=limit,
            descending=order.upper() == "DESC",
        )
        rows, more = store.list_workflows(query)
        now = services.clock()
        return WorkflowList(workflows=[entry(row, links, now) for row in rows], more_entries=more)

    @router.get("/api/workflow/{name}")
    def query_workflow(name: str, links: Base, skip_groups: bool = False, verbose: bool = False) -> WorkflowView:
        workflow = cancel.find(services, name)
        attempts: dict[str, list[Task]] = defaultdict(list)
        if verbose:
            for row in store.attempts(workflow.uuid):
                attempts[row.task.uuid].append(row.task)
        view = workflow_view(workflow, store.texts(workflow.uuid), attempts, links, services.clock())
        return view.model_copy(update={"groups": []}) if skip_groups else view

    @router.get("/api/workflow/{name}/spec", response_class=Yaml)
    def read_spec(name: str, use_template: bool = False) -> Response:
        workflow = cancel.find(services, name)
        texts = store.texts(workflow.uuid)
        text = texts.template if use_template and texts.template else texts.rendered
        hidden = secret_values(services, workflow.user)
        return PlainTextResponse(mask(text, hidden), media_type="application/yaml")

    @router.post("/api/workflow/{name}/cancel")
    def cancel_workflow(
        name: str, user: User, message: str | None = None, force: bool = False, task: Many = None
    ) -> Named:
        return Named(name=cancel.cancel(services, name, user.user, message or "", force, task or ()))

    @router.post("/api/workflow/{name}/tag")
    def tag_workflow(name: str, add: Many = None, remove: Many = None) -> None:
        allowed = allowed_tags(services)
        for tag in add or ():
            if allowed and tag not in allowed:
                raise ApiError(f"{tag[:80]!r} is not a tag of this platform; tags: {', '.join(allowed)}.")
            if not tag or len(tag) > 64:
                raise ApiError(f"{tag[:80]!r} is not a tag: 1 to 64 characters.")
        store.tag(cancel.find(services, name).uuid, add or (), remove or ())

    return router
