"""Configuration of pools and of the rules that requests keep, with history and the way back. For administrators.

Each change makes a new revision of its whole type and holds for the next submission; what was admitted stays as it is.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from osmo_ray.api import configs, grounds
from osmo_ray.api.configs import (
    TYPES,
    Change,
    ConfigDiff,
    ConfigEntry,
    ConfigHistory,
    Lists,
    Merged,
    NewName,
    Rollback,
    TagChange,
)
from osmo_ray.api.errors import ApiError
from osmo_ray.api.grounds import POOL, RULES
from osmo_ray.api.people import Configs
from osmo_ray.api.routes.common import Many, User, page, parse_moment
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import stamp
from osmo_ray.api.submission import pool_names
from osmo_ray.store.protocol import Config, ConfigQuery


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["config"], prefix="/api/configs")
    _pools(router, services)
    _platforms(router, services)
    _rules(router, services)
    _history(router, services)
    return router


# -- pools


def _pools(router: APIRouter, services: Services) -> None:
    @router.get("/pool")
    def read_pools(verbose: bool = False, backend: str = "") -> dict[str, configs.Body]:
        return {"pools": {name: _shown(services, name) for name in pool_names(services)}}

    @router.put("/pool")
    def write_pools(body: Configs, caller: User) -> None:
        wanted = configs.mapping(body)
        for name in wanted:
            _pool(services, name)
        configs.change(services, POOL, caller.user, body, configs.put(wanted))

    @router.get("/pool/{name}")
    def read_pool(name: str, verbose: bool = False) -> configs.Body:
        _pool(services, name)
        return _shown(services, name)

    @router.put("/pool/{name}")
    def write_pool(name: str, body: Configs, caller: User) -> None:
        _pool(services, name)
        configs.change(services, POOL, caller.user, body, lambda old: old.update({name: configs.mapping(body)}), name)

    @router.patch("/pool/{name}")
    def merge_pool(name: str, body: Merged, caller: User) -> configs.Body:
        _pool(services, name)

        def edit(old: configs.Body) -> None:
            old[name] = configs.merged(old.get(name, {}), body.configs_dict)

        configs.change(services, POOL, caller.user, body, edit, name)
        return _shown(services, name)

    @router.delete("/pool/{name}")
    def delete_pool(name: str, caller: User, body: Change | None = None) -> None:
        """The pool stays as long as it has a backend; what was written of it goes."""

        def edit(old: configs.Body) -> None:
            configs.there(old, "pool", name)
            del old[name]

        configs.change(services, POOL, caller.user, body or Change(), edit, name)


def _shown(services: Services, name: str) -> configs.Body:
    written = configs.body(services, POOL).get(name, {})
    found = grounds.configured(services, name)
    platforms = {p: written.get("platforms", {}).get(p, {}) for p in found.platforms}
    return {"name": name, **written, "default_platform": found.default_platform or None, "platforms": platforms}


def _platforms(router: APIRouter, services: Services) -> None:
    @router.get("/pool/{name}/platform")
    def read_platforms(name: str, verbose: bool = False) -> configs.Body:
        _pool(services, name)
        return dict(_shown(services, name)["platforms"])

    @router.get("/pool/{name}/platform/{platform}")
    def read_platform(name: str, platform: str, verbose: bool = False) -> configs.Body:
        _pool(services, name)
        return dict(configs.there(_shown(services, name)["platforms"], "platform", platform))

    @router.put("/pool/{name}/platform/{platform}")
    def write_platform(name: str, platform: str, body: Configs, caller: User) -> None:
        _pool(services, name)

        def edit(old: configs.Body) -> None:
            pool = dict(old.get(name, {}))
            pool["platforms"] = {**pool.get("platforms", {}), platform: configs.mapping(body)}
            old[name] = pool

        configs.change(services, POOL, caller.user, body, edit, name)

    @router.put("/pool/{name}/platform/{platform}/rename")
    def rename_platform(name: str, platform: str, body: NewName, caller: User) -> None:
        _pool(services, name)

        def edit(old: configs.Body) -> None:
            pool = dict(old.get(name, {}))
            found = dict(pool.get("platforms", {}))
            configs.there(found, "platform", platform)
            if body.new_name in found:
                raise ApiError(f"There is a platform {body.new_name!r} already.", "USAGE")
            pool["platforms"] = {body.new_name if p == platform else p: v for p, v in found.items()}
            if pool.get("default_platform") == platform:
                pool["default_platform"] = body.new_name
            old[name] = pool

        configs.change(services, POOL, caller.user, body, edit, name)


def _pool(services: Services, name: str) -> None:
    known = pool_names(services)
    if name not in known:
        raise ApiError(f"There is no pool {name[:80]!r}; pools: {', '.join(known)}.", status=404)


# -- rules


def _rules(router: APIRouter, services: Services) -> None:
    @router.get("/resource_validation")
    def read_all() -> configs.Body:
        return configs.body(services, RULES)

    @router.put("/resource_validation")
    def write_all(body: Lists, caller: User) -> None:
        configs.change(services, RULES, caller.user, body, configs.put(body.configs_dict))

    @router.get("/resource_validation/{name}")
    def read_one(name: str) -> list[Any]:
        return list(configs.there(configs.body(services, RULES), "resource validation", name))

    @router.put("/resource_validation/{name}")
    def write_one(name: str, body: Configs, caller: User) -> None:
        configs.change(services, RULES, caller.user, body, lambda old: old.update({name: body.configs}), name)

    @router.delete("/resource_validation/{name}")
    def delete_one(name: str, caller: User, body: Change | None = None) -> None:
        using = [pool for pool, value in configs.body(services, POOL).items() if name in str(value)]
        if using:
            raise ApiError(f"Pool {using[0]} uses the resource validation {name}; take it out there first.", "USAGE")

        def edit(old: configs.Body) -> None:
            configs.there(old, "resource validation", name)
            del old[name]

        configs.change(services, RULES, caller.user, body or Change(), edit, name)


# -- history


def _history(router: APIRouter, services: Services) -> None:
    store = services.store

    @router.get("/history")
    def history(
        offset: int = 0,
        limit: int = 20,
        order: str = "DESC",
        config_types: Many = None,
        name: str = "",
        revision: int | None = None,
        tags: Many = None,
        created_before: str | None = None,
        created_after: str | None = None,
        at_timestamp: str | None = None,
        omit_data: bool = False,
    ) -> ConfigHistory:
        page(offset, limit)
        if at_timestamp and (created_before or created_after):
            raise ApiError("at_timestamp goes with neither created_before nor created_after.", "USAGE")
        at = parse_moment("at_timestamp", at_timestamp.replace(" ", "T")) if at_timestamp else None
        before = at + 1e-6 if at else parse_moment("created_before", created_before) or 0.0
        after = parse_moment("created_after", created_after) or 0.0
        query = ConfigQuery(
            tuple(config_types or ()), name, revision or 0, after, before, offset, limit, order.upper() != "ASC"
        )
        found = [c for c in store.config_history(query) if not tags or set(tags) & set(c.tags)]
        if at:  # what held at that time
            found = [next(c for c in found if c.type == t) for t in dict.fromkeys(c.type for c in found)]
        return ConfigHistory(configs=[_entry(c, omit_data) for c in found])

    @router.get("/diff")
    def diff(config_type: str, first_revision: configs.Revision, second_revision: configs.Revision) -> ConfigDiff:
        first, second = (_revision(services, config_type, n) for n in (first_revision, second_revision))
        return ConfigDiff(first_data=dict(first.body), second_data=dict(second.body))

    @router.post("/history/rollback")
    def rollback(body: Rollback, caller: User) -> None:
        """The old revision becomes the newest one; nothing between is lost."""
        old = _revision(services, body.config_type, body.revision)
        said = Change(description=body.description or f"back to revision {body.revision}", tags=body.tags)
        configs.change(services, old.type, caller.user, said, configs.put(old.body))

    @router.delete("/history/{config_type}/revision/{revision}")
    def forget(config_type: str, revision: int, caller: User) -> None:
        found = _revision(services, config_type, revision)
        newest = store.config(found.type)
        if newest is not None and newest.revision == found.revision:
            raise ApiError(f"Revision {revision} of {found.type} is the one that holds.", "USAGE")
        store.mark_config(found.type, found.revision, deleted_by=caller.user)

    @router.post("/history/{config_type}/revision/{revision}/tags")
    def tag(config_type: str, revision: int, body: TagChange) -> None:
        found = _revision(services, config_type, revision)
        kept = [t for t in found.tags if t not in (body.delete_tags or ())]
        store.mark_config(found.type, found.revision, tags=list(dict.fromkeys([*kept, *(body.set_tags or ())])))


def _revision(services: Services, type: str, number: int) -> Config:
    kind = type.upper()
    if kind not in TYPES:
        raise ApiError(f"There is no configuration {type[:80]!r} with a history; types: {', '.join(TYPES)}.", "USAGE")
    found = services.store.config(kind, number) if number > 0 else None
    if found is None or found.deleted:
        raise ApiError(f"There is no revision {number} of {kind}.", status=404)
    return found


def _entry(config: Config, omit: bool) -> ConfigEntry:
    return ConfigEntry(
        config_type=config.type,
        name=config.name,
        revision=config.revision,
        username=config.user,
        created_at=stamp(config.at),
        description=config.description,
        tags=list(config.tags),
        data=None if omit else dict(config.body),
    )
