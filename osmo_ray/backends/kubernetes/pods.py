"""From the plan of an attempt to the objects that carry it out: a pod, and a Secret that goes with it. Pure.

    init container   osmo-init: inputs, files, the launcher        (our image)
    container        user: the launcher runs the command           (the user's image, as it is)
    container        osmo-ctrl: log, barrier, outputs, the result  (our image)

The containers share one empty folder. Only ours see the Secret. Orders are an annotation, which Kubernetes shows to
`osmo-ctrl` as a file, so changing them is one small patch.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from osmo_ray.backends.kubernetes.settings import ClusterSettings, Platform
from osmo_ray.runtime import codec, pod
from osmo_ray.runtime.codec import Orders
from osmo_ray.runtime.masking import forms
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, Secrets
from osmo_ray.spec.tokens import host_label, host_name

PREFIX = "osmo-ray"
OWNER, TASK, RETRY, RESTART = f"{PREFIX}/owner", f"{PREFIX}/task", f"{PREFIX}/retry", f"{PREFIX}/restart"
GROUP, WORKFLOW, ATTEMPT = f"{PREFIX}/group", f"{PREFIX}/workflow", f"{PREFIX}/attempt"
EPOCH, ORDERS, PLAN = f"{PREFIX}/epoch", f"{PREFIX}/orders", f"{PREFIX}/plan"
WORKFLOW_ID, TASK_NAME = f"{PREFIX}/workflow-id", f"{PREFIX}/task-name"
INIT, USER, CTRL = "osmo-init", "user", "osmo-ctrl"
GPU = "nvidia.com/gpu"
_CTRL_MEMORY = 512 << 20
_LABEL_LIMIT = 63
_MASKED = "masked"
_LOOK = 3
"""Seconds between two looks whether a failed task is held."""
_FROM_ENVELOPE = ("apiVersion", "kind")


def name_of(key: AttemptKey, restart: int) -> str:
    """A restart is a new pod, so that its parent's name is never waited for."""
    return f"osmo-{key}-{restart}"


def key_in(name: str) -> AttemptKey | None:
    """The attempt that a pod's name stands for; None for a pod that is not ours."""
    parts = name.split("-")
    if len(parts) != 4 or parts[0] != "osmo" or not parts[2].isdigit():
        return None
    return AttemptKey(parts[1], int(parts[2]))


def files_key(plan: AttemptPlan) -> str:
    """Where large files wait for the init container; removed with what else is kept of the workflow."""
    return f"workflows/{plan.workflow_uuid}/{plan.key.task_uuid}/files-{plan.key.retry_id}.json"


def pod_of(plan: AttemptPlan, settings: ClusterSettings, platform: Platform, epoch: int) -> dict[str, Any]:
    """The pod of one attempt, as it is applied."""
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name_of(plan.key, plan.restart),
            "labels": labels(plan, settings),
            "annotations": {
                EPOCH: str(epoch),
                ORDERS: orders_text(plan),
                PLAN: json.dumps(
                    {"barrier": plan.barrier, "memory": plan.memory, "user": plan.user, "hold": plan.hold}
                ),
                WORKFLOW_ID: plan.workflow_id,
                TASK_NAME: plan.task,
                "kubectl.kubernetes.io/default-container": USER,
            },
        },
        "spec": _spec(plan, settings, platform),
    }
    template = settings.template_of(plan.pool, platform)
    template = {k: v for k, v in template.items() if k not in _FROM_ENVELOPE}
    return merged(template, made) if template else made


def secret_of(plan: AttemptPlan, settings: ClusterSettings, pod_uid: str, files_at: str = "") -> dict[str, Any]:
    """The job, and what the user's container gets of credentials. Kubernetes deletes it with the pod that owns it.
    `files_at` is where in the storage its files are, when they are too large for it."""
    given = {n: text for n, text in plan.environment.items() if n not in plan.secrets.environment}
    told = plan.secrets
    if bad := next((file.path for file in told.files if not pod.mountable(file.path)), ""):
        told = replace(told, missing=f"a credential cannot be put at {bad}: name an absolute folder outside /osmo")
    job = pod.job_to_json(replace(plan, environment=given, secrets=told), settings.storage_url, files_at)
    data = {"job.json": job.encode(), **_given(plan)}
    return _secret(plan, settings, pod_uid, name_of(plan.key, plan.restart), "Opaque", data)


def login_of(plan: AttemptPlan, settings: ClusterSettings, pod_uid: str) -> dict[str, Any] | None:
    """What the node shows to the registry of the user's image; None where there is nothing to show."""
    login = plan.secrets.registry
    if login is None:
        return None
    auth = base64.b64encode(f"{login.username}:{login.auth}".encode()).decode()
    known = {"username": login.username, "password": login.auth, "auth": auth}
    data = {".dockerconfigjson": json.dumps({"auths": {login.registry: known}}).encode()}
    return _secret(plan, settings, pod_uid, login_name(plan), "kubernetes.io/dockerconfigjson", data)


def login_name(plan: AttemptPlan) -> str:
    return f"{name_of(plan.key, plan.restart)}-login"


def _secret(
    plan: AttemptPlan, settings: ClusterSettings, pod_uid: str, name: str, kind: str, data: Mapping[str, bytes]
) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name_of(plan.key, plan.restart), "uid": pod_uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "immutable": True,
        "metadata": {"name": name, "labels": labels(plan, settings), "ownerReferences": [owner]},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _given(plan: AttemptPlan) -> dict[str, bytes]:
    """Variables, files and forms to be masked, by the keys that the pod names. Only what the task itself is given is
    masked in its container, since it must not learn of other keys from there."""
    secrets = plan.secrets
    values = {_variable(n): text.encode() for n, text in enumerate(secrets.environment.values())}
    values |= {_file(n): file.contents.encode() for n, file in enumerate(secrets.files)}
    found = sorted(forms([*secrets.environment.values(), *(f.contents for f in secrets.files)]), key=_longest_first)
    if found:
        values[_MASKED] = json.dumps([base64.b64encode(one).decode() for one in found]).encode()
    return values


def _longest_first(form: bytes) -> tuple[int, bytes]:
    return -len(form), form


def _variable(number: int) -> str:
    return f"variable-{number}"


def _file(number: int) -> str:
    return f"file-{number}"


def labels(plan: AttemptPlan, settings: ClusterSettings) -> dict[str, str]:
    """What the objects of an attempt are found by."""
    return {
        OWNER: settings.owner,
        TASK: plan.key.task_uuid,
        RETRY: str(plan.key.retry_id),
        RESTART: str(plan.restart),
        ATTEMPT: str(plan.key),
        GROUP: plan.group_uuid,
        WORKFLOW: plan.workflow_uuid,
    }


def orders_text(plan: AttemptPlan) -> str:
    """The orders that a plan holds. Before the barrier opens nobody needs the siblings' addresses, so those that are
    known by then come with the word to go: one patch for both."""
    orders = Orders().updated(plan)
    if plan.barrier and not plan.go:
        orders = Orders(restart=plan.restart)
    return json.dumps(codec.orders_to_json(orders), sort_keys=True)


def key_of(value: Mapping[str, Any]) -> AttemptKey:
    """The attempt that an object belongs to."""
    found = value["metadata"]["labels"]
    return AttemptKey(found[TASK], int(found[RETRY]))


def restart_of(value: Mapping[str, Any]) -> int:
    return int(value["metadata"]["labels"][RESTART])


def merged(base: Any, over: Any) -> Any:
    """`over` laid on `base` as Kubernetes merges a patch: mappings by key, lists of named things by name (or by mount
    path, or by key), other lists as a whole."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        both = {k: merged(base[k], v) if k in base else v for k, v in over.items()}
        return {**{k: v for k, v in base.items() if k not in over}, **both}
    if isinstance(base, list) and isinstance(over, list):
        return _merged_lists(base, over)
    return over


def _merged_lists(base: list[Any], over: list[Any]) -> list[Any]:
    for mark in ("mountPath", "name", "key"):
        if base and over and all(isinstance(one, Mapping) and mark in one for one in (*base, *over)):
            known = {one[mark]: one for one in base}
            mine = [merged(known[one[mark]], one) if one[mark] in known else one for one in over]
            names = {one[mark] for one in over}
            return [*mine, *(one for one in base if one[mark] not in names)]
    return over


# --- the pod's parts -------------------------------------------------------------------------------------------


def _spec(plan: AttemptPlan, settings: ClusterSettings, platform: Platform) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "hostname": host_label(plan.task),
        "affinity": {} if settings.scheduler else _on_node(plan.node),
        "initContainers": [_ours(INIT, "init", settings, orders=False)],
        "containers": [_user(plan, settings), _ours(CTRL, "beside", settings, orders=True)],
        "volumes": [
            {"name": "osmo", "emptyDir": {"sizeLimit": str(plan.storage)}},
            {"name": "osmo-job", "secret": {"secretName": name_of(plan.key, plan.restart), "defaultMode": 0o400}},
            {
                "name": "osmo-orders",
                "downwardAPI": {
                    "items": [{"path": "orders", "fieldRef": {"fieldPath": f"metadata.annotations['{ORDERS}']"}}]
                },
            },
        ],
    }
    if plan.secrets != Secrets():
        given = {"secretName": name_of(plan.key, plan.restart), "defaultMode": 0o444}
        spec["volumes"].append({"name": "osmo-given", "secret": given})
    if plan.secrets.registry is not None:
        spec["imagePullSecrets"] = [{"name": login_name(plan)}]
    spec["volumes"] += [
        {"name": _mount(n), "hostPath": {"path": one.partition(":")[0]}} for n, one in enumerate(plan.mounts)
    ]
    if plan.host_network:
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
        del spec["hostname"]
    if platform.tolerations:
        spec["tolerations"] = [dict(one) for one in platform.tolerations]
    if not pod.waits(plan):
        own = [host_name(plan.task, plan.workflow_id), host_label(plan.task)]
        spec["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": own}]
    return spec


def _on_node(node: str) -> dict[str, Any]:
    """Our scheduler has chosen; the cluster's binds, so that taints and what others use are looked at once more."""
    wanted = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [wanted]}}}


def _user(plan: AttemptPlan, settings: ClusterSettings) -> dict[str, Any]:
    amounts = {"cpu": f"{round(plan.cpu * 1000)}m", "memory": str(plan.memory)}
    if plan.gpu:
        amounts[GPU] = str(plan.gpu)
    user = {
        "name": USER,
        "image": plan.image,
        "imagePullPolicy": settings.pull_policy,
        "command": [pod.LAUNCHER],
        "args": [f"{pod.SHARED}/run"],
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "volumeMounts": [*_shared(), *_files(plan), *_shown(plan)],
    }
    if names := tuple(plan.secrets.environment):
        secret = name_of(plan.key, plan.restart)
        user["env"] = [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": _variable(n)}}}
            for n, name in enumerate(names)
        ]
    if plan.privileged:
        user["securityContext"] = {"privileged": True}
    if plan.hold:
        # Ready means held: the only word that a pod without a way to us can say while it runs.
        look = [pod.LAUNCHER, "held", f"{pod.SHARED}/run"]
        user["readinessProbe"] = {"exec": {"command": look}, "periodSeconds": _LOOK, "failureThreshold": 1}
    return user


def _shared() -> list[dict[str, Any]]:
    """The folder of all containers as the task has it: part by part, since what is mounted it cannot replace."""
    return [
        {"name": "osmo", "mountPath": f"{pod.SHARED}/{part}", "subPath": part, "readOnly": only_to_read}
        for part, only_to_read in pod.TASK_SEES
    ]


def _shown(plan: AttemptPlan) -> list[dict[str, Any]]:
    """Folders of the node, and files of credentials."""
    mounts: list[dict[str, Any]] = []
    for number, one in enumerate(plan.mounts):
        source, _, target = one.partition(":")
        mounts.append({"name": _mount(number), "mountPath": target or source})
    files = [(file.path, _file(n)) for n, file in enumerate(plan.secrets.files) if pod.mountable(file.path)]
    if _MASKED in _given(plan):
        files.append((pod.MASKED, _MASKED))
    return mounts + [{"name": "osmo-given", "mountPath": path, "subPath": key, "readOnly": True} for path, key in files]


def _mount(number: int) -> str:
    return f"node-{number}"


def _files(plan: AttemptPlan) -> list[dict[str, Any]]:
    """Files of the plan where they are wanted, read only; those below the output folder are copied by the init
    container, which also tells of those that cannot be had."""
    tokens = pod.place(codec.Job(plan, "pod")).tokens({})
    targets = {}
    for number, file in enumerate(plan.files):
        kind, target = pod.file_target(file.path, tokens)
        if kind == "mount":
            targets[target] = number
    return [
        {"name": "osmo", "mountPath": target, "subPath": pod.file_part(number), "readOnly": True}
        for target, number in targets.items()
    ]


def _ours(name: str, verb: str, settings: ClusterSettings, *, orders: bool) -> dict[str, Any]:
    """A container of ours asks for nothing, so that a node's cores are the tasks'; it may not take much either."""
    mounts = [
        {"name": "osmo", "mountPath": pod.SHARED},
        {"name": "osmo-job", "mountPath": pod.SECRET, "readOnly": True},
    ]
    if orders:
        mounts.append({"name": "osmo-orders", "mountPath": pod.ORDERS, "readOnly": True})
    return {
        "name": name,
        "image": settings.runtime_image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["python3", "-m", "osmo_ray.runtime.pod", verb],
        "resources": {"requests": {"cpu": "0", "memory": "0"}, "limits": {"memory": str(_CTRL_MEMORY)}},
        "volumeMounts": mounts,
    }
