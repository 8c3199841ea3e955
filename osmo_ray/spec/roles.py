"""Who may do what: roles of policies, each of which allows or denies actions on resources. Deny wins.

An action is `area:Verb` (`workflow:Create`), a resource a path (`pool/default`). Patterns: `*` for a whole area or
verb, and the usual `*` and `?` in resources.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

ACTION = re.compile(r"(\*|[a-z]+):(\*|[A-Z][a-zA-Z]*)")
ROLE = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_-]{0,126}[a-zA-Z0-9])?")
USER = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.@-]{0,126}[a-zA-Z0-9])?")


class BadRole(ValueError):
    """A role that is none; the text says what is wrong and what is wanted."""


class Effect(Enum):
    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True)
class Policy:
    """One statement. It speaks of an action when a pattern of each list fits."""

    effect: Effect
    actions: tuple[str, ...]
    resources: tuple[str, ...] = ("*",)

    def names(self, action: str) -> bool:
        return any(_fits(pattern, action) for pattern in self.actions)

    def reaches(self, resource: str) -> bool:
        return any(fnmatchcase(resource, pattern) for pattern in self.resources)


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of policies. `external` are names that an identity provider uses for it."""

    name: str
    description: str = ""
    policies: tuple[Policy, ...] = ()
    immutable: bool = False
    external: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether, and which role's word decided; empty when no role says anything of it."""

    allowed: bool
    role: str = ""


def judge(roles: Iterable[Role], action: str, resource: str = "") -> Verdict:
    """May somebody with these roles do this? Without a resource (a list, a read of many things) a policy of any
    resource allows, and only one of all resources denies."""
    allowed = ""
    for role in roles:
        for policy in role.policies:
            if not policy.names(action):
                continue
            if policy.effect is Effect.DENY:
                if policy.reaches(resource) if resource else "*" in policy.resources:
                    return Verdict(False, role.name)
            elif not resource or policy.reaches(resource):
                allowed = allowed or role.name
    return Verdict(bool(allowed), allowed)


def _fits(pattern: str, action: str) -> bool:
    area, _, verb = pattern.partition(":")
    wanted_area, _, wanted_verb = action.partition(":")
    return area in ("*", wanted_area) and verb in ("*", wanted_verb)


def from_json(value: Mapping[str, Any]) -> Role:
    """A role as administrators write it. Raises `BadRole`."""
    name = value.get("name")
    if not isinstance(name, str) or not ROLE.fullmatch(name):
        raise BadRole(f"{str(name)[:80]!r} is not a role's name: letters, digits, - and _")
    policies = value.get("policies", [])
    if not isinstance(policies, list):
        raise BadRole(f"role {name}: policies must be a list")
    return Role(
        name,
        str(value.get("description") or "")[:1000],
        tuple(_policy(name, each) for each in policies),
        external=_texts(name, "external_roles", value.get("external_roles") or []),
    )


def to_json(role: Role) -> dict[str, Any]:
    """The same back, with the keys that administrators know."""
    policies = [
        {"effect": p.effect.value, "actions": list(p.actions), "resources": list(p.resources)} for p in role.policies
    ]
    return {
        "name": role.name,
        "description": role.description,
        "policies": policies,
        "immutable": role.immutable,
        "sync_mode": "import",
        "external_roles": list(role.external),
    }


def _policy(role: str, value: Any) -> Policy:
    if not isinstance(value, dict):
        raise BadRole(f"role {role}: a policy is an object with effect, actions and resources")
    try:
        effect = Effect(value.get("effect", "Allow"))
    except ValueError:
        raise BadRole(f"role {role}: effect must be Allow or Deny, not {str(value.get('effect'))[:40]!r}") from None
    actions = _texts(role, "actions", value.get("actions") or [])
    for action in actions:
        if not ACTION.fullmatch(action):
            raise BadRole(f"role {role}: {action[:80]!r} is not an action; write for example workflow:Create or pool:*")
    if not actions:
        raise BadRole(f"role {role}: a policy names at least one action")
    return Policy(effect, actions, _texts(role, "resources", value.get("resources") or ["*"]))


def _texts(role: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and len(one) <= 256 for one in value):
        raise BadRole(f"role {role}: {key} must be a list of texts")
    return tuple(value)


def _allow(*actions: str, resources: tuple[str, ...] = ("*",)) -> Policy:
    return Policy(Effect.ALLOW, actions, resources)


PARTS = frozenset({"osmo-backend", "osmo-ctrl"})
"""Roles of parts of the platform: whoever has one of these alone is no person, and may not do what everybody may."""


def agent_of(backend: str) -> str:
    """Whose tokens those of a backend's agent are: a name that no person can have."""
    return f"backend:{backend}"


EVERYBODY = Role(
    "osmo-default",
    "what everybody has who is known",
    (_allow("system:*", "auth:*", "profile:*", "pool:List"),),
    immutable=True,
)
BUILT_IN: Mapping[str, Role] = {
    role.name: role
    for role in (
        EVERYBODY,
        Role(
            "osmo-admin",
            "everything but what only parts of the platform do",
            (_allow("*:*"), Policy(Effect.DENY, ("internal:*",))),
            immutable=True,
        ),
        Role(
            "osmo-user",
            "run workflows in the platform's own pool, keep data, credentials and apps",
            (
                _allow("workflow:Create", resources=("pool/default",)),
                _allow("workflow:Read", "workflow:Write", "workflow:Enter", "pool:*", "resources:*"),
                _allow("dataset:*", "credentials:*", "app:*"),
            ),
        ),
        Role(
            "osmo-viewer", "look, and change nothing", (_allow("workflow:Read", "pool:*", "resources:*", "app:Read"),)
        ),
        Role("osmo-backend", "an agent inside a registered cluster", (_allow("internal:Backend"),), immutable=True),
        Role("osmo-ctrl", "what runs beside a task", (_allow("internal:Task"),), immutable=True),
    )
}
"""Roles of a fresh platform. Those that are not immutable may be replaced by one of the same name."""
