"""Apps: named, versioned specs that people share and submit by name."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import PlainTextResponse, Response

from osmo_ray.api.errors import ApiError
from osmo_ray.api.nouns import AppEntry, AppList, AppVersionEntry, AppView, Changed, Deleted
from osmo_ray.api.routes.common import Many, Text, User, Whole, page
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import stamp
from osmo_ray.spec.document import cut
from osmo_ray.store.protocol import App, AppQuery, AppUse, NameTaken

NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
MAX_DESCRIPTION = 4096
Spec = Annotated[
    str, Body(examples=["workflow:\n  name: hello\n  tasks:\n  - {name: a, image: ubuntu, command: [echo, hi]}\n"])
]
NewName = Annotated[str, Body(examples=["train-large"])]


def used(services: Services, uuid: str | None, version: int | None) -> AppUse | None:
    """The app that a submission names. Raises `ApiError`."""
    if not uuid:
        return None
    app = services.store.app_by_uuid(uuid)
    if app is None:
        raise ApiError(f"There is no app {uuid[:80]!r} (any more).")
    number = version or app.latest
    if services.store.app_spec(app.uuid, number) is None:
        raise ApiError(f"App {app.name} has no version {number}.")
    return AppUse(app.uuid, app.owner, app.name, number)


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["app"])
    store = services.store

    @router.get("/api/app")
    def list_apps(
        user: User,
        name: str = "",
        users: Many = None,
        all_users: bool = False,
        offset: int = 0,
        limit: int = 20,
        order: str = "ASC",
    ) -> AppList:
        page(offset, limit)
        involved = "" if users or all_users else user.user
        descending = order.upper() == "DESC"
        apps, more = store.list_apps(AppQuery(name, users or (), involved, offset, limit, descending))
        return AppList(apps=[_entry(a) for a in apps], more_entries=more)

    @router.get("/api/app/user/{name}")
    def read_app(name: str, version: Whole = None, limit: int = 20, order: str = "ASC") -> AppView:
        page(0, limit)
        app = _app(services, name)
        versions = [v for v in store.app_versions(app.uuid) if version in (None, v.version)]
        if version is not None and not versions:
            raise ApiError(f"App {name} has no version {version}.")
        shown = versions[:limit]
        if order.upper() != "DESC":
            shown.reverse()
        listed = [
            AppVersionEntry(
                version=v.version, created_by=v.created_by, created_date=stamp(v.created) or "", status=v.status
            )
            for v in shown
        ]
        head = _entry(app).model_dump(exclude={"latest_version"})
        return AppView(**head, versions=listed)

    @router.get("/api/app/user/{name}/spec", response_class=Text)
    def read_app_spec(name: str, version: Whole = None) -> Response:
        app = _app(services, name)
        text = store.app_spec(app.uuid, version or app.latest)
        if text is None:
            raise ApiError(f"App {name} has no version {version or app.latest} that is ready.")
        return PlainTextResponse(text)

    _changes(router, services)
    return router


def _changes(router: APIRouter, services: Services) -> None:
    store = services.store

    @router.post("/api/app/user/{name}")
    def create_app(name: str, description: Annotated[str, Query()], body: Spec, user: User) -> None:
        _check(name, body)
        if len(description) > MAX_DESCRIPTION:
            raise ApiError(f"A description has at most {MAX_DESCRIPTION} characters.")
        try:
            store.create_app(App(services.new_id(), name, description, user.user, services.clock()), body)
        except NameTaken:
            raise ApiError(f"There is an app {name} already; osmo app update {name} adds a version.") from None

    @router.patch("/api/app/user/{name}")
    def update_app(name: str, body: Spec, user: User) -> Changed:
        _check(name, body)
        now = services.clock()
        made = store.add_app_version(name, user.user, now, body)
        if made is None:
            raise _unknown(name)
        app, version = made
        at = stamp(now) or ""
        return Changed(uuid=app.uuid, version=version, name=app.name, created_by=user.user, created_date=at)

    @router.delete("/api/app/user/{name}")
    def delete_app(name: str, user: User, version: Whole = None, all_versions: bool = False) -> Deleted:
        if (version is None) == (not all_versions):
            raise ApiError("Say which version goes, or all_versions, and not both.")
        app = _app(services, name)
        _owner(app, user.user)
        gone = store.delete_app(app.uuid, version)
        if not gone:
            raise ApiError(f"App {name} has no version {version}.")
        return Deleted(versions=list(gone))

    @router.post("/api/app/user/{name}/rename")
    def rename_app(name: str, body: NewName, user: User) -> str:
        app = _app(services, name)
        _owner(app, user.user)
        _name(body)
        try:
            store.rename_app(app.uuid, body)
        except NameTaken:
            raise ApiError(f"There is an app {body} already.") from None
        return body


def _app(services: Services, name: str) -> App:
    found = services.store.app(name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> ApiError:
    return ApiError(f"There is no app {name[:80]!r}; see osmo app list --all-users.")


def _owner(app: App, user: str) -> None:
    if app.owner != user:
        raise ApiError(f"App {app.name} belongs to {app.owner}, who alone may do that.", status=403)


def _name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ApiError(f"{name[:80]!a} is not an app's name: letters, digits, - and _.")


def _check(name: str, text: str) -> None:
    """The sections alone are looked at: a template need not be a whole file yet."""
    _name(name)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ApiError("The spec holds half a character (a lone surrogate).", "USAGE") from None
    cut(text)


def _entry(app: App) -> AppEntry:
    return AppEntry(
        uuid=app.uuid,
        name=app.name,
        description=app.description,
        created_date=stamp(app.created) or "",
        owner=app.owner,
        latest_version=str(app.latest),
    )
