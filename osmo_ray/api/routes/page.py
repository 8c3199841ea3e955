"""The page behind the link that a submission prints: one workflow as plain HTML, without scripts."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from osmo_ray.api import cancel
from osmo_ray.api.routes.common import Base
from osmo_ray.api.services import Services
from osmo_ray.api.views import Links
from osmo_ray.engine.explain import explain
from osmo_ray.engine.model import Group, Task, Workflow
from osmo_ray.spec.quantity import show_seconds

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .8rem .3rem 0; }
tr { border-bottom: 1px solid #8883; } .FAILED { color: #c22; } .COMPLETED { color: #282; } .RUNNING { color: #06c; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
"""


def routes(services: Services) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/workflows/{name}")
    def workflow(name: str, links: Base) -> Response:
        found = cancel.find(services, name)
        return HTMLResponse(_page(found, links, services.clock()), headers=_HEADERS)

    return router


def _page(workflow: Workflow, links: Links, now: float) -> str:
    rows = "".join(_row(workflow, g, t, links, now) for g in workflow.groups for t in g.tasks)
    again = "" if workflow.status.finished else '<meta http-equiv="refresh" content="3">'
    name = escape(workflow.id)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>{again}'
        f"<style>{_STYLE}</style></head><body><h1>{name} {_status(workflow.status.value)}</h1>"
        f"<p>{escape(workflow.user)}, pool {escape(workflow.pool)}, priority {workflow.priority.value} &middot; "
        f'<a href="{links.logs(workflow.id)}">logs</a> &middot; '
        f'<a href="{links.api(workflow.id, "events")}">events</a> &middot; '
        f'<a href="{links.api(workflow.id, "spec")}">spec</a></p>'
        f"<p>{escape(workflow.reason.sentence) if workflow.reason else ''}</p>"
        f"<table><tr><th>Group<th>Task<th>Status<th>Time<th>Node<th>Exit<th>Reason</tr>{rows}</table></body></html>"
    )


def _status(text: str) -> str:
    return f'<span class="{text.split("_")[0]}">{text}</span>'


def _row(workflow: Workflow, group: Group, task: Task, links: Links, now: float) -> str:
    times, reason = task.times, explain(workflow, group, task)
    took = show_seconds((times.ended or now) - times.running) if times.running else ""
    code = "" if task.exit_code is None else str(task.exit_code)
    logs = escape(links.task(workflow.id, "logs", task.name, task.retry_id), quote=True)
    link = f'<a href="{logs}">{escape(task.name)}</a>'
    cells = [escape(group.name), link, _status(task.status.value), took, escape(task.node), code]
    return "<tr>" + "".join(f"<td>{c}</td>" for c in [*cells, escape(reason.sentence) if reason else ""]) + "</tr>"
