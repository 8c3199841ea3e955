"""What a workflow asks for, held against the pool that it goes to: defaults put in, and every rule of the pool.

A rule's operand is a text with tokens: `{{USER_CPU}}`, `{{USER_MEMORY}}` and so on are the request's, `{{K8_CPU}}` and
so on a node's, everything else a variable of the pool. Operands that are amounts are compared as amounts, numbers as
numbers, anything else as texts. A rule that names a node must hold on one node at least, together with all others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.document import Path, suggest
from osmo_ray.spec.findings import Finding
from osmo_ray.spec.model import GroupSpec, ResourceSpec, TaskSpec, WorkflowSpec
from osmo_ray.spec.pools import PlatformSpec, PoolSpec, Rule
from osmo_ray.spec.quantity import to_bytes

_TOKEN = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_AMOUNT = re.compile(r"\d+(\.\d+)?([TGMK]i?B?|B|m)")
_UNITS = {"Ti": 1 << 40, "Gi": 1 << 30, "Mi": 1 << 20, "Ki": 1 << 10, "B": 1, "m": 0.001}
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "EQ": lambda a, b: a == b,
}
_AMOUNTS = ("MEMORY", "STORAGE")


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a workflow is to run: the pool, the platforms that it has, the rules of each, the nodes that are known."""

    pool: PoolSpec
    platforms: frozenset[str]
    rules: Mapping[str, tuple[Rule, ...]]
    nodes: Sequence[NodeReport] = ()
    """Of this pool's backend."""
    guarantee: float | None = None
    """GPUs that work of this priority cannot exceed in one group; None for no limit."""


def with_defaults(spec: WorkflowSpec, pool: PoolSpec) -> WorkflowSpec:
    """The workflow with the pool's defaults where it says nothing: platform, amounts, exit actions."""
    resources = {name: _filled(one, pool) for name, one in spec.resources.items()}
    if not pool.exit_actions:
        return replace(spec, resources=resources)
    groups = tuple(
        replace(g, tasks=tuple(replace(t, exit_actions=_actions(t, pool)) for t in g.tasks)) for g in spec.groups
    )
    return replace(spec, resources=resources, groups=groups)


def _filled(one: ResourceSpec, pool: PoolSpec) -> ResourceSpec:
    platform = one.platform or pool.default_platform or None
    given = pool.variables_of(platform or "")

    def text(name: str) -> str | None:
        return None if given.get(name) is None else str(given[name])

    def whole(name: str) -> int | None:
        return None if given.get(name) is None else int(float(given[name]))

    return replace(
        one,
        platform=platform,
        cpu=whole("USER_CPU") if one.cpu is None else one.cpu,
        gpu=whole("USER_GPU") if one.gpu is None else one.gpu,
        memory=one.memory or text("USER_MEMORY"),
        storage=one.storage or text("USER_STORAGE"),
    )


def _actions(task: TaskSpec, pool: PoolSpec) -> Mapping[str, str]:
    """A task's own actions come first; the pool's are for codes that it says nothing of, and so a later answer."""
    return task.exit_actions or pool.exit_actions


def check(spec: WorkflowSpec, ground: Ground, where: Callable[[TaskSpec], Path]) -> Iterator[Finding]:
    """Everything that the pool refuses. `where` is the place of a task in the file."""
    for name, one in spec.resources.items():
        yield from _platform(("workflow", "resources", name), one, ground)
        yield from _topology(("workflow", "resources", name, "topology"), one, ground)
    told: set[tuple[str, str]] = set()
    for group in spec.groups:
        yield from _guarantee(group, spec, ground, where)
        for task in group.tasks:
            one = spec.resources.get(task.resource, ResourceSpec())
            rights = ground.pool.platform(one.platform or "")
            yield from _rights(where(task), task, rights, one.platform or "", ground.pool.name)
            if (task.resource, one.platform or "") not in told:
                told.add((task.resource, one.platform or ""))
                yield from _rules(("workflow", "resources", task.resource), one, ground)


def _platform(at: Path, one: ResourceSpec, ground: Ground) -> Iterator[Finding]:
    pool = ground.pool.name
    if one.platform is None:
        if not ground.platforms:
            return
        hint = f"platforms of the pool: {', '.join(sorted(ground.platforms))}"
        yield Finding(at, f"names no platform, and pool {pool!r} has no default one", hint, resource=True)
    elif ground.platforms and one.platform not in ground.platforms:
        hint = suggest(one.platform, ground.platforms) or f"platforms: {', '.join(sorted(ground.platforms))}"
        yield Finding((*at, "platform"), f"pool {pool!r} has no platform {one.platform!r}", hint, resource=True)


def _topology(at: Path, one: ResourceSpec, ground: Ground) -> Iterator[Finding]:
    known = ground.pool.topology
    for index, wanted in enumerate(one.topology):
        if wanted.key not in known:
            hint = suggest(wanted.key, known) or f"keys of the pool: {', '.join(known) or 'none'}"
            message = f"pool {ground.pool.name!r} has no topology key {wanted.key!r}"
            yield Finding((*at, index, "key"), message, hint, resource=True)


def _guarantee(
    group: GroupSpec, spec: WorkflowSpec, ground: Ground, where: Callable[[TaskSpec], Path]
) -> Iterator[Finding]:
    """Work that is never asked to give way stays within what the pool is guaranteed, so more than that never starts."""
    if ground.guarantee is None:
        return
    gpus = sum(spec.resources.get(task.resource, ResourceSpec()).gpu or 0 for task in group.tasks)
    if gpus > ground.guarantee:
        message = f"group {group.name!r} asks for {gpus} GPUs, and pool {ground.pool.name!r} is guaranteed "
        hint = "submit it with --priority LOW: it may then borrow, and be preempted"
        yield Finding(where(group.tasks[0]), f"{message}{ground.guarantee:g}", hint, resource=True)


def _rights(at: Path, task: TaskSpec, rights: PlatformSpec, platform: str, pool: str) -> Iterator[Finding]:
    here = f"platform {platform or 'of no name'!r} of pool {pool!r}"
    if task.host_network and not rights.host_network:
        hint = "leave it out, or ask for another platform"
        yield Finding((*at, "hostNetwork"), f"{here} does not allow the host's network", hint, resource=True)
    if task.privileged and not rights.privileged:
        hint = "leave it out, or ask for another platform"
        yield Finding((*at, "privileged"), f"{here} does not allow privileged tasks", hint, resource=True)
    for index, mount in enumerate(task.volume_mounts):
        source = mount.partition(":")[0]
        if source not in rights.allowed_mounts:
            allowed = ", ".join(rights.allowed_mounts) or "none"
            place = (*at, "volumeMounts", index)
            yield Finding(place, f"{here} does not allow mounting {source!r}", f"allowed: {allowed}", resource=True)


# -- rules


def _rules(at: Path, one: ResourceSpec, ground: Ground) -> Iterator[Finding]:
    rules = ground.rules.get(one.platform or "", ())
    if not rules:
        return
    user = {**ground.pool.variables_of(one.platform or ""), **_tokens("USER", _asked(one))}
    user["USER_EXCLUDED_NODES"] = ",".join(one.nodes_excluded)
    of_nodes = [rule for rule in rules if "K8_" in rule.left + rule.right]
    for rule in rules:
        if rule not in of_nodes and not holds(rule, user):
            yield Finding(at, rendered(rule.message, user), resource=True)
    if of_nodes:
        yield from _on_nodes(at, one, ground, of_nodes, user)


def _on_nodes(
    at: Path, one: ResourceSpec, ground: Ground, rules: Sequence[Rule], user: Mapping[str, Any]
) -> Iterator[Finding]:
    nodes = [n for n in ground.nodes if n.platform in (one.platform, "") and n.name not in one.nodes_excluded]
    if not nodes:
        told = (
            f"platform {one.platform!r} of pool {ground.pool.name!r} has no nodes now, so its rules cannot be checked"
        )
        yield Finding(at, told, "osmo resource list shows the nodes", resource=True)
        return
    why: dict[str, str] = {}
    for node in nodes:
        values = {**user, **_tokens("K8", _has(node))}
        broken = next((rule for rule in rules if not holds(rule, values)), None)
        if broken is None:
            return
        why[node.name] = rendered(broken.message, values)
    table = "; ".join(f"{name}: {text}" for name, text in list(why.items())[:5])
    more = f"; and {len(why) - 5} more" if len(why) > 5 else ""
    yield Finding(at, f"no node of platform {one.platform!r} can give this", table + more, resource=True)


def _asked(one: ResourceSpec) -> Mapping[str, Any]:
    """What the request says, else what a task gets that says nothing."""
    return {
        "CPU": 1 if one.cpu is None else one.cpu,
        "GPU": one.gpu or 0,
        "MEMORY": one.memory or "1Gi",
        "STORAGE": one.storage or "1Gi",
    }


def _has(node: NodeReport) -> Mapping[str, Any]:
    amounts = {"MEMORY": f"{node.memory >> 10}Ki", "STORAGE": f"{node.storage >> 10}Ki"}
    return {"CPU": node.cpu, "GPU": node.gpu, **amounts}


def _tokens(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`USER_CPU` and so on; of amounts also `USER_MEMORY_Gi`, `USER_MEMORY_VAL`, `USER_MEMORY_UNIT`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[f"{prefix}_{name}"] = float(value) if name == "CPU" else value
        if name not in _AMOUNTS:
            continue
        size = to_bytes(str(value))
        match = re.fullmatch(r"([\d.]+)(\D*)", str(value))
        found[f"{prefix}_{name}_VAL"] = float(match[1]) if match else size
        found[f"{prefix}_{name}_UNIT"] = (match[2] if match else "") or "B"
        found.update({f"{prefix}_{name}_{unit}": size / factor for unit, factor in _UNITS.items()})
    return found


def rendered(text: str, values: Mapping[str, Any]) -> str:
    """A text with its tokens filled in; one that nobody knows stays as it is."""

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1])
        return match[0] if found is None else f"{found:g}" if isinstance(found, float) else str(found)

    return _TOKEN.sub(value, text)


def holds(rule: Rule, values: Mapping[str, Any]) -> bool:
    """Whether a rule is kept. Of two operands of different kinds neither is larger."""
    left, right = (_operand(rendered(text, values)) for text in (rule.left, rule.right))
    if isinstance(left, str) != isinstance(right, str):
        left, right = str(left), str(right)
    return _COMPARE[rule.operator](left, right)


def _operand(text: str) -> float | str:
    text = text.strip()
    if _AMOUNT.fullmatch(text):
        try:
            return float(to_bytes(text) >> 10)
        except ValueError:
            return text
    try:
        return float(text)
    except ValueError:
        return text
