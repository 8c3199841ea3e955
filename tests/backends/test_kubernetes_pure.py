"""The Kubernetes backend's pure parts: what pods mean, what nodes have left, how templates merge, what is refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from osmo_ray.backends.kubernetes import nodes, pods
from osmo_ray.backends.kubernetes.kubeconfig import KubeconfigError, open_kubeconfig
from osmo_ray.backends.kubernetes.observe import CONFIG_PATIENCE, Seen
from osmo_ray.backends.kubernetes.settings import ClusterSettings, Platform
from osmo_ray.runtime import codec
from osmo_ray.spec.attempt import DataKey, FilePlan, Observation, Phase, RegistryLogin, Secrets
from osmo_ray.spec.reason import HELD
from tests.backends.contract import attempt

NOW = 1_800_000_000.0
SETTINGS = ClusterSettings("owner", "osmo+http://10.0.0.1:8000#secret", "runtime:1")
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def told(code: int | None, **more: object) -> str:
    return json.dumps({"exit_code": code, "reason": None, "output": "p/1", "usage": {}, "at": NOW, **more})


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def look(
    *,
    init: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
    ctrl: dict[str, Any] | None = None,
    gone: bool = False,
    deleting: bool = False,
    later: float = 0.0,
    go: bool = True,
    barrier: bool = False,
    conditions: tuple[dict[str, str], ...] = (),
    **status: object,
) -> Observation:
    plan = attempt("node-1", "true", barrier=barrier, go=go, peers=("a", "b") if barrier else ())
    pod = pods.pod_of(plan, SETTINGS, SETTINGS.platforms[0], 1)
    pod["spec"]["nodeName"] = "node-1"
    if deleting:
        pod["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    states = {pods.INIT: init, pods.USER: user, pods.CTRL: ctrl}
    shown = [{"name": name, "state": state} for name, state in states.items() if state is not None]
    pod["status"] = {
        "phase": "Running",
        "podIP": "10.1.1.1",
        "initContainerStatuses": [s for s in shown if s["name"] == pods.INIT],
        "containerStatuses": [s for s in shown if s["name"] != pods.INIT],
        "conditions": list(conditions),
        **status,
    }
    seen = Seen(pod, NOW + later)
    return seen.vanished() if gone else seen.observation()


def disrupted(reason: str) -> tuple[dict[str, str], ...]:
    return ({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": f"because of {reason}"},)


DONE = ended(0, "Completed")

PHASES = [
    (look(phase="Pending"), Phase.ACCEPTED),
    (look(init=RUNNING), Phase.PREPARING),
    (look(init=DONE, user=waiting("PodInitializing")), Phase.PREPARING),
    (look(init=DONE, user=RUNNING), Phase.RUNNING),
    (look(init=DONE, user=RUNNING, barrier=True, go=False), Phase.READY),
    (look(init=DONE, user=RUNNING, barrier=True, go=True), Phase.RUNNING),
    (look(init=DONE, user=DONE, ctrl=RUNNING), Phase.UPLOADING),
    (look(init=DONE, user=RUNNING, ctrl=RUNNING, deleting=True), Phase.RUNNING),
    (look(user=waiting("CreateContainerConfigError"), startTime="2027-01-15T07:59:00Z"), Phase.PENDING),
]


@pytest.mark.parametrize(("seen", "phase"), PHASES)
def test_a_pod_on_its_way(seen: Observation, phase: Phase):
    assert (seen.phase, seen.node, seen.address) == (phase, "node-1", "10.1.1.1")


ENDS = [
    ("success", look(user=DONE, ctrl=ended(0, "Completed", told(0))), 0, ""),
    ("the command's code", look(user=ended(7), ctrl=ended(0, "Completed", told(7))), 7, ""),
    ("out of memory", look(user=ended(137, "OOMKilled"), ctrl=ended(0, "Completed", told(137))), 3004, "OutOfMemory"),
    (
        "only the launcher's death",
        look(user=ended(137, "OOMKilled"), ctrl=ended(0, "", told(None))),
        3004,
        "OutOfMemory",
    ),
    ("a kill by somebody", look(user=ended(137), ctrl=ended(0, "", told(None))), 137, "ContainerKilled"),
    ("pulling fails", look(user=waiting("ErrImagePull", "not found")), 302, "ImagePull"),
    ("pulling backs off", look(user=waiting("ImagePullBackOff")), 301, "ImagePull"),
    ("another wait", look(user=waiting("CrashLoopBackOff")), 999, "CrashLoopBackOff"),
    ("no start", look(user=ended(128, "StartError", "exec: no such file")), 3003, "StartError"),
    ("no container", look(user=waiting("CreateContainerError", "bad mount")), 3003, "StartError"),
    ("input missing", look(init=ended(1, "Error", told(2010))), 2010, ""),
    ("init crashed", look(init=ended(2, "Error", "Traceback")), 257, "RuntimeFailed"),
    ("ctrl crashed", look(user=RUNNING, ctrl=ended(1, "Error")), 2001, "RuntimeFailed"),
    ("evicted", look(phase="Failed", reason="Evicted", message="low on memory."), 3004, "Evicted"),
    ("deadline", look(phase="Failed", reason="DeadlineExceeded"), 3001, "DeadlineExceeded"),
    ("preempted", look(user=ended(143), conditions=disrupted("PreemptionByScheduler")), 3006, "Preempted"),
    ("config", look(user=waiting("CreateContainerConfigError"), startTime="2020-01-01T00:00:00Z"), 3001, "ConfigError"),
]


@pytest.mark.parametrize(("what", "seen", "code", "reason"), ENDS, ids=[row[0] for row in ENDS])
def test_every_end_has_its_code(what: str, seen: Observation, code: int, reason: str):
    assert (seen.phase, seen.exit_code) == (Phase.FINISHED, code)
    assert reason == (seen.reason.code if seen.reason else "")


LOST = [
    (look(phase="Failed", reason="UnexpectedAdmissionError", message="no devices"), "UnexpectedAdmissionError"),
    (look(phase="Failed", reason="OutOfcpu", message="node is full"), "OutOfcpu"),
    (look(user=ended(137, "ContainerStatusUnknown"), ctrl=ended(137, "ContainerStatusUnknown")), "ContainerLost"),
    (look(user=RUNNING, gone=True), "PodDeleted"),
    (look(user=RUNNING, gone=True, conditions=disrupted("EvictionByEvictionAPI")), "EvictionByEvictionAPI"),
    (look(user=RUNNING, gone=True, conditions=disrupted("DeletionByPodGC")), "DeletionByPodGC"),
    (look(user=ended(143), ctrl=ended(0, "Completed"), deleting=True, gone=True), "PodDeleted"),
    (look(user=RUNNING, ctrl=RUNNING, deleting=True, later=61), "NodeLost"),
    (
        look(user=RUNNING, deleting=True, later=61, conditions=disrupted("DeletionByTaintManager")),
        "DeletionByTaintManager",
    ),
]


@pytest.mark.parametrize(("seen", "reason"), LOST, ids=[row[1] for row in LOST])
def test_what_the_cluster_took_away_is_lost_not_failed(seen: Observation, reason: str):
    assert seen.phase is Phase.LOST and seen.exit_code is None
    assert seen.reason is not None and seen.reason.code == reason


def test_a_preempted_pod_still_runs_until_it_has_ended():
    seen = look(user=RUNNING, ctrl=RUNNING, deleting=True, conditions=disrupted("PreemptionByScheduler"))
    assert seen.phase is Phase.RUNNING
    for late in ({"gone": True}, {"later": 61.0}):
        gone = look(user=RUNNING, deleting=True, conditions=disrupted("PreemptionByScheduler"), **late)
        assert (gone.phase, gone.exit_code) == (Phase.FINISHED, 3006)


def test_a_result_that_was_told_counts_even_when_the_pod_is_gone():
    seen = look(user=ended(0), ctrl=ended(0, "Completed", told(0)), gone=True, deleting=True)
    assert (seen.phase, seen.exit_code, seen.output, seen.at) == (Phase.FINISHED, 0, "p/1", NOW)


def test_the_patience_with_a_missing_secret_is_that_of_the_table():
    assert CONFIG_PATIENCE == 600


# --- objects ---------------------------------------------------------------------------------------------------------


def test_no_secret_and_no_command_stand_in_the_pod():
    plan = attempt("node-1", "run", "--token", "hunter2-hunter2", environment={"PASSWORD": "hunter3-hunter3"})
    pod = json.dumps(pods.pod_of(plan, SETTINGS, Platform("default"), 1))
    assert "hunter2" not in pod and "hunter3" not in pod and "#secret" not in pod
    secret = pods.secret_of(plan, SETTINGS, "uid-1")
    job = codec.job_from_json(json.loads(base64.b64decode(secret["data"]["job.json"])))
    assert (job.plan.argv, job.storage_url) == (plan.argv, SETTINGS.storage_url)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


SHARED = {f"/osmo/{part}": part for part in ("bin", "run", "run/lock", "data/input", "data/output")}


def test_only_our_containers_see_the_job():
    spec = pods.pod_of(attempt("node-1"), SETTINGS, Platform("default"), 1)["spec"]
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in (*spec["initContainers"], *spec["containers"])}
    assert "osmo-job" not in mounts[pods.USER] and "osmo-orders" not in mounts[pods.USER]
    assert "osmo-job" in mounts[pods.INIT] and "osmo-job" in mounts[pods.CTRL]
    assert spec["automountServiceAccountToken"] is False


def test_files_are_mounted_where_they_are_wanted():
    files = (
        FilePlan("/etc/app/a.conf", "a"),
        FilePlan("{{output}}/b", "b"),
        FilePlan("/osmo/c", "c"),
        FilePlan("d", "d"),
        FilePlan("/etc/app/a.conf", "again"),
    )
    spec = pods.pod_of(attempt("n", files=files), SETTINGS, Platform("default"), 1)["spec"]
    mounts = {m["mountPath"]: m.get("subPath") for m in spec["containers"][0]["volumeMounts"]}
    assert mounts == {**SHARED, "/etc/app/a.conf": "run/files/4"}


def test_a_task_can_replace_nothing_by_which_our_containers_find_what_it_made():
    """Each is a mount, and none above it comes from the shared folder."""
    spec = pods.pod_of(attempt("n"), SETTINGS, Platform("default"), 1)["spec"]
    mounts = {m["mountPath"]: m for m in spec["containers"][0]["volumeMounts"]}
    assert {path: m["subPath"] for path, m in mounts.items()} == SHARED
    assert [path for path, m in mounts.items() if m["readOnly"]] == ["/osmo/bin"]


def test_the_pools_template_is_merged_by_name():
    template = {
        "metadata": {"labels": {"team": "robots"}},
        "spec": {
            "imagePullSecrets": [{"name": "registry"}],
            "containers": [
                {
                    "name": "user",
                    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                    "securityContext": {"runAsUser": 7},
                }
            ],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        },
    }
    one = attempt("n")
    pod = pods.pod_of(one, replace(SETTINGS, template=template), Platform("default"), 1)
    of_pool = replace(SETTINGS, templates={"train/default": template})
    assert pods.pod_of(replace(one, pool="train"), of_pool, Platform("default"), 1) == pod
    assert "imagePullSecrets" not in pods.pod_of(one, of_pool, Platform("default"), 1)["spec"]
    user = next(c for c in pod["spec"]["containers"] if c["name"] == "user")
    assert pod["metadata"]["labels"]["team"] == "robots" and pod["metadata"]["labels"][pods.OWNER] == "owner"
    assert {m["mountPath"] for m in user["volumeMounts"]} == {*SHARED, "/dev/shm"}
    assert user["securityContext"] == {"runAsUser": 7} and user["image"] == "ubuntu:24.04"
    assert {v["name"] for v in pod["spec"]["volumes"]} == {"osmo", "osmo-job", "osmo-orders", "shm"}
    assert len(pod["spec"]["containers"]) == 2


def test_orders_before_the_barrier_hold_no_addresses():
    closed = attempt("n", barrier=True, go=False, hosts={"a": "10.0.0.1"})
    assert json.loads(pods.orders_text(closed))["hosts"] == {}
    assert json.loads(pods.orders_text(closed))["go"] == -1
    opened = json.loads(pods.orders_text(replace(closed, go=True)))
    assert (opened["hosts"], opened["go"]) == ({"a": "10.0.0.1"}, 0)


# --- nodes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [("250m", 0.25), ("2", 2), ("1Gi", 1 << 30), ("1e3", 1000), ("5k", 5000), ("100M", 1e8), ("1E", 1e18), (3, 3)],
)
def test_quantities(text: str | int, amount: float):
    assert nodes.quantity(text) == pytest.approx(amount)


def node(**more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n1", "uid": "u", "labels": {"gpu": "a100"}},
        "spec": more.pop("spec", {}),
        "status": {
            "allocatable": {"cpu": "8", "memory": "16Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "4"},
            "conditions": [{"type": "Ready", "status": more.pop("ready", "True"), "message": "kubelet is posting"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}],
        },
    }


def other(phase: str = "Running", **amounts: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "x", "namespace": "kube-system"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "resources": {"requests": amounts}}]},
        "status": {"phase": phase},
    }


def test_a_node_has_what_others_leave():
    others = [other(cpu="500m", memory="1Gi"), other("Succeeded", cpu="4"), other(**{"nvidia.com/gpu": "1"})]
    (seen,) = nodes.reports([node()], others, SETTINGS)
    assert (seen.cpu, seen.memory, seen.gpu, seen.alive) == (7.5, 15 << 30, 3, True)
    assert (seen.address, seen.platform) == ("10.0.0.9", "default")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"ready": "Unknown"}, "NodeNotReady"),
        ({"spec": {"unschedulable": True}}, "NodeCordoned"),
        ({"spec": {"taints": [{"key": "only", "value": "x", "effect": "NoSchedule"}]}}, "NodeTainted"),
    ],
)
def test_a_node_that_takes_no_work_says_why(more: dict[str, Any], code: str):
    (seen,) = nodes.reports([node(**more)], [], SETTINGS)
    assert not seen.alive and code in {r.code for r in seen.reasons}


def test_a_platform_tolerates_its_taint_and_is_found_by_labels():
    tolerant = Platform("a100", {"gpu": "a100"}, ({"key": "only", "operator": "Exists"},))
    settings = replace(SETTINGS, platforms=(Platform("default"), tolerant))
    tainted = node(spec={"taints": [{"key": "only", "value": "x", "effect": "NoSchedule"}]})
    (seen,) = nodes.reports([tainted], [], settings)
    assert (seen.alive, seen.platform) == (True, "a100")


def test_without_a_way_to_the_storage_no_node_takes_work():
    (seen,) = nodes.reports([node()], [], replace(SETTINGS, storage_url=""))
    assert not seen.alive and seen.reasons[0].code == "StorageUnreachable"


def test_init_containers_count_by_the_largest():
    pod = other(cpu="1")
    pod["spec"]["initContainers"] = [
        {"name": "i", "resources": {"requests": {"cpu": "3"}}},
        {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
    ]
    assert nodes.requests(pod)["cpu"] == 4


# --- kubeconfigs -----------------------------------------------------------------------------------------------------


def kubeconfig(user: str = "{token: abc}", cluster: str = '{server: "https://h:1"}', current: str = "c") -> str:
    return f"""
current-context: {current}
clusters: [{{name: k, cluster: {cluster}}}]
users: [{{name: u, user: {user}}}]
contexts: [{{name: c, context: {{cluster: k, user: u, namespace: team}}}}]
"""


def test_a_token_is_read():
    access = open_kubeconfig(kubeconfig())
    assert (access.server, access.namespace, access.header) == ("https://h:1", "team", {"Authorization": "Bearer abc"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (kubeconfig(user="{exec: {command: evil}}"), "exec"),
        (kubeconfig(user="{tokenFile: /etc/shadow}"), "tokenFile"),
        (kubeconfig(user="{client-certificate: /x}"), "client-certificate"),
        (kubeconfig(user="{username: a, password: b}"), "token"),
        (kubeconfig(cluster='{server: "https://h", insecure-skip-tls-verify: true}'), "insecure"),
        (kubeconfig(cluster='{server: "file:///etc/passwd"}'), "https"),
        (kubeconfig(cluster='{server: "http://h:80"}'), "without TLS"),
        (kubeconfig(current="other"), "it has: c"),
        ("[1, 2]", "no clusters"),
        ("a: [", "not YAML"),
    ],
)
def test_what_cannot_be_trusted_or_used_is_refused(text: str, said: str):
    with pytest.raises(KubeconfigError, match=said):
        open_kubeconfig(text)


SECRETS = Secrets(
    {"TOKEN": "correct horse"},
    (FilePlan("/etc/key", "battery staple"),),
    ("correct horse", "battery staple", "elsewhere"),
    RegistryLogin("registry.example", "ann", "opensesame"),
    (DataKey("s3://b", "id", "elsewhere"),),
)


def test_credentials_stand_in_secrets_and_nowhere_else():
    plan = replace(attempt("node-1", "true", environment={"TOKEN": "old", "A": "b"}), secrets=SECRETS)
    pod = pods.pod_of(plan, SETTINGS, SETTINGS.platforms[0], 1)
    assert not any(word in json.dumps(pod) for word in ("correct", "battery", "elsewhere", "opensesame"))
    secret = pods.secret_of(plan, SETTINGS, "uid")
    login = pods.login_of(plan, SETTINGS, "uid")
    assert login is not None and secret["metadata"]["ownerReferences"] == login["metadata"]["ownerReferences"]
    user = pod["spec"]["containers"][0]
    (variable,) = user["env"]
    reference = variable["valueFrom"]["secretKeyRef"]
    assert (variable["name"], reference["name"]) == ("TOKEN", secret["metadata"]["name"])
    assert base64.b64decode(secret["data"][reference["key"]]) == b"correct horse"
    (shown,) = (m for m in user["volumeMounts"] if m["mountPath"] == "/etc/key")
    assert base64.b64decode(secret["data"][shown["subPath"]]) == b"battery staple" and shown["readOnly"]
    assert pod["spec"]["imagePullSecrets"] == [{"name": login["metadata"]["name"]}]
    auths = json.loads(base64.b64decode(login["data"][".dockerconfigjson"]))["auths"]
    assert base64.b64decode(auths["registry.example"]["auth"]) == b"ann:opensesame"


def test_the_users_container_is_shown_no_key_that_the_task_was_not_given():
    plan = replace(attempt("node-1", "true"), secrets=SECRETS)
    secret = pods.secret_of(plan, SETTINGS, "uid")
    user = pods.pod_of(plan, SETTINGS, SETTINGS.platforms[0], 1)["spec"]["containers"][0]
    parts = [m["subPath"] for m in user["volumeMounts"] if m["name"] == "osmo-given"]
    shown = [base64.b64decode(secret["data"][part]) for part in parts]
    masked = [base64.b64decode(one) for one in json.loads(shown[-1])]
    assert b"correct horse" in masked and b"battery staple" in masked and b"elsewhere" not in masked
    assert b"elsewhere" in base64.b64decode(secret["data"]["job.json"])


@pytest.mark.parametrize("path", ["/osmo/run/end.json", "/", "/a/../osmo/x", "relative"])
def test_a_credential_cannot_take_our_place(path: str):
    plan = replace(attempt("node-1", "true"), secrets=Secrets(files=(FilePlan(path, "battery staple"),)))
    user = pods.pod_of(plan, SETTINGS, SETTINGS.platforms[0], 1)["spec"]["containers"][0]
    assert path not in [m["mountPath"] for m in user["volumeMounts"]]
    job = json.loads(base64.b64decode(pods.secret_of(plan, SETTINGS, "uid")["data"]["job.json"]))
    assert "outside /osmo" in job["secrets"]["missing"]


def test_what_a_platform_allowed_of_its_nodes():
    plan = replace(attempt("node-1", "true"), mounts=("/dev/shm", "/srv/maps:/maps"), privileged=True)
    plain = pods.pod_of(attempt("node-1", "true"), SETTINGS, SETTINGS.platforms[0], 1)["spec"]
    spec = pods.pod_of(plan, SETTINGS, SETTINGS.platforms[0], 1)["spec"]
    paths = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    user, ours = spec["containers"]
    shown = {m["mountPath"]: paths[m["name"]] for m in user["volumeMounts"] if m["name"] in paths}
    assert shown == {"/dev/shm": "/dev/shm", "/maps": "/srv/maps"}
    assert user["securityContext"] == {"privileged": True} and "securityContext" not in ours
    assert "hostNetwork" not in spec and "securityContext" not in plain["containers"][0]
    there = replace(attempt("node-1", "true"), host_network=True)
    assert pods.pod_of(there, SETTINGS, SETTINGS.platforms[0], 1)["spec"]["hostNetwork"] is True


def test_a_group_on_several_nodes_is_not_on_their_network():
    """Pods have addresses that other nodes reach."""
    plan = replace(attempt("node-1", "true"), network="node")
    assert "hostNetwork" not in pods.pod_of(plan, SETTINGS, SETTINGS.platforms[0], 1)["spec"]


@pytest.mark.parametrize(("hold", "ready", "code"), [(600.0, True, HELD), (600.0, False, ""), (0.0, True, "")])
def test_a_ready_container_is_one_that_is_held(hold: float, ready: bool, code: str):
    plan = replace(attempt("node-1", "true"), hold=hold)
    pod = pods.pod_of(plan, SETTINGS, SETTINGS.platforms[0], 1)
    assert ("readinessProbe" in pod["spec"]["containers"][0]) == bool(hold)
    pod["status"] = {
        "phase": "Running",
        "containerStatuses": [{"name": pods.USER, "state": RUNNING, "ready": ready}],
        "conditions": [{"type": "ContainersReady", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}],
    }
    seen = Seen(pod, NOW).observation()
    assert seen.phase is Phase.RUNNING and (seen.reason.code if seen.reason else "") == code
    if seen.reason:
        assert "08:10:00" in seen.reason.sentence and "release contract-1 t" in seen.reason.sentence
