"""What a dataset is, as values: no I/O here.

A person's program says `osmo.data.shards(...)` with `import osmo_ray as osmo`, and means the client's verbs
(`osmo_ray.sdk.data`). This package knows nothing of rooms above it: it passes such a name to the front door,
`osmo_ray`, which knows where each verb lives. So no module here may have a verb's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osmo_ray.sdk.data import Cursor as Cursor
    from osmo_ray.sdk.data import appending as appending
    from osmo_ray.sdk.data import dataset as dataset
    from osmo_ray.sdk.data import files as files
    from osmo_ray.sdk.data import filesystem as filesystem
    from osmo_ray.sdk.data import open as open
    from osmo_ray.sdk.data import shards as shards


def __getattr__(name: str) -> Any:
    import osmo_ray

    return osmo_ray.verb("data", name)
