"""The quota file: what it says, where it is wrong, and that a bad change takes nothing away."""

from __future__ import annotations

from pathlib import Path

import pytest

from osmo_ray.providers.quota import QuotaError, QuotaQueue, QuotaShard, YamlQuota, parse

GOOD = """
queues:
  - name: all
  - name: team
    parent: all
    priority: 120
    gpu: {quota: 2, limit: 4.5, weight: 3}
    memory: {quota: 1000000000}
    reclaim_min_runtime: 60
pools:
  default: team
"""


def test_a_good_file_says_queues_and_pools():
    found = parse(GOOD, "q.yaml", "v1")
    assert found.queues == (
        QuotaQueue("all"),
        QuotaQueue("team", "all", 120, (2.0, 4.5, 3.0), memory=(1e9, -1.0, 1.0), reclaim_min_runtime=60.0),
    )
    assert (found.resolve("default"), found.resolve("other")) == ("team", "other")
    assert not found.stale


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "1:1", "empty"),
        ("queues: [", "1:10", "not valid YAML"),
        ("queues: []", "1:9", "at least one"),
        ("queue: []", "1:1", "no field 'queue'"),
        ("queues:\n  - parent: a", "2:5", "no `name`"),
        ("queues:\n  - {name: a, gpu: {quota: -2}}", "2:28", "-1 for unlimited"),
        ("queues:\n  - {name: a, gpu: {quota: yes}}", "2:28", "finite number"),
        ("queues:\n  - {name: a, gpu: {limit: .inf}}", "2:28", "finite number"),
        ("queues:\n  - {name: a, cpu: {weigth: 2}}", "2:21", "no field 'weigth'"),
        ("queues:\n  - {name: a, priority: 1.5}", "2:25", "whole number"),
        ("queues:\n  - {name: a}\n  - {name: a}", "3:5", "twice"),
        ("queues:\n  - {name: a, parent: b}", "2:5", "add it to `queues`"),
        ("queues:\n  - {name: a, parent: a}", "2:5", "below itself"),
        ("queues:\n  - {name: a}\npools: {p: b}", "3:12", "have: a"),
        ("queues:\n  - {name: a}\n  - {name: b, parent: a}\npools: {p: a}", "4:12", "have: b"),
        ("queues:\n  - &x {name: a}\n  - *x", "3:5", "write the value out"),
    ],
)
def test_a_bad_file_says_where_and_what_to_do(text: str, where: str, what: str):
    with pytest.raises(QuotaError) as raised:
        parse(text, "q.yaml")
    assert str(raised.value).startswith(f"q.yaml:{where}: ")
    assert what in str(raised.value)


def test_a_changed_file_is_read_again_and_a_bad_one_leaves_the_last_good_answer_stale(tmp_path: Path):
    path = tmp_path / "quota.yaml"
    quota = YamlQuota(path)
    assert quota.snapshot() is None
    path.write_text(GOOD)
    first = quota.snapshot()
    assert first is not None and quota.snapshot() is first
    path.write_text(GOOD + "\nmore: 1\n")
    stale = quota.snapshot()
    assert stale is not None and stale.stale and "no field 'more'" in stale.error == quota.error
    assert stale.queues == first.queues
    path.write_text(GOOD.replace("quota: 2,", "quota: 33,"))
    again = quota.snapshot()
    assert again is not None and not again.stale and again.queues[1].gpu[0] == 33 and not quota.error
    path.unlink()
    assert quota.snapshot() is None


def test_a_first_file_that_is_bad_gives_no_quotas_but_the_error(tmp_path: Path):
    path = tmp_path / "quota.yaml"
    path.write_text("queues: 3")
    quota = YamlQuota(path)
    assert quota.snapshot() is None
    assert f"{path}:1:9" in quota.error


SHARDS = """
shards:
  - name: big
    nodes: {gpu: a100, zone: "1"}
    placement: {gpu: spread}
placement: {cpu: spread}
queues:
  - {name: all, shard: big}
  - {name: one, parent: all}
  - {name: rest}
"""


def test_shards_have_nodes_and_whole_trees_of_queues():
    found = parse(SHARDS, "q")
    assert found.shards == (
        QuotaShard("big", {"gpu": "a100", "zone": "1"}, (True, False)),
        QuotaShard("", {}, (False, True)),
    )
    assert {q.name: q.shard for q in found.queues} == {"all": "big", "one": "big", "rest": ""}
    assert parse("queues: [{name: a}]", "q").shards == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shard: big", "shard: bog", "q:8:5: queue 'all' is of shard 'bog'"),
        ("parent: all", "parent: all, shard: other", "'all' above it is of big; shards: big"),
        ("{gpu: spread}", "{gpu: wide}", "q:5:22: `placement.gpu` is 'wide'; write binpack or spread"),
        ('{gpu: a100, zone: "1"}', "{}", "`nodes` names no label"),
        ("    nodes:", "    node:", "a shard has no field 'node'"),
        ("placement: {cpu: spread}", "shards: 3", "'shards' is there twice"),
    ],
)
def test_bad_shards(old: str, new: str, said: str):
    with pytest.raises(QuotaError) as told:
        parse(SHARDS.replace(old, new, 1), "q")
    assert said in str(told.value)
