"""The errors of the runtime: what a caller can do something about."""

from __future__ import annotations

from osmo_ray.spec.reason import Reason


class StaleEpoch(Exception):
    """A newer leader has already spoken to this host; the caller must step down."""


class HostBusy(Exception):
    """Another process keeps this host's spool; end it, or give this host a spool folder of its own."""


class RuntimeFailure(Exception):
    """A stage of an attempt failed for good: the exit code to report and the reason for people."""

    def __init__(self, exit_code: int, reason: Reason) -> None:
        super().__init__(reason.sentence)
        self.exit_code = exit_code
        self.reason = reason
