"""Roles: what a policy speaks of, that deny wins, and what is no role."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.spec.roles import BUILT_IN, BadRole, Effect, Policy, Role, Verdict, from_json, judge, to_json


def role(*policies: dict[str, Any], name: str = "r") -> Role:
    return from_json({"name": name, "policies": list(policies)})


ACTIONS = st.sampled_from(["workflow:Read", "workflow:Create", "pool:List", "user:Assign"])
PATTERNS = st.sampled_from(["*:*", "workflow:*", "*:Read", "workflow:Create", "pool:List"])
RESOURCES = st.sampled_from(["*", "pool/*", "pool/a", "pool/b*"])
POLICIES = st.builds(
    Policy,
    st.sampled_from(Effect),
    st.lists(PATTERNS, min_size=1).map(tuple),
    st.lists(RESOURCES, min_size=1).map(tuple),
)
ROLES = st.lists(st.builds(Role, st.just("r"), st.just(""), st.lists(POLICIES, max_size=3).map(tuple)), max_size=4)
ASKED = st.sampled_from(["", "pool/a", "pool/b1"])


@given(ROLES, ACTIONS, ASKED)
def test_more_denials_never_allow_more(roles: list[Role], action: str, resource: str):
    denial = Role("no", policies=(Policy(Effect.DENY, (action,)),))
    assert not judge([*roles, denial], action, resource).allowed
    assert not judge([denial, *roles], action, resource).allowed


@given(ROLES, ACTIONS, ASKED)
def test_the_order_of_roles_does_not_matter(roles: list[Role], action: str, resource: str):
    assert judge(roles, action, resource).allowed == judge(roles[::-1], action, resource).allowed


@given(ROLES, ACTIONS, ASKED)
def test_what_nobody_allows_is_refused(roles: list[Role], action: str, resource: str):
    bare = [Role(r.name, policies=tuple(p for p in r.policies if p.effect is Effect.DENY)) for r in roles]
    assert not judge(bare, action, resource).allowed


@given(st.builds(Role, st.just("r"), st.text(max_size=20), st.lists(POLICIES, max_size=3).map(tuple)))
def test_a_role_reads_as_it_was_written(one: Role):
    assert from_json(to_json(one)) == one


def test_a_resource_narrows():
    one = role({"actions": ["workflow:Create"], "resources": ["pool/train-*"]})
    assert judge([one], "workflow:Create", "pool/train-1") == Verdict(True, "r")
    assert judge([one], "workflow:Create", "pool/other") == Verdict(False)
    assert judge([one], "workflow:Create").allowed, "of some pool"
    no = role({"effect": "Deny", "actions": ["workflow:*"], "resources": ["pool/train-2"]}, name="no")
    assert judge([one, no], "workflow:Create", "pool/train-2") == Verdict(False, "no")
    assert judge([one, no], "workflow:Create", "pool/train-1").allowed and judge([one, no], "workflow:Create").allowed


def test_an_administrator_is_no_part_of_the_platform():
    admin = BUILT_IN["osmo-admin"]
    assert judge([admin], "user:Delete").allowed
    assert judge([admin], "internal:Task") == Verdict(False, "osmo-admin")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({}, "not a role's name"),
        ({"name": "a b"}, "not a role's name"),
        ({"name": "r", "policies": {}}, "must be a list"),
        ({"name": "r", "policies": ["x"]}, "is an object"),
        ({"name": "r", "policies": [{"effect": "Maybe", "actions": ["a:B"]}]}, "Allow or Deny"),
        ({"name": "r", "policies": [{"actions": ["workflow"]}]}, "is not an action"),
        ({"name": "r", "policies": [{"actions": []}]}, "at least one action"),
        ({"name": "r", "policies": [{"actions": ["a:B"], "resources": "pool/x"}]}, "list of texts"),
    ],
)
def test_what_is_no_role(value: dict[str, Any], told: str):
    with pytest.raises(BadRole, match=told):
        from_json(value)
