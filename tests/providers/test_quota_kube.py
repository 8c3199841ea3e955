"""Queues of KAI and Kueue as quotas: what each field becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from osmo_ray.providers.kube_reader import access_of
from osmo_ray.providers.quota import QuotaError
from osmo_ray.providers.quota_far import FarQuota
from osmo_ray.providers.quota_kept import KeptQuotas
from osmo_ray.providers.quota_kube import KaiOrigin, KubeScope, KueueOrigin, kai_queues, kueue_queues
from osmo_ray.providers.quotas import QuotaSource, open_quota
from tests.providers.test_quota_contract import Objects, kai

GPU = "nvidia.com/gpu"


def made(name: str, spec: dict[str, Any], age: int = 0, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "creationTimestamp": f"2026-01-01T00:00:{age:02}Z", **meta}, "spec": spec}


def test_kai_units_and_what_is_missing():
    spec = {
        "priority": 120,
        "resources": {"gpu": {"quota": 1.5, "limit": -1}, "cpu": {"quota": 2500, "limit": 4000, "overQuotaWeight": 2}},
        "preemptMinRuntime": "1h30m",
        "reclaimMinRuntime": "90s",
    }
    (queue,) = kai_queues([made("q", spec)])
    assert (queue.priority, queue.gpu, queue.cpu) == (120, (1.5, -1.0, 0.0), (2.5, 4.0, 2.0))
    assert queue.memory == (0.0, 0.0, 0.0), "a resource that is missing is forbidden there"
    assert (queue.preempt_min_runtime, queue.reclaim_min_runtime) == (5400.0, 90.0)
    memory = {"resources": {"memory": {"quota": 1000, "limit": -1, "overQuotaWeight": 1}}}
    assert kai_queues([made("m", memory)])[0].memory == (1e9, -1.0, 1.0)


def test_kai_leaves_out_what_has_no_root_and_puts_older_queues_first():
    rows = [kai("young", "all", (1, 1, 1), 9), kai("all", "", (-1, -1, 1), 5), kai("lost", "gone", (1, 1, 1), 1)]
    rows += [kai("x", "y", (1, 1, 1), 2), kai("y", "x", (1, 1, 1), 3)]
    assert [q.name for q in kai_queues(rows)] == ["all", "young"]


def test_kai_queues_that_were_made_for_pools_carry_their_names():
    cluster = Objects()
    cluster.found["/apis/scheduling.run.ai/v2/queues"] = [
        kai("osmo-default-ml", "", (-1, -1, 1), 0), kai("osmo-pool-ml-train", "osmo-default-ml", (4, 8, 1), 1),
        kai("other", "osmo-default-ml", (1, 1, 1), 2),
    ]  # fmt: skip
    found = KaiOrigin(cluster, KubeScope("ml", {"lab": "other"})).read()
    assert found.pools == {"train": "osmo-pool-ml-train", "other": "other", "lab": "other"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"resources": {"gpu": {"quota": "many"}}}, "queue q: gpu: 'many' is no number"),
        ({"resources": {"gpu": 3}}, "queue q: gpu is no object"),
        ({"preemptMinRuntime": "soon"}, "queue q: 'soon' is no duration"),
    ],
)
def test_what_kai_would_not_say_is_an_error(spec: dict[str, Any], said: str):
    with pytest.raises(QuotaError, match=said):
        kai_queues([made("q", spec)])


def flavors(**amounts: tuple[str, str | None]) -> dict[str, Any]:
    rows = []
    for name, (nominal, borrowing) in amounts.items():
        row = {"name": GPU if name == "gpu" else name, "nominalQuota": nominal}
        rows.append(row | ({"borrowingLimit": borrowing} if borrowing is not None else {}))
    return {"resourceGroups": [{"coveredResources": [], "flavors": [{"name": "f", "resources": rows}]}]}


def test_kueue_cohorts_have_what_their_members_have_together():
    rows = [
        made("a", {"cohortName": "lab", **flavors(gpu=("4", "2"), memory=("1Gi", None))}, 1),
        made("b", {"cohort": "lab", "fairSharing": {"weight": "3"}, **flavors(gpu=("2", None), cpu=("500m", "0"))}, 2),
        made("alone", flavors(gpu=("1", None)), 3),
        made("held", {"cohort": "lab", "stopPolicy": "Hold", **flavors(gpu=("1", None))}, 4),
    ]
    found = {q.name: q for q in kueue_queues(rows, [])}
    assert list(found) == ["cohort/lab", "a", "b", "alone", "held"]
    assert found["cohort/lab"].gpu == (7.0, 7.0, 1.0), "a cohort without a parent borrows from nobody"
    assert (found["a"].parent, found["a"].gpu) == ("cohort/lab", (4.0, 6.0, 1.0))
    assert found["a"].memory == (float(1 << 30), -1.0, 1.0)
    assert found["a"].cpu == (-1.0, -1.0, 1.0), "no flavor names it"
    assert (found["b"].gpu, found["b"].cpu) == ((2.0, -1.0, 3.0), (0.5, 0.5, 3.0))
    assert (found["alone"].parent, found["alone"].gpu) == ("", (1.0, 1.0, 1.0))
    assert found["held"].gpu == (0.0, 0.0, 0.0)


def test_kueue_cohorts_form_a_tree():
    cohorts = [made("org", flavors(gpu=("2", None)), 0), made("team", {"parentName": "org"}, 1)]
    rows = [made("q", {"cohortName": "team", **flavors(gpu=("4", None))}, 2)]
    found = {q.name: q for q in kueue_queues(rows, cohorts)}
    assert (found["cohort/team"].parent, found["cohort/team"].gpu) == ("cohort/org", (4.0, -1.0, 1.0))
    assert found["cohort/org"].gpu == (6.0, 6.0, 1.0)
    looped = [made("x", {"parentName": "y"}), made("y", {"parentName": "x"})]
    assert kueue_queues([made("q", {"cohortName": "x"})], looped) == (), "a ring has no root"


def test_names_of_pools_are_kept_for_a_start_without_the_cluster(tmp_path: Path):
    class Kueue(Objects):
        def version(self, group: str) -> str:
            return super().version(group) or "v1beta1"

    cluster, kept = Kueue(), KeptQuotas(tmp_path / "kept.yaml", "here")
    base = "/apis/kueue.x-k8s.io/v1beta1"
    cluster.found = {
        f"{base}/clusterqueues": [made("team", flavors(gpu=("4", None)))],
        f"{base}/localqueues": [made("train", {"clusterQueue": "team"}), made("lost", {"clusterQueue": "gone"})],
    }
    FarQuota(KueueOrigin(cluster, KubeScope()), kept=kept).refresh()
    cluster.broken = "the cluster is away"
    late = FarQuota(KueueOrigin(cluster, KubeScope(pools={"lab": "team"})), kept=kept)
    late.refresh()
    told = late._now
    assert told.stale and [q.name for q in told.queues] == ["team"]
    assert told.pools == {"train": "team", "lab": "team"}


def test_settings_choose_and_a_cluster_that_cannot_be_read_says_why(tmp_path: Path):
    source = QuotaSource(tmp_path, "kai", kubeconfig=str(tmp_path / "absent"))
    quota = open_quota(source)
    assert isinstance(quota, FarQuota)
    quota._stop.set()
    quota.refresh()
    told = quota.snapshot()
    assert told is not None and told.queues == () and told.stale
    assert "absent" in quota.error and "No such file" in quota.error
    (tmp_path / "absent").write_text("nothing good")
    quota.refresh()
    assert quota.error.startswith("quota_kubeconfig: ")
    with pytest.raises(QuotaError, match="no pod"):
        access_of("")()
    empty = FarQuota(KueueOrigin(Objects(), KubeScope()))
    empty.refresh()
    assert "install Kueue first" in empty.error
    with pytest.raises(QuotaError, match="file, runai, kai or kueue"):
        open_quota(QuotaSource(tmp_path, "other"))
