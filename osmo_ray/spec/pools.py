"""What administrators say of pools: their platforms, defaults, limits and the rules that requests must keep.

The form that clients write and read is JSON (`from_json`, `to_json`); names of its fields are those of the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from osmo_ray.spec.quantity import to_bytes, to_seconds

OPERATORS = ("GT", "GE", "LT", "LE", "EQ")


class BadPool(ValueError):
    """A configuration that cannot be used: where and why, as one sentence."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`left` and `right` are texts with tokens such as `{{USER_CPU}}`; a request that breaks it is told `message`."""

    operator: str
    left: str
    right: str
    message: str


@dataclass(frozen=True, slots=True)
class PlatformSpec:
    """A kind of node of a pool, and what tasks there may do."""

    description: str = ""
    host_network: bool = False
    privileged: bool = False
    allowed_mounts: tuple[str, ...] = ()
    default_mounts: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[str | Rule, ...] = ()
    """Rules, or names of lists of them."""
    templates: tuple[str, ...] = ()
    """Names of pod templates that are laid over those of the pool."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool. Times are seconds, None for the platform's own; `platforms` are by name."""

    name: str
    description: str = ""
    maintenance: bool = False
    default_platform: str = ""
    platforms: Mapping[str, PlatformSpec] = field(default_factory=dict)
    default_exec_timeout: float | None = None
    max_exec_timeout: float | None = None
    default_queue_timeout: float | None = None
    max_queue_timeout: float | None = None
    exit_actions: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[str | Rule, ...] = ()
    templates: tuple[str, ...] = ()
    """Names of pod templates, each laid over the one before it."""
    topology: Mapping[str, str] = field(default_factory=dict)
    """Key -> label of a node, from coarse to fine."""
    backend: str = ""
    """Where its work runs, and `usual` the platform that is taken there for a task that names none; both are looked up,
    not written."""
    usual: str = ""

    def platform(self, name: str) -> PlatformSpec:
        return self.platforms.get(name, PlatformSpec())

    def variables_of(self, platform: str) -> Mapping[str, Any]:
        """The pool's with the platform's laid over them."""
        return {**self.variables, **self.platform(platform).variables}

    def rules_of(self, platform: str, lists: Mapping[str, tuple[Rule, ...]]) -> tuple[Rule, ...]:
        """The pool's rules, then the platform's. Raises BadPool for a list that is not there."""
        found: list[Rule] = []
        for rule in (*self.rules, *self.platform(platform).rules):
            if isinstance(rule, Rule):
                found.append(rule)
            elif rule in lists:
                found += lists[rule]
            else:
                raise BadPool(f"pool {self.name}: there is no resource validation {rule!r}")
        return tuple(found)


# -- the form in JSON


_MOST_TEMPLATE = 64 << 10


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Rule(_Model):
    operator: str
    left_operand: str
    right_operand: str
    assert_message: str

    @field_validator("operator")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in OPERATORS:
            raise ValueError(f"must be one of {', '.join(OPERATORS)}")
        return value


class _Platform(_Model):
    description: str = ""
    host_network_allowed: bool = False
    privileged_allowed: bool = False
    allowed_mounts: list[str] = []
    default_mounts: list[str] = []
    default_variables: dict[str, str | int | float | None] = {}
    resource_validations: list[str | _Rule] = []
    override_pod_template: list[str] = []


class _Topology(_Model):
    key: str
    label: str


class _Pool(_Model):
    name: str = ""
    description: str = ""
    enable_maintenance: bool = False
    default_platform: str | None = None
    platforms: dict[str, _Platform] = {}
    default_exec_timeout: str | float | None = None
    max_exec_timeout: str | float | None = None
    default_queue_timeout: str | float | None = None
    max_queue_timeout: str | float | None = None
    default_exit_actions: dict[str, str] = {}
    common_default_variables: dict[str, str | int | float | None] = {}
    common_resource_validations: list[str | _Rule] = []
    common_pod_template: list[str] = []
    topology_keys: list[_Topology] = []


class _Metadata(_Model):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Template(_Model):
    version: Literal["v1"] = Field("v1", alias="apiVersion")
    kind: Literal["Pod"] = "Pod"
    metadata: _Metadata = _Metadata()
    spec: dict[str, Any] = {}


class _Rules(_Model):
    rules: list[_Rule]


def from_json(name: str, value: object) -> PoolSpec:
    """A pool as it was written. Raises BadPool."""
    model: _Pool = _checked(_Pool, value, f"pool {name}")
    if model.name not in ("", name):
        raise BadPool(f"pool {name}: its `name` is {model.name!r}")
    made = PoolSpec(
        name,
        model.description,
        model.enable_maintenance,
        model.default_platform or "",
        {key: _platform(p) for key, p in model.platforms.items()},
        exit_actions={action.upper(): codes for action, codes in model.default_exit_actions.items()},
        variables=model.common_default_variables,
        rules=tuple(map(_rule, model.common_resource_validations)),
        templates=tuple(model.common_pod_template),
        topology={one.key: one.label for one in model.topology_keys},
    )
    for given in (made.variables, *(p.variables for p in made.platforms.values())):
        _fit(name, given)
    if made.default_platform and made.platforms and made.default_platform not in made.platforms:
        known = ", ".join(made.platforms)
        raise BadPool(f"pool {name}: default_platform {made.default_platform!r} is none of its platforms: {known}")
    return replace(
        made,
        default_exec_timeout=_seconds(name, "default_exec_timeout", model.default_exec_timeout),
        max_exec_timeout=_seconds(name, "max_exec_timeout", model.max_exec_timeout),
        default_queue_timeout=_seconds(name, "default_queue_timeout", model.default_queue_timeout),
        max_queue_timeout=_seconds(name, "max_queue_timeout", model.max_queue_timeout),
    )


def _fit(pool: str, variables: Mapping[str, Any]) -> None:
    """What a request is filled in with has to be what a request can say."""
    for key, read in (("USER_CPU", float), ("USER_GPU", float), ("USER_MEMORY", to_bytes), ("USER_STORAGE", to_bytes)):
        value = variables.get(key)
        try:
            if value is not None:
                int(read(str(value)))
        except (ValueError, OverflowError) as error:
            raise BadPool(f"pool {pool}: the variable {key}: {error}") from None


def rules_from_json(name: str, value: object) -> tuple[Rule, ...]:
    """A named list of rules. Raises BadPool."""
    model: _Rules = _checked(_Rules, {"rules": value}, f"resource validation {name}")
    return tuple(map(_whole, model.rules))


def template_from_json(name: str, value: object) -> Mapping[str, Any]:
    """A part of a pod that every pod of a pool is merged over. Raises BadPool."""
    model: _Template = _checked(_Template, value, f"pod template {name}")
    for kind in ("containers", "initContainers", "volumes"):
        parts = model.spec.get(kind, [])
        if not isinstance(parts, list) or not all(
            isinstance(p, dict) and isinstance(p.get("name"), str) for p in parts
        ):
            raise BadPool(f"pod template {name}: spec.{kind} must be a list of things with a name")
    if len(str(value)) > _MOST_TEMPLATE:
        raise BadPool(f"pod template {name}: it is larger than {_MOST_TEMPLATE >> 10} KiB")
    return dict(cast("Mapping[str, Any]", value))


def _platform(model: _Platform) -> PlatformSpec:
    return PlatformSpec(
        model.description,
        model.host_network_allowed,
        model.privileged_allowed,
        tuple(model.allowed_mounts),
        tuple(model.default_mounts),
        model.default_variables,
        tuple(map(_rule, model.resource_validations)),
        tuple(model.override_pod_template),
    )


def _rule(rule: str | _Rule) -> str | Rule:
    return rule if isinstance(rule, str) else _whole(rule)


def _whole(rule: _Rule) -> Rule:
    return Rule(rule.operator, rule.left_operand, rule.right_operand, rule.assert_message)


def _seconds(pool: str, key: str, value: str | float | None) -> float | None:
    if value is None or value == "":
        return None
    try:
        return to_seconds(value) or None
    except ValueError as error:
        raise BadPool(f"pool {pool}: {key}: {error}") from None


def _checked(model: type[Any], value: object, what: str) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # The deepest: of a choice between a name and a rule, what is wrong with the rule.
        first = max(error.errors(include_url=False), key=lambda e: len(e["loc"]))
        place = ".".join(str(step) for step in first["loc"] if not str(step).startswith("_"))
        raise BadPool(f"{what}: {place}: {first['msg']}" if place else f"{what}: {first['msg']}") from None
