"""Users, what they may be, and who changed what: for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from osmo_ray.api.access import all_roles
from osmo_ray.api.errors import ApiError
from osmo_ray.api.nouns import TokenEntry
from osmo_ray.api.people import (
    AuditEntry,
    Configs,
    NewUser,
    RoleGiven,
    RoleHolders,
    RoleName,
    UserEntry,
    UserIds,
    UserPage,
    UserRole,
    UserRoles,
    UsersGiven,
    UserView,
)
from osmo_ray.api.routes.auth import create, listed
from osmo_ray.api.routes.common import Many, User, page, parse_moment
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import stamp
from osmo_ray.spec import roles as spec
from osmo_ray.store import protocol as kept


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["users"])
    _users(router, services)
    _assignments(router, services)
    _tokens(router, services)
    _roles(router, services)

    @router.get("/api/x/audit")
    def audit(user: str = "", since: str | None = None, offset: int = 0, limit: int = 100) -> list[AuditEntry]:
        page(offset, limit)
        query = kept.AuditQuery(user, parse_moment("since", since) or 0.0, offset, limit)
        return [AuditEntry.of(line) for line in services.store.audit(query)]

    return router


def _users(router: APIRouter, services: Services) -> None:
    store = services.store

    @router.get("/api/auth/user")
    def list_users(
        start_index: Annotated[int, Query(ge=1, le=10**9)] = 1,
        count: Annotated[int, Query(ge=1, le=1000)] = 100,
        id_prefix: str = "",
        roles: Many = None,
    ) -> UserPage:
        found, total = store.users(kept.UserQuery(id_prefix, tuple(roles or ()), start_index - 1, count))
        shown = [_entry(user) for user in found]
        return UserPage(total_results=total, start_index=start_index, items_per_page=len(shown), users=shown)

    @router.post("/api/auth/user")
    def create_user(body: NewUser, caller: User) -> UserEntry:
        if not spec.USER.fullmatch(body.id):
            raise ApiError(f"{body.id[:80]!r} is not a user's name: letters, digits, and _ . @ - inside.")
        now = services.clock()
        for role in body.roles or ():
            _known(services, role)
        given = [kept.Assigned(body.id, role, caller.user, now) for role in body.roles or ()]
        made = kept.User(body.id, now, caller.user)
        if not store.add_user(made, given):
            raise ApiError(f"There is a user {body.id} already.")
        return _entry(made)

    @router.get("/api/auth/user/{user_id}")
    def read_user(user_id: str) -> UserView:
        return UserView(**_entry(_user(services, user_id)).model_dump(), roles=_of(services, user_id))

    @router.delete("/api/auth/user/{user_id}")
    def delete_user(user_id: str) -> None:
        for token in store.tokens(user_id):  # first: without their user they would count as nobody's
            store.delete_token(user_id, token.name)
        if not store.delete_user(user_id):
            raise ApiError(f"There is no user {user_id[:80]!r}.", status=404)


def _assignments(router: APIRouter, services: Services) -> None:
    store = services.store

    @router.get("/api/auth/user/{user_id}/roles")
    def roles_of(user_id: str) -> UserRoles:
        _user(services, user_id)
        return UserRoles(user_id=user_id, roles=_of(services, user_id))

    @router.post("/api/auth/user/{user_id}/roles")
    def give(user_id: str, body: RoleName, caller: User) -> RoleGiven:
        _known(services, body.role_name)
        _user(services, user_id)
        store.assign(kept.Assigned(user_id, body.role_name, caller.user, services.clock()))
        one = next(a for a in store.roles_of(user_id) if a.role == body.role_name)
        return RoleGiven(user_id=user_id, **_role(one).model_dump())

    @router.delete("/api/auth/user/{user_id}/roles/{role}")
    def take(user_id: str, role: str) -> None:
        _user(services, user_id)
        if not store.unassign(user_id, role):
            raise ApiError(f"{user_id} does not have the role {role[:80]!r}.", status=404)

    @router.get("/api/auth/roles/{role}/users")
    def holders(role: str) -> RoleHolders:
        _known(services, role)
        users = [{"user_id": a.user, "assigned_by": a.by, "assigned_at": stamp(a.at)} for a in store.holders(role)]
        return RoleHolders(role_name=role, users=users)

    @router.post("/api/auth/roles/{role}/users")
    def give_many(role: str, body: UserIds, caller: User) -> UsersGiven:
        _known(services, role)
        had = {a.user for a in store.holders(role)}
        told = UsersGiven(role_name=role, assigned=[], already_assigned=[], failed=[])
        for user in dict.fromkeys(body.user_ids):
            if user in had:
                told.already_assigned.append(user)
            elif store.assign(kept.Assigned(user, role, caller.user, services.clock())):
                told.assigned.append(user)
            else:
                told.failed.append(user)
        return told


def _tokens(router: APIRouter, services: Services) -> None:
    store = services.store

    @router.get("/api/auth/user/{user_id}/access_token")
    def list_tokens(user_id: str) -> list[TokenEntry]:
        return listed(services, user_id)

    @router.post("/api/auth/user/{user_id}/access_token/{token_name}")
    def create_token(user_id: str, token_name: str, expires_at: str, description: str = "", roles: Many = None) -> str:
        _user(services, user_id)
        has = tuple(a.role for a in store.roles_of(user_id))
        return create(services, user_id, has, token_name, expires_at, description, roles)

    @router.delete("/api/auth/user/{user_id}/access_token/{token_name}")
    def delete_token(user_id: str, token_name: str) -> None:
        if not store.delete_token(user_id, token_name):
            raise ApiError(f"{user_id[:80]} has no token {token_name[:80]!r}.")


def _roles(router: APIRouter, services: Services) -> None:
    store = services.store

    @router.get("/api/configs/role")
    def list_roles() -> list[dict[str, object]]:
        return [spec.to_json(role) for _, role in sorted(all_roles(services).items())]

    @router.get("/api/configs/role/{name}")
    def read_role(name: str) -> dict[str, object]:
        return spec.to_json(_known(services, name))

    @router.put("/api/configs/role")
    def put_roles(body: Configs) -> None:
        if not isinstance(body.configs, list):
            raise ApiError("configs must be a list of roles.")
        for role in [_written(one) for one in body.configs]:
            store.save_role(role)

    @router.put("/api/configs/role/{name}")
    def put_role(name: str, body: Configs) -> None:
        if not isinstance(body.configs, dict):
            raise ApiError("configs must be a role.")
        store.save_role(_written({**body.configs, "name": name}))

    @router.delete("/api/configs/role/{name}")
    def delete_role(name: str) -> None:
        held = store.holders(name)
        if held and name not in spec.BUILT_IN:
            raise ApiError(f"{held[0].user} still has the role {name}; take it away first.")
        if not store.delete_role(name):
            raise ApiError(f"There is no role {name[:80]!r} that an administrator wrote.", status=404)


def _written(value: object) -> spec.Role:
    try:
        role = spec.from_json(value if isinstance(value, dict) else {})
    except spec.BadRole as error:
        raise ApiError(f"{error}.") from None
    own = spec.BUILT_IN.get(role.name)
    if own is not None and own.immutable:
        raise ApiError(f"The role {role.name} is the platform's own and cannot be written anew; choose another name.")
    return role


def _known(services: Services, role: str) -> spec.Role:
    found = all_roles(services).get(role)
    if found is None:
        raise ApiError(f"There is no role {role[:80]!r}; osmo user roles lists them.", status=404)
    return found


def _user(services: Services, id: str) -> kept.User:
    found = services.store.user(id)
    if found is None:
        raise ApiError(f"There is no user {id[:80]!r}.", status=404)
    return found


def _entry(user: kept.User) -> UserEntry:
    return UserEntry(id=user.id, created_at=stamp(user.created), created_by=user.created_by)


def _role(one: kept.Assigned) -> UserRole:
    return UserRole(role_name=one.role, assigned_by=one.by, assigned_at=stamp(one.at))


def _of(services: Services, user: str) -> list[UserRole]:
    return [_role(one) for one in services.store.roles_of(user)]
