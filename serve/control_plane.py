"""The API for `serve run serve.control_plane:app`: the same application that `osmo up` starts.

OSMO_HOME=... serve run serve.control_plane:app
"""

from osmo_ray.api.app import build

app = build({})
