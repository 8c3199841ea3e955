"""Sessions on a node of Ray. To an agent of this host they go by a local socket, to others by Ray's own calls, one
piece at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from ray.exceptions import RayError

from osmo_ray.backends.framed import NodeSession, NodeStream, Pipe, begin
from osmo_ray.backends.inside import Session, Size, Stream
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.backends.ray.doors import LocalPipe, RelayedPipe
from osmo_ray.runtime.inside.frames import Ask, clip
from osmo_ray.spec.attempt import AttemptKey

T = TypeVar("T")


async def begin_exec(agent: Any, key: AttemptKey, argv: tuple[str, ...], size: Size | None, term: str) -> Session:
    """Run `argv` in the attempt, under a terminal when there is a size. Raises `NotInside`, OSError, RayError."""
    shape = size or Size()
    ask = Ask(key, argv, size is not None, clip(shape.rows), clip(shape.cols), term)
    return await begin(NodeSession(await _pipe(agent, ask)))


async def begin_connect(agent: Any, key: AttemptKey, port: int, *, udp: bool) -> Stream:
    """Connect to a port of the attempt. Raises `NotInside`, OSError, RayError."""
    return await begin(NodeStream(await _pipe(agent, Ask(key, port=port, udp=udp))))


async def reached(node: str, asking: Awaitable[T]) -> T:
    """The answer, with the faults of the way there in the words of the protocol."""
    try:
        return await asking
    except (RayError, OSError) as error:
        raise BackendUnavailable(f"node {node} cannot be reached now: {type(error).__name__}") from error


async def _pipe(agent: Any, ask: Ask) -> Pipe:
    local = await LocalPipe.connect(await agent.inside_door.remote(), ask)
    return local or await RelayedPipe.connect(agent, ask)
