"""What KAI is given: gangs, sub-groups, queues; no cluster needed."""

from __future__ import annotations

from dataclasses import replace

from osmo_ray.backends.kubernetes import kai
from osmo_ray.spec.attempt import Delegated, GroupPlan, Near
from tests.backends.contract import attempt, group

LABELS = {"osmo-ray/owner": "o"}


def gang(plan: GroupPlan, told: Delegated):
    return kai.gang_of(plan, told, "osmo", LABELS)["spec"]


def test_a_group_is_all_or_nothing_in_the_queue_of_its_pool():
    one, two = attempt("*", group="g"), attempt("*", group="g")
    plan, told = group(one, two), Delegated("train", "LOW")
    made = kai.gang_of(plan, told, "osmo", LABELS)
    assert made["metadata"] == {"name": "osmo-g", "labels": LABELS}
    assert made["spec"] == {
        "minMember": 2,
        "queue": "osmo-pool-osmo-train",
        "priorityClassName": "osmo-low",
        "markUnschedulable": True,
    }
    assert gang(replace(plan, attempts=(one,)), told)["minMember"] == 1, "who has ended is not waited for"
    assert kai.group_in(made["metadata"]["name"]) == "g"


def told_of(plan: GroupPlan, priority: str, *parts: Near) -> Delegated:
    platforms = {one.key: "default" for one in plan.attempts}
    return Delegated("train", priority, levels=("zone", "rack"), parts=parts, platforms=platforms)


def test_a_wish_that_all_share_is_the_gangs_own_also_when_some_have_ended():
    one, two = attempt("*", group="g"), attempt("*", group="g")
    plan = group(one, two)
    told = told_of(plan, "HIGH", Near("rack=default", (one.key, two.key), required="rack"))
    for some in (plan, replace(plan, attempts=(two,))):
        made = gang(some, told)
        assert made["topologyConstraint"] == {
            "topology": "osmo-pool-osmo-train-topology",
            "requiredTopologyLevel": "rack",
        }
        assert "subGroups" not in made
        assert kai.subgroup(told, two.key) == ""


def test_parts_are_sub_groups_and_keep_their_names_while_tasks_end():
    a, b, c, d = (attempt("*", group="g") for _ in range(4))
    plan = group(a, b, c, d)
    zone = Near("zone=Z 1", (c.key,), "zone", parts=(Near("rack=one", (a.key, b.key), preferred="rack"),))
    told = told_of(plan, "NORMAL", zone)
    named = {one["name"]: one for one in gang(plan, told)["subGroups"]}
    assert list(named) == ["zone.z.1", "zone.z.1.own", "zone.z.1.rack.one", "zone.z.1.rack.one.own", "rest"]
    assert named["zone.z.1"]["topologyConstraint"]["requiredTopologyLevel"] == "zone"
    assert named["zone.z.1.rack.one"]["topologyConstraint"]["preferredTopologyLevel"] == "rack"
    assert named["zone.z.1.rack.one"]["parent"] == "zone.z.1"
    assert {n: one.get("minMember") for n, one in named.items() if "minMember" in one} == {
        "zone.z.1.own": 1,
        "zone.z.1.rack.one.own": 2,
        "rest": 1,
    }
    homes = ((a, "zone.z.1.rack.one.own"), (b, "zone.z.1.rack.one.own"), (c, "zone.z.1.own"), (d, "rest"))
    for one, name in homes:
        pod = {"metadata": {"labels": {}, "annotations": {}}, "spec": {}}
        kai.on_pod(pod, plan, told, one.key, "osmo")
        assert pod["metadata"]["labels"][kai.SUBGROUP] == name
        assert pod["spec"] == {"schedulerName": "kai-scheduler", "priorityClassName": "osmo-normal"}
        assert pod["metadata"]["annotations"][kai.GANG] == "osmo-g"
    later = {one["name"]: one for one in gang(replace(plan, attempts=(b,)), told)["subGroups"]}
    assert list(later) == ["zone.z.1", "zone.z.1.rack.one", "zone.z.1.rack.one.own"]
    assert later["zone.z.1.rack.one.own"]["minMember"] == 1


def test_an_affinity_has_the_platforms_labels_and_no_excluded_node():
    assert kai.anywhere_but((), {}) == {}
    made = kai.anywhere_but(("n1", "n2"), {"gpu": "a100"})
    (term,) = made["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "gpu", "operator": "In", "values": ["a100"]}]
    assert [one["values"] for one in term["matchFields"]] == [["n1"], ["n2"]]


def test_a_queue_has_the_share_of_its_pool():
    made = kai.queue_of("osmo", "train", (2.0, 8.0, 3.0), LABELS)
    assert made["metadata"]["name"] == "osmo-pool-osmo-train"
    assert made["spec"]["parentQueue"] == kai.top_of("osmo", LABELS)["metadata"]["name"]
    assert made["spec"]["resources"]["gpu"] == {"quota": 2.0, "limit": 8.0, "overQuotaWeight": 3.0}
