"""What a pod's state means: from Kubernetes' words to the platform's phases, exit codes and reasons. Pure.

The order of the questions is the order in which they exclude each other; `docs/clusters.md` has the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from osmo_ray.backends.kubernetes import pods
from osmo_ray.runtime import codec, reasons
from osmo_ray.spec.attempt import AttemptKey, Observation, Phase
from osmo_ray.spec.quantity import show_bytes
from osmo_ray.spec.reason import Reason

Object = Mapping[str, Any]
PULL_BACK_OFF, PULL_FAILED, OTHER_WAITING = 301, 302, 999
BACKEND_ERROR, START_ERROR, EVICTED, PREEMPTED = 3001, 3003, 3004, 3006
_RUNTIME, _INIT, _UNKNOWN = 2000, 255, 4000
CONFIG_PATIENCE = 600.0
"""Seconds for which a configuration error (a Secret not there yet) may mend itself."""
DELETION_PATIENCE = 60.0
"""Seconds after which a pod that should be gone is one whose node has: nobody is there to end it."""
_WAITS = ("", "PodInitializing", "ContainerCreating")
_CONFIG = ("CreateContainerConfigError",)
_START = ("CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun", "PostStartHookError")
_LOST_CONTAINER = "ContainerStatusUnknown"
OVER = (Phase.FINISHED, Phase.LOST)


class Seen:
    """One pod, looked at."""

    def __init__(self, pod: Object, now: float, evicted: str = "") -> None:
        """`evicted`: why the scheduler takes its place away, where it says so elsewhere than in the pod."""
        self.pod, self.now, self._gone = pod, now, False
        self._evicted = evicted
        self.meta, self.status = pod["metadata"], pod.get("status") or {}
        self.key: AttemptKey = pods.key_of(pod)
        self.restart = pods.restart_of(pod)
        self.node = str(pod["spec"].get("nodeName") or "")
        self.plan: Object = json.loads(self.meta["annotations"].get(pods.PLAN) or "{}")

    # --- parts of the pod ------------------------------------------------------------------------------------------

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.meta

    def container(self, name: str) -> Object:
        """The state of one container: `waiting`, `running` or `terminated`, with its fields; empty if not known."""
        statuses = (*(self.status.get("initContainerStatuses") or ()), *(self.status.get("containerStatuses") or ()))
        for one in statuses:
            if one["name"] == name:
                return dict(one.get("state") or {})
        return {}

    def condition(self, kind: str) -> Object:
        return next((c for c in self.status.get("conditions") or () if c["type"] == kind), {})

    def orders(self) -> codec.Orders:
        return codec.orders_from_json(json.loads(self.meta["annotations"].get(pods.ORDERS) or "{}"))

    # --- what it means ---------------------------------------------------------------------------------------------

    def observation(self) -> Observation:
        """The attempt now."""
        if self._abandoned:
            return self.vanished()
        return self._ended() or self._failing() or self._under_way()

    def vanished(self) -> Observation:
        """The attempt when its pod is gone from the cluster without a result."""
        self._gone = True
        return self._ended() or self._says(Phase.LOST, reason=self._why_gone())

    def _ended(self) -> Observation | None:
        disruption = self.condition("DisruptionTarget")
        cause = str(disruption.get("reason") or "") if disruption.get("status") == "True" else ""
        phase, why = self.status.get("phase"), str(self.status.get("reason") or "")
        if cause == "PreemptionByScheduler" or (self._evicted and (self.deleting or self._gone)):
            told = self._evicted or str(disruption.get("message") or "made room for a pod of higher priority")
            return self._finished(PREEMPTED, Reason("Preempted", told)) if self._still else None
        if why == "Evicted":
            return self._finished(EVICTED, Reason("Evicted", self._said("the node ended the pod to protect itself")))
        if why == "DeadlineExceeded":
            return self._finished(BACKEND_ERROR, Reason("DeadlineExceeded", self._said("its deadline has passed")))
        if phase in ("Succeeded", "Failed") and why:
            # UnexpectedAdmissionError, OutOfcpu, NodeAffinity, Terminated ...: the command never began, or its node
            # was shut down under it.
            return self._says(Phase.LOST, reason=Reason(why, self._said(f"node {self.node} did not run the pod")))
        return self._containers_ended()

    def _containers_ended(self) -> Observation | None:
        init, user, ctrl = (self.container(n).get("terminated") for n in (pods.INIT, pods.USER, pods.CTRL))
        if init is not None and init["exitCode"] != 0 and not self.deleting:
            return self._by_message(init, _INIT + int(init["exitCode"]), "osmo-init")
        if user is not None and user.get("reason") in _START:
            return self._finished(START_ERROR, Reason("StartError", _first(user, "the container could not start")))
        if any(one is not None and one.get("reason") == _LOST_CONTAINER for one in (user, ctrl)):
            return self._says(
                Phase.LOST, reason=Reason("ContainerLost", f"node {self.node} lost the container's state")
            )
        if ctrl is None:
            return None
        if not ctrl.get("message") and self.deleting:
            return None  # ended by its deletion: what that means is told when the pod is gone
        if user is None and not ctrl.get("message"):
            code = _RUNTIME + int(ctrl["exitCode"])
            told = f"osmo-ctrl ended while the command ran, with exit code {ctrl['exitCode']}"
            return self._finished(code, Reason("RuntimeFailed", told))
        return self._result(user or {}, ctrl)

    def _result(self, user: Object, ctrl: Object) -> Observation:
        """The end as `osmo-ctrl` tells it, corrected by what only Kubernetes knows: a kill for memory."""
        seen = self._by_message(ctrl, None, "osmo-ctrl")
        killed = int(user.get("exitCode") or 0)
        if user.get("reason") == "OOMKilled" and (seen.exit_code is None or seen.exit_code != 0):
            return self._finished(EVICTED, self._out_of_memory(seen), seen.usage)
        if seen.exit_code is None:
            code = killed or _UNKNOWN
            told = f"the container ended with exit code {code} before its command's end was known"
            return self._finished(code, Reason("ContainerKilled", told), seen.usage)
        return seen

    def _out_of_memory(self, seen: Observation) -> Reason:
        limit = float(self.plan.get("memory") or 0)
        evidence = {"limit": show_bytes(limit), "peak": show_bytes(seen.usage.get("memory_peak") or limit)}
        if seen.reason is not None and "last_lines" in seen.reason.evidence:
            evidence["last_lines"] = seen.reason.evidence["last_lines"]
        hint = "raise resources.<name>.memory in the workflow and submit again"
        return Reason("OutOfMemory", f"used more memory than its {show_bytes(limit)}", evidence, hint)

    def _by_message(self, ended: Object, code: int | None, who: str) -> Observation:
        try:
            told = json.loads(ended.get("message") or "")
        except ValueError:
            if code is None:
                code = _RUNTIME + int(ended["exitCode"])
            last = _first(ended, f"exit code {ended['exitCode']}")
            return self._finished(code, Reason("RuntimeFailed", f"{who} failed: {last}"))
        reason = Reason.from_json(told["reason"]) if told.get("reason") else None
        return self._says(
            Phase.FINISHED,
            at=float(told["at"]),
            exit_code=told["exit_code"],
            reason=reason,
            output=str(told.get("output") or ""),
            usage=told.get("usage") or {},
        )

    def _failing(self) -> Observation | None:
        """It waits for what will not come."""
        if self.deleting:
            return None
        for name in (pods.INIT, pods.USER, pods.CTRL):
            waiting = self.container(name).get("waiting") or {}
            why = str(waiting.get("reason") or "")
            told = _first(waiting, why)
            if why in _WAITS:
                continue
            if why in ("ErrImagePull", "ImagePullBackOff"):
                code = PULL_FAILED if why == "ErrImagePull" else PULL_BACK_OFF
                image = self._image(name)
                sentence = f"the image {image} cannot be had: {told}"
                return self._finished(code, Reason("ImagePull", sentence, {"image": image}))
            if why in _CONFIG:
                return self._misconfigured(told)
            if why in _START:
                return self._finished(START_ERROR, Reason("StartError", told))
            return self._finished(OTHER_WAITING, Reason(why, told))
        return None

    def _misconfigured(self, told: str) -> Observation:
        began = moment(self.status.get("startTime")) or self.now
        if self.now - began > CONFIG_PATIENCE:
            return self._finished(BACKEND_ERROR, Reason("ConfigError", told))
        return self._says(Phase.PENDING, reason=Reason("ConfigError", told))

    def _under_way(self) -> Observation:
        if self.container(pods.USER).get("terminated") is not None:
            return self._says(Phase.UPLOADING)
        if "running" in self.container(pods.USER):
            go = self.orders().go >= self.restart
            if held := self._held():
                return self._says(Phase.RUNNING, reason=held)
            return self._says(Phase.READY if self.plan.get("barrier") and not go else Phase.RUNNING)
        if any("running" in self.container(n) or "terminated" in self.container(n) for n in (pods.INIT, pods.CTRL)):
            return self._says(Phase.PREPARING)
        scheduled = self.condition("PodScheduled")
        if scheduled.get("status") == "False":
            return self._says(Phase.PENDING, reason=Reason("Unschedulable", _first(scheduled, "no node fits")))
        return self._says(Phase.ACCEPTED if self.node else Phase.PENDING)

    def _held(self) -> Reason | None:
        """Why a failed task stays: its container is ready for nothing else (see `pods`)."""
        hold = float(self.plan.get("hold") or 0)
        users = (one for one in self.status.get("containerStatuses") or () if one["name"] == pods.USER)
        if not hold or not any(one.get("ready") for one in users):
            return None
        since = moment(self.condition("ContainersReady").get("lastTransitionTime")) or self.now
        notes = self.meta["annotations"]
        return reasons.held_in_pod(notes[pods.WORKFLOW_ID], notes[pods.TASK_NAME], hold, since + hold)

    def _why_gone(self) -> Reason:
        disruption = self.condition("DisruptionTarget")
        if disruption.get("status") == "True":
            return Reason(str(disruption.get("reason")), _first(disruption, "the cluster disrupted the pod"))
        if self._abandoned:
            return Reason("NodeLost", f"node {self.node} does not answer; nobody ends its pod, which was to be deleted")
        if self.status.get("reason") == "NodeLost":
            return Reason("NodeLost", f"node {self.node} was lost")
        return Reason("PodDeleted", "the pod was deleted by somebody else before it ended")

    # --- small help ------------------------------------------------------------------------------------------------

    @property
    def _abandoned(self) -> bool:
        """Its deletion is overdue: the mark says when the pod's grace was over."""
        due = moment(self.meta.get("deletionTimestamp"))
        return bool(due) and self.now - due > DELETION_PATIENCE

    @property
    def _still(self) -> bool:
        """Nothing of the pod runs any more."""
        return self._gone or not any("running" in self.container(n) for n in (pods.INIT, pods.USER, pods.CTRL))

    def _image(self, name: str) -> str:
        spec = self.pod["spec"]
        every = (*(spec.get("initContainers") or ()), *spec["containers"])
        return next((str(c["image"]) for c in every if c["name"] == name), "")

    def _said(self, otherwise: str) -> str:
        return _first(self.status, otherwise)

    def _finished(self, code: int, reason: Reason | None, usage: Mapping[str, float] | None = None) -> Observation:
        return self._says(Phase.FINISHED, exit_code=code, reason=reason, usage=usage)

    def _says(
        self,
        phase: Phase,
        *,
        at: float = 0.0,
        exit_code: int | None = None,
        reason: Reason | None = None,
        output: str = "",
        usage: Mapping[str, float] | None = None,
    ) -> Observation:
        return Observation(
            self.key, phase, at or self.now, self.node, str(self.status.get("podIP") or ""), self.restart,
            exit_code=exit_code, output=output, reason=reason, usage=usage or {},
        )  # fmt: skip


def moment(text: object) -> float:
    """Kubernetes' time stamp as seconds since the epoch; 0 for none."""
    return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp() if text else 0.0


def _first(value: Object, otherwise: str) -> str:
    """The message of a state or condition on one line."""
    text = " ".join(str(value.get("message") or "").split())
    return text[:500].rstrip(".") if text else otherwise
