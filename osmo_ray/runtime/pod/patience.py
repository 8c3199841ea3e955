"""Waiting for the storage. A pod outlives whoever made it: the platform may be down for a new version just when the
command ends, and with it its storage gateway. That is no failure of the task, so what may pass is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from osmo_ray.objects.protocol import NoSuchObject, ObjectError
from osmo_ray.runtime.errors import RuntimeFailure

T = TypeVar("T")
BEFORE, AFTER = 120.0, 900.0
"""Seconds to wait with inputs and with outputs. Pods are made only while the platform is up; and what a command made is
worth more than what a wrong address would have told sooner."""
_FIRST, _LONGEST = 1.0, 20.0


def patiently(limit: float, act: Callable[[], T], between: Callable[[], None] = lambda: None) -> T:
    """Do it until it succeeds, fails for good, or `limit` seconds are over; `between` is done before each further
    try."""
    begun, pause = time.monotonic(), _FIRST
    while True:
        try:
            return act()
        except (ObjectError, RuntimeFailure) as error:
            if not passing(error) or time.monotonic() - begun > limit:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
        between()


def passing(error: BaseException) -> bool:
    """Whether the same may succeed later: said by the storage, possibly through a failure that tells of it."""
    cause = error.__cause__ if isinstance(error, RuntimeFailure) else error
    return isinstance(cause, ObjectError) and not isinstance(cause, NoSuchObject) and not cause.permanent
