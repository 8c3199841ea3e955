"""osmo-ray: workflows for robotics and AI teams, from a laptop to many clusters, on Ray.

    import osmo_ray as osmo

gives the second spelling of the language: `osmo.task`, `osmo.workflow`, `osmo.group`, `osmo.gather`, `osmo.host`,
`osmo.output`, `osmo.Folder`; and datasets: `osmo.data.shards`, `files`, `open`, `filesystem`, `dataset`, `appending`.
They are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osmo_ray.sdk.flow import FlowError, Folder, gather, group, host, output, task, workflow

__version__ = "0.1.0"
__all__ = ["FlowError", "Folder", "__version__", "gather", "group", "host", "output", "task", "workflow"]


_DATA = ("appending", "dataset", "files", "filesystem", "open", "shards", "Cursor")


def __getattr__(name: str) -> Any:
    import importlib

    if name == "data":
        return importlib.import_module("osmo_ray.data")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("osmo_ray.sdk.flow"), name)


def verb(room: str, name: str) -> Any:
    """What a person's program finds under a room's name although another room has it: `osmo.data.shards` is the
    client's. Raises `AttributeError`."""
    if room != "data" or name not in _DATA:
        raise AttributeError(f"module 'osmo_ray.{room}' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("osmo_ray.sdk.data"), name)
