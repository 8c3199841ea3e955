"""The look inside a pod: our launcher, started by the cluster's `exec`, at the other end of one websocket.

Nothing is kept: a pod is found by its labels, so whoever holds the cluster's credentials can begin a session, and no
byte of it goes through the controller. Commands run in the user's container by the launcher that stands in its shared
folder; ports are reached, and holds ended, from the container beside it by the launcher of our own image, since the
user's could be anything by now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from osmo_ray.backends.framed import NodeSession, NodeStream, begin
from osmo_ray.backends.inside import NotInside, Session, Size, Stream
from osmo_ray.backends.kubernetes import pods
from osmo_ray.backends.kubernetes.client import ApiError, HttpApi, Object
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.runtime import pod as runtime
from osmo_ray.runtime.inside.frames import Ask, Kind, clip, frame
from osmo_ray.spec.attempt import AttemptKey
from osmo_ray.spec.reason import Reason

_PROTOCOLS = [Subprotocol("v5.channel.k8s.io"), Subprotocol("v4.channel.k8s.io")]
_INPUT, _OUTPUT, _ERRORS, _STATUS = 0, 1, 2, 3
_OPEN, _PING = 15.0, 20.0
_PIECE, _PIECES, _TOLD = 32 << 10, 8, 500
_RUNNING = "status.phase=Running"


@dataclass(frozen=True, slots=True)
class PodSessions:
    """Sessions in the pods of one cluster that belong to `owner`."""

    cluster: str
    api: HttpApi
    namespace: str
    owner: str

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session:
        """Run `argv` beside the task's command. Raises `NotInside`, `BackendUnavailable`."""
        shape = size or Size()
        ask = Ask(key, tuple(argv), size is not None, clip(shape.rows), clip(shape.cols), term)
        return await begin(NodeSession(await self._asked(key, pods.USER, runtime.LAUNCHER, ask)))

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream:
        """Connect to a port of the pod's loopback. Raises `NotInside`, `BackendUnavailable`."""
        ask = Ask(key, port=port, udp=udp)
        return await begin(NodeStream(await self._asked(key, pods.CTRL, runtime.OWN_LAUNCHER, ask)))

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        """End a hold, or run again in place; nothing where nothing is held. Raises `BackendUnavailable`."""
        argv = (runtime.OWN_LAUNCHER, "rerun" if rerun else "release", f"{runtime.SHARED}/run")
        try:
            pipe = await self._open(await self._pod(key), pods.CTRL, argv)
        except NotInside:
            return
        try:
            while await pipe.read():
                pass
        finally:
            await pipe.close()
        if pipe.trouble:
            raise BackendUnavailable(f"cluster {self.cluster}: the word could not be passed on: {pipe.trouble}")

    async def _asked(self, key: AttemptKey, container: str, launcher: str, ask: Ask) -> ExecPipe:
        """What is asked for goes over the wire, not into the request, so that no audit log has it."""
        pipe = await self._open(await self._pod(key), container, (launcher, "inside", f"{runtime.SHARED}/run"))
        await pipe.write(frame(Kind.DATA, json.dumps(ask.to_json()).encode()))
        return pipe

    async def _pod(self, key: AttemptKey) -> str:
        """The name of the attempt's newest pod, whose user's container runs. Raises `NotInside`."""
        labels = f"{pods.OWNER}={self.owner},{pods.ATTEMPT}={key}"
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        try:
            answer = await self.api.get(path, {"labelSelector": labels, "fieldSelector": _RUNNING})
        except ApiError as error:
            raise BackendUnavailable(f"cluster {self.cluster}: {error}") from error
        found: dict[int, Object] = {pods.restart_of(one): one for one in answer["items"]}
        newest = found[max(found)] if found else {}
        if not newest or not _up(newest, pods.USER):
            raise NotInside(Reason("NotRunning", "the task does not run (any more)"))
        return str(newest["metadata"]["name"])

    async def _open(self, name: str, container: str, argv: Sequence[str]) -> ExecPipe:
        words = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        query = urlencode([*words, *(("command", word) for word in argv)])
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/exec?{query}"
        access = self.api.access
        by_socket: dict[str, Any] = {"unix": True, "path": access.socket} if access.socket else {}
        try:
            wire = await connect(
                "ws" + access.server.removeprefix("http") + path,
                subprotocols=_PROTOCOLS,
                additional_headers=access.header,
                ssl=access.context if access.server.startswith("https") else None,
                **by_socket,
                proxy=None,
                compression=None,
                open_timeout=_OPEN,
                ping_interval=_PING,
                ping_timeout=None,  # the other side answers none while it waits for the task
                max_queue=_PIECES,
                max_size=None,
            )
        except InvalidStatus as error:
            raise self._refused(error.response.status_code, bytes(error.response.body or b"")) from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            told = str(error) or type(error).__name__
            raise BackendUnavailable(f"cluster {self.cluster} does not answer: {told}") from error
        return ExecPipe(wire)

    def _refused(self, status: int, body: bytes) -> Exception:
        told = body[:_TOLD].decode(errors="replace")
        if status in (401, 403):
            sentence = f"cluster {self.cluster} does not let us start commands in its pods ({status}): {told}"
            return NotInside(Reason("ClusterRefused", sentence, next_command=_ALLOW))
        if status == 404:
            return NotInside(Reason("NotRunning", "the task does not run (any more)"))
        return BackendUnavailable(f"cluster {self.cluster} gave no session ({status}): {told}")


_ALLOW = "kubectl apply -f clusters/kubernetes/backend.yaml"


class ExecPipe:
    """Standard input and output of a program in a pod; its standard error and its end are for `trouble`."""

    def __init__(self, wire: ClientConnection) -> None:
        self._wire = wire
        self._said = b""
        self.trouble = ""
        """Why the program did not end well, once `read` gave nothing."""

    async def write(self, data: bytes) -> None:
        """What a program that has ended would not read is lost; its last words and its code still wait for `read`."""
        for at in range(0, len(data), _PIECE):
            try:
                await self._wire.send(bytes([_INPUT]) + data[at : at + _PIECE])
            except ConnectionClosed:
                return

    async def read(self) -> bytes:
        while True:
            try:
                message = await self._wire.recv(decode=False)
            except ConnectionClosed:
                return b""
            channel, data = message[:1], bytes(message[1:])
            if channel == bytes([_OUTPUT]) and data:
                return data
            if channel == bytes([_ERRORS]):
                self._said = (self._said + data)[-_TOLD:]
            elif channel == bytes([_STATUS]):
                self._ended(data)
                return b""

    def _ended(self, data: bytes) -> None:
        try:
            status: Mapping[str, object] = json.loads(data)
        except ValueError:
            status = {}
        if status.get("status") != "Success":
            self.trouble = self._said.decode(errors="replace").strip() or str(status.get("message") or "no reason")

    async def close(self) -> None:
        await self._wire.close()


def _up(pod: Object, container: str) -> bool:
    states = pod["status"].get("containerStatuses") or ()
    return any(one["name"] == container and "running" in (one.get("state") or {}) for one in states)
