"""What every source of quotas promises, whichever it is; and what one keeps for the next start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from osmo_ray.providers.quota import QuotaError, QuotaProvider, QuotaQueue, YamlQuota
from osmo_ray.providers.quota_far import FarQuota
from osmo_ray.providers.quota_kept import KeptQuotas
from osmo_ray.providers.quota_kube import KaiOrigin, KubeScope
from osmo_ray.providers.quotas import QuotaSource, open_quota
from tests.servers.runai import State, serve, unit

Teams = dict[str, tuple[float, float, float]]


class Source(Protocol):
    quota: QuotaProvider
    top: str

    def tell(self, teams: Teams) -> None:
        """These teams below one queue; seen by the next `snapshot()`."""

    def spoil(self) -> None:
        """What the next `snapshot()` sees cannot be used."""


class FileSource:
    top = "all"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.quota: QuotaProvider = YamlQuota(path)

    def tell(self, teams: Teams) -> None:
        rows: list[dict[str, Any]] = [{"name": "all", "gpu": {"quota": 8, "limit": 16}}]
        for name, (quota, limit, weight) in teams.items():
            rows.append({"name": name, "parent": "all", "gpu": {"quota": quota, "limit": limit, "weight": weight}})
        self._path.write_text(yaml.safe_dump({"queues": rows}))

    def spoil(self) -> None:
        self._path.write_text("queues: nothing good")


class RunaiSource:
    """With the reader closed, so that the rounds are the test's."""

    top = "department/all"

    def __init__(self, state: State, url: str, folder: Path) -> None:
        (folder / "secret").write_text("sesame")
        self._state = state
        self.source = QuotaSource(folder, "runai", url, "osmo", str(folder / "secret"))
        self._asked = self.open()
        self.quota: QuotaProvider = self._asked

    def open(self, **changes: str) -> FarQuota:
        made = open_quota(replace(self.source, **changes))
        assert isinstance(made, FarQuota)
        made._stop.set()
        return made

    def tell(self, teams: Teams) -> None:
        self._state.departments = [unit("d", "all", (8, 16, 1))]
        self._state.projects = [unit(str(i), name, gpu, "d") for i, (name, gpu) in enumerate(teams.items())]
        self._asked.refresh()

    def spoil(self) -> None:
        self._state.faults.append("403")
        self._asked.refresh()


class Objects:
    """A cluster as the door knows it, in memory; the real one is in test_quota_kube_cluster.py."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {}
        self.broken = ""

    def list(self, path: str) -> list[Any]:
        if self.broken:
            raise QuotaError(self.broken)
        return self.found.get(path, [])

    def version(self, group: str) -> str:
        if self.broken:
            raise QuotaError(self.broken)
        return {"scheduling.run.ai": "v2"}.get(group, "")

    def close(self) -> None:
        pass


def kai(name: str, parent: str, gpu: tuple[float, float, float], age: int) -> dict[str, Any]:
    keys = ("quota", "limit", "overQuotaWeight")
    resources = {"gpu": dict(zip(keys, gpu, strict=True))}
    resources |= {kind: dict(zip(keys, (-1, -1, 1), strict=True)) for kind in ("cpu", "memory")}
    return {
        "metadata": {"name": name, "creationTimestamp": f"2026-01-01T00:00:{age:02}Z"},
        "spec": {"parentQueue": parent, "resources": resources},
    }


class KaiSource:
    top = "all"

    def __init__(self) -> None:
        self._cluster = Objects()
        self._asked = FarQuota(KaiOrigin(self._cluster, KubeScope()))
        self._asked._stop.set()
        self.quota: QuotaProvider = self._asked

    def tell(self, teams: Teams) -> None:
        rows = [kai("all", "", (8, 16, 1), 0)]
        rows += [kai(name, "all", gpu, age) for age, (name, gpu) in enumerate(teams.items(), 1)]
        self._cluster.found["/apis/scheduling.run.ai/v2/queues"] = rows
        self._cluster.broken = ""
        self._asked.refresh()

    def spoil(self) -> None:
        self._cluster.broken = "the cluster does not answer"
        self._asked.refresh()


@pytest.fixture
def runai(tmp_path: Path) -> Iterator[RunaiSource]:
    state = State()
    server = serve(state)
    made = RunaiSource(state, f"http://127.0.0.1:{server.server_port}", tmp_path)
    yield made
    made._asked.close()
    server.shutdown()
    server.server_close()
    assert state.refused == []


@pytest.fixture(params=["file", "runai", "kai"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if request.param == "file":
        return FileSource(tmp_path / "quota.yaml")
    if request.param == "kai":
        return KaiSource()
    found: Source = request.getfixturevalue("runai")
    return found


def test_it_says_the_tree_and_its_numbers_and_a_pool_finds_its_queue(source: Source):
    source.tell({"one": (2, 4.5, 3), "two": (-1, -1, 0)})
    found = source.quota.snapshot()
    assert found is not None and not found.stale and not found.error and not source.quota.error
    told = [(q.name, q.parent, q.priority, q.gpu) for q in found.queues]
    assert told == [
        (source.top, "", 100, (8.0, 16.0, 1.0)),
        ("one", source.top, 100, (2.0, 4.5, 3.0)),
        ("two", source.top, 100, (-1.0, -1.0, 0.0)),
    ]
    assert all(q.cpu == q.memory == (-1.0, -1.0, 1.0) for q in found.queues)
    assert found.resolve("one") == "one"


def test_an_answer_stays_the_same_object_until_it_changes_and_then_has_another_version(source: Source):
    source.tell({"one": (2, 4, 1)})
    first = source.quota.snapshot()
    assert first is not None and source.quota.snapshot() is first
    source.tell({"one": (33, 44, 1)})
    second = source.quota.snapshot()
    assert second is not None and second is not first and second.version != first.version
    assert second.queues[1].gpu == (33.0, 44.0, 1.0)


def test_what_was_good_stays_in_force_stale_with_the_reason_until_it_is_good_again(source: Source):
    source.tell({"one": (2, 4, 1)})
    good = source.quota.snapshot()
    source.spoil()
    stale = source.quota.snapshot()
    assert good is not None and stale is not None and stale.stale
    assert stale.error and stale.error == source.quota.error
    assert (stale.queues, stale.pools, stale.version) == (good.queues, good.pools, good.version)
    assert source.quota.snapshot() is stale
    source.tell({"one": (2, 4, 1), "two": (1, 1, 1)})
    again = source.quota.snapshot()
    assert again is not None and not again.stale and not again.error and not source.quota.error
    assert [q.name for q in again.queues] == [source.top, "one", "two"]


def test_bad_from_the_beginning_there_is_no_queue_but_the_reason_and_then_it_mends(source: Source):
    source.spoil()
    found = source.quota.snapshot()
    assert found is None or (found.stale and not found.queues and found.error)
    assert source.quota.error
    source.tell({"one": (2, 4, 1)})
    found = source.quota.snapshot()
    assert found is not None and not found.stale and found.resolve("one") == "one"


def test_the_next_start_begins_with_what_was_known_stale_and_of_the_same_place_only(runai: RunaiSource, tmp_path: Path):
    assert not runai.open().snapshot().queues
    runai.tell({"one": (0.5, 1e18, 0)})
    good = runai.quota.snapshot()
    again = runai.open()
    early = again.snapshot()
    assert good is not None and (early.queues, early.pools) == (good.queues, good.pools)
    assert early.stale and "quotas of before" in early.error == again.error
    again.refresh()
    late = again.snapshot()
    assert not late.stale and late.queues == good.queues and not again.error
    assert not runai.open(node_pool="other").snapshot().queues
    path = tmp_path / "runai-quota.yaml"
    path.write_text(path.read_text() + "  - [")
    assert not runai.open().snapshot().queues


def test_what_is_kept_is_read_back_whole_and_for_its_owner_only(tmp_path: Path):
    path = tmp_path / "kept.yaml"
    queues = (
        QuotaQueue("department/a: b", preempt_min_runtime=0.0),
        QuotaQueue("yes", "department/a: b", -5, (0.1, 1e18, 0.0), (1e-3, -1.0, 1.0), (1e12, 2e12, 1e6), 60.0, 1.5),
    )
    KeptQuotas(path, "here").save(queues, {"lab": queues[-1].name, "gone": "absent"})
    kept = KeptQuotas(path, "here").load()
    assert kept.queues == queues and kept.pools == {"lab": queues[-1].name}
    assert KeptQuotas(path, "there").load().queues == ()
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in tmp_path.iterdir()] == ["kept.yaml"]
    KeptQuotas(tmp_path / "no" / "folder", "here").save(queues, {})


def test_pools_belong_to_the_projects_that_the_settings_name(runai: RunaiSource):
    runai.tell({"one": (2, 4, 1), "two": (1, 1, 1)})
    quota = runai.open(pools="default = one, lab=gone")
    quota.refresh()
    found = quota.snapshot()
    assert dict(found.pools) == {"default": "one", "lab": "gone"} and found.resolve("default") == "one"
    for bad in ("default", "=one", "a=one,a=two"):
        with pytest.raises(QuotaError, match="POOL=PROJECT"):
            open_quota(replace(runai.source, pools=bad))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -3, True, "2"])
def test_an_amount_that_is_none_leaves_what_was_in_force(runai: RunaiSource, number: Any):
    runai.tell({"one": (2, 4, 1)})
    good = runai.quota.snapshot()
    runai.tell({"one": (number, 4, 1)})
    stale = runai.quota.snapshot()
    assert good is not None and stale is not None and stale.queues == good.queues
    assert stale.stale and "one: gpu" in stale.error


def test_departments_alone_leave_what_was_in_force(runai: RunaiSource):
    runai.tell({"one": (2, 4, 1)})
    good = runai.quota.snapshot()
    runai.tell({})
    stale = runai.quota.snapshot()
    assert good is not None and stale is not None and stale.queues == good.queues
    assert stale.stale and "runai_node_pool" in stale.error
