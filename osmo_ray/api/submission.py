"""A submission, step by step, in the order in which clients expect mistakes to be found.

Pool, template and YAML first; a dry run ends there. Then the strict reading, the environment, the limits, the tasks
of other workflows; a validation ends there. What is left is admitted and stored in one transaction, before the
client hears of it.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import KW_ONLY, dataclass

import yaml

from osmo_ray.api import grounds, needs
from osmo_ray.api.clusters import pools
from osmo_ray.api.errors import ApiError, not_found
from osmo_ray.api.routes import code, credentials
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Submission, Submitted
from osmo_ray.api.views import Links
from osmo_ray.engine.admit import admit
from osmo_ray.engine.model import Decision, Workflow
from osmo_ray.engine.rerun import CannotRerun, failed_part, part_from
from osmo_ray.engine.status import WORKFLOW_ALIVE
from osmo_ray.providers.template import Prepared, prepare
from osmo_ray.spec.dump import to_yaml
from osmo_ray.spec.model import CodeInput, Priority, TaskInput, WorkflowSpec
from osmo_ray.spec.pools import PoolSpec
from osmo_ray.spec.quantity import show_bytes
from osmo_ray.spec.reader import read, refuse_credentials, spread_environment
from osmo_ray.spec.template import overlay_environment
from osmo_ray.store.protocol import AppUse, Texts, WorkflowQuery


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asked for."""

    pool: str
    user: str
    roles: tuple[str, ...] = ()
    _: KW_ONLY
    body: Submission | None = None
    resubmit: str = ""
    dry_run: bool = False
    validation_only: bool = False
    priority: str = "NORMAL"
    environment: tuple[str, ...] = ()
    restart: str = ""
    """A workflow of which a part runs again; with `body`, as that file says it."""
    tasks: tuple[str, ...] = ()
    """The tasks from which on it runs again; none: what failed."""
    app: AppUse | None = None
    """The app that the file is of."""


def submit(services: Services, order: Order, links: Links) -> Submitted:
    """Carry out an order. Raises `ApiError` and `SpecError`; nothing is left behind then."""
    _text(order)
    check_pool(services, order.pool)
    priority = _priority(order.priority)
    if bool(order.resubmit or order.restart) == (order.body is not None and not order.restart):
        raise ApiError("Send either a workflow file or a workflow_id, not both and not neither.", "USAGE")
    if order.dry_run and order.body is not None:
        return _dry_run(services, order.body)
    spec, template, parent, done = _read(services, order)
    spec = spread_environment(spec, overlay_environment(order.environment))
    pool = grounds.configured(services, order.pool)
    said = spec
    spec = grounds.prepared(services, pool, order.roles, priority, spec, done.file if done else None)
    _limits(services, spec)
    _trusted(services, spec, order.pool)
    sources = _previous(services, spec)
    archives = _sent(services, spec)
    _credentials(services, order.user, spec, done)
    needs.check(services, order.user, spec, done, validating=order.validation_only)
    if order.validation_only:
        return Submitted(name=spec.name, logs="Workflow validation succeeded.")
    _user_limits(services, order.user, spec)
    _disk(services)
    texts = Texts(to_yaml(said), template, app=order.app, sources=sources, code=archives)
    name = _store(services, order, pool, spec, texts, priority, parent)
    return Submitted(
        name=name,
        overview=links.overview(name),
        logs=links.logs(name),
        spec=links.api(name, "spec"),
        dashboard_url=links.overview(name),
    )


def _text(order: Order) -> None:
    """JSON can carry halves of characters, which no file, log or database can hold."""
    body = order.body
    texts = [*order.environment]
    if body is not None:
        texts += [body.file, *body.set_variables, *body.set_string_variables, body.uploaded_templated_spec or ""]
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            line = text.count("\n", 0, error.start) + 1
            raise ApiError(
                f"Line {line} of what was sent holds half a character (a lone surrogate).", "USAGE"
            ) from None


def check_pool(services: Services, pool: str) -> None:
    """Raises `ApiError` for a pool that does not exist."""
    known = pool_names(services)
    if pool not in known:
        raise ApiError(f"There is no pool {pool!r}; pools: {', '.join(known)}.", "USER")


def pool_names(services: Services) -> list[str]:
    """The pool of the settings, those of registered clusters, and those that quotas are given to."""
    quota = services.quota.snapshot() if services.quota else None
    return list(dict.fromkeys((*pools(services), *(quota.pools if quota else ()))))


def _priority(text: str) -> Priority:
    try:
        return Priority(text.upper())
    except ValueError:
        raise ApiError(f"There is no priority {text!r}; priorities: HIGH, NORMAL, LOW.", "USER") from None


def _dry_run(services: Services, body: Submission) -> Submitted:
    done = prepare(body.file, body.set_variables, body.set_string_variables, services.renderer)
    try:
        section = yaml.safe_load(done.rendered.text)["workflow"]
        name = str(section["name"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        done.read()
        name = ""
    return Submitted(name=name, spec=done.rendered.text)


def _read(services: Services, order: Order) -> tuple[WorkflowSpec, str, str, Prepared | None]:
    """The spec, the text as the user wrote it, the workflow that it repeats, and what knows its places."""
    old = None
    if name := order.resubmit or order.restart:
        old = services.store.find(name)
        if old is None:
            raise not_found(name)
    if order.body is None:
        assert old is not None
        texts = services.store.texts(old.uuid)
        spec = _again(old, old.spec, order.tasks) if order.restart else read(texts.rendered)
        return spec, texts.template, old.id, None
    body = order.body
    done = prepare(body.file, body.set_variables, body.set_string_variables, services.renderer)
    template = body.uploaded_templated_spec or body.file
    if old is None:
        return done.read(), template, "", done
    return _again(old, done.read(), order.tasks, newer=True), template, old.id, None


def _again(old: Workflow, spec: WorkflowSpec, tasks: tuple[str, ...], *, newer: bool = False) -> WorkflowSpec:
    try:
        return part_from(old, spec, tasks) if tasks or newer else failed_part(old)
    except CannotRerun as error:
        raise ApiError(str(error), "SUBMISSION", workflow_id=old.id) from None


def _limits(services: Services, spec: WorkflowSpec) -> None:
    tasks = sum(len(g.tasks) for g in spec.groups)
    most = services.settings.max_tasks
    if tasks > most:
        raise ApiError(f"The workflow has {tasks} tasks, at most {most} are allowed (setting max_tasks).", "USAGE")


def _user_limits(services: Services, user: str, spec: WorkflowSpec) -> None:
    """What one user may have unfinished at once. Two submissions at the same moment may both be let in."""
    workflows, tasks = services.settings.max_user_workflows, services.settings.max_user_tasks
    if not workflows and not tasks:
        return
    query = WorkflowQuery(users=(user,), statuses=tuple(s.value for s in WORKFLOW_ALIVE), limit=10_000)
    alive, _ = services.store.list_workflows(query)
    if workflows and len(alive) >= workflows:
        told = f"{user} has {len(alive)} unfinished workflows, at most {workflows} are allowed"
        raise ApiError(f"{told} (setting max_user_workflows); wait for one, or cancel one.", "SUBMISSION")
    mine = sum(row.tasks for row in alive) + sum(len(g.tasks) for g in spec.groups)
    if tasks and mine > tasks:
        told = f"{user} would have {mine} tasks in unfinished workflows, at most {tasks} are allowed"
        raise ApiError(f"{told} (setting max_user_tasks).", "SUBMISSION")


def _trusted(services: Services, spec: WorkflowSpec, pool: str) -> None:
    programs = [t.name for g in spec.groups for t in g.tasks if t.ray is not None]
    if programs and not services.settings.ray_programs:
        raise ApiError(
            f"Task {programs[0]} is a Ray program, and pool {pool} does not trust those: they run outside the sandbox "
            "(setting ray_programs). Leave out `ray`, or choose another pool.",
            "USAGE",
        )


def _previous(services: Services, spec: WorkflowSpec) -> tuple[str, ...]:
    """Tasks of other workflows must exist and have finished, whatever their end. Returns the uuids of those."""
    sources: set[str] = set()
    wanted = {(i.workflow, i.task) for g in spec.groups for t in g.tasks for i in t.inputs if isinstance(i, TaskInput)}
    for workflow, name in sorted(w for w in wanted if w[0]):
        found = services.store.find(workflow)
        if found is None:
            raise ApiError(f"Input {workflow}:{name}: there is no workflow {workflow}.", "USAGE")
        task = next((t for g in found.groups for t in g.tasks if t.name == name), None)
        if task is None:
            raise ApiError(f"Input {workflow}:{name}: workflow {workflow} has no task {name}.", "USAGE")
        if not task.status.finished:
            raise ApiError(f"Input {workflow}:{name}: that task is {task.status.value}, not finished.", "USAGE")
        sources.add(found.uuid)
    return tuple(sorted(sources))


def _credentials(services: Services, user: str, spec: WorkflowSpec, done: Prepared | None) -> None:
    """What tasks name must be there now; a node gets it later, sealed until then."""
    tasks = [t for g in spec.groups for t in g.tasks]
    named = [t for t in tasks if t.credentials]
    if not named:
        return
    if ray := next((t.name for t in named if t.ray is not None), ""):
        raise ApiError(
            f"Task {ray} is a Ray program: its environment stands in the cluster's job table, so it gets no "
            "credentials. Leave out `ray`, or `credentials`.",
            "CREDENTIAL",
        )
    refuse_credentials(spec, credentials.opened(services, user), done.file if done else None)


def _sent(services: Services, spec: WorkflowSpec) -> tuple[str, ...]:
    """Archives of code must be here before the tasks that run them. Returns their digests."""
    named = {i.digest for g in spec.groups for t in g.tasks for i in t.inputs if isinstance(i, CodeInput)}
    for digest in sorted(named):
        if not code.keep(services.objects, digest, services.clock()):
            raise ApiError(
                f"The code {digest} is not here; osmo run FILE.py sends it, and so does osmo workflow submit FILE.py.",
                "USAGE",
            )
    return tuple(sorted(named))


def _disk(services: Services) -> None:
    """New work is refused before the disk is full, so that what runs can end well."""
    try:
        free = shutil.disk_usage(services.settings.home).free
    except OSError:
        return
    need = services.settings.disk_reserve
    if free < need:
        message = f"The platform's disk has {show_bytes(free)} left, less than its reserve of {show_bytes(need)}"
        raise ApiError(f"{message}; remove old workflows (osmo workflow delete ID) or free space.", "SUBMISSION", 507)


def _store(
    services: Services,
    order: Order,
    pool: PoolSpec,
    spec: WorkflowSpec,
    texts: Texts,
    priority: Priority,
    parent: str,
) -> str:
    now, limits = services.clock(), grounds.limits(services, pool, spec)
    uuid = services.new_id()

    def build(name: str) -> Decision:
        return admit(
            spec,
            id=name,
            uuid=uuid,
            uuids=(services.new_id() for _ in itertools.count()),
            user=order.user,
            pool=order.pool,
            backend=pool.backend,
            priority=priority,
            now=now,
            exec_timeout=limits.exec_timeout,
            queue_timeout=limits.queue_timeout,
            parent=parent,
        )

    name = services.store.submit(spec.name, build, texts).id
    services.wake()
    return name
