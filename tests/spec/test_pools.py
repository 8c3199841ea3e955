"""Pools as they are configured, and requests held against them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from osmo_ray.spec import demands, pools
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.demands import Ground, holds
from osmo_ray.spec.model import ResourceSpec, WorkflowSpec
from osmo_ray.spec.pools import BadPool, Rule
from osmo_ray.spec.reader import read

GIB = 1 << 30
SMALL = {"operator": "LE", "left_operand": "{{USER_CPU}}", "right_operand": "4", "assert_message": "at most 4 cores"}
FITS = {
    "operator": "LE",
    "left_operand": "{{USER_MEMORY}}",
    "right_operand": "{{K8_MEMORY}}",
    "assert_message": "{{USER_MEMORY}} of memory are more than {{K8_MEMORY}}",
}
POOL = {
    "description": "for tests",
    "default_platform": "big",
    "platforms": {
        "big": {"host_network_allowed": True, "allowed_mounts": ["/data"], "default_variables": {"USER_MEMORY": "2Gi"}},
        "edge": {"resource_validations": [SMALL]},
    },
    "default_exec_timeout": "2h",
    "common_default_variables": {"USER_CPU": 2, "USER_MEMORY": "1Gi", "LIMIT": 8},
    "common_resource_validations": ["memory"],
    "default_exit_actions": {"reschedule": "3006"},
}
LISTS = {"memory": pools.rules_from_json("memory", [FITS])}


def workflow(resource: str = "", task: str = "") -> WorkflowSpec:
    lines = f"  resources:\n    default: {{{resource}}}\n" if resource else ""
    return read(f"workflow:\n  name: x\n{lines}  tasks:\n  - name: a\n    image: i\n    command: [c]\n    {task}\n")


def node(name: str, memory: int, platform: str = "big") -> NodeReport:
    return NodeReport(name, "", 8.0, memory, 0, 100 * GIB, platform=platform)


def told(spec: WorkflowSpec, *nodes: NodeReport, value: dict[str, Any] | None = None) -> list[str]:
    pool = pools.from_json("p", POOL if value is None else value)
    rules = {name: pool.rules_of(name, LISTS) for name in (*pool.platforms, "")}
    ground = Ground(pool, frozenset(pool.platforms), rules, nodes)
    found = demands.check(demands.with_defaults(spec, pool), ground, lambda task: ("workflow", "tasks", 0))
    return [f"{'.'.join(map(str, f.path))}: {f.message} {f.hint}".strip() for f in found]


def test_defaults_of_pool_and_platform_are_put_in() -> None:
    pool = pools.from_json("p", POOL)
    assert pool.default_exec_timeout == 7200.0
    filled = demands.with_defaults(workflow(), pool)
    assert filled.resources["default"] == ResourceSpec(cpu=2, memory="2Gi", platform="big")
    assert filled.task("a").exit_actions == {"RESCHEDULE": "3006"}
    own = demands.with_defaults(workflow("cpu: 1, memory: 3Gi, platform: edge", "exitActions: {FAIL: 3}"), pool)
    assert own.resources["default"] == ResourceSpec(cpu=1, memory="3Gi", platform="edge")
    assert own.task("a").exit_actions == {"FAIL": "3"}


def test_what_fits_is_told_nothing() -> None:
    assert (
        told(workflow("memory: 3Gi", "hostNetwork: true\n    volumeMounts: ['/data:/mnt']"), node("n", 4 * GIB)) == []
    )


@pytest.mark.parametrize(
    ("resource", "task", "expected"),
    [
        ("platform: bg", "", "workflow.resources.default.platform: pool 'p' has no platform 'bg' did you mean 'big'?"),
        ("", "privileged: true", "workflow.tasks.0.privileged: platform 'big' of pool 'p' does not allow privileged"),
        ("platform: edge", "hostNetwork: true", "workflow.tasks.0.hostNetwork: platform 'edge' of pool 'p' does not"),
        ("", "volumeMounts: ['/etc']", "workflow.tasks.0.volumeMounts.0: platform 'big' of pool 'p' does not allow"),
        ("platform: edge, cpu: 5", "", "workflow.resources.default: at most 4 cores"),
        ("memory: 9Gi", "", "n: 9Gi of memory are more than 4194304Ki; m: 9Gi of memory are more than 2097152Ki"),
    ],
)
def test_what_does_not_is_told_where_it_stands(resource: str, task: str, expected: str) -> None:
    nodes = [node("n", 4 * GIB), node("m", 2 * GIB), node("e", 64 * GIB, "edge")]
    found = told(workflow(resource, task), *nodes)
    assert len(found) == 1
    assert expected in found[0]


def test_a_platform_without_nodes_and_a_pool_without_platform_say_so() -> None:
    assert "has no nodes now" in told(workflow("platform: edge, cpu: 1"))[0]
    nameless = {**POOL, "default_platform": None, "common_resource_validations": []}
    assert "names no platform" in told(workflow(), value=nameless)[0]


def test_topology_keys_are_the_pools() -> None:
    keys = {**POOL, "topology_keys": [{"key": "zone", "label": "topology.kubernetes.io/zone"}]}
    assert told(workflow("topology: [{key: zone}]"), node("n", 4 * GIB), value=keys) == []
    (message,) = told(workflow("topology: [{key: zoen}]"), node("n", 4 * GIB), value=keys)
    assert "default.topology.0.key: pool 'p' has no topology key 'zoen' did you mean 'zone'?" in message


def test_a_group_beyond_the_guarantee_never_starts_so_it_is_refused() -> None:
    pool = replace(pools.from_json("p", POOL), rules=())
    ground = Ground(pool, frozenset(pool.platforms), {}, (), guarantee=3.0)
    spec = demands.with_defaults(workflow("gpu: 4"), pool)
    (found,) = demands.check(spec, ground, lambda task: ("workflow", "tasks", 0))
    assert "asks for 4 GPUs, and pool 'p' is guaranteed 3" in found.message and "--priority LOW" in found.hint
    assert not list(demands.check(spec, replace(ground, guarantee=4.0), lambda task: ()))


def test_excluded_nodes_do_not_count() -> None:
    spec = workflow("memory: 3Gi, nodesExcluded: [n]")
    assert "no node of platform" in told(spec, node("n", 4 * GIB), node("m", 2 * GIB))[0]


@pytest.mark.parametrize(
    ("operator", "left", "right", "kept"),
    [
        ("LE", "1Gi", "1048576Ki", True), ("LT", "1Gi", "1024Mi", False), ("GT", "2", "1.5", True),
        ("GE", "10", "9", True), ("EQ", "a", "a", True), ("EQ", "1Gi", "x", False), ("LT", "b", "a", False),
        ("LE", "{{USER_CPU}}", "{{LIMIT}}", True), ("EQ", "{{ USER_MEMORY_Gi }}", "2", True),
        ("EQ", "{{USER_MEMORY_UNIT}}", "Gi", True), ("EQ", "{{NOBODY}}", "{{NOBODY}}", True),
    ],
)  # fmt: skip
def test_operands_are_amounts_numbers_or_texts(operator: str, left: str, right: str, kept: bool) -> None:
    values = {"USER_CPU": 2.0, "LIMIT": 8, **demands._tokens("USER", {"MEMORY": "2Gi"})}
    assert holds(Rule(operator, left, right, ""), values) is kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"platfroms": {}}, "platfroms"),
        ({"default_platform": "no"}, "is none of its platforms"),
        ({"max_exec_timeout": "soon"}, "max_exec_timeout"),
        ({"common_resource_validations": [{**SMALL, "operator": "NE"}]}, "must be one of GT"),
        ({"common_default_variables": {"USER_CPU": "many"}}, "the variable USER_CPU"),
        ({"platforms": {"big": {"default_variables": {"USER_MEMORY": "4GB"}}}}, "the variable USER_MEMORY"),
        ({"name": "other"}, "its `name` is 'other'"),
    ],
)
def test_a_pool_that_cannot_be_says_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadPool, match="pool p") as caught:
        pools.from_json("p", {**POOL, **change})
    assert message in str(caught.value)


def test_a_list_of_rules_that_is_not_there() -> None:
    with pytest.raises(BadPool, match="no resource validation 'memory'"):
        pools.from_json("p", POOL).rules_of("big", {})
    assert replace(pools.from_json("p", POOL), rules=()).rules_of("big", {}) == ()
