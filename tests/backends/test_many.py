"""Several backends as one: names, ways, and a cluster that does not answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.backends.many import ManyBackends
from osmo_ray.backends.protocol import BackendUnavailable, PartlyUnavailable
from osmo_ray.spec.attempt import AttemptPlan, NodeReport, Phase
from tests.backends.contract import BackendContract, attempt, group
from tests.backends.inside_contract import InsideContract
from tests.backends.test_fake import script


class TestManyBackends(BackendContract, InsideContract):
    """One backend alone looks as it would without this room."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[ManyBackends]:
        made = ManyBackends(FakeBackend(script=script))
        await made.watch(0.01)
        yield made
        await made.close()


class TestCluster(BackendContract, InsideContract):
    """And so does a registered cluster."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[ManyBackends]:
        made = ManyBackends(FakeBackend(nodes=[]))
        made._members[""].backend.nodes = []  # type: ignore[attr-defined]
        made.add("lab", FakeBackend("lab", script=script))
        await made.capacity()
        await made.watch(0.01)
        yield made
        await made.close()


class Two:
    """The platform's own backend, and a cluster with a node of the same name."""

    def __init__(self) -> None:
        node = NodeReport("n1", "10.0.0.1", 4.0, 1 << 30, 0, 1 << 30, platform="a100")
        self.own = FakeBackend("local", script=lambda _: Ending(float("inf")))
        self.lab = FakeBackend("lab", [node], script=lambda _: Ending(float("inf")))
        self.many = ManyBackends(self.own)
        self.many.add("lab", self.lab)


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    made = Two()
    await made.many.capacity()
    yield made
    await made.many.close()


def there() -> AttemptPlan:
    return attempt("lab/n1")


async def test_nodes_and_platforms_of_a_cluster_carry_its_name(two: Two):
    nodes = {n.name: n for n in await two.many.capacity()}
    assert set(nodes) == {"n1", "lab/n1"}
    assert (nodes["lab/n1"].platform, nodes["lab/n1"].backend, nodes["n1"].backend) == ("lab/a100", "lab", "")


async def test_a_plan_goes_where_its_nodes_are(two: Two):
    here, away = attempt("n1"), there()
    await two.many.apply(1, [group(here), group(away)])
    while {len(two.own.started), len(two.lab.started)} != {1}:
        await two.many.watch(1.0)
    assert (two.own.started, two.lab.started) == ([here.key], [away.key])
    assert {o.key: o.node for o in await two.many.list()} == {here.key: "n1", away.key: "lab/n1"}


async def test_a_group_that_ends_is_ended_where_it_was(two: Two):
    away = there()
    await two.many.apply(1, [group(away)])
    await two.many.delete(1, [away.group_uuid], 1.0)
    assert {o.key: o.phase for o in await two.many.list()}[away.key] is Phase.LOST


async def test_a_group_without_attempts_is_told_to_who_has_it(two: Two):
    away = there()
    await two.many.apply(1, [group(away)])
    await two.many.apply(1, [replace(group(away), attempts=())])
    assert {o.key: o.phase for o in await two.many.list()}[away.key] is Phase.LOST


async def test_a_cluster_that_does_not_answer_holds_nobody_up(two: Two):
    here, away = attempt("n1"), there()
    await two.many.apply(1, [group(away)])
    two.lab.unplug()
    nodes = {n.name: n for n in await two.many.capacity()}
    assert nodes["n1"].alive and not nodes["lab/n1"].alive
    assert nodes["lab/n1"].reasons[0].code == "BackendOffline" and two.many.offline == {"lab"}
    refused = await two.many.apply(1, [group(here), group(there())])
    assert [r.code for r in refused.values()] == ["BackendOffline"]
    assert {o.key for o in await two.many.list()} == {here.key}
    assert await two.many.usage() == []


async def test_a_delete_that_a_cluster_did_not_hear_is_not_settled(two: Two):
    away = there()
    await two.many.apply(1, [group(away)])
    two.lab.unplug()
    with pytest.raises(BackendUnavailable):
        await two.many.delete(1, [away.group_uuid], 1.0)
    two.lab.plug()
    await two.many.capacity()
    await two.many.delete(1, [away.group_uuid], 1.0)
    assert {o.key: o.phase for o in await two.many.list()}[away.key] is Phase.LOST


async def test_a_cluster_that_is_away_is_not_asked_again_and_again_and_holds_no_other_delete_up(two: Two):
    here, away = attempt("n1"), there()
    await two.many.apply(1, [group(here), group(away)])
    two.lab.unplug()
    await two.many.capacity()
    asked: list[tuple[str, ...]] = []
    delete = two.lab.delete

    async def counted(epoch: int, groups: Sequence[str], grace: float) -> None:
        asked.append(tuple(groups))
        await delete(epoch, groups, grace)

    two.lab.delete = counted  # type: ignore[method-assign]
    for late in ([here.group_uuid, away.group_uuid], [away.group_uuid], [away.group_uuid]):
        with pytest.raises(PartlyUnavailable) as told:
            await two.many.delete(1, late, 1.0)
        assert told.value.groups == {away.group_uuid}
    assert not asked and {o.key: o.phase for o in await two.many.list()}[here.key] is Phase.LOST
    two.lab.plug()
    await two.many.capacity()
    await two.many.delete(1, [away.group_uuid], 1.0)
    assert asked == [(away.group_uuid,)]


async def test_a_delete_of_who_knows_whose_group_is_told_to_each_member_once(two: Two):
    """After a restart it is not known where a group was."""
    two.lab.unplug()
    await two.many.capacity()
    asked: list[str] = []
    delete = two.own.delete

    async def counted(epoch: int, groups: Sequence[str], grace: float) -> None:
        asked.extend(groups)
        await delete(epoch, groups, grace)

    two.own.delete = counted  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(PartlyUnavailable):
            await two.many.delete(1, ["x" * 32], 1.0)
    assert asked == ["x" * 32]
    two.lab.plug()
    await two.many.capacity()
    await two.many.delete(1, ["x" * 32], 1.0)
    assert asked == ["x" * 32]


async def test_what_a_cluster_knew_is_known_again_when_it_is_back(two: Two):
    away = there()
    await two.many.apply(1, [group(away)])
    two.lab.unplug()
    await two.many.capacity()
    two.lab.plug()
    await two.many.capacity()
    assert two.many.offline == frozenset() and {o.key for o in await two.many.list()} == {away.key}


async def test_an_unknown_cluster_is_said_and_waited_for(two: Two):
    refused = await two.many.apply(1, [group(attempt("gone/n1"))])
    assert [r.code for r in refused.values()] == ["BackendUnknown"]
    with pytest.raises(BackendUnavailable):
        await two.many.logs(there().key, "gone/n1", 0, 1, 0.0)


async def test_a_removed_cluster_takes_its_nodes_along(two: Two):
    await two.many.remove("lab")
    assert {n.name for n in await two.many.capacity()} == {"n1"} and two.many.clusters == {}


async def test_a_backend_that_was_alone_is_heard_beside_others_too():
    own, lab = FakeBackend("local", script=lambda _: Ending()), FakeBackend("lab", script=lambda _: Ending())
    many = ManyBackends(own)
    heard = set()

    async def run(node: str) -> None:
        plan = group(attempt(node))
        await many.apply(1, [plan])
        key = plan.attempts[0].key
        while key not in heard:
            heard.update(o.key for o in await many.watch(1.0) if o.phase is Phase.FINISHED)

    await run("n1")
    many.add("lab", lab)
    await many.capacity()
    await run("lab/n1")
    await run("n1")
    await many.remove("lab")
    await run("n1")
    await many.close()
