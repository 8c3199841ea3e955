"""Changing what administrators configured: one revision after the other, each checked before it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Query
from pydantic import ConfigDict

from osmo_ray.api.errors import ApiError
from osmo_ray.api.grounds import POOL, RULES
from osmo_ray.api.people import Configs
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Shape
from osmo_ray.control.templates import POD_TEMPLATE
from osmo_ray.spec import pools
from osmo_ray.store.protocol import Config, Conflicted

TYPES = (POOL, RULES, POD_TEMPLATE)
Body = dict[str, Any]
Revision = Annotated[int, Query(ge=1, le=2**31 - 1)]


class Change(Shape):
    """What is said of a change that has no payload of its own."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "no longer needed"}]})

    description: str | None = None
    tags: list[str] | None = None


class Merged(Change):
    """`configs_dict` is merged into what there is; a value of null takes its field away."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"configs_dict": {"enable_maintenance": True}}]})

    configs_dict: dict[str, Any]


class Lists(Change):
    model_config = ConfigDict(json_schema_extra={"examples": [{"configs_dict": {"small": []}}]})

    configs_dict: dict[str, list[Any]]


class NewName(Change):
    model_config = ConfigDict(json_schema_extra={"examples": [{"new_name": "research"}]})

    new_name: str


class Rollback(Change):
    model_config = ConfigDict(json_schema_extra={"examples": [{"config_type": "POOL", "revision": 1}]})

    config_type: str
    revision: int


class TagChange(Shape):
    model_config = ConfigDict(json_schema_extra={"examples": [{"set_tags": ["good"]}]})

    set_tags: list[str] | None = None
    delete_tags: list[str] | None = None


class ConfigEntry(Shape):
    config_type: str
    name: str
    revision: int
    username: str
    created_at: str | None
    description: str
    tags: list[str]
    data: dict[str, Any] | None


class ConfigHistory(Shape):
    configs: list[ConfigEntry]


class ConfigDiff(Shape):
    first_data: dict[str, Any]
    second_data: dict[str, Any]


# -- one revision after the other


def body(services: Services, type: str) -> Body:
    """What holds now; a copy."""
    newest = services.store.config(type)
    return dict(newest.body) if newest else {}


def change(
    services: Services, type: str, user: str, said: Change | Configs, edit: Callable[[Body], None], name: str = ""
) -> None:
    """Write what `edit` makes of the newest revision. Raises `ApiError` for what cannot be used."""
    newest = services.store.config(type)
    made: Body = dict(newest.body) if newest else {}
    edit(made)
    _check(type, made)
    if type == POOL:
        _templates_are_there(services, made)
    number = newest.revision + 1 if newest else 1
    config = Config(type, number, made, user, services.clock(), name, said.description or "", tuple(said.tags or ()))
    try:
        services.store.save_config(config)
    except Conflicted as error:
        raise ApiError(
            f"Somebody else changed it at the same time ({error}); look and try again.", status=409
        ) from None


def _check(type: str, body: Mapping[str, Any]) -> None:
    try:
        for name, value in body.items():
            if type == POOL:
                pools.from_json(name, value)
            elif type == POD_TEMPLATE:
                pools.template_from_json(name, value)
            else:
                pools.rules_from_json(name, value)
    except pools.BadPool as error:
        raise ApiError(f"{error}.", "USAGE") from None


def templates_of(pool: Mapping[str, Any]) -> list[str]:
    """The pod templates that a pool and its platforms name."""
    named = list(pool.get("common_pod_template", ()))
    for platform in pool.get("platforms", {}).values():
        named += platform.get("override_pod_template", ())
    return named


def _templates_are_there(services: Services, written: Mapping[str, Any]) -> None:
    known = body(services, POD_TEMPLATE)
    for pool, value in written.items():
        for name in templates_of(value):
            if name not in known:
                raise ApiError(f"pool {pool}: there is no pod template {name[:80]!r}.", "USAGE")


def there(body: Mapping[str, Any], what: str, name: str) -> Any:
    """The part of that name. Raises `ApiError`."""
    if name not in body:
        raise ApiError(f"No {what} {name[:80]!r} was configured.", status=404)
    return body[name]


def mapping(said: Configs) -> Body:
    """The payload of a change that is a mapping. Raises `ApiError`."""
    if not isinstance(said.configs, dict):
        raise ApiError("configs must be a mapping.", "USAGE")
    return said.configs


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Body:
    """`old` with `new` laid over it, mapping by mapping; null takes away."""
    made = {key: value for key, value in old.items() if new.get(key, "") is not None}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            made[key] = merged(old[key], value)
        elif value is not None:
            made[key] = value
    return made


def put(value: Mapping[str, Any]) -> Callable[[Body], None]:
    """An edit after which there is this and nothing else."""

    def edit(old: Body) -> None:
        old.clear()
        old.update(value)

    return edit
