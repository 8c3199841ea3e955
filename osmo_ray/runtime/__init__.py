"""The program beside a task: a supervisor per attempt, and the host that starts and adopts them.

`NodeHost` is loaded only when it is asked for: the zygote, whose memory every supervisor shares, must stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from osmo_ray.runtime.errors import HostBusy, RuntimeFailure, StaleEpoch

if TYPE_CHECKING:
    from osmo_ray.runtime.node import NodeHost
    from osmo_ray.runtime.options import Options

__all__ = ["HostBusy", "NodeHost", "Options", "RuntimeFailure", "StaleEpoch"]


def __getattr__(name: str) -> object:
    if name == "NodeHost":
        from osmo_ray.runtime.node import NodeHost

        return NodeHost
    if name == "Options":
        from osmo_ray.runtime.options import Options

        return Options
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
