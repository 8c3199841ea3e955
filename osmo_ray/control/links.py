"""Where the websockets of agents meet those who talk to their clusters: one small actor, made when the first agent
comes.

An agent's websocket ends in whichever API replica took it, and the controller and every replica may want to speak to
its cluster. All of them reach this actor: on its host over a local socket, from others by Ray's calls. It outlives
replicas and controllers, and they outlive it: Ray brings it back, empty, and agents dial again. A process of its own,
so that no byte of a session goes through the process whose loops everybody waits for.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe, StreamPipe
from osmo_ray.backends.kubernetes.tunnel.switch import Switch
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.backends.ray import names
from osmo_ray.backends.ray.doors import LocalPipe, RelayedPipe, Relays, SessionDoor
from osmo_ray.backends.ray.line import Address
from osmo_ray.logs import configure

_CALL = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """A pipe that is wanted: of an agent that came, or to the API server of its cluster."""

    cluster: str
    agent: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> Call:
        return Call(str(value["cluster"]), bool(value["agent"]))


class LinksActor:
    """A `Switch` behind the doors of an actor."""

    def __init__(self, log_level: str = "INFO") -> None:
        configure(log_level)
        self._switch = Switch()
        self._door, self._relays = SessionDoor(self._begin, Call.from_json), Relays(self._begin)
        self._carried: set[asyncio.Task[None]] = set()

    async def inside_door(self) -> Address:
        """Where callers of this host connect."""
        return await self._door.open()

    async def relay_open(self, call: Call) -> str:
        return await self._relays.open(call)

    async def relay_write(self, name: str, data: bytes) -> None:
        await self._relays.write(name, data)

    async def relay_read(self, name: str, wait: float) -> bytes | None:
        return await self._relays.read(name, wait)

    async def relay_close(self, name: str) -> None:
        await self._relays.close(name)

    async def _begin(self, call: Call, number: int) -> None:
        pipe = await StreamPipe.of(socket.socket(fileno=os.dup(number)))
        carry = self._switch.agent if call.agent else self._switch.caller
        task = asyncio.ensure_future(carry(call.cluster, pipe))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)


RemoteLinks = ray.remote(
    num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=1000, enable_task_events=False
)(LinksActor)


async def arrive(cluster: str, log_level: str) -> Pipe:
    """The far end for an agent that has come. Raises `BackendUnavailable`."""
    return await _pipe(Call(cluster, agent=True), lambda: _made(log_level))


async def dial(cluster: str) -> Pipe:
    """A connection to the API server of a cluster. Raises `BackendUnavailable`."""
    try:
        return await _pipe(Call(cluster), lambda: ray.get_actor(names.LINKS, names.NAMESPACE))
    except ValueError:  # the actor is made when the first agent comes
        raise BackendUnavailable(f"no agent of cluster {cluster} is connected yet") from None


async def _pipe(call: Call, find: Any) -> Pipe:
    try:
        async with asyncio.timeout(_CALL):
            actor = await asyncio.to_thread(find)
            local = await LocalPipe.connect(await actor.inside_door.remote(), call)
            return local or await RelayedPipe.connect(actor, call)
    except (RayError, OSError) as error:
        told = f"the part that holds links to agents does not answer ({type(error).__name__})"
        raise BackendUnavailable(f"cluster {call.cluster}: {told}") from error


def _made(log_level: str) -> Any:
    return RemoteLinks.options(
        name=names.LINKS, namespace=names.NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote(log_level)
