"""The line about quotas in `/ready` and `osmo status`."""

from __future__ import annotations

import pytest

from osmo_ray.api.app import quota_part


@pytest.mark.parametrize(
    ("error", "queues", "text"),
    [
        ("", None, "none set"),
        ("", 3, "3 queues"),
        ("q.yaml:1:1: bad", None, "NONE IN FORCE, work runs without: q.yaml:1:1: bad"),
        ("q.yaml:1:1: bad", 3, "STALE, 3 queues stay in force: q.yaml:1:1: bad"),
        ("no answer", 0, "STALE, work waits: no answer"),
    ],
)
def test_the_line_says_what_is_in_force_and_what_is_wrong(error: str, queues: int | None, text: str):
    part = quota_part(error, queues)
    assert (part.healthy, part.text, part.facts["stale"]) == (True, text, bool(error))
