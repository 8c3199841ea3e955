"""The JSON of users, roles and the audit log. The rules are those of `shapes.py`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from osmo_ray.api.shapes import Shape, stamp
from osmo_ray.store.protocol import AuditLine


class NewUser(Shape):
    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "bob", "roles": ["osmo-user"]}]})

    id: str = Field(max_length=128)
    roles: list[str] | None = None


class UserEntry(Shape):
    id: str
    created_at: str | None
    created_by: str


class UserPage(Shape):
    total_results: int
    start_index: int
    items_per_page: int
    users: list[UserEntry]


class UserRole(Shape):
    role_name: str
    assigned_by: str
    assigned_at: str | None


class UserView(UserEntry):
    roles: list[UserRole]


class UserRoles(Shape):
    user_id: str
    roles: list[UserRole]


class RoleName(Shape):
    model_config = ConfigDict(json_schema_extra={"examples": [{"role_name": "osmo-user"}]})

    role_name: str


class RoleGiven(UserRole):
    user_id: str


class RoleHolders(Shape):
    role_name: str
    users: list[dict[str, str | None]]


class UserIds(Shape):
    model_config = ConfigDict(json_schema_extra={"examples": [{"user_ids": ["bob"]}]})

    user_ids: list[str]


class UsersGiven(Shape):
    role_name: str
    assigned: list[str]
    already_assigned: list[str]
    failed: list[str]


class Configs(Shape):
    """What the configuration calls take; description and tags are taken and not kept."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"configs": {"policies": [{"effect": "Allow", "actions": ["workflow:Read"]}]}}]}
    )

    configs: dict[str, Any] | list[Any]
    description: str | None = None
    tags: list[str] | None = None


class AuditEntry(Shape):
    at: str | None
    user: str
    how: str
    action: str
    method: str
    path: str
    status: int

    @staticmethod
    def of(line: AuditLine) -> AuditEntry:
        return AuditEntry(
            at=stamp(line.at),
            user=line.user,
            how=line.how,
            action=line.action,
            method=line.method,
            path=line.path,
            status=line.status,
        )
