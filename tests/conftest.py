"""Settings that must stand before anything imports Ray: it reads them once, at import."""

from __future__ import annotations

import os

# Keep a cluster of a test on loopback, and never use (or make) the token of the person who runs the tests.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from hypothesis import settings

from tests.servers.kube.cluster import kube

__all__ = ["kube"]
"""Fixtures of all rooms: one real cluster serves all tests of a run that need one."""

# The same examples in every run, so that a change is judged by what it changed. `OSMO_EXPLORE=1` looks for new ones;
# what it finds becomes a test of its own.
# No deadline: machines are slow at times, and time is never what a test is about.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("OSMO_EXPLORE") else "repeatable")
